//! LARS through the suite that every method must pass, whatever it pools.

use lowtide_adapter::Config;
use lowtide_conformance::{AtInit, adapter};
use lowtide_lars::LarsMethod;

fn conforms(rank: usize, dropout: f64, options: &[(&str, &str)], at_init: AtInit) {
    let options = options.iter().map(|&(k, v)| (k.into(), v.into())).collect();
    adapter(&LarsMethod, &Config { rank, dropout, options, ..Config::default() }, at_init);
}

#[test]
fn prompt_conforms() {
    conforms(3, 0.0, &[], AtInit::EqualsBase);
}

#[test]
fn prompt_with_dropout_conforms() {
    conforms(3, 0.3, &[("pool", "prompt")], AtInit::EqualsBase);
}

#[test]
fn all_conforms() {
    conforms(4, 0.0, &[("pool", "all")], AtInit::EqualsBase);
}

#[test]
fn short_chunks_conform() {
    conforms(3, 0.0, &[("pool", "chunk"), ("chunk", "2")], AtInit::EqualsBase);
}

#[test]
fn chunks_of_one_row_conform() {
    conforms(4, 0.3, &[("pool", "chunk"), ("chunk", "1")], AtInit::EqualsBase);
}

#[test]
fn learned_conforms() {
    conforms(3, 0.0, &[("pool", "learned")], AtInit::EqualsBase);
}

#[test]
fn gate_conforms() {
    conforms(3, 0.0, &[("pool", "gate")], AtInit::Anything);
}
