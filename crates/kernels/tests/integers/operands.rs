//! Rounded rows, and weights in formats of integers as tables want them.

use std::ops::Range;

use lowtide_kernels::{Digits, IntRhs, IntRhsT, Kernels, Rhs, Rounded};
use lowtide_quant::formats::{Q4_1, Q8_0};
use lowtide_quant::integers::GROUP;
use lowtide_quant::{BlockFormat, Integers, QMat};
use lowtide_tensor::{Mat, MatMut};

/// Rounded rows.
pub(crate) struct Rows {
    pub(crate) digits: Digits,
    pub(crate) m: usize,
    pub(crate) groups: usize,
    pub(crate) codes: Vec<i16>,
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<f32>,
}

impl Rows {
    pub(crate) fn new(kernels: &Kernels, digits: Digits, x: Mat<'_, f32>) -> Self {
        let (m, groups) = (x.rows(), x.cols().div_ceil(GROUP));
        let (mut codes, mut scales) = (vec![-1; m * groups * GROUP], vec![-1.0; m * groups]);
        let mut sums = scales.clone();
        let as_codes = MatMut::new(&mut codes, m, groups * GROUP);
        let as_scales = MatMut::new(&mut scales, m, groups);
        kernels.round_rows(x, digits, as_codes, as_scales, MatMut::new(&mut sums, m, groups));
        Self { digits, m, groups, codes, scales, sums }
    }

    pub(crate) fn view(&self) -> Rounded<'_> {
        let groups = self.groups;
        let codes = Mat::new(&self.codes, self.m, groups * GROUP);
        let scales = Mat::new(&self.scales, self.m, groups);
        Rounded::new(self.digits, codes, scales, Mat::new(&self.sums, self.m, groups))
    }
}

/// Weights `[n, k]` of a format, decoded, and as panels for some digits.
pub(crate) struct Weights {
    pub(crate) format: &'static dyn BlockFormat,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Weights {
    pub(crate) fn new(format: &'static dyn BlockFormat, n: usize, k: usize, noise: &[u8]) -> Self {
        let len = n * format.row_bytes(k).expect("whole blocks");
        let mut bytes: Vec<u8> = noise.iter().copied().cycle().take(len).collect();
        for (block, noise) in bytes.chunks_exact_mut(format.block_bytes()).zip(noise) {
            // Scales and minima that are f16 between one eighth and four, of both signs.
            for (at, byte) in [(1, noise), (3, noise)] {
                if at == 1 || format.name() == Q4_1.name() {
                    block[at] = byte & 0x80 | 0x30 | byte & 0x0f;
                }
            }
        }
        Self { format, n, k, bytes }
    }

    /// All bytes zero, in any format.
    pub(crate) fn zeros(format: &'static dyn BlockFormat, n: usize, k: usize) -> Self {
        let bytes = vec![0; n * format.row_bytes(k).expect("whole blocks")];
        Self { format, n, k, bytes }
    }

    /// Q8_0 with scales of one.
    pub(crate) fn plain(n: usize, k: usize, noise: &[u8]) -> Self {
        let mut weights = Self::new(&Q8_0, n, k, noise);
        for block in weights.bytes.chunks_exact_mut(Q8_0.block_bytes()) {
            block[..2].copy_from_slice(&0x3c00_u16.to_le_bytes());
        }
        weights
    }

    /// The same bytes as a packed matrix.
    pub(crate) fn view(&self) -> QMat<'_> {
        QMat::new(self.format, self.n, self.k, &self.bytes).expect("made for it")
    }

    /// Some columns, which begin and end with a block.
    pub(crate) fn columns(&self, at: Range<usize>) -> Self {
        let row = |columns| self.format.row_bytes(columns).expect("whole blocks");
        let rows = self.bytes.chunks_exact(row(self.k).max(1));
        let bytes = rows.flat_map(|bytes| &bytes[row(at.start)..row(at.end)]).copied().collect();
        Self { k: at.len(), bytes, ..*self }
    }

    pub(crate) fn integers(&self) -> &dyn Integers {
        self.format.integers().expect("a format of integers")
    }

    /// Codes, scales and minima of all rows.
    pub(crate) fn decoded(&self) -> (Vec<i16>, Vec<f32>, Vec<f32>) {
        let (values, groups) = (self.n * self.k, self.n * self.k / GROUP);
        let (mut codes, mut scales) = (vec![0; values], vec![0.0; groups]);
        let mut minima = scales.clone();
        self.integers().decode_integers(&self.bytes, &mut codes, &mut scales, &mut minima);
        (codes, scales, minima)
    }

    /// `x Wᵀ` by a table, added to `c`.
    pub(crate) fn multiply(
        &self,
        kernels: &Kernels,
        x: &Rows,
        add: bool,
        mut c: Vec<f32>,
    ) -> Vec<f32> {
        let (n, k, per) = (self.n, self.k, kernels.codes_per_element(x.digits));
        let (elements, groups) = (k / per, k / GROUP);
        let mut codes = vec![0_i32; n * elements];
        let (mut scales, mut minima) = (vec![0.0; n * groups], vec![0.0; n * groups]);
        let (bytes, format) = (&self.bytes, self.format);
        let (digits, scales_to) = (x.digits, &mut scales);
        assert!(kernels.decode_elements(digits, format, bytes, &mut codes, scales_to, &mut minima));
        let codes: Vec<f32> =
            codes.into_iter().map(|bits| f32::from_bits(bits.cast_unsigned())).collect();
        let pack = |x: &[f32], rows: usize| {
            let mut panel = vec![f32::NAN; rows * n];
            for first in (0..n).step_by(kernels.lanes()) {
                let count = kernels.lanes().min(n - first);
                let some = Mat::new(&x[first * rows..][..count * rows], count, rows);
                kernels.pack_transposed(some, n, first, &mut panel);
            }
            panel
        };
        let panels = [pack(&codes, elements), pack(&scales, groups), pack(&minima, groups)];
        let packed = |i: usize, rows| Rhs::packed(&panels[i], rows, n, kernels.group());
        let minima = self.integers().has_minima().then(|| packed(2, groups));
        let b = IntRhs::new(packed(0, elements), packed(1, groups), minima);
        kernels.int_gemm(x.view(), b, add, MatMut::new(&mut c, x.m, n));
        c
    }

    /// `base + g W` by a table, for scales that are given as ratios and `largest [n / 32, k / 32]`.
    pub(crate) fn multiply_t(
        &self,
        kernels: &Kernels,
        g: &Rows,
        ratios: &[i16],
        largest: &[f32],
        base: &[f32],
    ) -> Vec<f32> {
        let (n, k, per) = (self.n, self.k, kernels.codes_per_element(g.digits));
        let (codes, ..) = self.decoded();
        let mut panel = vec![0_i32; n / per * k];
        for (row, codes) in codes.chunks_exact(per * k).enumerate() {
            kernels.weave_rows(g.digits, codes, n / per, row, &mut panel);
        }
        let panel: Vec<f32> =
            panel.into_iter().map(|bits| f32::from_bits(bits.cast_unsigned())).collect();
        let largest = Mat::new(largest, n / GROUP, k / GROUP);
        let mut c = vec![0.0; g.m * k];
        let b = IntRhsT::new(&panel, ratios, largest);
        let base = Mat::new(base, g.m, k / GROUP);
        kernels.int_gemm_t(g.view(), b, base, MatMut::new(&mut c, g.m, k));
        c
    }
}
