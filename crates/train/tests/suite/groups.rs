//! Rates and decays of some trained tensors.

use std::collections::BTreeMap;

use lowtide_simd::Simd;
use lowtide_testkit::golden::load_safetensors;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{PatternTable, Settings, finetune};

use crate::support::Home;

fn table(entries: &[(&str, f64)]) -> PatternTable<f64> {
    PatternTable(entries.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect())
}

/// One update by plain descent, whose steps are in proportion to rates; every saved tensor.
fn after(home: &Home, change: impl FnOnce(Settings) -> Settings) -> BTreeMap<String, Vec<f32>> {
    let settings = change(Settings {
        optimizer: "sgd".into(),
        lr_scheduler: "constant".into(),
        warmup_steps: Some(0),
        max_grad_norm: 0.0,
        max_steps: Some(1),
        lr: 0.125,
        ..home.settings(&[20])
    });
    finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap();
    let saved = load_safetensors(&settings.output.join("adapter_model.safetensors"));
    saved.into_iter().map(|(name, array)| (name, array.data)).collect()
}

#[test]
fn patterns_multiply_rates_of_the_tensors_they_name() {
    let home = Home::new(&TinyLlama::default());
    let plain = after(&home, |settings| settings);
    let lr_pattern = table(&[
        (r"layers\.0\..*v_proj\.lora_B", 0.0),
        ("q_proj", 2.0),
        ("v_proj.lora_B.weight", 4.0),
    ]);
    let grouped = after(&home, |s| Settings { lr_pattern, lora_plus_ratio: 0.5, ..s });
    let mut factors = Vec::new();
    // First factors have no gradient yet, second ones start at zero.
    for (name, values) in plain.iter().filter(|(name, _)| name.contains("lora_B")) {
        let factor = match name.as_str() {
            name if name.contains("layers.0.self_attn.v_proj") => 0.0,
            name if name.contains("q_proj") => 1.0,
            name if name.contains("v_proj") => 2.0,
            _ => 0.5,
        };
        let want: Vec<f32> = values.iter().map(|value| factor * value).collect();
        assert_eq!(grouped[name], want, "{name}");
        assert!(values.iter().any(|value| *value != 0.0), "{name}");
        factors.push(factor);
    }
    assert!([0.0, 0.5, 1.0, 2.0].iter().all(|factor| factors.contains(factor)), "{factors:?}");
}

#[test]
fn patterns_give_tensors_a_decay_of_their_own() {
    let home = Home::new(&TinyLlama::default());
    let none = after(&home, |settings| settings);
    let all = after(&home, |s| Settings { weight_decay: 0.5, ..s });
    let weight_decay_pattern = table(&[("q_proj", 0.0), ("lora_A", 0.25)]);
    let grouped = after(&home, |s| Settings { weight_decay: 0.5, weight_decay_pattern, ..s });
    for (name, start) in none.iter().filter(|(name, _)| name.contains("lora_A")) {
        // `p - lr decay p`, for decays and a rate that are powers of two.
        let decayed = |decay: f32| start.iter().map(|p| p - 0.125 * decay * p).collect::<Vec<_>>();
        assert_eq!(all[name], decayed(0.5), "{name}");
        let own = if name.contains("q_proj") { 0.0 } else { 0.25 };
        assert_eq!(grouped[name], decayed(own), "{name}");
    }
}

#[test]
fn patterns_that_name_nothing_are_refused() {
    let home = Home::new(&TinyLlama::default());
    let refused = |settings: Settings| {
        finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap_err().to_string()
    };
    let lr_pattern = table(&[("lora_A", 2.0), ("lora_C", 3.0)]);
    let error = refused(Settings { lr_pattern, ..home.settings(&[20]) });
    assert!(error.contains("lr pattern `lora_C` matches the end of no trained"), "{error}");
    let weight_decay_pattern = table(&[("q(", 2.0)]);
    let error = refused(Settings { weight_decay_pattern, ..home.settings(&[20]) });
    assert!(error.contains("weight decay pattern `q(` is no regular expression"), "{error}");
    let lr_pattern = table(&[("q_proj", -1.0)]);
    let error = refused(Settings { lr_pattern, ..home.settings(&[20]) });
    assert!(error.contains("`lr-pattern` is -1, expected finite numbers"), "{error}");
}
