//! The scalar specification against naive formulas, finite differences in f64, reference data, and
//! the rules about bits that the crate documentation fixes.

mod activations;
mod attention;
mod contracts;
mod decorators;
mod dropout;
mod optim;
mod products;
mod support;
mod xent;
