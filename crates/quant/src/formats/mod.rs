//! The block formats known here, one file each.
//!
//! To add one, write its file and put it into [`ALL`].

mod bf16;
mod f16;
mod f32;
mod nibbles;
mod q4_0;
mod q4_1;
mod q8_0;

pub use self::{bf16::BF16, f16::F16, f32::F32, q4_0::Q4_0, q4_1::Q4_1, q8_0::Q8_0};

use crate::BlockFormat;

/// Every format of this crate.
pub static ALL: &[&dyn BlockFormat] = &[&F32, &F16, &BF16, &Q4_0, &Q4_1, &Q8_0];

/// The format with this number in GGUF files.
pub fn by_ggml_type(id: u32) -> Option<&'static dyn BlockFormat> {
    ALL.iter().copied().find(|format| format.ggml_type() == Some(id))
}

/// The format with this name, upper case as in [`BlockFormat::name`].
pub fn by_name(name: &str) -> Option<&'static dyn BlockFormat> {
    ALL.iter().copied().find(|format| format.name() == name)
}
