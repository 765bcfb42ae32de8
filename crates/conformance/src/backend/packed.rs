//! Packed matrices made for a case.

use lowtide_quant::{BlockFormat, Codes, QMat, Scales};

use crate::draw::Draw;

/// The bytes of a matrix `[rows, cols]`.
pub(super) struct Packed {
    format: &'static dyn BlockFormat,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    apart: Option<Apart>,
}

/// Scales of blocks that lie apart from the codes, which are all of `bytes` then.
struct Apart {
    format: &'static dyn Codes,
    scales: Vec<[u8; 4]>,
}

impl Packed {
    /// Packs values, uniform in `±bound`.
    pub(super) fn new(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        seed: u64,
        bound: f32,
    ) -> Self {
        Self::from_values(format, rows, cols, &Draw::new(seed).vec(rows * cols, bound))
    }

    pub(super) fn from_values(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Self {
        let row = format.row_bytes(cols).expect("rows of whole blocks");
        let mut bytes = vec![0; rows * row];
        format.encode(values, &mut bytes);
        Self { format, rows, cols, bytes, apart: None }
    }

    /// The same matrix with the scales, which each block begins with as an `f32`, put apart.
    pub(super) fn put_apart(mut self, format: &'static dyn Codes) -> Self {
        let blocks = self.bytes.chunks(format.block_bytes());
        let scales = blocks.clone().map(|block| block.first_chunk().copied().unwrap_or_default());
        let scales = scales.collect();
        let codes = blocks.flat_map(|block| &block[format.block_bytes() - format.code_bytes()..]);
        self.bytes = codes.copied().collect();
        self.apart = Some(Apart { format, scales });
        self
    }

    pub(super) fn is_apart(&self) -> bool {
        self.apart.is_some()
    }

    pub(super) fn view(&self) -> QMat<'_> {
        let Self { format, rows, cols, ref bytes, ref apart } = *self;
        let view = match apart {
            None => QMat::new(format, rows, cols, bytes),
            Some(Apart { format, scales }) => {
                QMat::apart(*format, rows, cols, bytes, Scales::Blocks(scales))
            }
        };
        view.expect("the bytes were made for it")
    }
}
