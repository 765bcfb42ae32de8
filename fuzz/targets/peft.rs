//! `adapter_config.json` of PEFT folders: read, asked about a module, written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::peft::{LoraConfig, parse_lora_config};

fuzz_target!(|text: &str| {
    let Ok(config) = parse_lora_config(text) else { return };
    let _ = config.scale_of("model.layers.0.self_attn.q_proj");
    let again = LoraConfig::from_document(&config.to_document()).expect("what was written is read");
    // Writing fills in what PEFT expects to find beside the fields that are understood.
    let again = LoraConfig { extra: config.extra.clone(), ..again };
    assert_eq!(again, config);
});
