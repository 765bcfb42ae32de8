//! One row times packed weights: what a table may have for it beyond panels.

use lowtide_quant::QMat;

use crate::Rounded;

/// Functions of one instruction set that unpack weights in registers, for some formats. Each says
/// whether it knows the format, and asks that the processor has its instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Few {
    /// Inputs `[cols]`, weights `[rows, cols]`, the length of a chain, outputs `[rows]`.
    pub(crate) floats: unsafe fn(&[f32], QMat<'_>, usize, &mut [f32]) -> bool,
    /// The same with rounded inputs `[1, cols]`.
    pub(crate) integers: Option<Integers>,
}

/// Rounded inputs, weights, the length of a chain, outputs.
type Integers = unsafe fn(Rounded<'_>, QMat<'_>, usize, &mut [f32]) -> bool;
