//! LoRA through the suite that every method must pass.

use lowtide_adapter::Config;
use lowtide_conformance::{AtInit, adapter};
use lowtide_lora::LoraMethod;

#[test]
fn lora_conforms() {
    adapter(&LoraMethod, &Config { rank: 3, alpha: 5.0, ..Config::default() }, AtInit::EqualsBase);
}

#[test]
fn lora_with_dropout_conforms() {
    let config = Config { rank: 3, alpha: 5.0, dropout: 0.3, ..Config::default() };
    adapter(&LoraMethod, &config, AtInit::EqualsBase);
}

#[test]
fn rslora_conforms() {
    let config = Config { rank: 4, use_rslora: true, ..Config::default() };
    adapter(&LoraMethod, &config, AtInit::EqualsBase);
}

#[test]
fn a_rank_above_both_widths_conforms() {
    adapter(&LoraMethod, &Config { rank: 65, ..Config::default() }, AtInit::EqualsBase);
}
