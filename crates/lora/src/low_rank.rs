//! What the methods of low rank have in common: their numbers, the names of their tensors, and
//! dropout of what they see of the input.

use core::ops::Range;

use lowtide_adapter::{BadValue, Config, Init, ParamSpec, Phase, Rows};
use lowtide_backend::{Backend, DropoutKey};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

/// The largest rank that is accepted.
pub const RANK_MAX: usize = 1 << 16;

/// Rank, scale and dropout of one adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LowRank {
    pub(crate) rank: usize,
    pub(crate) scale: f64,
    pub(crate) dropout: f64,
}

impl LowRank {
    /// The numbers of `config`, for the method of this name.
    pub(crate) fn new(method: &'static str, config: &Config) -> Result<Self, BadValue> {
        let Config { rank, alpha, dropout, use_rslora, .. } = *config;
        let bad = |field, value, expected| BadValue { method, field, value, expected };
        if rank == 0 || rank > RANK_MAX {
            return Err(bad("rank", rank as f64, "a whole number from 1 to 65536"));
        }
        if !alpha.is_finite() {
            return Err(bad("alpha", alpha, "a finite number"));
        }
        if !(0.0..1.0).contains(&dropout) {
            return Err(bad("dropout", dropout, "a number from 0 to below 1"));
        }
        let divisor = if use_rslora { Float::sqrt(rank as f64) } else { rank as f64 };
        Ok(Self { rank, scale: alpha / divisor, dropout })
    }

    /// `lora_A.weight [r, I]`.
    pub(crate) fn a(&self, in_features: usize) -> ParamSpec {
        // Kaiming-uniform with a = sqrt(5): sqrt(6 / ((1 + 5) I)).
        let bound = 1.0 / Float::sqrt(in_features as f32);
        ParamSpec {
            name: "lora_A.weight",
            shape: [self.rank, in_features],
            init: Init::Uniform { bound },
            output_axis: None,
            rank_axis: Some(0),
        }
    }

    /// `lora_B.weight [O, r]`.
    pub(crate) fn b(&self, out_features: usize) -> ParamSpec {
        ParamSpec {
            name: "lora_B.weight",
            shape: [out_features, self.rank],
            init: Init::Zeros,
            output_axis: Some(0),
            rank_axis: Some(1),
        }
    }

    /// The dropout of this call, if there is any.
    pub(crate) fn mask(&self, rows: &Rows<'_>) -> Option<Mask> {
        (self.dropout > 0.0 && rows.phase == Phase::Train).then_some(Mask {
            p: self.dropout,
            key: rows.key,
            row0: rows.row0,
        })
    }

    /// How many rows are worked on at a time. Without dropout all of them; with it, as many as the
    /// scratch for dropped inputs holds. Tiles are whole quanta, so the bits are the same.
    pub(crate) fn tile_rows(&self, rows: usize) -> usize {
        if self.dropout > 0.0 { rows.min(QUANTUM) } else { rows }
    }

    /// Elements that hold a tile of dropped inputs, or two half tiles of input gradients.
    pub(crate) fn dropped_len(&self, tile: usize, in_features: usize) -> usize {
        if self.dropout > 0.0 { tile.next_multiple_of(2) * in_features } else { 0 }
    }
}

/// The dropout of one call.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    p: f64,
    key: DropoutKey,
    row0: usize,
}

impl Mask {
    /// `out = mask ⊙ x / (1 - p)`; row 0 of `x` is row `start` of the call.
    pub(crate) fn drop<F: Float>(
        self,
        be: &dyn Backend<F>,
        x: Mat<'_, F>,
        start: usize,
        out: MatMut<'_, F>,
    ) {
        be.dropout(x, self.p, self.key, self.row0 + start, out);
    }
}

/// Ranges of `tile` rows, the last one shorter.
pub(crate) fn tiles(rows: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(tile.max(1)).map(move |start| start..rows.min(start + tile))
}

/// `[rows, cols]` at the front of `room`.
pub(crate) fn front<F: Float>(room: &mut [F], rows: usize, cols: usize) -> MatMut<'_, F> {
    MatMut::new(&mut room[..rows * cols], rows, cols)
}

/// What the adapter sees of rows `range` of `x`: the rows, or their dropped copy in `dropped`.
pub(crate) fn masked<'a, F: Float>(
    mask: Option<Mask>,
    be: &dyn Backend<F>,
    x: Mat<'a, F>,
    range: Range<usize>,
    dropped: &'a mut [F],
) -> Mat<'a, F> {
    let x = x.rows_range(range.clone());
    let Some(mask) = mask else { return x };
    let mut out = front(dropped, x.rows(), x.cols());
    mask.drop(be, x, range.start, out.rb());
    out.into_ref()
}

/// `dx += mask ⊙ (dh A)` for rows that start at row `start` of the call. Dropout cannot work in
/// place, so with a mask the rows go through two halves of `dropped`.
pub(crate) fn input_gradient<F: Float>(
    mask: Option<Mask>,
    be: &dyn Backend<F>,
    dh: Mat<'_, F>,
    a: Mat<'_, F>,
    start: usize,
    mut dx: MatMut<'_, F>,
    dropped: &mut [F],
    scratch: &mut [F],
) {
    let Some(mask) = mask else {
        return be.matmul(F::ONE, dh, a, F::ONE, dx, scratch);
    };
    let width = a.cols();
    let half = dropped.len() / 2;
    let (before, after) = dropped.split_at_mut(half);
    for range in tiles(dh.rows(), half / width.max(1)) {
        let mut whole = front(before, range.len(), width);
        be.matmul(F::ONE, dh.rows_range(range.clone()), a, F::ZERO, whole.rb(), scratch);
        let mut kept = front(after, range.len(), width);
        mask.drop(be, whole.as_ref(), start + range.start, kept.rb());
        be.axpby(F::ONE, kept.as_ref(), F::ONE, dx.rb().rows_range(range));
    }
}
