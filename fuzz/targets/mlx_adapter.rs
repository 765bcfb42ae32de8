//! Adapters of mlx-lm: settings, names, pairs and values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::{mlx, safe};

fuzz_target!(|input: (&str, &[u8])| {
    let (text, weights) = input;
    let Ok(config) = mlx::parse_config(text) else { return };
    assert!(config.alpha() > 0.0 && config.alpha().is_finite());
    let Ok(contents) = safe::parse(weights) else { return };
    let Ok(modules) = mlx::describe(&contents, weights, &config) else { return };
    assert!(!modules.is_empty());
    for module in &modules {
        let shape = |end: &str| {
            let tensor = contents.tensor(weights, &format!("{}{end}", module.module));
            tensor.expect("pairs are whole").shape
        };
        assert_eq!(shape(".lora_a"), [module.inputs, config.rank]);
        assert_eq!(shape(".lora_b"), [config.rank, module.outputs]);
    }
});
