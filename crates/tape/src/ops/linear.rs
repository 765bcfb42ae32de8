//! A frozen linear, with an adapter around it where the site is trained; an adapter on a branch.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lowtide_adapter::{self as adapter, Adapter, FrozenLinear, Identity, Keeps, Linear, Rows};
use lowtide_adapter::{ParamSpec, State as AdapterState};
use lowtide_backend::{Backend, DropoutKey, Req};
use lowtide_quant::QMat;
use lowtide_tensor::Float;

use super::given;
use crate::{Cx, DecodeLimits, Facts, Forward, GradRule, Limits, MAX_INPUTS, Op, Vjp, Work};

/// `y = adapted(x Wᵀ + b)`, or `y = adapted(x)` on a branch: `x [T, I]`, `y [T, O]`.
///
/// What its adapter keeps from forward to backward is its output 1.
pub struct AdaptedLinear<'w, F: Float> {
    base: Base<'w, F>,
    adapter: Option<Box<dyn Adapter<F>>>,
    /// Distinguishes the dropout streams of sites.
    site: u64,
}

/// What an adapter wraps.
enum Base<'w, F> {
    Packed { weight: QMat<'w>, bias: Option<Box<[F]>> },
    Branch(Identity),
}

impl<'w, F: Float> AdaptedLinear<'w, F> {
    /// A linear over a packed `weight [O, I]`; `site` is unique in the model.
    ///
    /// # Panics
    /// When the bias has another length than the weight has rows.
    #[must_use]
    pub fn new(
        weight: QMat<'w>,
        bias: Option<Box<[F]>>,
        adapter: Option<Box<dyn Adapter<F>>>,
        site: u64,
    ) -> Self {
        if let Some(bias) = &bias {
            assert!(bias.len() == weight.rows(), "a bias of {} elements", bias.len());
        }
        Self { base: Base::Packed { weight, bias }, adapter, site }
    }

    /// An adapter on a branch of `width` columns.
    #[must_use]
    pub fn branch(width: usize, adapter: Box<dyn Adapter<F>>, site: u64) -> Self {
        Self { base: Base::Branch(Identity { width }), adapter: Some(adapter), site }
    }

    /// Works on the base.
    fn on_base<R>(&self, work: impl FnOnce(&dyn Linear<F>) -> R) -> R {
        match &self.base {
            Base::Packed { weight, bias } => work(&FrozenLinear::new(*weight, bias.as_deref())),
            Base::Branch(identity) => work(identity),
        }
    }

    fn rows<'a>(&self, cx: &Cx<'a, F>) -> Rows<'a> {
        let key = DropoutKey { seed: cx.seed, step: cx.counter, site: self.site };
        Rows { spans: cx.spans, row0: cx.row0, past: cx.past, key, phase: cx.phase }
    }

    fn keeps(&self) -> Keeps {
        self.adapter.as_ref().map_or(Keeps::Nothing, |adapter| adapter.keeps())
    }
}

impl<F: Float> Op<F> for AdaptedLinear<'_, F> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        let (width, outputs) = self.on_base(|base| base.dims());
        assert!(in_cols == [width], "linear of widths {in_cols:?}");
        match self.keeps() {
            Keeps::Nothing => alloc::vec![outputs],
            Keeps::PerRow(n) | Keeps::PerSequence(n) => alloc::vec![outputs, n],
        }
    }

    fn facts(&self) -> Facts {
        let facts = self.adapter.as_ref().map(|a| a.facts());
        let keeps = self.keeps() != Keeps::Nothing;
        Facts {
            reads_inputs: u32::from(facts.is_some_and(|f| f.reads_x)),
            reads_outputs: u32::from(facts.is_some_and(|f| f.reads_y)) | u32::from(keeps) << 1,
            in_place: 0,
            history: 0,
            grads: [GradRule::Accumulate; MAX_INPUTS],
        }
    }

    fn params(&self) -> usize {
        self.adapter.as_ref().map_or(0, |a| a.params().iter().map(ParamSpec::len).sum())
    }

    fn fixed(&self) -> usize {
        let of = |a: &dyn Adapter<F>| a.frozen().iter().map(ParamSpec::len).sum::<usize>();
        self.adapter.as_ref().map_or(0, |a| of(&**a) + a.derived())
    }

    fn derives(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.derived() > 0)
    }

    fn start(&self, be: &dyn Backend<F>, p: &mut [F], fixed: &mut [F], scratch: &mut [F]) {
        if let Some(adapter) = &self.adapter {
            self.on_base(|base| adapter.start(be, base, p, fixed, scratch));
        }
    }

    fn prepare(&self, be: &dyn Backend<F>, p: &[F], fixed: &mut [F], scratch: &mut [F]) {
        if let Some(adapter) = &self.adapter {
            self.on_base(|base| adapter.prepare(be, base, p, fixed, scratch));
        }
    }

    fn prepare_work(&self) -> u64 {
        self.adapter.as_ref().map_or(0, |adapter| adapter.prepare_work())
    }

    fn whole_sequence(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.facts().whole_sequence)
    }

    fn per_sequence(&self, output: usize) -> bool {
        output == 1 && matches!(self.keeps(), Keeps::PerSequence(_))
    }

    fn state(&self, _limits: DecodeLimits) -> usize {
        self.adapter.as_ref().map_or(0, |adapter| adapter.state())
    }

    fn reads_from(&self, tokens: usize) -> usize {
        // What an adapter has of a sequence was made from its first tokens.
        tokens
    }

    fn work(&self, rows: usize, _keys: usize, _cols: usize) -> Work {
        let adapter = self.adapter.as_ref().map_or(0, |adapter| adapter.work(rows));
        let base = match &self.base {
            Base::Packed { weight, .. } => Work::packed(rows, weight.cols(), weight.rows()),
            Base::Branch(Identity { width }) => Work::elementwise(rows * width),
        };
        base + Work { forward: adapter, backward: 3 * adapter }
    }

    fn req(&self, be: &dyn Backend<F>, rows: usize, _limits: Limits) -> Req {
        self.on_base(|base| match &self.adapter {
            Some(adapter) => adapter.req(be, base, rows),
            None => base.req(be, rows),
        })
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let Forward { x: [x, ..], y: [y, kept], p, fixed, state, scratch } = operands;
        let (x, y) = (given(x, "the linear's input"), given(y, "the linear's output"));
        self.on_base(|base| match &self.adapter {
            Some(adapter) => {
                let state = state.map(|s| AdapterState { values: s.values, made_from: s.first });
                let cx = adapter::Cx { be: cx.be, base, p, fixed, rows: self.rows(cx) };
                adapter.apply(&cx, adapter::Forward { x, y, kept, state, scratch });
            }
            None => base.apply(cx.be, x, y, scratch),
        });
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let Vjp { x: [x, ..], y: [y, kept], dx: [dx, ..], p, fixed, grad, scratch, .. } = operands;
        let dy = given(operands.dy, "the linear's gradient");
        self.on_base(|base| match &self.adapter {
            Some(adapter) => {
                let cx = adapter::Cx { be: cx.be, base, p, fixed, rows: self.rows(cx) };
                adapter.vjp(&cx, adapter::Vjp { x, y, kept, dy, dx, grad, scratch });
            }
            None => {
                if let Some(dx) = dx {
                    base.vjp(cx.be, dy, dx, scratch);
                }
            }
        });
    }
}
