//! Updates.

use std::ops::Range;

use lowtide_backend::{AdamHyper, Backend, LionHyper, Moments8, Momentum8, Scalar, SgdHyper};
use lowtide_quant::dynamic8::{BLOCK, blocks};
use lowtide_tensor::Float;

use super::case::{Case, Cx, check};
use super::tolerance;
use crate::close::{assert_bits, assert_close};
use crate::draw::Draw;

/// Updates of a run: enough for every state to be read after it was written.
const UPDATES: u64 = 3;

pub(super) fn check_family(be: &dyn Backend) {
    for len in [0, 1, 7, 300, 20_000] {
        check(be, &AdamW { len });
        check(be, &Sgd { len });
        check(be, &SgdMomentum { len });
        check(be, &Lion { len });
    }
    for len in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3, 80 * BLOCK + 1] {
        check_adamw8(be, len);
        check_lion8(be, len);
    }
}

fn hyper(step: u64) -> AdamHyper {
    AdamHyper {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        step,
        grad_scale: 0.5,
    }
}

const SGD: SgdHyper = SgdHyper { lr: 0.1, weight_decay: 0.2, grad_scale: 0.5 };

const LION: LionHyper =
    LionHyper { lr: 1e-2, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, grad_scale: 0.5 };

/// The gradient of one update.
fn gradient<F: Float>(step: u64, len: usize) -> Vec<F> {
    Draw::new(100 + step).vec(len, 0.1)
}

/// Parameters are independent, so that they count as rows.
pub(super) struct AdamW {
    pub(super) len: usize,
}

impl Case for AdamW {
    fn label(&self) -> String {
        format!("adamw of {} parameters", self.len)
    }

    fn rows(&self) -> usize {
        self.len
    }

    fn tolerance(&self) -> f64 {
        tolerance::FUNCTION
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let mut p = cx.rows_of(1, &rows, 1, 1.0).take("p");
        let (mut m, mut v) = (vec![F::ZERO; rows.len()], vec![F::ZERO; rows.len()]);
        for step in 1..=UPDATES {
            let g = &gradient(step, rows.end)[rows.clone()];
            cx.be.adamw(&mut p, g, &mut m, &mut v, &hyper(step));
        }
        super::case::beside(rows.len(), &[p, m, v])
    }
}

struct Sgd {
    len: usize,
}

impl Case for Sgd {
    fn label(&self) -> String {
        format!("sgd of {} parameters", self.len)
    }

    fn rows(&self) -> usize {
        self.len
    }

    fn tolerance(&self) -> f64 {
        tolerance::ELEMENT
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let mut p = cx.rows_of(1, &rows, 1, 1.0).take("p");
        for step in 1..=UPDATES {
            let g = &gradient(step, rows.end)[rows.clone()];
            cx.be.sgd(&mut p, g, &SGD);
        }
        p
    }
}

pub(super) struct SgdMomentum {
    pub(super) len: usize,
}

impl Case for SgdMomentum {
    fn label(&self) -> String {
        format!("sgd_momentum of {} parameters", self.len)
    }

    fn rows(&self) -> usize {
        self.len
    }

    fn tolerance(&self) -> f64 {
        tolerance::ELEMENT
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let mut p = cx.rows_of(1, &rows, 1, 1.0).take("p");
        let mut m = vec![F::ZERO; rows.len()];
        for step in 1..=UPDATES {
            let g = &gradient(step, rows.end)[rows.clone()];
            cx.be.sgd_momentum(&mut p, g, &mut m, 0.9, &SGD);
        }
        super::case::beside(rows.len(), &[p, m])
    }
}

/// Gradients whose directions no rounding turns round: a sign is all that is taken of them.
fn directed<F: Float>(step: u64, len: usize) -> Vec<F> {
    let mut g = gradient::<F>(step, len);
    let (zero, far) = (F::ZERO, F::from_f64(0.05));
    for (i, g) in g.iter_mut().enumerate() {
        *g += if *g < zero { -far } else { far };
        if i % 7 == 3 {
            *g = zero;
        }
    }
    g
}

pub(super) struct Lion {
    pub(super) len: usize,
}

impl Case for Lion {
    fn label(&self) -> String {
        format!("lion of {} parameters", self.len)
    }

    fn rows(&self) -> usize {
        self.len
    }

    fn tolerance(&self) -> f64 {
        tolerance::ELEMENT
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let mut p = cx.rows_of(1, &rows, 1, 1.0).take("p");
        let mut m = vec![F::ZERO; rows.len()];
        for step in 1..=UPDATES {
            let g = &directed(step, rows.end)[rows.clone()];
            cx.be.lion(&mut p, g, &mut m, &LION);
        }
        super::case::beside(rows.len(), &[p, m])
    }
}

/// Parameters and packed momentum after a run of Lion.
struct PackedLion {
    p: Vec<f32>,
    m: Vec<u8>,
    absmax: Vec<f32>,
}

impl PackedLion {
    /// Updates `len` parameters, the tensor cut at `cut`, a multiple of the block.
    fn run(be: &dyn Backend, len: usize, cut: usize) -> Self {
        let mut p: Vec<f32> = Draw::new(1).vec(len, 1.0);
        let (mut m, mut absmax) = (vec![127; len], vec![0.0; blocks(len)]);
        for step in 1..=UPDATES {
            let g: Vec<f32> = directed(step, len);
            for part in [0..cut, cut..len] {
                let of_blocks = part.start / BLOCK..blocks(part.end);
                let momentum =
                    Momentum8 { m: &mut m[part.clone()], absmax: &mut absmax[of_blocks] };
                be.lion8(&mut p[part.clone()], &g[part], momentum, &LION);
            }
        }
        Self { p, m, absmax }
    }
}

fn check_lion8(be: &dyn Backend, len: usize) {
    let what = format!("{}: lion8 of {len} parameters", be.name());
    let (got, want) = (PackedLion::run(be, len, 0), PackedLion::run(&Scalar, len, 0));
    assert_close(&what, &got.p, &want.p, tolerance::ELEMENT);
    assert_close(&format!("{what}: absmax"), &got.absmax, &want.absmax, tolerance::LEVEL);
    let apart = got.m.iter().zip(&want.m).filter(|(got, want)| got.abs_diff(**want) > 1).count();
    assert!(apart == 0, "{what}: {apart} codes are more than a level apart");
    for cut in [0, len / 2 / BLOCK * BLOCK] {
        let again = PackedLion::run(be, len, cut);
        assert_bits(&format!("{what}: again, cut at {cut}"), &again.p, &got.p);
        assert_bits(&format!("{what}: absmax, cut at {cut}"), &again.absmax, &got.absmax);
        assert!(again.m == got.m, "{what}: other codes, cut at {cut}");
    }
}

/// Parameters and packed moments after a run.
pub(super) struct Packed8 {
    p: Vec<f32>,
    m: Vec<u8>,
    v: Vec<u8>,
    absmax: Vec<f32>,
}

impl Packed8 {
    /// Updates `len` parameters, the tensor cut at `cut`, a multiple of the block.
    pub(super) fn run(be: &dyn Backend, len: usize, cut: usize) -> Self {
        let mut p: Vec<f32> = Draw::new(1).vec(len, 1.0);
        let (mut m, mut v) = (vec![127; len], vec![0; len]);
        let (mut m_absmax, mut v_absmax) = (vec![0.0; blocks(len)], vec![0.0; blocks(len)]);
        for step in 1..=UPDATES {
            let g: Vec<f32> = gradient(step, len);
            for part in [0..cut, cut..len] {
                let of_blocks = part.start / BLOCK..blocks(part.end);
                let moments = Moments8 {
                    m: &mut m[part.clone()],
                    v: &mut v[part.clone()],
                    m_absmax: &mut m_absmax[of_blocks.clone()],
                    v_absmax: &mut v_absmax[of_blocks],
                };
                be.adamw8(&mut p[part.clone()], &g[part], moments, &hyper(step));
            }
        }
        Self { p, m, v, absmax: [m_absmax, v_absmax].concat() }
    }

    /// Everything as numbers, for comparisons of bits.
    pub(super) fn numbers(&self) -> Vec<f32> {
        let codes = self.m.iter().chain(&self.v).map(|&code| f32::from(code));
        self.p.iter().copied().chain(codes).chain(self.absmax.iter().copied()).collect()
    }
}

fn check_adamw8(be: &dyn Backend, len: usize) {
    let what = format!("{}: adamw8 of {len} parameters", be.name());
    let (got, want) = (Packed8::run(be, len, 0), Packed8::run(&Scalar, len, 0));
    // A moment on the other side of a border between two levels moves the next update by as much.
    let lr = hyper(1).lr;
    assert_close(&what, &got.p, &want.p, lr * tolerance::LEVEL);
    assert_close(&format!("{what}: absmax"), &got.absmax, &want.absmax, tolerance::LEVEL);
    for (name, got, want) in [("m", &got.m, &want.m), ("v", &got.v, &want.v)] {
        let apart = got.iter().zip(want).filter(|(got, want)| got.abs_diff(**want) > 1).count();
        assert!(apart == 0, "{what}: {apart} codes of {name} are more than a level apart");
    }
    let numbers = got.numbers();
    for cut in [0, len / 2 / BLOCK * BLOCK] {
        let again = Packed8::run(be, len, cut).numbers();
        assert_bits(&format!("{what}: again, cut at {cut}"), &again, &numbers);
    }
}
