//! What backward needs: which values have gradients, which operations take part, what they read.

use alloc::vec;
use alloc::vec::Vec;

use lowtide_tensor::Float;

use crate::graph::Graph;

/// Facts about a graph's backward, the same under every policy.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    /// Values whose gradient is wanted.
    pub(crate) wanted: Vec<bool>,
    /// Operations with a backward: the output depends on them, and they on something trained.
    pub(crate) active: Vec<bool>,
    /// Values that some active operation's backward reads.
    pub(crate) read: Vec<bool>,
    /// Of each operation, how many histories lie between its output and the graph's, at most. When
    /// tiles ascend, the gradient of a history is complete only after the last tile; so operations
    /// below one are walked in a loop of their own.
    pub(crate) stage: Vec<usize>,
    /// The stage after which the gradient of the graph's input is complete too.
    last: usize,
}

impl Needs {
    /// Analyses `graph`; `want_dx` says whether anything below it is trained.
    pub(crate) fn of<F: Float>(graph: &Graph<'_, F>, want_dx: bool) -> Self {
        let mut wanted = vec![false; graph.cols.len()];
        wanted[0] = want_dx;
        let mut active = reaching(graph);
        for (node, active) in graph.nodes.iter().zip(&mut active) {
            *active &= node.op.params() > 0 || node.inputs.iter().any(|v| wanted[v.0]);
            wanted[node.outputs[0].0] = *active;
        }
        let mut read = vec![false; graph.cols.len()];
        for (node, _) in graph.nodes.iter().zip(&active).filter(|(_, active)| **active) {
            node.reads().for_each(|v| read[v.0] = true);
        }
        let (stage, last) = stages(graph, &active, want_dx);
        Self { wanted, active, read, stage, last }
    }

    /// Values whose gradient some operation adds to in an earlier stage than the one in which it is
    /// complete. That of the graph's input is complete when everything is.
    pub(crate) fn waits<F: Float>(&self, graph: &Graph<'_, F>) -> Vec<bool> {
        let mut complete = vec![usize::MAX; graph.cols.len()];
        for (node, stage) in graph.nodes.iter().zip(&self.stage) {
            complete[node.outputs[0].0] = *stage;
        }
        complete[0] = self.last;
        let mut waits = vec![false; graph.cols.len()];
        for (i, node) in graph.nodes.iter().enumerate().filter(|(i, _)| self.active[*i]) {
            for v in node.inputs.iter().filter(|v| self.wanted[v.0]) {
                waits[v.0] |= self.stage[i] < complete[v.0];
            }
        }
        waits
    }

    /// Active operations in the order of backward, stage after stage; within one, from the last
    /// down.
    pub(crate) fn stages(&self) -> Vec<Vec<usize>> {
        let mut stages = vec![Vec::new(); self.last + 1];
        for node in (0..self.stage.len()).rev().filter(|&i| self.active[i]) {
            stages[self.stage[node]].push(node);
        }
        stages
    }
}

/// The stage of each operation, and the last of all.
fn stages<F: Float>(graph: &Graph<'_, F>, active: &[bool], want_dx: bool) -> (Vec<usize>, usize) {
    // Of each value, the stage in which its gradient is complete.
    let mut complete = vec![0; graph.cols.len()];
    let mut stage = vec![0; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().rev().filter(|(i, _)| active[*i]) {
        stage[i] = complete[node.outputs[0].0];
        let facts = node.op.facts();
        for (input, v) in node.inputs.iter().enumerate() {
            let here = stage[i] + usize::from(facts.looks_back(input));
            complete[v.0] = complete[v.0].max(here);
        }
    }
    let input = if want_dx { complete[0] } else { 0 };
    let last = stage.iter().copied().max().unwrap_or(0).max(input);
    (stage, last)
}

/// Which operations have to run so that the values `needed` are there, given those that are.
pub(crate) fn making<F: Float>(
    graph: &Graph<'_, F>,
    mut needed: Vec<bool>,
    there: &dyn Fn(usize) -> bool,
) -> Vec<bool> {
    let mut runs = vec![false; graph.nodes.len()];
    for (node, runs) in graph.nodes.iter().zip(&mut runs).rev() {
        *runs = node.outputs.iter().any(|v| needed[v.0] && !there(v.0));
        if *runs {
            node.inputs.iter().for_each(|v| needed[v.0] = true);
        }
    }
    runs
}

/// Which operations the output depends on.
pub(crate) fn reaching<F: Float>(graph: &Graph<'_, F>) -> Vec<bool> {
    let mut output = vec![false; graph.cols.len()];
    output[graph.output().0] = true;
    making(graph, output, &|_| false)
}
