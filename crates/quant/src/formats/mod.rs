//! The block formats known here, one file each.
//!
//! To add one, write its file and put it into [`ALL`].

mod affine;
mod bf16;
mod f16;
mod f32;
mod int8;
mod iq4_nl;
mod nf4;
mod nibbles;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;

pub use self::{
    bf16::BF16, f16::F16, f32::F32, int8::INT8, iq4_nl::IQ4_NL, nf4::NF4, q4_0::Q4_0, q4_1::Q4_1,
    q4_k::Q4_K, q5_0::Q5_0, q5_1::Q5_1, q5_k::Q5_K, q6_k::Q6_K, q8_0::Q8_0,
};

use crate::BlockFormat;

/// Every format of this crate.
pub static ALL: &[&dyn BlockFormat] = &[
    &F32, &F16, &BF16, &Q4_0, &Q4_1, &Q5_0, &Q5_1, &Q8_0, &Q4_K, &Q5_K, &Q6_K, &IQ4_NL, &NF4, &INT8,
];

/// The format with this number in GGUF files.
pub fn by_ggml_type(id: u32) -> Option<&'static dyn BlockFormat> {
    ALL.iter().copied().find(|format| format.ggml_type() == Some(id))
}

/// The format with this name, upper case as in [`BlockFormat::name`].
pub fn by_name(name: &str) -> Option<&'static dyn BlockFormat> {
    ALL.iter().copied().find(|format| format.name() == name)
}
