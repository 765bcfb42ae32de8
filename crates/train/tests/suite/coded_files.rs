//! Adapters in eight and four bits: what is saved is what was measured, to the last bit, whatever
//! is done with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lowtide_formats::Base;
use lowtide_formats::peft::{CODES_FILE, WEIGHTS_FILE};
use lowtide_runtime::{LoadedAdapter, MergeSettings, merge};
use lowtide_simd::Simd;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Settings, finetune, plan, registry};

use crate::gguf_and_hf::{dequantise, eval_loss, write_gguf};
use crate::support::Home;

/// Heads so wide that four-bit groups of 64 outputs are other sets of rows in a GGUF file.
const WIDE: TinyLlama = TinyLlama {
    hidden: 128,
    layers: 1,
    heads: 1,
    kv_heads: 1,
    head_dim: 128,
    intermediate: 64,
    vocab: 256,
    tied: true,
    rope_theta: 1e4,
    rms_norm_eps: 1e-5,
    seed: 0,
};

fn settings(home: &Home, method: &str, codes: &str, r#type: &str) -> Settings {
    let data = home.data(&[40, 23]);
    fs::copy(&data, home.path("data.valid.jsonl")).unwrap();
    Settings {
        data,
        model: home.path("model.gguf"),
        method: method.into(),
        method_option: BTreeMap::from([("quantize".into(), codes.into())]),
        adapter_type: r#type.into(),
        target_modules: "auto".into(),
        rank: 3,
        alpha: 6.0,
        lr: 2e-2,
        max_steps: Some(2),
        warmup_steps: Some(0),
        output: home.path(&format!("{method}-{codes}-{type}", r#type = r#type)),
        ..home.settings(&[40, 23])
    }
}

/// A home whose base is a GGUF file that keeps the rows of q and k in another order.
fn home() -> Home {
    let home = Home::new(&WIDE);
    write_gguf(&Base::open(&home.base()).unwrap(), &home.path("model.gguf"));
    home
}

fn loss(home: &Home, base: &Path, adapter: &Path) -> f64 {
    eval_loss(base, Some(adapter), &home.path("data.valid.jsonl"), &Simd::new(1))
}

#[test]
fn what_is_measured_after_training_is_what_is_saved() {
    let home = home();
    let (gguf, hf) = (home.path("model.gguf"), home.path("dequantised"));
    dequantise(&Base::open(&gguf).unwrap(), &hf);
    let be = Simd::new(1);
    let methods = [("lora", "int8"), ("lora", "int4"), ("dora", "int4"), ("lora-fa", "int8")];
    for (method, codes) in methods.into_iter().chain([("vera", "int8"), ("qalora", "int4")]) {
        let name = format!("{method} {codes}");
        let (floats, coded) =
            (settings(&home, method, codes, "f32"), settings(&home, method, codes, codes));
        let losses = [floats, coded].map(|settings| {
            let planned = plan(&settings, &be, 1).unwrap().1;
            assert!(planned.warnings.is_empty(), "{name}: {:?}", planned.warnings);
            let summary = finetune(&settings, &be, 1, &mut |_| ()).unwrap();
            let file = if settings.adapter_type == "f32" { WEIGHTS_FILE } else { CODES_FILE };
            let bytes = fs::metadata(settings.output.join(file)).unwrap().len();
            assert_eq!((planned.adapter_bytes, summary.adapter_bytes), (bytes, bytes), "{name}");
            let after = summary.eval_loss_after.unwrap();
            assert_eq!(loss(&home, &gguf, &settings.output), after, "{name}");
            assert_ne!(summary.eval_loss_before.unwrap(), after, "{name}");
            let there = loss(&home, &hf, &settings.output);
            assert_close(&format!("{name} on the folder"), &[there], &[after], 1e-5, 0.0);
            (after, bytes)
        });
        assert_eq!(losses[0].0, losses[1].0, "{name}: the type changes nothing");
        assert!(losses[1].1 < losses[0].1, "{name}: {losses:?}");
    }
}

#[test]
fn what_is_saved_is_gone_on_with_and_merged() {
    let home = home();
    let be = Simd::new(1);
    for codes in ["int8", "int4"] {
        let coded = settings(&home, "lora", codes, codes);
        let after = finetune(&coded, &be, 1, &mut |_| ()).unwrap().eval_loss_after.unwrap();
        let loaded = LoadedAdapter::open(&coded.output).unwrap();
        assert_eq!(loaded.config.options["quantize"], codes);
        // Coding what was coded changes nothing.
        let on = Settings {
            init_adapter: Some(coded.output.clone()),
            method_option: BTreeMap::new(),
            output: home.path("on"),
            ..coded.clone()
        };
        let summary = finetune(&on, &be, 1, &mut |_| ()).unwrap();
        assert_eq!(summary.eval_loss_before.unwrap(), after, "{codes}");
        let merged = MergeSettings {
            model: coded.model.clone(),
            adapter: coded.output.clone(),
            output: home.path("merged"),
            overwrite: true,
            ..MergeSettings::default()
        };
        merge(&merged, &registry(), &be, &mut |_| ()).unwrap();
        let whole = eval_loss(&merged.output, None, &home.path("data.valid.jsonl"), &be);
        assert_close(&format!("{codes} merged"), &[whole], &[after], 1e-4, 0.0);
    }
}

#[test]
fn floats_are_rounded_once_and_that_is_told() {
    let home = home();
    let be = Simd::new(1);
    let plain =
        Settings { method_option: BTreeMap::new(), ..settings(&home, "lora", "int8", "int8") };
    let told = plan(&plain, &be, 1).unwrap().1.warnings;
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert!(
        told[0].contains("rounded once, before the last evaluation; `method-option` quantize=int8"),
        "{told:?}"
    );
    let after = finetune(&plain, &be, 1, &mut |_| ()).unwrap().eval_loss_after.unwrap();
    assert_eq!(loss(&home, &plain.model, &plain.output), after);
    // Saving floats over it takes the codes away, and the other way round.
    let there = |settings: &Settings| {
        [CODES_FILE, WEIGHTS_FILE].map(|file| settings.output.join(file).exists())
    };
    assert_eq!(there(&plain), [true, false]);
    let floats = Settings { adapter_type: "f32".into(), ..plain.clone() };
    finetune(&floats, &be, 1, &mut |_| ()).unwrap();
    assert_eq!(there(&floats), [false, true]);
    finetune(&plain, &be, 1, &mut |_| ()).unwrap();
    assert_eq!(there(&plain), [true, false]);
}

#[test]
fn a_type_that_holds_something_else_is_refused() {
    let home = home();
    let refused = |method, codes, r#type| {
        let mut settings = settings(&home, method, codes, r#type);
        settings.method_option.retain(|_, codes| !codes.is_empty());
        let error = finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap_err().to_string();
        assert!(!settings.output.exists());
        error
    };
    let error = refused("lora", "int8", "bf16");
    assert!(
        error.contains("bf16, expected int8 or f32, which hold what quantize=int8 trains"),
        "{error}"
    );
    let error = refused("lora", "int4", "int8");
    assert!(error.contains("int8, expected int4 or f32"), "{error}");
    for codes in ["int8", "int4"] {
        let error = refused("ia3", "", codes);
        let says = format!("`adapter-type` is {codes} where ia3 has nothing to code, expected f32");
        assert!(error.contains(&says), "{error}");
    }
}
