//! The type that an adapter is saved in.

use lowtide_formats::safe::{Half, Values};

use crate::SettingsError;

/// The type of the numbers of a saved adapter. It is trained in 32-bit floats; what is measured
/// after training is what is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterType {
    /// As it is trained, 4 bytes a number.
    F32,
    /// Rounded at the end, 2 bytes a number.
    Rounded(Half),
}

impl AdapterType {
    /// Every name, the default first.
    pub const NAMES: [&'static str; 3] = ["f32", "bf16", "f16"];

    /// The type of this name.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when there is none.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Rounded(Half::Bf16)),
            "f16" => Ok(Self::Rounded(Half::F16)),
            other => Err(SettingsError::BadValue {
                field: "adapter-type",
                found: other.into(),
                expected: "f32, bf16 or f16",
            }),
        }
    }

    /// The type of 16 bits, if it is one.
    #[must_use]
    pub fn half(self) -> Option<Half> {
        match self {
            Self::F32 => None,
            Self::Rounded(half) => Some(half),
        }
    }

    /// Bytes that a tensor of so many numbers takes.
    #[must_use]
    pub fn bytes(self, numbers: usize) -> u64 {
        let bytes = if self == Self::F32 { 4 } else { 2 };
        bytes * numbers as u64
    }

    /// What is written of `values`.
    pub(crate) fn values(self, values: &[f32]) -> Values<'_> {
        match self {
            Self::F32 => Values::F32(values),
            Self::Rounded(half) => Values::Rounded(values, half),
        }
    }

    /// Makes every value what reading it from the file would give.
    pub(crate) fn round(self, values: &mut [f32]) {
        if let Self::Rounded(half) = self {
            values.iter_mut().for_each(|value| *value = half.round(*value));
        }
    }
}
