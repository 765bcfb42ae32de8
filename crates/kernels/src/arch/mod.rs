//! One file for each instruction set: its token, and its table.

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
pub(crate) mod scalar;
mod stamp;
mod stamp_int;
mod stamp_rows;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
