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
    /// Operations to run again when nothing but the input was kept.
    pub(crate) recompute: Vec<bool>,
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
        let mut needed = read.clone();
        let mut recompute = vec![false; graph.nodes.len()];
        for (node, recompute) in graph.nodes.iter().zip(&mut recompute).rev() {
            *recompute = node.outputs.iter().any(|v| needed[v.0]);
            if *recompute {
                for v in &node.inputs {
                    needed[v.0] = true;
                }
            }
        }
        Self { wanted, active, read, recompute }
    }
}

/// Which operations the output depends on.
pub(crate) fn reaching<F: Float>(graph: &Graph<'_, F>) -> Vec<bool> {
    let mut used = vec![false; graph.cols.len()];
    used[graph.output().0] = true;
    let mut reaching = vec![false; graph.nodes.len()];
    for (node, reaching) in graph.nodes.iter().zip(&mut reaching).rev() {
        *reaching = used[node.outputs[0].0];
        if *reaching {
            node.inputs.iter().for_each(|v| used[v.0] = true);
        }
    }
    reaching
}
