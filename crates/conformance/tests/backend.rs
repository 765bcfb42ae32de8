//! The specification passes its own suite, plain and checked.

use lowtide_backend::{Checked, Scalar};
use lowtide_conformance::{backend, threads};

#[test]
fn the_specification_conforms() {
    backend(&Scalar);
}

#[test]
fn the_checked_specification_conforms() {
    backend(&Checked::new(Scalar));
}

#[test]
fn the_specification_does_not_depend_on_threads() {
    threads(&|_| Box::new(Scalar), &[1, 2]);
}
