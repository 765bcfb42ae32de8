//! The LoRA family through the suite that every method must pass.

use lowtide_adapter::Config;
use lowtide_conformance::{AtInit, adapter};
use lowtide_lora::{DoraMethod, LoraFaMethod, LoraMethod, QaLoraMethod, RsLoraMethod, VeraMethod};

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
fn rslora_by_name_conforms() {
    adapter(&RsLoraMethod, &Config { rank: 4, ..Config::default() }, AtInit::EqualsBase);
}

#[test]
fn lora_fa_conforms() {
    for dropout in [0.0, 0.3] {
        let config = Config { rank: 3, alpha: 5.0, dropout, ..Config::default() };
        adapter(&LoraFaMethod, &config, AtInit::EqualsBase);
    }
}

#[test]
fn dora_conforms() {
    for dropout in [0.0, 0.3] {
        let config = Config { rank: 3, alpha: 5.0, dropout, ..Config::default() };
        adapter(&DoraMethod, &config, AtInit::EqualsBase);
    }
}

#[test]
fn vera_conforms() {
    for dropout in [0.0, 0.3] {
        let options = [("projection_prng_key".to_owned(), "5".to_owned())].into();
        let config = Config { rank: 6, dropout, options, ..Config::default() };
        adapter(&VeraMethod, &config, AtInit::EqualsBase);
    }
}

#[test]
fn qalora_conforms() {
    for (dropout, group) in [(0.0, "32"), (0.3, "5")] {
        let options = [("group_size".to_owned(), group.to_owned())].into();
        let config = Config { rank: 3, alpha: 2.0, dropout, options, ..Config::default() };
        adapter(&QaLoraMethod, &config, AtInit::EqualsBase);
    }
}

#[test]
fn coded_adapters_conform() {
    let config = |codes: &str| {
        let options = [("quantize".to_owned(), codes.to_owned())].into();
        Config { rank: 3, alpha: 5.0, options, ..Config::default() }
    };
    adapter(&LoraMethod, &config("int8"), AtInit::EqualsBase);
    adapter(&LoraFaMethod, &config("int4"), AtInit::EqualsBase);
    adapter(&DoraMethod, &config("int8"), AtInit::EqualsBase);
    adapter(&VeraMethod, &config("int4"), AtInit::EqualsBase);
    adapter(&QaLoraMethod, &config("int8"), AtInit::EqualsBase);
}

#[test]
fn a_rank_above_both_widths_conforms() {
    adapter(&LoraMethod, &Config { rank: 65, ..Config::default() }, AtInit::EqualsBase);
}
