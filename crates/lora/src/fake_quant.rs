//! Any adapter, trained as it will be deployed: in eight or four bits.
//!
//! The inner adapter works on the numbers that its parameters become after coding
//! ([`LineCodes`]); the gradient passes straight through the rounding to the parameters
//! themselves, which stay in f32 while they are trained. Frozen tensors are not coded.
//!
//! What the rounding takes away, `coded - p`, is derived once per update; each call adds it to `p`.
//! The sum is exact: a coded number and the one it stands for are within a factor of two of each
//! other, or it is zero, or the difference is at most half of it (Sterbenz). So the adapter in
//! training and the decoded one give the same bits, and backward is the derivative of forward at a
//! fixed rounding.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use lowtide_adapter::{Adapter, Cx, Facts, Forward, Keeps, Linear, NotMergeable, ParamSpec, Vjp};
use lowtide_backend::{Backend, Req};
use lowtide_quant::LineCodes;
use lowtide_tensor::{Float, MatMut};

use crate::codes;

/// An adapter whose parameters are those of `inner`, and whose values are coded.
///
/// Derived: those of `inner`, then what the rounding adds to each parameter.
pub struct FakeQuant<F: Float = f32> {
    inner: Box<dyn Adapter<F>>,
    codes: LineCodes,
    len: usize,
    /// Fixed values of `inner`.
    fixed: usize,
    /// For each output in Hugging Face's order the row it is here, where they differ and the
    /// groups of a line do not hold all of it.
    order: Option<Vec<u32>>,
}

impl<F: Float> FakeQuant<F> {
    /// `inner`, in so many bits.
    #[must_use]
    pub fn new(inner: Box<dyn Adapter<F>>, codes: LineCodes) -> Self {
        let len = inner.params().iter().map(ParamSpec::len).sum();
        let frozen: usize = inner.frozen().iter().map(ParamSpec::len).sum();
        let fixed = frozen + inner.derived();
        Self { inner, codes, len, fixed, order: None }
    }

    /// The same on a base that keeps its outputs in another order: `order` has, for each output of
    /// the base's linear, the one it is in Hugging Face's order, in which groups are cut.
    ///
    /// # Panics
    /// When `order` is no order.
    #[must_use]
    pub fn in_order(mut self, order: &[usize]) -> Self {
        if self.codes.group() < order.len() {
            let mut rows = alloc::vec![0; order.len()];
            (0_u32..).zip(order).for_each(|(row, &hf)| rows[hf] = row);
            self.order = Some(rows);
        }
        self
    }

    /// How the parameters are coded.
    #[must_use]
    pub fn codes(&self) -> LineCodes {
        self.codes
    }

    /// Bytes of the coded parameters.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.params().iter().map(|spec| codes::bytes(self.codes, spec)).sum()
    }

    /// What the parameters are after coding.
    fn round(&self, p: &[F], out: &mut [F]) {
        let mut at = 0;
        for spec in self.inner.params() {
            let range = at..at + spec.len();
            let order = self.order.as_deref();
            codes::round(self.codes, spec, order, &p[range.clone()], &mut out[range.clone()]);
            at = range.end;
        }
    }

    /// The coded parameters, at the front of the scratch; what `inner` is lent of `fixed`; the rest
    /// of the scratch.
    fn coded<'a>(
        &self,
        p: &[F],
        fixed: &'a [F],
        scratch: &'a mut [F],
    ) -> (&'a [F], &'a [F], &'a mut [F]) {
        let (coded, rest) = scratch.split_at_mut(self.len);
        let (fixed, lost) = fixed.split_at(self.fixed);
        for ((coded, &p), &lost) in coded.iter_mut().zip(p).zip(lost) {
            *coded = p + lost;
        }
        (coded, fixed, rest)
    }
}

impl<F: Float> Adapter<F> for FakeQuant<F> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn params(&self) -> &[ParamSpec] {
        self.inner.params()
    }

    fn facts(&self) -> Facts {
        self.inner.facts()
    }

    fn frozen(&self) -> &[ParamSpec] {
        self.inner.frozen()
    }

    fn derived(&self) -> usize {
        self.inner.derived() + self.len
    }

    fn held(&self) -> usize {
        // A row takes the four bytes of a float.
        self.inner.held() + self.order.as_ref().map_or(0, Vec::len)
    }

    fn keeps(&self) -> Keeps {
        self.inner.keeps()
    }

    fn state(&self) -> usize {
        self.inner.state()
    }

    fn start(
        &self,
        be: &dyn Backend<F>,
        base: &dyn Linear<F>,
        p: &mut [F],
        fixed: &mut [F],
        scratch: &mut [F],
    ) {
        self.inner.start(be, base, p, &mut fixed[..self.fixed], scratch);
    }

    fn prepare(
        &self,
        be: &dyn Backend<F>,
        base: &dyn Linear<F>,
        p: &[F],
        fixed: &mut [F],
        scratch: &mut [F],
    ) {
        let (fixed, lost) = fixed.split_at_mut(self.fixed);
        let (coded, rest) = scratch.split_at_mut(self.len);
        self.round(p, coded);
        for ((lost, &coded), &p) in lost.iter_mut().zip(&*coded).zip(p) {
            *lost = coded - p;
        }
        self.inner.prepare(be, base, coded, fixed, rest);
    }

    fn work(&self, rows: usize) -> u64 {
        self.inner.work(rows) + self.len as u64
    }

    fn prepare_work(&self) -> u64 {
        self.inner.prepare_work() + self.len as u64
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        self.inner.req(be, base, rows).plus(self.len)
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (p, fixed, scratch) = self.coded(cx.p, cx.fixed, operands.scratch);
        self.inner.apply(&Cx { p, fixed, ..*cx }, Forward { scratch, ..operands });
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (p, fixed, scratch) = self.coded(cx.p, cx.fixed, operands.scratch);
        self.inner.vjp(&Cx { p, fixed, ..*cx }, Vjp { scratch, ..operands });
    }

    fn merge_rows(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        fixed: &[F],
        rows: Range<usize>,
        out: MatMut<'_, F>,
        scratch: &mut [F],
    ) -> Result<(), NotMergeable> {
        let (p, fixed, scratch) = self.coded(p, fixed, scratch);
        self.inner.merge_rows(be, p, fixed, rows, out, scratch)
    }

    fn merge_bias(&self, p: &[F], fixed: &[F], rows: Range<usize>, out: &mut [F]) -> bool {
        let mut scratch = alloc::vec![F::ZERO; self.len];
        let (p, fixed, _) = self.coded(p, fixed, &mut scratch);
        self.inner.merge_bias(p, fixed, rows, out)
    }
}
