//! The loss head and its gradient.

use std::ops::Range;
use std::rc::Rc;

use lowtide_backend::{Backend, OpShape};
use lowtide_quant::{
    BlockFormat,
    formats::{F32, Q8_0},
    integers::GROUP,
};
use lowtide_tensor::{Float, VOCAB_QUANTUM};

use super::case::{Case, Cx, beside, check};
use super::packed::Packed;
use super::tolerance;
use crate::close::assert_bits;

pub(super) fn check_family(be: &dyn Backend) {
    let cases: [(&'static dyn BlockFormat, usize, usize, usize); 6] = [
        (&F32, 0, 5, 3),
        (&F32, 1, 1, 1),
        (&F32, 7, 33, 9),
        (&Q8_0, 3, VOCAB_QUANTUM, 32),
        (&Q8_0, 70, 2 * VOCAB_QUANTUM + 77, 64),
        (&Q8_0, 2, 3 * VOCAB_QUANTUM + 1, 32),
    ];
    for (format, rows, vocab_size, hidden_size) in cases {
        let floats = tolerance::rounding(be.caps().compute) == 0.0 || format.integers().is_none();
        let head = Head { floats, ..Head::new(format, rows, vocab_size, hidden_size) };
        for bound in [1.0, 30.0] {
            let head = Head { bound, ..head.clone() };
            check(be, &Loss(head.clone()));
            check(be, &LossVjp(head.clone()));
            check(be, &LossGrad(head.clone()));
            check_agreement(be, &head);
        }
    }
    check_ties(be);
    check_sure(be);
    check_sure_gradient(be);
    check_damage(be);
}

/// Factor on gradients.
const SCALE: f32 = 0.7;

/// `h [rows, hidden_size]`, uniform in `±bound`, and packed `w [vocab_size, hidden_size]`.
#[derive(Clone)]
pub(super) struct Head {
    format: &'static dyn BlockFormat,
    rows: usize,
    vocab_size: usize,
    hidden_size: usize,
    bound: f32,
    /// Whether logits are close enough to the specification's to agree on the best word.
    floats: bool,
    /// Packed once: that takes longer than most of what is done with them.
    weights: Rc<Packed>,
}

impl Head {
    /// With inputs in ±1.
    pub(super) fn new(
        format: &'static dyn BlockFormat,
        rows: usize,
        vocab_size: usize,
        hidden_size: usize,
    ) -> Self {
        let weights = Rc::new(Packed::new(format, vocab_size, hidden_size, 1, 1.0));
        Self { format, rows, vocab_size, hidden_size, bound: 1.0, floats: true, weights }
    }

    fn label(&self, op: &str) -> String {
        let Self { format, rows, vocab_size, hidden_size, bound, .. } = self;
        let name = format.name();
        format!("{op} of {rows} rows to {bound}, {name} [{vocab_size}, {hidden_size}]")
    }

    /// Targets over the whole vocabulary, its first and last word among them.
    fn targets(&self, rows: &Range<usize>) -> Vec<u32> {
        let target = |t: usize| match t % 3 {
            0 => self.vocab_size - 1,
            1 => 0,
            _ => t * 613 % self.vocab_size,
        };
        rows.clone().map(|t| target(t) as u32).collect()
    }

    /// `loss`, `lse` and `argmax`.
    fn forward<F: Float>(&self, cx: &Cx<'_, F>, rows: &Range<usize>) -> [Vec<F>; 3] {
        let h = cx.rows_of(2, rows, self.hidden_size, self.bound);
        let w = &self.weights;
        let (mut loss, mut lse) = (cx.out(1, rows.len()), cx.out(1, rows.len()));
        let mut argmax = vec![u32::MAX; rows.len()];
        let mut scratch = cx.scratch(OpShape::XentHead {
            rows: rows.len(),
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
        });
        let (targets, out) = (self.targets(rows), (loss.slice(), lse.slice()));
        cx.be.xent_head(h.get(), w.view(), &targets, out.0, out.1, &mut argmax, scratch.slice());
        scratch.take("scratch of xent_head");
        let argmax = argmax.iter().map(|&word| F::from_f64(f64::from(word))).collect();
        [loss.take("loss of xent_head"), lse.take("lse of xent_head"), argmax]
    }

    /// `loss`, `lse`, `argmax` and the gradient, all at once.
    fn both<F: Float>(&self, cx: &Cx<'_, F>, rows: &Range<usize>) -> [Vec<F>; 4] {
        let Self { vocab_size, hidden_size, bound, .. } = *self;
        let (h, w) = (cx.rows_of(2, rows, hidden_size, bound), &self.weights);
        let (mut loss, mut lse) = (cx.out(1, rows.len()), cx.out(1, rows.len()));
        let (mut argmax, mut grad) = (vec![u32::MAX; rows.len()], cx.out(rows.len(), hidden_size));
        let shape = OpShape::XentHeadGrad { rows: rows.len(), vocab_size, hidden_size };
        let mut scratch = cx.scratch(shape);
        let (targets, scale) = (self.targets(rows), F::from_f32(SCALE));
        cx.be.xent_head_grad(
            h.get(),
            w.view(),
            &targets,
            scale,
            loss.slice(),
            lse.slice(),
            &mut argmax,
            grad.view(),
            scratch.slice(),
        );
        scratch.take("scratch of xent_head_grad");
        [
            loss.take("loss of xent_head_grad"),
            lse.take("lse of xent_head_grad"),
            argmax.iter().map(|&word| F::from_f64(f64::from(word))).collect(),
            grad.take("grad of xent_head_grad"),
        ]
    }

    /// Logits grow with the inputs, and with them the error of everything that is reckoned from
    /// them.
    fn tolerance(&self) -> f64 {
        tolerance::head(self.vocab_size, self.hidden_size) * f64::from(self.bound)
    }

    /// Logits of rounded inputs.
    fn rounded(&self) -> f64 {
        let of_logits = tolerance::rounded_sum(self.hidden_size) * f64::from(self.bound);
        self.format.integers().map_or(0.0, |_| of_logits)
    }

    /// The same, and probabilities, which sum to one, rounded 32 words at a time.
    fn rounded_gradient(&self) -> f64 {
        self.format.integers().map_or(0.0, |_| self.rounded() + tolerance::rounded_sum(GROUP))
    }
}

pub(super) struct Loss(pub(super) Head);

impl Case for Loss {
    fn label(&self) -> String {
        self.0.label("xent_head")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    fn tolerance(&self) -> f64 {
        self.0.tolerance()
    }

    fn rounded(&self) -> f64 {
        self.0.rounded()
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let [loss, lse, argmax] = self.0.forward(cx, &rows);
        let parts = if self.0.floats { vec![loss, lse, argmax] } else { vec![loss, lse] };
        beside(rows.len(), &parts)
    }
}

pub(super) struct LossVjp(pub(super) Head);

impl Case for LossVjp {
    fn label(&self) -> String {
        self.0.label("xent_head_vjp")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    /// Probabilities sum to one: the contraction over the vocabulary adds no error of its size.
    fn tolerance(&self) -> f64 {
        self.0.tolerance()
    }

    fn rounded(&self) -> f64 {
        self.0.rounded_gradient()
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let Head { vocab_size, hidden_size, bound, .. } = self.0;
        let [_, lse, _] = self.0.forward(cx, &rows);
        let (h, w) = (cx.rows_of(2, &rows, hidden_size, bound), &self.0.weights);
        let mut dh = cx.rows_of(3, &rows, hidden_size, 1.0);
        let shape = OpShape::XentHeadVjp { rows: rows.len(), vocab_size, hidden_size };
        let mut scratch = cx.scratch(shape);
        let (targets, scale) = (self.0.targets(&rows), F::from_f32(SCALE));
        cx.be.xent_head_vjp(h.get(), w.view(), &targets, &lse, scale, dh.view(), scratch.slice());
        scratch.take("scratch of xent_head_vjp");
        dh.take("dh of xent_head_vjp")
    }
}

/// The pass that gives both.
pub(super) struct LossGrad(pub(super) Head);

impl Case for LossGrad {
    fn label(&self) -> String {
        self.0.label("xent_head_grad")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    fn tolerance(&self) -> f64 {
        self.0.tolerance()
    }

    fn rounded(&self) -> f64 {
        self.0.rounded_gradient()
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let [loss, lse, argmax, grad] = self.0.both(cx, &rows);
        let parts =
            if self.0.floats { vec![loss, lse, argmax, grad] } else { vec![loss, lse, grad] };
        beside(rows.len(), &parts)
    }
}

/// Losses, sums and best words of the one pass are those of the forward one, to the bit: a training
/// loss and the loss of an evaluation are then the same number.
fn check_agreement(be: &dyn Backend, head: &Head) {
    let (cx, rows) = (Cx::new(be), 0..head.rows);
    let [loss, lse, argmax, _] = head.both(&cx, &rows);
    let want = head.forward(&cx, &rows);
    for (what, got, want) in [("loss", loss, &want[0]), ("lse", lse, &want[1])] {
        let what = format!("{}: {}: {what}", be.name(), head.label("xent_head_grad for xent_head"));
        assert_bits(&what, &got, want);
    }
    let what = format!("{}: {}", be.name(), head.label("best words of xent_head_grad"));
    assert!(argmax == want[2], "{what}: {argmax:?}, those of xent_head are {:?}", want[2]);
}

/// Of equal maxima the first word is the answer, however far apart they lie.
fn check_ties(be: &dyn Backend) {
    let (vocab_size, hidden_size) = (2 * VOCAB_QUANTUM + 9, 4);
    let best = [40, 41, VOCAB_QUANTUM, vocab_size - 1];
    let mut values = vec![0.0; vocab_size * hidden_size];
    for word in best {
        values[word * hidden_size..][..hidden_size].fill(1.0);
    }
    let [loss, _, argmax] = certain(be, vocab_size, hidden_size, &values, 1.0, 3);
    let what = format!("{}: xent_head with equal maxima {best:?}", be.name());
    assert!(argmax == 40.0, "{what}: {argmax} is the first");
    let others = (vocab_size - best.len()) as f64;
    let want = (others + best.len() as f64 * 4_f64.exp()).ln();
    assert!((f64::from(loss) - want).abs() < 1e-4, "{what}: a loss of {loss}, expected {want}");
}

/// Logits in the thousands do not overflow.
fn check_sure(be: &dyn Backend) {
    let (vocab_size, hidden_size, word) = (VOCAB_QUANTUM + 40, 4, VOCAB_QUANTUM + 7);
    let mut values = vec![-1.0; vocab_size * hidden_size];
    values[word * hidden_size..][..hidden_size].fill(1.0);
    let got = certain(be, vocab_size, hidden_size, &values, 1000.0, word as u32);
    let what = format!("{}: xent_head with logits of 4000", be.name());
    assert!(got == [0.0, 4000.0, word as f32], "{what}: {got:?}");
}

/// Where the model is sure of the target the gradient is small but known.
fn check_sure_gradient(be: &dyn Backend) {
    let (vocab_size, hidden_size, word) = (VOCAB_QUANTUM + 40, 4, 7);
    let mut values = vec![0.0; vocab_size * hidden_size];
    values[word * hidden_size..][..hidden_size].fill(1.0);
    // All other words have logit 0 and share probability p = (V - 1) / (V - 1 + e^lead).
    for lead in [8.0_f32, 20.0] {
        let [loss, grad] = trained(be, vocab_size, &values, &[lead / 4.0; 4], word as u32);
        let others = (vocab_size - 1) as f64;
        let want = -f64::from(SCALE) * others / (others + f64::from(lead).exp());
        let what = format!("{}: xent_head_grad with a lead of {lead}", be.name());
        let near = |got: f64, want: f64| (got - want).abs() < 1e-3 * want.abs() + 1e-6;
        assert!(near(f64::from(grad), want), "{what}: a gradient of {grad}, expected {want}");
        let want = (1.0 + others * f64::from(-lead).exp()).ln();
        assert!(near(f64::from(loss), want), "{what}: a loss of {loss}, expected {want}");
    }
}

/// What is not a number shows in the loss and in the gradient.
fn check_damage(be: &dyn Backend) {
    let (vocab_size, hidden_size) = (VOCAB_QUANTUM + 40, 4);
    let values: Vec<f32> = (0..vocab_size * hidden_size).map(|i| (i % 7) as f32 - 3.0).collect();
    for (damage, element) in [("NaN", f32::NAN), ("infinity", f32::INFINITY)] {
        let [loss, grad] = trained(be, vocab_size, &values, &[0.5, element, 0.25, 1.0], 9);
        let what = format!("{}: xent_head_grad of a row with {damage}", be.name());
        assert!(!loss.is_finite(), "{what}: a loss of {loss}");
        assert!(!grad.is_finite(), "{what}: a gradient of {grad}");
    }
}

/// Loss of one row, and the first element of its gradient.
fn trained(
    be: &dyn Backend,
    vocab_size: usize,
    values: &[f32],
    h: &[f32],
    target: u32,
) -> [f32; 2] {
    let hidden_size = h.len();
    let w = Packed::from_values(&F32, vocab_size, hidden_size, values);
    let cx = Cx::new(be);
    let h = cx.out(1, hidden_size).with(h);
    let (mut loss, mut lse, mut argmax) = ([f32::NAN], [f32::NAN], [0]);
    let mut grad = cx.out(1, hidden_size);
    let mut scratch = cx.scratch(OpShape::XentHeadGrad { rows: 1, vocab_size, hidden_size });
    let (grad_view, scratch, target) = (grad.view(), scratch.slice(), [target]);
    let out = (&mut loss, &mut lse, &mut argmax);
    be.xent_head_grad(h.get(), w.view(), &target, SCALE, out.0, out.1, out.2, grad_view, scratch);
    [loss[0], grad.take("grad of xent_head_grad")[0]]
}

/// Loss, log-sum-exp and best word of one row of equal elements.
fn certain(
    be: &dyn Backend,
    vocab_size: usize,
    hidden_size: usize,
    values: &[f32],
    h: f32,
    target: u32,
) -> [f32; 3] {
    let w = Packed::from_values(&F32, vocab_size, hidden_size, values);
    let cx = Cx::new(be);
    let h = cx.out(1, hidden_size).with(&vec![h; hidden_size]);
    let (mut loss, mut lse, mut argmax) = ([f32::NAN], [f32::NAN], [0]);
    let mut scratch = cx.scratch(OpShape::XentHead { rows: 1, vocab_size, hidden_size });
    let scratch = scratch.slice();
    be.xent_head(h.get(), w.view(), &[target], &mut loss, &mut lse, &mut argmax, scratch);
    [loss[0], lse[0], argmax[0] as f32]
}
