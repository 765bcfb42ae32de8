//! Rotary position embedding.

use std::ops::Range;

use lowtide_backend::{Backend, Direction, Pairing};
use lowtide_tensor::Float;

use super::case::{Case, Cx, check_single};
use super::tolerance;
use crate::close::assert_close;
use crate::draw::Draw;

pub(super) fn check_family(be: &dyn Backend) {
    for pairing in [Pairing::Halves, Pairing::Adjacent] {
        // Whole heads, a part of each head, more frequencies than a page of them, no row.
        for (rows, heads, head_dim, turned) in [
            (5, 3, 8, 8),
            (70, 9, 64, 64),
            (9, 2, 80, 32),
            (3, 1, 256, 256),
            (0, 2, 4, 4),
            (1, 1, 2, 2),
        ] {
            for direction in [Direction::Forward, Direction::Backward] {
                check_single(be, &Rope { rows, heads, head_dim, turned, pairing, direction });
            }
            check_inverse(be, rows, heads, head_dim, pairing);
        }
    }
}

/// The first `turned` elements of each head rotate.
pub(super) struct Rope {
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) turned: usize,
    pub(super) pairing: Pairing,
    pub(super) direction: Direction,
}

/// Positions that do not ascend, some of them far out.
fn position(t: usize) -> u32 {
    (t * 37 % 101 * if t.is_multiple_of(3) { 80 } else { 1 }) as u32
}

fn frequencies<F: Float>(turned: usize) -> Vec<F> {
    let exponent = |i: usize| -2.0 * i as f64 / turned as f64;
    (0..turned / 2).map(|i| F::from_f32(10_000_f64.powf(exponent(i)) as f32)).collect()
}

impl Case for Rope {
    fn label(&self) -> String {
        let Self { rows, heads, head_dim, turned, pairing, direction } = self;
        format!("rope {pairing:?} {direction:?} of {turned} in [{rows}, {heads} * {head_dim}]")
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::FUNCTION
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let pos: Vec<u32> = rows.clone().map(position).collect();
        let frequencies = frequencies(self.turned);
        let mut x = cx.rows_of(1, &rows, self.heads * self.head_dim, 1.0);
        cx.be.rope(x.view(), self.head_dim, &pos, &frequencies, self.pairing, self.direction);
        x.take("x of rope")
    }
}

/// Turning back gives what was before.
fn check_inverse(be: &dyn Backend, rows: usize, heads: usize, head_dim: usize, pairing: Pairing) {
    let cx = Cx::new(be);
    let pos: Vec<u32> = (0..rows).map(position).collect();
    let before: Vec<f32> = Draw::new(1).vec(rows * heads * head_dim, 1.0);
    let mut x = cx.out(rows, heads * head_dim).with(&before);
    for direction in [Direction::Forward, Direction::Backward] {
        be.rope(x.view(), head_dim, &pos, &frequencies(head_dim), pairing, direction);
    }
    let what =
        format!("{}: rope {pairing:?} there and back [{rows}, {heads} * {head_dim}]", be.name());
    assert_close(&what, &x.take("x of rope"), &before, tolerance::FUNCTION);
}
