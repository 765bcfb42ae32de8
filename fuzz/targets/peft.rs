//! `adapter_config.json` of PEFT folders: read, asked about a module, written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::peft::{LoraConfig, parse_lora_config};

fuzz_target!(|text: &str| {
    let Ok(config) = parse_lora_config(text) else { return };
    let _ = config.scale_of("model.layers.0.self_attn.q_proj");
    let again = LoraConfig::from_document(&config.to_document());
    assert_eq!(again.as_ref(), Ok(&config), "what was written is what is read");
});
