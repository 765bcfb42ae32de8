//! Bottleneck adapters through the suite that every method must pass, on linears and a branch.

use lowtide_adapter::Config;
use lowtide_bottleneck::BottleneckMethod;
use lowtide_conformance::{AtInit, adapter};

fn conforms(rank: usize, non_linearity: Option<&str>) {
    let options = non_linearity.map(|name| ("non_linearity".into(), name.into()));
    let config = Config { rank, options: options.into_iter().collect(), ..Config::default() };
    adapter(&BottleneckMethod, &config, AtInit::EqualsBase);
}

#[test]
fn gelu_conforms() {
    conforms(3, None);
}

#[test]
fn silu_conforms() {
    conforms(2, Some("silu"));
}

#[test]
fn relu_conforms() {
    conforms(4, Some("relu"));
}
