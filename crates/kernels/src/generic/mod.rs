//! Each algorithm once, over the lanes of any instruction set.

pub(crate) mod decode;
pub(crate) mod elementwise;
pub(crate) mod exp;
pub(crate) mod form;
pub(crate) mod gate;
pub(crate) mod gemm;
pub(crate) mod int;
pub(crate) mod norm;
pub(crate) mod optim;
pub(crate) mod pack;
pub(crate) mod peak;
pub(crate) mod reduce;
pub(crate) mod rope;
pub(crate) mod softmax;
pub(crate) mod stats;
pub(crate) mod walk;
