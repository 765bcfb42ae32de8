//! A frozen linear, with an adapter around it where the site is trained.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lowtide_adapter::{Adapter, FrozenLinear, Linear, ParamSpec, Rows};
use lowtide_backend::{Backend, DropoutKey, Req};
use lowtide_quant::QMat;
use lowtide_tensor::Float;

use super::given;
use crate::{Cx, Facts, Forward, GradRule, Limits, MAX_INPUTS, Op, Vjp, Work};

/// `y = adapted(x Wᵀ + b)`: `x [T, I]`, `y [T, O]`.
pub struct AdaptedLinear<'w, F: Float> {
    weight: QMat<'w>,
    bias: Option<Box<[F]>>,
    adapter: Option<Box<dyn Adapter<F>>>,
    /// Distinguishes the dropout streams of sites.
    site: u64,
}

impl<'w, F: Float> AdaptedLinear<'w, F> {
    /// A linear over a packed `weight [O, I]`; `site` is unique in the model.
    ///
    /// # Panics
    /// When the bias has another length than the weight has rows, or when the adapter wants derived
    /// values, which no segment lends.
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
        if let Some(adapter) = &adapter {
            let kind = adapter.kind();
            assert!(adapter.derived() == 0, "{kind} wants derived values, which no segment lends");
        }
        Self { weight, bias, adapter, site }
    }

    fn base(&self) -> FrozenLinear<'_, F> {
        FrozenLinear::new(self.weight, self.bias.as_deref())
    }

    fn rows<'a>(&self, cx: &Cx<'a, F>) -> Rows<'a> {
        let key = DropoutKey { seed: cx.seed, step: cx.counter, site: self.site };
        Rows { spans: cx.spans, row0: cx.row0, key, phase: cx.phase }
    }
}

impl<F: Float> Op<F> for AdaptedLinear<'_, F> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        assert!(in_cols == [self.weight.cols()], "linear of widths {in_cols:?}");
        alloc::vec![self.weight.rows()]
    }

    fn facts(&self) -> Facts {
        let facts = self.adapter.as_ref().map(|a| a.facts());
        Facts {
            reads_inputs: u32::from(facts.is_some_and(|f| f.reads_x)),
            reads_outputs: u32::from(facts.is_some_and(|f| f.reads_y)),
            in_place: 0,
            history: 0,
            grads: [GradRule::Accumulate; MAX_INPUTS],
        }
    }

    fn params(&self) -> usize {
        self.adapter.as_ref().map_or(0, |a| a.params().iter().map(ParamSpec::len).sum())
    }

    fn whole_sequence(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.facts().whole_sequence)
    }

    fn work(&self, rows: usize, _keys: usize, _cols: usize) -> Work {
        // An adapter's products are narrow, and take longer than their arithmetic says.
        let adapter = 2 * rows as u64 * Op::<F>::params(self) as u64;
        Work::packed(rows, self.weight.cols(), self.weight.rows())
            + Work { forward: adapter, backward: 3 * adapter }
    }

    fn req(&self, be: &dyn Backend<F>, rows: usize, _limits: Limits) -> Req {
        let base = self.base();
        match &self.adapter {
            Some(adapter) => adapter.req(be, &base, rows),
            None => base.req(be, rows),
        }
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [x, ..] = operands.x;
        let [y, ..] = operands.y;
        let (x, y) = (given(x, "the linear's input"), given(y, "the linear's output"));
        let (base, s) = (self.base(), operands.scratch);
        match &self.adapter {
            Some(a) => a.apply(cx.be, &base, operands.p, &[], self.rows(cx), x, y, s),
            None => base.apply(cx.be, x, y, s),
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let Vjp { x: [x, ..], y: [y, ..], dx: [dx, ..], p, grad, scratch, .. } = operands;
        let dy = given(operands.dy, "the linear's gradient");
        let base = self.base();
        match &self.adapter {
            Some(a) => {
                let rows = self.rows(cx);
                a.vjp(cx.be, &base, p, &[], rows, grad, x, y, dy, dx, scratch);
            }
            None => {
                if let Some(dx) = dx {
                    base.vjp(cx.be, dy, dx, scratch);
                }
            }
        }
    }
}
