//! The type that an adapter is saved in.

use lowtide_formats::peft;
use lowtide_formats::safe::{Half, Values};
use lowtide_model::Site;
use lowtide_quant::LineCodes;
use lowtide_runtime::is_coded;

use crate::SettingsError;

/// The type of the numbers of a saved adapter. It is trained in 32-bit floats; what is measured
/// after training is what is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterType {
    /// As it is trained, 4 bytes a number.
    F32,
    /// Rounded at the end, 2 bytes a number.
    Rounded(Half),
    /// In codes of eight or four bits, in a file that is Lowtide's own.
    Coded(LineCodes),
}

/// A parameter that is saved: its module, its name, its shape in PEFT's file, and whether it can be
/// coded.
pub(crate) type Parameter<'a> = (&'a str, &'a str, Vec<usize>, bool);

impl AdapterType {
    /// Every name, the default first.
    pub const NAMES: [&'static str; 5] = ["f32", "bf16", "f16", "int8", "int4"];

    /// The type of this name.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when there is none.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        match (name, LineCodes::named(name)) {
            ("f32", _) => Ok(Self::F32),
            ("bf16", _) => Ok(Self::Rounded(Half::Bf16)),
            ("f16", _) => Ok(Self::Rounded(Half::F16)),
            (_, Some(codes)) => Ok(Self::Coded(codes)),
            (other, None) => Err(SettingsError::BadValue {
                field: "adapter-type",
                found: other.into(),
                expected: "f32, bf16, f16, int8 or int4",
            }),
        }
    }

    /// Refuses a type that does not hold what was trained in codes.
    pub(crate) fn check(self, trained: Option<LineCodes>) -> Result<(), SettingsError> {
        let expected = match (self, trained) {
            (_, None) | (Self::F32, Some(_)) => return Ok(()),
            (Self::Coded(codes), Some(trained)) if codes == trained => return Ok(()),
            (_, Some(LineCodes::Int8)) => "int8 or f32, which hold what quantize=int8 trains",
            (_, Some(LineCodes::Int4)) => "int4 or f32, which hold what quantize=int4 trains",
        };
        let found = match self {
            Self::F32 => "f32",
            Self::Rounded(Half::Bf16) => "bf16",
            Self::Rounded(Half::F16) => "f16",
            Self::Coded(codes) => codes.name(),
        };
        Err(SettingsError::BadValue { field: "adapter-type", found: found.into(), expected })
    }

    /// Refuses codes where no tensor of these sites can be coded, as with IA3: the file would hold
    /// none.
    pub(crate) fn check_sites(self, sites: &[Site]) -> Result<(), SettingsError> {
        let (Self::Coded(codes), Some(site)) = (self, sites.first()) else { return Ok(()) };
        if sites.iter().flat_map(|site| &site.params).any(is_coded) {
            return Ok(());
        }
        let found = format!("{} where {} has nothing to code", codes.name(), site.kind);
        Err(SettingsError::BadValue { field: "adapter-type", found, expected: "f32, bf16 or f16" })
    }

    /// The type of 16 bits, if it is one.
    #[must_use]
    pub fn half(self) -> Option<Half> {
        match self {
            Self::Rounded(half) => Some(half),
            Self::F32 | Self::Coded(_) => None,
        }
    }

    /// The codes, if it is such a type.
    #[must_use]
    pub fn codes(self) -> Option<LineCodes> {
        match self {
            Self::Coded(codes) => Some(codes),
            Self::F32 | Self::Rounded(_) => None,
        }
    }

    /// Bytes of the numbers of a tensor, without its entry in a header.
    pub(crate) fn data_bytes(self, [rows, columns]: [usize; 2], coded: bool) -> u64 {
        let bytes = match self {
            Self::Coded(codes) if coded && peft::can_code(codes, rows.max(columns)) => {
                codes.bytes([rows, columns])
            }
            Self::Rounded(_) => 2 * rows * columns,
            Self::F32 | Self::Coded(_) => 4 * rows * columns,
        };
        bytes as u64
    }

    /// Bytes that a file of weights has besides its tensors and their entries, at most.
    pub(crate) fn head_bytes(self) -> u64 {
        match self {
            Self::F32 | Self::Rounded(_) => 64,
            // With the entry of the scales.
            Self::Coded(_) => 160,
        }
    }

    /// Bytes of the file of weights that holds these parameters, all of it.
    pub(crate) fn file_bytes<'a>(self, parameters: impl Iterator<Item = Parameter<'a>>) -> u64 {
        let parameters: Vec<_> = parameters.collect();
        match self.codes().filter(|_| parameters.iter().any(|(.., coded)| *coded)) {
            Some(codes) => peft::coded_bytes(parameters, codes),
            None => {
                let plain =
                    parameters.into_iter().map(|(module, name, shape, _)| (module, name, shape));
                peft::weights_bytes(plain, self.half())
            }
        }
    }

    /// What is written of `values` that are not coded.
    pub(crate) fn values(self, values: &[f32]) -> Values<'_> {
        match self {
            Self::F32 | Self::Coded(_) => Values::F32(values),
            Self::Rounded(half) => Values::Rounded(values, half),
        }
    }

    /// Makes values that are not coded what reading them from the file would give.
    pub(crate) fn round(self, values: &mut [f32]) {
        if let Self::Rounded(half) = self {
            values.iter_mut().for_each(|value| *value = half.round(*value));
        }
    }
}
