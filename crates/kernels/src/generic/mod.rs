//! Each algorithm once, over the lanes of any instruction set.

pub(crate) mod decode;
pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod int;
pub(crate) mod pack;
pub(crate) mod softmax;
