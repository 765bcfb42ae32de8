//! The [`Adapter`] trait and the facts it declares.

use core::fmt;
use core::ops::Range;

use lowtide_backend::{Backend, DropoutKey, Req, Span};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::Linear;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All the same value.
    Constant(f32),
    /// Uniform in `±bound`.
    Uniform {
        /// Largest magnitude.
        bound: f32,
    },
    /// Normal around zero.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// The identity matrix.
    Identity,
}

/// One trainable tensor of an adapter: enough for planner, optimizer and files to work on methods
/// they never heard of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamSpec {
    /// Name below the site, as in PEFT files: `lora_A.weight`.
    pub name: &'static str,
    /// Rows and columns, row-major. A vector has one column.
    pub shape: [usize; 2],
    /// How it starts.
    pub init: Init,
    /// Which axis runs over the outputs of the layer, if one does: its entries follow the base when
    /// a file format stores the rows of the base in another order.
    pub output_axis: Option<usize>,
    /// Which axis runs over the ranks of a low-rank update, if one does. With entry `k` of this
    /// axis zero in every tensor of the adapter that has one, the `k`-th pair adds nothing, has
    /// gradients of exactly zero, and can be left out: the same adapter of a smaller rank is left,
    /// at the same scale.
    pub rank_axis: Option<usize>,
}

impl ParamSpec {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether the tensor has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of pairs that its elements belong to, where they belong to pairs of low rank.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        Some(self.shape[self.rank_axis?])
    }

    /// The pair that an element belongs to, if it belongs to one.
    #[must_use]
    pub fn pair_of(&self, element: usize) -> Option<usize> {
        let columns = self.shape[1];
        let of = |axis| if axis == 0 { element / columns } else { element % columns };
        self.rank_axis.map(of)
    }

    /// The elements of pair `pair`, in order; none where there are no pairs.
    pub fn pair(&self, pair: usize) -> impl Iterator<Item = usize> + use<> {
        let columns = self.shape[1];
        let (elements, step) = match self.rank_axis {
            None => (0..0, 1),
            Some(0) => (pair * columns..(pair + 1) * columns, 1),
            Some(_) => (pair..self.len(), columns),
        };
        elements.step_by(step.max(1))
    }
}

/// What the schedule must know about a method to plan lifetimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Backward reads the linear's input.
    pub reads_x: bool,
    /// Backward reads the linear's output.
    pub reads_y: bool,
    /// Needs all rows of a sequence at once: a barrier for tiles of rows.
    pub whole_sequence: bool,
    /// Can be folded into the base.
    pub mergeable: bool,
}

/// What the model is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Forward or backward of training: dropout is on.
    Train,
    /// Evaluation or reading a prompt.
    Prefill,
    /// Generating one token after another.
    Decode,
}

/// Where the rows of a call stand.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The sequences of the micro-batch, counted from its first row. A call may hold some of their
    /// rows only. While decoding it is one sequence, whose first row is the call's first.
    pub spans: &'a [Span],
    /// Row of the micro-batch that row 0 of this call is.
    pub row0: usize,
    /// While decoding, tokens of the sequence that earlier calls read; 0 otherwise.
    pub past: usize,
    /// Dropout stream of this site in this micro-batch.
    pub key: DropoutKey,
    /// What the model is doing.
    pub phase: Phase,
}

/// What an adapter wants to find in [`Vjp::kept`] that [`Forward::kept`] left there. The planner
/// keeps it, or computes forward again, as it does with everything that backward reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing.
    Nothing,
    /// So many values a row: `[T, n]`.
    PerRow(usize),
    /// So many values a sequence: `[spans, n]`. For methods that need whole sequences.
    PerSequence(usize),
}

/// What both directions of a call are told and lent to read.
#[derive(Clone, Copy)]
pub struct Cx<'a, F: Float> {
    /// What computes.
    pub be: &'a dyn Backend<F>,
    /// The frozen linear.
    pub base: &'a dyn Linear<F>,
    /// The parameters, one after another in the order of [`Adapter::params`].
    pub p: &'a [F],
    /// The tensors of [`Adapter::frozen`], then the values that [`Adapter::prepare`] derived.
    pub fixed: &'a [F],
    /// Where the rows stand.
    pub rows: Rows<'a>,
}

/// What a sequence that is being decoded has of an adapter.
pub struct State<'a, F> {
    /// [`Adapter::state`] elements, as the call before left them; meaningless where
    /// [`Rows::past`] is 0.
    pub values: &'a mut [F],
    /// The number of tokens to which the sequence can be cut back and continued with this state: an
    /// adapter raises it to the number that the state was made from.
    pub made_from: &'a mut usize,
}

/// Operands of [`Adapter::apply`].
pub struct Forward<'a, F: Float> {
    /// Input `[T, I]`.
    pub x: Mat<'a, F>,
    /// Output `[T, O]`, to overwrite.
    pub y: MatMut<'a, F>,
    /// Room for what [`Adapter::keeps`] says, to overwrite; `None` where that is nothing.
    pub kept: Option<MatMut<'a, F>>,
    /// While decoding, what the sequence has of an adapter that asks for it; `None` otherwise.
    pub state: Option<State<'a, F>>,
    /// At least [`Adapter::req`] elements.
    pub scratch: &'a mut [F],
}

/// Operands of [`Adapter::vjp`].
pub struct Vjp<'a, F: Float> {
    /// The forward's input `[T, I]`, where [`Facts::reads_x`] asks for it.
    pub x: Option<Mat<'a, F>>,
    /// The forward's output `[T, O]`, where [`Facts::reads_y`] asks for it.
    pub y: Option<Mat<'a, F>>,
    /// What the forward kept, if it keeps anything.
    pub kept: Option<Mat<'a, F>>,
    /// Gradient of the output `[T, O]`.
    pub dy: Mat<'a, F>,
    /// Gradient of the input `[T, I]`, to add to; `None` when nobody wants it.
    pub dx: Option<MatMut<'a, F>>,
    /// Gradient of the parameters, to add to, in their order.
    pub grad: &'a mut [F],
    /// At least [`Adapter::req`] elements.
    pub scratch: &'a mut [F],
}

/// The method cannot be folded into a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMergeable;

impl fmt::Display for NotMergeable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this adapter method cannot be merged into its base")
    }
}

impl core::error::Error for NotMergeable {}

/// One adapter method on one frozen linear.
///
/// `scratch` holds at least [`Adapter::req`] elements, whose values mean nothing before and after a
/// call; between two calls of its base a method may use all of it.
///
/// Unless [`Facts::whole_sequence`] is set, the engine may cut the rows of a micro-batch at any
/// multiple of [`QUANTUM`](lowtide_tensor::QUANTUM), and the results must have the same bits: row
/// `t` of `y` and `dx` depends on row `t` alone, and sums over rows grow by whole quanta in
/// ascending order, as the backend's own contractions do. What is random is drawn from
/// [`Rows::key`] at the absolute row, `row0 + t`.
///
/// `lowtide_conformance::adapter` checks all of this.
pub trait Adapter<F: Float = f32>: Send + Sync {
    /// Name of the method, as in configurations: `lora`.
    fn kind(&self) -> &'static str;

    /// The trainable tensors, in the order in which they lie in `p`.
    fn params(&self) -> &[ParamSpec];

    /// What the schedule must know.
    fn facts(&self) -> Facts;

    /// Tensors that start, are saved and are loaded as parameters are, and are never trained. They
    /// lie at the front of `fixed`.
    fn frozen(&self) -> &[ParamSpec] {
        &[]
    }

    /// Number of floats computed once per update from the parameters and the base. They lie in
    /// `fixed` behind the frozen tensors. Backward treats them as constants.
    fn derived(&self) -> usize {
        0
    }

    /// Floats that the adapter itself holds, such as frozen matrices that many sites share; what is
    /// shared is counted by one of them.
    fn held(&self) -> usize {
        0
    }

    /// What forward leaves for backward.
    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    /// Floats kept of a sequence while it is decoded. A method that needs whole sequences and has a
    /// state is given the whole prompt in the first call, and fewer rows in those after it.
    fn state(&self) -> usize {
        0
    }

    /// Whether a row may depend on rows after it, and not only on its prompt's. What is trained so
    /// has seen what it was to foretell, and reading a sequence call by call gives another output.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Sets what starts from the base and not from its [`Init`]: called once, after all others of
    /// `p` and of the frozen tensors at the front of `fixed` have been set.
    fn start(
        &self,
        _be: &dyn Backend<F>,
        _base: &dyn Linear<F>,
        _p: &mut [F],
        _fixed: &mut [F],
        _scratch: &mut [F],
    ) {
    }

    /// Fills the derived values, behind the frozen tensors of `fixed`; called after every update of
    /// the parameters.
    fn prepare(
        &self,
        _be: &dyn Backend<F>,
        _base: &dyn Linear<F>,
        _p: &[F],
        _fixed: &mut [F],
        _scratch: &mut [F],
    ) {
    }

    /// Roughly the multiply-adds of a forward over `rows` rows beyond the base's: a measure to
    /// compare plans by. Narrow products take longer than their arithmetic says, hence the factor.
    fn work(&self, rows: usize) -> u64 {
        2 * rows as u64 * self.params().iter().map(|spec| spec.len() as u64).sum::<u64>()
    }

    /// Roughly the multiply-adds of [`prepare`](Self::prepare), in the same measure. To decode an
    /// element of the base takes as long as 16.
    fn prepare_work(&self) -> u64 {
        0
    }

    /// Scratch that any one method needs for at most `rows` rows, the base's own included.
    /// [`start`](Self::start) and [`prepare`](Self::prepare) are lent what one row needs.
    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req;

    /// `y = adapted(x)`.
    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>);

    /// Accumulates `grad += ∂p` and, when asked for, `dx += ∂x`, given `dy`.
    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>);

    /// Rows `rows` of the merged matrix: `out [rows.len(), I]` holds the base's rows on entry.
    ///
    /// # Errors
    /// [`NotMergeable`] when the method is no change of the matrix.
    fn merge_rows(
        &self,
        _be: &dyn Backend<F>,
        _p: &[F],
        _fixed: &[F],
        _rows: Range<usize>,
        _out: MatMut<'_, F>,
        _scratch: &mut [F],
    ) -> Result<(), NotMergeable> {
        Err(NotMergeable)
    }

    /// What merging makes of the bias: `out [rows.len()]` holds the base's on entry, zeros where it
    /// has none. Says whether it is another.
    fn merge_bias(&self, _p: &[F], _fixed: &[F], _rows: Range<usize>, _out: &mut [F]) -> bool {
        false
    }
}
