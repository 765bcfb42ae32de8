//! `config.json` of Hugging Face folders.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::hf;

fuzz_target!(|text: &str| {
    if let Ok(hyper) = hf::parse_config(text) {
        let _ = (hyper.query_size(), hyper.key_value_size());
    }
});
