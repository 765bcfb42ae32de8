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
    /// rows only.
    pub spans: &'a [Span],
    /// Row of the micro-batch that row 0 of this call is.
    pub row0: usize,
    /// Dropout stream of this site in this micro-batch.
    pub key: DropoutKey,
    /// What the model is doing.
    pub phase: Phase,
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
/// `p` holds the parameters one after another in the order of [`Adapter::params`], `grad` their
/// gradients in the same order, `derived` the values that [`Adapter::prepare`] computed from them.
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

    /// Number of floats computed once per update from the parameters and the base.
    fn derived(&self) -> usize {
        0
    }

    /// Fills `derived`; called after every update of the parameters.
    fn prepare(
        &self,
        _be: &dyn Backend<F>,
        _base: &dyn Linear<F>,
        _p: &[F],
        _derived: &mut [F],
        _scratch: &mut [F],
    ) {
    }

    /// Scratch that any one method needs for at most `rows` rows, the base's own included.
    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req;

    /// `y = adapted(x)`: `x [T, I]`, `y [T, O]`, overwritten.
    fn apply(
        &self,
        be: &dyn Backend<F>,
        base: &dyn Linear<F>,
        p: &[F],
        derived: &[F],
        rows: Rows<'_>,
        x: Mat<'_, F>,
        y: MatMut<'_, F>,
        scratch: &mut [F],
    );

    /// Accumulates `grad += ∂p` and, when asked for, `dx += ∂x`, given `dy [T, O]`.
    ///
    /// `x` and `y` are the forward's input and output where [`Facts::reads_x`] and
    /// [`Facts::reads_y`] ask for them, `None` otherwise.
    fn vjp(
        &self,
        be: &dyn Backend<F>,
        base: &dyn Linear<F>,
        p: &[F],
        derived: &[F],
        rows: Rows<'_>,
        grad: &mut [F],
        x: Option<Mat<'_, F>>,
        y: Option<Mat<'_, F>>,
        dy: Mat<'_, F>,
        dx: Option<MatMut<'_, F>>,
        scratch: &mut [F],
    );

    /// Rows `rows` of the merged matrix: `out [rows.len(), I]` holds the base's rows on entry.
    ///
    /// # Errors
    /// [`NotMergeable`] when the method is no change of the matrix.
    fn merge_rows(
        &self,
        _be: &dyn Backend<F>,
        _p: &[F],
        _derived: &[F],
        _rows: Range<usize>,
        _out: MatMut<'_, F>,
        _scratch: &mut [F],
    ) -> Result<(), NotMergeable> {
        Err(NotMergeable)
    }
}
