//! Small operations that between them use every gradient rule.
//!
//! What an operation computes is defined once, a row at a time ([`Kind::row`], [`Kind::row_vjp`]);
//! the tape's operation and the naive reference differ in where rows come from and gradients go.

use alloc::vec;
use alloc::vec::Vec;

use lowtide_backend::{Backend, Req};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::GradRule::{Accumulate, OverDy, OverValue, PassThrough};
use crate::{Cx, Facts, Forward, GradRule, Limits, MAX_INPUTS, Op, Vjp};

/// Elements of scratch that every test operation asks for and ruins.
const SCRATCH: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `x / 2`, its gradient made in place of `dy`.
    Halve,
    /// `tanh x`; backward reads the output.
    Tanh,
    /// `sin x`, its gradient made in place of the value.
    Sin,
    /// `p x` with a trained `p [cols]`, its gradient made in place of `dy`.
    Weigh,
    /// `x + p` with a trained `p [cols]`; passes its gradient through.
    Bias,
    /// `sin a cos b`, both gradients added to.
    Mul,
    /// `sin a sin b`, both gradients in place of the values.
    Gate,
    /// `sin a sin b`, one gradient added to, the other in place of the value.
    HalfGate,
    /// `a + b`, passed through.
    Sum2,
    /// `a + b + c + d`, passed through.
    Sum4,
    /// `a + sin b`: one gradient passed through, the other added to.
    Mixed,
    /// `x m`, with `m [T, 1]` the mean of a row, which is output 1 and read by backward.
    Mean,
    /// `[x, 2 x]`: twice as wide.
    Widen,
    /// Sum of the two halves: half as wide.
    Narrow,
    /// `sin a c`, with `c` the sum of `b`'s rows so far: row `t` reads `b` up to row `t`.
    Running,
}

/// A row of every input.
pub(super) type Rows = [Vec<f64>; MAX_INPUTS];

impl Kind {
    pub(super) const ALL: [Self; 15] = [
        Self::Halve,
        Self::Tanh,
        Self::Sin,
        Self::Weigh,
        Self::Bias,
        Self::Mul,
        Self::Gate,
        Self::HalfGate,
        Self::Sum2,
        Self::Sum4,
        Self::Mixed,
        Self::Mean,
        Self::Widen,
        Self::Narrow,
        Self::Running,
    ];

    pub(super) fn arity(self) -> usize {
        match self {
            Self::Mul | Self::Gate | Self::HalfGate | Self::Sum2 | Self::Mixed | Self::Running => 2,
            Self::Sum4 => 4,
            _ => 1,
        }
    }

    pub(super) fn trains(self) -> bool {
        matches!(self, Self::Weigh | Self::Bias)
    }

    fn rules(self) -> [GradRule; MAX_INPUTS] {
        let (a, b) = match self {
            Self::Halve | Self::Weigh => (OverDy, OverDy),
            Self::Tanh | Self::Mul | Self::Mean | Self::Widen | Self::Narrow | Self::Running => {
                (Accumulate, Accumulate)
            }
            Self::Sin | Self::Gate => (OverValue, OverValue),
            Self::HalfGate => (Accumulate, OverValue),
            Self::Bias | Self::Sum2 | Self::Sum4 => (PassThrough, PassThrough),
            Self::Mixed => (PassThrough, Accumulate),
        };
        [a, b, PassThrough, PassThrough]
    }

    /// Inputs read, outputs read, inputs whose place output 0 may take.
    fn masks(self) -> (u32, u32, u32) {
        match self {
            Self::Halve | Self::Bias => (0, 0, 0b1),
            Self::Tanh => (0, 0b1, 0b1),
            Self::Sin | Self::Weigh => (0b1, 0, 0b1),
            Self::Mul | Self::HalfGate => (0b11, 0, 0b11),
            Self::Gate => (0b11, 0, 0b1),
            Self::Sum2 => (0, 0, 0b11),
            Self::Sum4 => (0, 0, 0b1111),
            Self::Mixed => (0b10, 0, 0b10),
            Self::Mean => (0b1, 0b10, 0),
            Self::Widen | Self::Narrow => (0, 0, 0),
            Self::Running => (0b11, 0, 0),
        }
    }

    /// Columns of output 0.
    pub(super) fn cols(self, cols: usize) -> usize {
        match self {
            Self::Widen => 2 * cols,
            Self::Narrow => cols / 2,
            _ => cols,
        }
    }

    /// Whether row `t` reads the sum of input `i`'s rows up to row `t`.
    pub(super) fn sums(self, i: usize) -> bool {
        self == Self::Running && i == 1
    }

    /// A row of output 0, and of output 1 where there is one. Inputs that are summed come as sums.
    pub(super) fn row(self, x: &Rows, p: &[f64]) -> (Vec<f64>, f64) {
        let [a, b, c, d] = x;
        let each = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(f).collect::<Vec<_>>();
        let mean = a.iter().sum::<f64>() / a.len() as f64;
        let y = match self {
            Self::Halve => each(&|j| a[j] / 2.0),
            Self::Tanh => each(&|j| a[j].tanh()),
            Self::Sin => each(&|j| Float::sin(a[j])),
            Self::Weigh => each(&|j| a[j] * p[j]),
            Self::Bias => each(&|j| a[j] + p[j]),
            Self::Mul => each(&|j| Float::sin(a[j]) * Float::cos(b[j])),
            Self::Running => each(&|j| Float::sin(a[j]) * b[j]),
            Self::Gate | Self::HalfGate => each(&|j| Float::sin(a[j]) * Float::sin(b[j])),
            Self::Sum2 => each(&|j| a[j] + b[j]),
            Self::Sum4 => each(&|j| a[j] + b[j] + c[j] + d[j]),
            Self::Mixed => each(&|j| a[j] + Float::sin(b[j])),
            Self::Mean => each(&|j| a[j] * mean),
            Self::Widen => a.iter().copied().chain(a.iter().map(|a| 2.0 * a)).collect(),
            Self::Narrow => (0..a.len() / 2).map(|j| a[j] + a[j + a.len() / 2]).collect(),
        };
        (y, mean)
    }

    /// Gradients of the inputs' rows (of the sums, where inputs are summed) and of the parameters.
    /// Operands that the facts do not declare as read may hold anything.
    pub(super) fn row_vjp(
        self,
        x: &Rows,
        y: &[f64],
        mean: f64,
        dy: &[f64],
        p: &[f64],
    ) -> (Rows, Vec<f64>) {
        let ([a, b, ..], n) = (x, dy.len());
        let each = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<_>>();
        let same = || dy.to_vec();
        let (mut da, mut db, mut dp) = (same(), same(), vec![0.0; p.len()]);
        match self {
            Self::Halve => da = each(&|j| dy[j] / 2.0),
            Self::Tanh => da = each(&|j| dy[j] * (1.0 - y[j] * y[j])),
            Self::Sin => da = each(&|j| dy[j] * Float::cos(a[j])),
            Self::Weigh => {
                da = each(&|j| dy[j] * p[j]);
                dp = each(&|j| dy[j] * a[j]);
            }
            Self::Bias => dp = same(),
            Self::Mul => {
                da = each(&|j| dy[j] * Float::cos(a[j]) * Float::cos(b[j]));
                db = each(&|j| -dy[j] * Float::sin(a[j]) * Float::sin(b[j]));
            }
            Self::Gate | Self::HalfGate => {
                da = each(&|j| dy[j] * Float::cos(a[j]) * Float::sin(b[j]));
                db = each(&|j| dy[j] * Float::sin(a[j]) * Float::cos(b[j]));
            }
            Self::Running => {
                da = each(&|j| dy[j] * Float::cos(a[j]) * b[j]);
                db = each(&|j| dy[j] * Float::sin(a[j]));
            }
            Self::Sum2 | Self::Sum4 => {}
            Self::Mixed => db = each(&|j| dy[j] * Float::cos(b[j])),
            Self::Mean => {
                let along = (0..n).map(|j| dy[j] * a[j]).sum::<f64>() / n as f64;
                da = each(&|j| dy[j] * mean + along);
            }
            Self::Widen => da = (0..n / 2).map(|j| dy[j] + 2.0 * dy[j + n / 2]).collect(),
            Self::Narrow => da = [dy, dy].concat(),
        }
        ([da, db, same(), same()], dp)
    }
}

/// A [`Kind`] over inputs of `cols` columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct TestOp {
    pub(super) kind: Kind,
    pub(super) cols: usize,
}

impl TestOp {
    /// Row `t` of every input: from `x`, or from where the schedule says it lies instead.
    fn rows(
        &self,
        cx: &Cx<'_, f64>,
        x: &[Option<Mat<'_, f64>>; MAX_INPUTS],
        held: [Option<&[f64]>; MAX_INPUTS],
        t: usize,
    ) -> Rows {
        core::array::from_fn(|i| match (x[i], held[i]) {
            _ if i >= self.kind.arity() => Vec::new(),
            (Some(x), _) if self.kind.sums(i) => {
                assert_eq!(x.rows(), cx.row0 + cx.rows(), "all rows so far");
                sum((0..=cx.row0 + t).map(|s| x.row(s)))
            }
            (Some(x), _) => x.row(t).to_vec(),
            (None, Some(held)) => held.to_vec(),
            (None, None) => vec![f64::NAN; self.cols],
        })
    }
}

/// Sum of some rows, in their order.
pub(super) fn sum<'a>(mut rows: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
    let mut sum = rows.next().map_or_else(Vec::new, <[f64]>::to_vec);
    rows.for_each(|row| sum.iter_mut().zip(row).for_each(|(s, x)| *s += x));
    sum
}

impl Op<f64> for TestOp {
    fn name(&self) -> &'static str {
        "test"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        assert_eq!(in_cols, vec![self.cols; self.kind.arity()]);
        let second = (self.kind == Kind::Mean).then_some(1);
        [self.kind.cols(self.cols)].into_iter().chain(second).collect()
    }

    fn facts(&self) -> Facts {
        let (reads_inputs, reads_outputs, in_place) = self.kind.masks();
        let history = if self.kind == Kind::Running { 0b10 } else { 0 };
        Facts { reads_inputs, reads_outputs, in_place, history, grads: self.kind.rules() }
    }

    fn params(&self) -> usize {
        if self.kind.trains() { self.cols } else { 0 }
    }

    fn req(&self, _be: &dyn Backend<f64>, _rows: usize, _limits: Limits) -> Req {
        Req { scratch: SCRATCH, library_bytes: 3 }
    }

    fn forward(&self, cx: &Cx<'_, f64>, operands: Forward<'_, f64>) {
        let Forward { x, y: [y, mut second], p, scratch, .. } = operands;
        scratch[..SCRATCH].fill(f64::NAN);
        let mut y = y.unwrap();
        let in_place = (0..self.kind.arity()).filter(|&i| x[i].is_none()).count();
        assert!(in_place <= 1, "one input at most lies in the output");
        for t in 0..cx.rows() {
            let row = {
                let held = Some(y.row(t)).filter(|_| in_place == 1);
                self.kind.row(&self.rows(cx, &x, [held; MAX_INPUTS], t), p)
            };
            y.row_mut(t).copy_from_slice(&row.0);
            if let Some(second) = &mut second {
                *second.at(t, 0) = row.1;
            }
        }
    }

    fn vjp(&self, cx: &Cx<'_, f64>, operands: Vjp<'_, f64>) {
        let Vjp { x, y: [y, second], dy, mut dx, p, grad, scratch, .. } = operands;
        scratch[..SCRATCH].fill(f64::NAN);
        let (rules, arity) = (self.kind.rules(), self.kind.arity());
        for t in 0..cx.rows() {
            let held = |i: usize, rule| {
                let dx: Option<&MatMut<'_, f64>> = dx[i].as_ref().filter(|_| rules[i] == rule);
                dx.map(|dx| dx.row(t))
            };
            let x = self.rows(cx, &x, core::array::from_fn(|i| held(i, OverValue)), t);
            let nothing = vec![f64::NAN; self.kind.cols(self.cols)];
            let y = y.map_or(&nothing[..], |y| y.row(t));
            let mean = second.map_or(f64::NAN, |m| m.get(t, 0));
            let dy = dy.map_or_else(|| held(0, OverDy).unwrap().to_vec(), |dy| dy.row(t).to_vec());
            let (rows, dp) = self.kind.row_vjp(&x, y, mean, &dy, p);
            for i in 0..arity {
                let Some(dx) = &mut dx[i] else { continue };
                if self.kind.sums(i) {
                    for s in 0..=cx.row0 + t {
                        dx.row_mut(s).iter_mut().zip(&rows[i]).for_each(|(dx, d)| *dx += d);
                    }
                    continue;
                }
                for (dx, d) in dx.row_mut(t).iter_mut().zip(&rows[i]) {
                    match rules[i] {
                        Accumulate => *dx += d,
                        OverDy | OverValue => *dx = *d,
                        PassThrough => panic!("a passed gradient is not lent"),
                    }
                }
            }
            grad.iter_mut().zip(dp).for_each(|(g, d)| *g += d);
        }
    }
}
