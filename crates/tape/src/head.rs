//! The end of a program: final norm, head and loss over labelled rows, a tile of rows at a time.

use alloc::boxed::Box;

use lowtide_backend::{Backend, OpShape, Req};
use lowtide_memory::{ByCategory, Category, Scratch};
use lowtide_quant::QMat;
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::schedule::aligned;
use crate::{LossSum, Work};

/// Final norm and head. Only labelled rows are normalised and scored; neither all rows' logits nor
/// even a tile's over the whole vocabulary need exist.
pub struct LossHead<'w, F> {
    /// Weight of the final norm, `[D]`.
    pub norm: Box<[F]>,
    /// Added to the norm's mean square.
    pub eps: F,
    /// The head, packed `[V, D]`; tied models share it with the embedding.
    pub weight: QMat<'w>,
}

/// Takes the gradient of a row, by the row's number.
pub(crate) type RowTaker<'a, F> = dyn FnMut(usize, &[F]) + 'a;

/// Rows of one call and the tile they are worked on in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labelled<'a> {
    pub(crate) rows: &'a [u32],
    /// Rows of `words`.
    pub(crate) targets: &'a [u32],
    /// The words that the softmax runs over, `[N, D]`: the head, or some rows of it.
    pub(crate) words: QMat<'a>,
    /// Rows of a tile, a multiple of the quantum.
    pub(crate) tile: usize,
}

impl<F: Float> LossHead<'_, F> {
    /// What backends need for a tile of `rows` over so many words.
    fn req(&self, be: &dyn Backend<F>, rows: usize, words: usize) -> Req {
        let (vocab_size, hidden_size) = (words, self.weight.cols());
        let (out_features, in_features) = (vocab_size, hidden_size);
        be.req(OpShape::XentHead { rows, vocab_size, hidden_size })
            .max(be.req(OpShape::XentHeadGrad { rows, vocab_size, hidden_size }))
            .max(be.req(OpShape::Qmatmul { rows, out_features, in_features }))
    }

    /// Elements of the arena a tile of `rows` takes, and the library's bytes.
    pub(crate) fn elements(&self, be: &dyn Backend<F>, rows: usize) -> (ByCategory, usize) {
        self.elements_over(be, rows, self.weight.rows())
    }

    fn elements_over(&self, be: &dyn Backend<F>, rows: usize, words: usize) -> (ByCategory, usize) {
        let Req { scratch, library_bytes } = self.req(be, rows, words);
        let working = 3 * aligned(rows * self.weight.cols()) + 4 * aligned(rows);
        let elements = ByCategory::of(Category::Head, working as u64)
            .with(Category::Scratch, aligned(scratch) as u64);
        (elements, library_bytes)
    }

    /// Elements of the arena that the logits of `rows` take besides themselves, and the library's
    /// bytes.
    pub(crate) fn logits_elements(&self, be: &dyn Backend<F>, rows: usize) -> (ByCategory, usize) {
        let (out_features, in_features) = (self.weight.rows(), self.weight.cols());
        let req = be.req(OpShape::Qmatmul { rows, out_features, in_features });
        let working = 2 * rows * in_features + rows;
        let elements = ByCategory::of(Category::Head, working as u64)
            .with(Category::Scratch, req.scratch as u64);
        (elements, req.library_bytes)
    }

    /// Work over so many labelled rows, roughly. With gradients there are three products with the
    /// head for each tile.
    pub(crate) fn work(&self, labelled: usize, train: bool) -> u64 {
        let tiles = labelled.div_ceil(Self::largest_tile(labelled));
        let one =
            Work::packed(labelled.div_ceil(tiles.max(1)), self.weight.cols(), self.weight.rows());
        one.forward * tiles as u64 * if train { 3 } else { 1 }
    }

    /// The largest tile worth having for `labelled` rows: the head's weights are decoded once a
    /// tile.
    pub(crate) fn largest_tile(labelled: usize) -> usize {
        labelled.next_multiple_of(QUANTUM).clamp(QUANTUM, 8 * QUANTUM)
    }

    /// The tile that fits into `len` elements where the softmax runs over `words`. Over all of them
    /// it is the one planned; over fewer a backend may take more rows at once and want more scratch
    /// for it. No result depends on it.
    fn tile(&self, be: &dyn Backend<F>, planned: usize, words: usize, len: usize) -> usize {
        let fits = |rows| self.elements_over(be, rows, words).0.held() <= len as u64;
        let mut tile = planned;
        while words < self.weight.rows() && tile > 1 && !fits(tile) {
            tile /= 2;
        }
        tile
    }

    /// Loss over the labelled rows of `x [T, D]`; with `grad`, also `scale` times its gradient: a
    /// row `[D]` for each labelled row, handed over with that row's number.
    pub(crate) fn run(
        &self,
        be: &dyn Backend<F>,
        x: Mat<'_, F>,
        labelled: Labelled<'_>,
        mut grad: Option<(F, &mut RowTaker<'_, F>)>,
        memory: &mut [F],
    ) -> LossSum {
        let (hidden, words) = (self.weight.cols(), labelled.words);
        let mut sum = LossSum::default();
        let tile = self.tile(be, labelled.tile, words.rows(), memory.len());
        let tiles = labelled.rows.chunks(tile).zip(labelled.targets.chunks(tile));
        for (rows, targets) in tiles {
            let n = rows.len();
            let mut arena = Scratch::new(memory);
            let mut room = |len: usize| &mut arena.take(aligned(len))[..len];
            let mut picked = MatMut::new(room(n * hidden), n, hidden);
            for (i, &row) in rows.iter().enumerate() {
                picked.row_mut(i).copy_from_slice(x.row(row as usize));
            }
            let picked = picked.into_ref();
            let mut h = MatMut::new(room(n * hidden), n, hidden);
            let (rstd, loss, lse) = (room(n), room(n), room(n));
            let argmax = &mut bytemuck::cast_slice_mut::<F, u32>(room(n))[..n];
            be.rmsnorm(picked, &self.norm, self.eps, h.rb(), rstd);
            let mut dh = grad.is_some().then(|| MatMut::new(room(n * hidden), n, hidden));
            let scratch = arena.into_rest();
            let normed = h.as_ref();
            match (&grad, &mut dh) {
                (Some((scale, _)), Some(dh)) => {
                    let (dh, w) = (dh.rb(), words);
                    be.xent_head_grad(normed, w, targets, *scale, loss, lse, argmax, dh, scratch);
                }
                _ => be.xent_head(normed, words, targets, loss, lse, argmax, scratch),
            }
            sum.labelled += n;
            sum.loss += loss.iter().map(|l| l.to_f64()).sum::<f64>();
            sum.correct += argmax.iter().zip(targets).filter(|(a, b)| a == b).count();
            let (Some((_, take)), Some(dh)) = (&mut grad, &dh) else { continue };
            // The normalised rows are done with; their room takes the gradient of the picked ones.
            h.fill(F::ZERO);
            be.rmsnorm_vjp(picked, &self.norm, rstd, dh.as_ref(), h.rb());
            for (i, &row) in rows.iter().enumerate() {
                take(row as usize, h.row(i));
            }
        }
        sum
    }

    /// Logits of `rows` of `x [T, D]`, into `out [rows.len(), V]`; `memory` as for a tile of as
    /// many.
    pub(crate) fn logits(
        &self,
        be: &dyn Backend<F>,
        x: Mat<'_, F>,
        rows: &[u32],
        out: MatMut<'_, F>,
        memory: &mut [F],
    ) {
        let (n, hidden) = (rows.len(), self.weight.cols());
        let mut arena = Scratch::new(memory);
        let mut picked = MatMut::new(arena.take(n * hidden), n, hidden);
        for (i, &row) in rows.iter().enumerate() {
            picked.row_mut(i).copy_from_slice(x.row(row as usize));
        }
        let mut h = MatMut::new(arena.take(n * hidden), n, hidden);
        let rstd = arena.take(n);
        be.rmsnorm(picked.as_ref(), &self.norm, self.eps, h.rb(), rstd);
        be.qmatmul(h.as_ref(), self.weight, out, arena.into_rest());
    }
}
