//! GGUF adapters: settings, names, pairs and values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::{gguf, gguf_adapter};

fuzz_target!(|bytes: &[u8]| {
    let Ok(contents) = gguf::parse(bytes) else { return };
    let Ok(facts) = gguf_adapter::describe(&contents, bytes) else { return };
    assert!(facts.alpha >= 0.0 && !facts.modules.is_empty());
    for module in &facts.modules {
        let part = |end: &str| {
            let tensor = contents.tensor(bytes, &format!("{}{end}", module.tensor));
            tensor.expect("pairs are whole").shape
        };
        assert_eq!(part(".lora_a")[0], module.rank);
        assert_eq!(part(".lora_b")[1], module.rank);
        assert!(facts.alpha_at(module.rank) > 0.0);
    }
});
