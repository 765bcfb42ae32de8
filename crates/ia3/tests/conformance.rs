//! IA3 through the suite that every method must pass.

use lowtide_adapter::Config;
use lowtide_conformance::{AtInit, adapter};
use lowtide_ia3::Ia3Method;

#[test]
fn ia3_conforms() {
    adapter(&Ia3Method, &Config::default(), AtInit::EqualsBase);
}

#[test]
fn ia3_on_inputs_conforms() {
    let options = [("feedforward_modules".into(), "k_proj, o_proj".into())].into();
    adapter(&Ia3Method, &Config { options, ..Config::default() }, AtInit::EqualsBase);
}
