//! Adapters in eight or four bits: what their numbers become, and how the bytes lie.
//!
//! A tensor is cut into lines along its longer side, so that a rank component (a row of `A`, a
//! column of `B`) is one line, and a line into groups of [`Codes::group`] neighbours. A group has
//! one scale, its largest magnitude over the largest code, rounded up to a bf16; a number becomes
//! the whole multiple of the scale that is nearest, ties to even. A code has 4 or 8 bits and a
//! scale has 8 significant ones, so every coded number is an exact f32: what is decoded is what was
//! trained, on any machine.
//!
//! A tensor that starts at a constant scales something that is there already, as DoRA's magnitudes
//! do. It stays in f32: a rounded scale would move the base's own output.
//!
//! # Bytes
//!
//! | part | bytes |
//! |---|---|
//! | scales | bf16, little-endian: the groups of the first line, then those of the next |
//! | `int8` codes | one signed byte an element, in the tensor's own row-major order |
//! | `int4` codes | half a byte an element in that order, each plus 8, the first lower |
//!
//! A tensor that stays in f32 is its numbers, little-endian.

use alloc::vec::Vec;
use core::fmt;

use lowtide_adapter::{Init, ParamSpec};
use lowtide_tensor::Float;

/// How an adapter is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// Whole numbers in ±127, one scale a line.
    Int8,
    /// Whole numbers in ±7, one scale for 64 neighbours of a line.
    Int4,
}

/// The bytes of a tensor are not as many as its shape asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    /// The tensor.
    pub name: &'static str,
    /// How many bytes there are.
    pub found: usize,
    /// How many there must be.
    pub expected: usize,
}

impl fmt::Display for BadLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, found, expected } = self;
        write!(f, "the codes of `{name}` are {found} bytes, expected {expected}")
    }
}

impl core::error::Error for BadLength {}

impl Codes {
    /// All, with their names in configurations.
    pub const NAMES: [(&'static str, Self); 2] = [("int8", Self::Int8), ("int4", Self::Int4)];

    /// Most elements that share a scale.
    #[must_use]
    pub fn group(self) -> usize {
        match self {
            Self::Int8 => usize::MAX,
            Self::Int4 => 64,
        }
    }

    /// The largest code.
    fn most(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Int4 => 7.0,
        }
    }

    /// Bytes of a tensor.
    #[must_use]
    pub fn bytes(self, spec: &ParamSpec) -> usize {
        if !is_coded(spec) {
            return 4 * spec.len();
        }
        2 * Groups::new(self, spec).count() + self.code_bytes(spec.len())
    }

    fn code_bytes(self, len: usize) -> usize {
        match self {
            Self::Int8 => len,
            Self::Int4 => len.div_ceil(2),
        }
    }

    /// What the numbers `p` of a tensor are after coding.
    ///
    /// # Panics
    /// When a length is not the tensor's.
    pub fn round<F: Float>(self, spec: &ParamSpec, p: &[F], out: &mut [F]) {
        assert!(p.len() == spec.len() && out.len() == spec.len(), "{} elements", spec.len());
        if !is_coded(spec) {
            return out.copy_from_slice(p);
        }
        let groups = Groups::new(self, spec);
        for group in 0..groups.count() {
            let scale = self.scale(groups.elements(group).map(|at| p[at].to_f32()));
            for at in groups.elements(group) {
                out[at] = F::from_f32(self.code(p[at].to_f32(), scale) * scale);
            }
        }
    }

    /// The bytes of a tensor whose numbers are `p`.
    ///
    /// # Panics
    /// When `p` is not as long as the tensor.
    #[must_use]
    pub fn encode(self, spec: &ParamSpec, p: &[f32]) -> Vec<u8> {
        assert!(p.len() == spec.len(), "{} numbers for {} elements", p.len(), spec.len());
        if !is_coded(spec) {
            return p.iter().flat_map(|p| p.to_le_bytes()).collect();
        }
        let groups = Groups::new(self, spec);
        let mut bytes = Vec::with_capacity(self.bytes(spec));
        let mut codes = alloc::vec![0_i8; p.len()];
        for group in 0..groups.count() {
            let scale = self.scale(groups.elements(group).map(|at| p[at]));
            bytes.extend(((scale.to_bits() >> 16) as u16).to_le_bytes());
            for at in groups.elements(group) {
                codes[at] = self.code(p[at], scale) as i8;
            }
        }
        match self {
            Self::Int8 => bytes.extend(codes.iter().map(|&code| code as u8)),
            Self::Int4 => bytes.extend(codes.chunks(2).map(|pair| {
                let half = |at: usize| (pair.get(at).copied().unwrap_or_default() + 8) as u8;
                half(0) | half(1) << 4
            })),
        }
        bytes
    }

    /// The numbers of a tensor from its bytes.
    ///
    /// # Errors
    /// [`BadLength`] when the bytes are too few or too many.
    ///
    /// # Panics
    /// When `out` is not as long as the tensor.
    pub fn decode(self, spec: &ParamSpec, bytes: &[u8], out: &mut [f32]) -> Result<(), BadLength> {
        assert!(out.len() == spec.len(), "{} numbers for {} elements", out.len(), spec.len());
        let (found, expected) = (bytes.len(), self.bytes(spec));
        if found != expected {
            return Err(BadLength { name: spec.name, found, expected });
        }
        if !is_coded(spec) {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            return Ok(());
        }
        let groups = Groups::new(self, spec);
        let (scales, codes) = bytes.split_at(2 * groups.count());
        for (group, scale) in scales.chunks_exact(2).enumerate() {
            let bits = u16::from_le_bytes([scale[0], scale[1]]);
            let scale = f32::from_bits(u32::from(bits) << 16);
            for at in groups.elements(group) {
                let code = match self {
                    Self::Int8 => codes[at] as i8,
                    Self::Int4 => (codes[at / 2] >> (at % 2 * 4) & 15) as i8 - 8,
                };
                out[at] = f32::from(code) * scale;
            }
        }
        Ok(())
    }

    /// The scale of a group: a bf16, not smaller than the largest magnitude over the largest code.
    /// NaN where a number is not finite, so that damage stays visible.
    fn scale(self, group: impl Iterator<Item = f32>) -> f32 {
        let mut largest = 0.0_f32;
        for value in group {
            if !value.is_finite() {
                return f32::NAN;
            }
            largest = largest.max(value.abs());
        }
        let bits = (largest / self.most()).to_bits();
        f32::from_bits(bits.div_ceil(1 << 16) << 16)
    }

    /// The code of a number, as a float.
    fn code(self, value: f32, scale: f32) -> f32 {
        // Adding 1.5 · 2²³ leaves no digits behind the point.
        const WHOLE: f32 = 12_582_912.0;
        if scale == 0.0 {
            return 0.0;
        }
        let nearest = (value / scale + WHOLE) - WHOLE;
        if nearest.is_nan() { nearest } else { nearest.clamp(-self.most(), self.most()) }
    }
}

/// Whether a tensor is coded or stays in f32.
fn is_coded(spec: &ParamSpec) -> bool {
    !matches!(spec.init, Init::Constant(_))
}

/// Where the elements of each group lie in a row-major tensor.
struct Groups {
    /// Elements of a line, of a group but the last of a line, and groups of a line.
    line: usize,
    size: usize,
    per_line: usize,
    lines: usize,
    /// From one element of a line to the next, and from one line to the next.
    step: usize,
    line_step: usize,
}

impl Groups {
    fn new(codes: Codes, spec: &ParamSpec) -> Self {
        let [rows, cols] = spec.shape;
        let (lines, line, step, line_step) =
            if rows <= cols { (rows, cols, 1, cols) } else { (cols, rows, cols, 1) };
        let size = codes.group().min(line.max(1));
        Self { line, size, per_line: line.div_ceil(size), lines, step, line_step }
    }

    fn count(&self) -> usize {
        self.lines * self.per_line
    }

    fn elements(&self, group: usize) -> impl Iterator<Item = usize> {
        let (line, at) = (group / self.per_line, group % self.per_line * self.size);
        let (first, step) = (line * self.line_step, self.step);
        (at..self.line.min(at + self.size)).map(move |at| first + at * step)
    }
}
