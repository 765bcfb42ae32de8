//! The backend passes the suite that every backend passes.

use lowtide_adapter::Config;
use lowtide_backend::{Backend, Checked, Scalar};
use lowtide_conformance::adapter::adapter_on;
use lowtide_conformance::{AtInit, backend, threads};
use lowtide_lora::{DoraMethod, LoraMethod};
use lowtide_ndarray::NdArray;

#[test]
fn one_thread_conforms() {
    backend(&NdArray::new(1));
}

#[test]
fn several_threads_conform() {
    backend(&Checked::new(NdArray::new(3)));
}

#[test]
fn adapters_on_it_conform() {
    for dropout in [0.0, 0.3] {
        let config = Config { rank: 5, dropout, ..Config::default() };
        let be = Checked::new(NdArray::new(3));
        adapter_on(&be, &Scalar, &LoraMethod, &config, AtInit::EqualsBase);
    }
    // Decodes rows and multiplies by the base a tile at a time.
    let (be, config) = (Checked::new(NdArray::new(2)), Config::default());
    adapter_on(&be, &Scalar, &DoraMethod, &config, AtInit::EqualsBase);
}

#[test]
fn results_do_not_depend_on_threads() {
    threads(&|count| Box::new(NdArray::new(count)), &[1, 2, 4]);
}

#[test]
fn more_lanes_than_threads_give_the_same() {
    threads(&|count| Box::new(NdArray::new(5 - count)), &[1, 2, 4]);
}

#[test]
fn zero_threads_count_as_one() {
    assert_eq!(NdArray::new(0), NdArray::new(1));
    assert_eq!(NdArray::default().threads(), 1);
    assert_eq!(NdArray::new(4).caps().threads, 4);
}
