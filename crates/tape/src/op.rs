//! What an operation on the tape is: its facts, its forward, its vector-Jacobian product.

use alloc::vec::Vec;

use lowtide_backend::{Backend, Req};
use lowtide_memory::Category;
use lowtide_tensor::{Float, Mat, MatMut};

use crate::{Cx, DecodeLimits, Limits, State, Work};

/// The most inputs an operation can have.
pub const MAX_INPUTS: usize = 4;
/// The most outputs an operation can have. Only output 0 receives a gradient; others hold what
/// backward wants to know, such as a norm's reciprocal or an attention's log-sum-exp.
pub const MAX_OUTPUTS: usize = 2;

/// How the gradient of one input comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradRule {
    /// `vjp` adds to it.
    Accumulate,
    /// It is the gradient of output 0 unchanged; `vjp` does nothing for it, and runs only when the
    /// operation has other inputs or parameters.
    PassThrough,
    /// `vjp` turns the gradient of output 0 into it, in place. Such an operation has one input, as
    /// wide as output 0.
    OverDy,
    /// `vjp` turns the input's value into it, in place; the facts say that it reads the value.
    OverValue,
}

/// What the schedule must know about an operation. Bit `i` of a mask speaks of input or output `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Inputs whose values `vjp` reads.
    pub reads_inputs: u32,
    /// Outputs whose values `vjp` reads.
    pub reads_outputs: u32,
    /// Inputs whose storage output 0 may take over in the forward pass.
    pub in_place: u32,
    /// Inputs that row `t` reads up to row `t`, as attention reads keys and values. Of all others
    /// it reads row `t` alone. Their gradients are [`GradRule::Accumulate`].
    pub history: u32,
    /// How each input's gradient comes about.
    pub grads: [GradRule; MAX_INPUTS],
}

impl Facts {
    /// Whether `vjp` reads the value of input `i`.
    pub(crate) fn reads_input(&self, i: usize) -> bool {
        self.reads_inputs >> i & 1 == 1
    }

    /// Whether `vjp` reads the value of output `i`.
    pub(crate) fn reads_output(&self, i: usize) -> bool {
        self.reads_outputs >> i & 1 == 1
    }

    /// Whether rows read input `i` from its first row on.
    pub(crate) fn looks_back(&self, i: usize) -> bool {
        self.history >> i & 1 == 1
    }

    /// Whether output 0 may take over the storage of input `i`.
    pub(crate) fn takes_input(&self, i: usize) -> bool {
        self.in_place >> i & 1 == 1
    }
}

/// Operands of [`Op::forward`], each of shape `[T, cols]`: the rows of the call, which may be a
/// tile of the batch. Inputs that the facts call history have all rows of the batch up to the
/// tile's last.
pub struct Forward<'a, F: Float> {
    /// Inputs; `None` where the value lies in output 0 already and is to be replaced in place. That
    /// is one input at most, and no other input is the same value then.
    pub x: [Option<Mat<'a, F>>; MAX_INPUTS],
    /// Outputs.
    pub y: [Option<MatMut<'a, F>>; MAX_OUTPUTS],
    /// Parameters of the operation.
    pub p: &'a [F],
    /// Its [`Op::fixed`] values.
    pub fixed: &'a [F],
    /// While decoding, what the operation keeps of the sequence, if it asked for any; the rows of
    /// this call continue it.
    pub state: Option<State<'a, F>>,
    /// At least [`Op::req`] elements, [`Op::decode_req`] while decoding.
    pub scratch: &'a mut [F],
}

/// Operands of [`Op::vjp`], each of shape `[T, cols]`, and as in [`Forward`] more rows of a history
/// and of its gradient. Tiles of a batch come in ascending order.
pub struct Vjp<'a, F: Float> {
    /// Values of the inputs that the facts say are read, but those replaced in `dx`.
    pub x: [Option<Mat<'a, F>>; MAX_INPUTS],
    /// Values of the outputs that the facts say are read.
    pub y: [Option<Mat<'a, F>>; MAX_OUTPUTS],
    /// Gradient of output 0; `None` where it lies in `dx[0]` under [`GradRule::OverDy`].
    pub dy: Option<Mat<'a, F>>,
    /// Gradients of the inputs, holding what the rule says. The gradient of a sole input is `None`
    /// when nobody wants it; an operation of several inputs is lent room for every one of them.
    pub dx: [Option<MatMut<'a, F>>; MAX_INPUTS],
    /// Parameters of the operation.
    pub p: &'a [F],
    /// Its [`Op::fixed`] values.
    pub fixed: &'a [F],
    /// Gradients of the parameters, to add to.
    pub grad: &'a mut [F],
    /// At least [`Op::req`] elements.
    pub scratch: &'a mut [F],
}

/// One operation with its backward. Implementations are thin: the arithmetic is the backend's.
pub trait Op<F: Float>: Send + Sync {
    /// A short name for reports and panics.
    fn name(&self) -> &'static str;

    /// Columns of each output, given those of the inputs.
    ///
    /// # Panics
    /// When the inputs do not fit the operation.
    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize>;

    /// What the schedule must know.
    fn facts(&self) -> Facts;

    /// Number of trainable parameters.
    fn params(&self) -> usize {
        0
    }

    /// Number of values that go with the parameters and are not trained: some that are set once,
    /// others that [`Op::prepare`] derives.
    fn fixed(&self) -> usize {
        0
    }

    /// Whether [`Op::prepare`] has anything to do.
    fn derives(&self) -> bool {
        false
    }

    /// Sets what starts from frozen weights: called once, when all else of `p` and of the values
    /// that are set once has started. `scratch` is what one row needs.
    fn start(&self, _be: &dyn Backend<F>, _p: &mut [F], _fixed: &mut [F], _scratch: &mut [F]) {}

    /// Derives values from the parameters: called after every change of these. `scratch` is what
    /// one row needs.
    fn prepare(&self, _be: &dyn Backend<F>, _p: &[F], _fixed: &mut [F], _scratch: &mut [F]) {}

    /// Roughly the work of [`Op::prepare`], in multiply-adds.
    fn prepare_work(&self) -> u64 {
        0
    }

    /// Whether output `i` has a row a sequence, not a row a token. That is none that another
    /// operation reads, and its operation needs whole sequences.
    fn per_sequence(&self, _output: usize) -> bool {
        false
    }

    /// Whether it needs all rows of a sequence at once, so that its segment works on whole batches.
    /// A decoder can run it if it keeps a state: the first call then holds the whole prompt.
    fn whole_sequence(&self) -> bool {
        false
    }

    /// Roughly the work of a call over `rows` rows, the last of `keys`; inputs and outputs have
    /// `cols` columns in all.
    fn work(&self, rows: usize, _keys: usize, cols: usize) -> Work {
        Work::elementwise(rows * cols)
    }

    /// Scratch that a call in either direction needs, over at most `rows` rows of any batch within
    /// the limits.
    fn req(&self, _be: &dyn Backend<F>, _rows: usize, _limits: Limits) -> Req {
        Req::default()
    }

    /// Elements kept of a sequence while decoding within the limits.
    fn state(&self, _limits: DecodeLimits) -> usize {
        0
    }

    /// The first token whose state is read when rows follow on the first `tokens` tokens.
    fn reads_from(&self, _tokens: usize) -> usize {
        0
    }

    /// Scratch that forward needs for any call while decoding.
    fn decode_req(&self, be: &dyn Backend<F>, limits: DecodeLimits) -> Req {
        self.req(be, limits.rows, limits.call())
    }

    /// What output `i` is charged as.
    fn category(&self, _output: usize) -> Category {
        Category::Workspace
    }

    /// Computes the outputs.
    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>);

    /// Whether [`Op::inverse`] makes the input from the output. Such an operation has one input and
    /// one output of the same width, and no history.
    fn is_reversible(&self) -> bool {
        false
    }

    /// Replaces the output's value by the input's, up to rounding; `scratch` is as large as for the
    /// other directions.
    ///
    /// # Panics
    /// Where the operation has no inverse.
    fn inverse(&self, _cx: &Cx<'_, F>, _y: MatMut<'_, F>, _p: &[F], _scratch: &mut [F]) {
        panic!("{} has no inverse", self.name());
    }

    /// Computes the gradients of inputs and parameters.
    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>);
}
