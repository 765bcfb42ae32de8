//! `adapter_config.json` of methods that PEFT does not count as LoRA: read, written and read again.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use lowtide_formats::peft::{MethodConfig, parse_method_config};

fuzz_target!(|text: &str| {
    let modules = BTreeSet::from([
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]);
    let Ok(config) = parse_method_config(text, &modules) else { return };
    assert!((1..=65_536).contains(&config.r) && config.alpha > 0.0);
    let written = config.to_document();
    let again = MethodConfig::from_document(&written, &modules).expect("what was written is read");
    // PEFT has no place for everything in the files of its own methods.
    if !["IA3", "VERA"].contains(&config.peft_type.as_str()) {
        assert_eq!(again, config);
    }
});
