//! The backend passes the suite that every backend passes, on every instruction set there is here.

use lowtide_backend::{Backend, Checked};
use lowtide_conformance::{backend, threads};
use lowtide_kernels::Kernels;
use lowtide_simd::Simd;

#[test]
fn one_thread_conforms() {
    for kernels in Kernels::available() {
        backend(&Simd::with(kernels, 1));
    }
}

#[test]
fn several_threads_conform() {
    for kernels in Kernels::available() {
        backend(&Checked::new(Simd::with(kernels, 3)));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for kernels in Kernels::available() {
        threads(&|count| Box::new(Simd::with(kernels, count)), &[1, 2, 4]);
    }
}

#[test]
fn more_lanes_than_threads_give_the_same() {
    threads(&|count| Box::new(Simd::new(5 - count)), &[1, 2, 4]);
}

#[test]
fn the_fastest_table_is_taken() {
    assert_eq!(Simd::new(0).threads(), 1);
    assert_eq!(Simd::new(4).caps().isa, Kernels::best().isa().name());
}
