//! Recording: a straight-line list of operations over typed value ids.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use lowtide_tensor::Float;

use crate::{GradRule, Limits, MAX_INPUTS, MAX_OUTPUTS, Op, Work};

/// A value of a [`Graph`]: `[T, cols]`, or `[sequences, cols]` where its operation says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

pub(crate) struct Node<'w, F: Float> {
    pub(crate) op: Box<dyn Op<F> + 'w>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    /// Where the operation's parameters lie in the segment's.
    pub(crate) params: Range<usize>,
    /// Where its values that go with them lie.
    pub(crate) fixed: Range<usize>,
}

impl<F: Float> Node<'_, F> {
    /// Values that the operation's backward reads.
    pub(crate) fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        let facts = self.op.facts();
        let inputs = self.inputs.iter().enumerate().filter(move |(i, _)| facts.reads_input(*i));
        let outputs = self.outputs.iter().enumerate().filter(move |(i, _)| facts.reads_output(*i));
        inputs.chain(outputs).map(|(_, v)| *v)
    }
}

/// Operations recorded in order, from one input value to one output value.
pub struct Graph<'w, F: Float> {
    pub(crate) nodes: Vec<Node<'w, F>>,
    pub(crate) cols: Vec<usize>,
    /// Of each value, whether it has a row a sequence.
    pub(crate) per_sequence: Vec<bool>,
    pub(crate) params: usize,
    pub(crate) fixed: usize,
}

impl<'w, F: Float> Graph<'w, F> {
    /// A graph with an input of `cols` columns, and that input.
    #[must_use]
    pub fn new(cols: usize) -> (Self, ValueId) {
        let (cols, per_sequence) = (alloc::vec![cols], alloc::vec![false]);
        (Self { nodes: Vec::new(), cols, per_sequence, params: 0, fixed: 0 }, ValueId(0))
    }

    /// Records an operation and gives its output 0.
    ///
    /// # Panics
    /// When an input is not of this graph, the operation refuses the inputs' columns, or its facts
    /// contradict each other.
    pub fn push(&mut self, op: impl Op<F> + 'w, inputs: &[ValueId]) -> ValueId {
        assert!(inputs.len() <= MAX_INPUTS, "{} has {} inputs", op.name(), inputs.len());
        let in_cols: Vec<usize> = inputs.iter().map(|v| self.cols[v.0]).collect();
        let out_cols = op.out_cols(&in_cols);
        assert!(
            (1..=MAX_OUTPUTS).contains(&out_cols.len()),
            "{} has {} outputs",
            op.name(),
            out_cols.len()
        );
        let first = self.cols.len();
        self.cols.extend(&out_cols);
        self.per_sequence.extend((0..out_cols.len()).map(|i| op.per_sequence(i)));
        let params = self.params..self.params + op.params();
        self.params = params.end;
        let fixed = self.fixed..self.fixed + op.fixed();
        self.fixed = fixed.end;
        let apart = self.per_sequence[first..].contains(&true);
        assert!(
            !op.per_sequence(0) && (!apart || op.whole_sequence()),
            "{}: a row a sequence is for what backward reads of whole sequences",
            op.name()
        );
        check_facts(&op, &in_cols, out_cols[0]);
        self.nodes.push(Node {
            op: Box::new(op),
            inputs: inputs.to_vec(),
            outputs: (first..self.cols.len()).map(ValueId).collect(),
            params,
            fixed,
        });
        ValueId(first)
    }

    /// Number of trainable parameters of all operations.
    #[must_use]
    pub fn params(&self) -> usize {
        self.params
    }

    /// Elements of a value within the limits, `rows` rows at a time.
    pub(crate) fn elements(&self, value: usize, rows: usize, limits: Limits) -> usize {
        self.cols[value] * if self.per_sequence[value] { limits.sequences } else { rows }
    }

    /// Roughly the work of an operation over `rows` rows, the last of `keys`.
    pub(crate) fn work(&self, node: usize, rows: usize, keys: usize) -> Work {
        let Node { op, inputs, outputs, .. } = &self.nodes[node];
        let cols = inputs.iter().chain(outputs).map(|v| self.cols[v.0]).sum();
        op.work(rows, keys, cols)
    }

    /// Output 0 of the last operation.
    pub(crate) fn output(&self) -> ValueId {
        self.nodes.last().expect("a segment computes something").outputs[0]
    }
}

/// Panics when an operation's facts contradict each other or the columns.
fn check_facts<F: Float>(op: &impl Op<F>, in_cols: &[usize], out_cols: usize) {
    let (name, facts) = (op.name(), op.facts());
    for (i, (rule, &cols)) in facts.grads.iter().zip(in_cols).enumerate() {
        let sound = match rule {
            GradRule::Accumulate => true,
            GradRule::PassThrough => cols == out_cols,
            GradRule::OverDy => cols == out_cols && in_cols.len() == 1,
            GradRule::OverValue => facts.reads_input(i),
        };
        let sound = sound && (*rule == GradRule::Accumulate || !facts.looks_back(i));
        assert!(sound, "{name}: input {i} [T, {cols}] of {in_cols:?} cannot be {rule:?}");
    }
}
