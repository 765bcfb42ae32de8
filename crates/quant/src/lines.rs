//! Codes of trained matrices: eight or four bits a number, scales along lines.
//!
//! A matrix is cut into lines along its longer side ([`LineCodes::along_rows`]), so that a rank
//! component of an adapter (a row of `A`, a column of `B`) is one line, and a line into groups of
//! [`LineCodes::group`] neighbours. A group has one scale, its largest magnitude over the largest
//! code, rounded to a bf16; a number becomes the whole multiple of the scale that is nearest, ties
//! to even. A code has 4 or 8 bits and a scale has 8 significant ones, so every coded number is an
//! exact f32: what is decoded is what was coded, on any machine. The largest number of a group has
//! the largest code, so numbers that were coded once are not changed by coding them again.

use half::bf16;

/// How lines of numbers are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineCodes {
    /// Whole numbers in ±127, one scale a line.
    Int8,
    /// Whole numbers in ±7, one scale for 64 neighbours of a line.
    Int4,
}

impl LineCodes {
    /// All, with their names in configurations and files.
    pub const NAMES: [(&'static str, Self); 2] = [("int8", Self::Int8), ("int4", Self::Int4)];

    /// Those of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, codes)| codes)
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Whether the lines of a matrix `[rows, columns]` are its rows, not its columns.
    #[must_use]
    pub fn along_rows([rows, columns]: [usize; 2]) -> bool {
        rows <= columns
    }

    /// Most numbers that share a scale.
    #[must_use]
    pub fn group(self) -> usize {
        match self {
            Self::Int8 => usize::MAX,
            Self::Int4 => 64,
        }
    }

    /// Scales of a line of so many numbers.
    #[must_use]
    pub fn scales(self, line: usize) -> usize {
        line.div_ceil(self.group())
    }

    /// Bytes of the codes of a line, without its scales.
    #[must_use]
    pub fn code_bytes(self, line: usize) -> usize {
        match self {
            Self::Int8 => line,
            Self::Int4 => line.div_ceil(2),
        }
    }

    /// Bytes of a matrix, codes and scales.
    #[must_use]
    pub fn bytes(self, [rows, columns]: [usize; 2]) -> usize {
        let (lines, line) = (rows.min(columns), rows.max(columns));
        lines * (size_of::<bf16>() * self.scales(line) + self.code_bytes(line))
    }

    /// The scale of a group. NaN where a number is not finite, so that damage stays visible; zero
    /// where the numbers are too small to be told from it.
    #[must_use]
    pub fn scale(self, group: impl IntoIterator<Item = f32>) -> bf16 {
        let mut largest = 0.0_f32;
        for value in group {
            if !value.is_finite() {
                return bf16::NAN;
            }
            largest = largest.max(value.abs());
        }
        let exact = largest / self.most();
        let nearest = bf16::from_f32(exact);
        match nearest.to_f32() {
            scale if scale < f32::MIN_POSITIVE => bf16::ZERO,
            // The largest floats: what the largest code stands for must be one.
            scale if !(scale * self.most()).is_finite() => {
                bf16::from_bits((exact.to_bits() >> 16) as u16)
            }
            _ => nearest,
        }
    }

    /// The code of a number in a group of this scale; 0 of what is damaged.
    #[must_use]
    pub fn code(self, value: f32, scale: bf16) -> i8 {
        // Adding 1.5 · 2²³ leaves no digits behind the point.
        const WHOLE: f32 = 12_582_912.0;
        let scale = scale.to_f32();
        if scale == 0.0 {
            return 0;
        }
        let nearest = (value / scale + WHOLE) - WHOLE;
        nearest.clamp(-self.most(), self.most()) as i8
    }

    /// What a code stands for.
    #[must_use]
    pub fn value(code: i8, scale: bf16) -> f32 {
        f32::from(code) * scale.to_f32()
    }

    /// What a number of a group of this scale is after coding.
    #[must_use]
    pub fn round(self, value: f32, scale: bf16) -> f32 {
        Self::value(self.code(value, scale), scale)
    }

    /// The codes of a line as bytes: one signed byte each, or half a byte each, plus 8, the first
    /// lower; a half that is left over holds zero.
    ///
    /// # Panics
    /// If the lengths are not those of one line.
    pub fn encode(self, line: &[f32], scales: &[bf16], bytes: &mut [u8]) {
        self.check(line.len(), scales.len(), bytes.len());
        let code = |at: usize| line.get(at).map_or(0, |v| self.code(*v, scales[self.of(at)]));
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = match self {
                Self::Int8 => code(at) as u8,
                Self::Int4 => (code(2 * at) + 8) as u8 | ((code(2 * at + 1) + 8) as u8) << 4,
            };
        }
    }

    /// The numbers of a line from its bytes; any bytes stand for some.
    ///
    /// # Panics
    /// If the lengths are not those of one line.
    pub fn decode(self, bytes: &[u8], scales: &[bf16], line: &mut [f32]) {
        self.check(line.len(), scales.len(), bytes.len());
        for (at, value) in line.iter_mut().enumerate() {
            let code = match self {
                Self::Int8 => bytes[at] as i8,
                Self::Int4 => (bytes[at / 2] >> (at % 2 * 4) & 15) as i8 - 8,
            };
            *value = Self::value(code, scales[self.of(at)]);
        }
    }

    /// The group of a number of a line.
    #[must_use]
    pub fn of(self, at: usize) -> usize {
        at / self.group()
    }

    fn check(self, line: usize, scales: usize, bytes: usize) {
        let expected = (self.scales(line), self.code_bytes(line));
        assert!(
            expected == (scales, bytes),
            "{scales} scales and {bytes} bytes for {line} numbers"
        );
    }

    /// The largest code.
    fn most(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Int4 => 7.0,
        }
    }
}
