//! Adapters of every method as files: read back, gone on with, moved between bases in either kind
//! of file, merged.

use std::path::Path;

use lowtide_formats::Base;
use lowtide_runtime::{LoadedAdapter, MergeSettings, merge};
use lowtide_simd::Simd;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{PatternTable, Settings, finetune, registry};

use crate::gguf_and_hf::{dequantise, eval_loss, write_gguf};
use crate::support::Home;

/// A name and its value.
type Pair = (&'static str, &'static str);

/// The method, an option of it, the method that its folder is read as, and the field of
/// `adapter_config.json` that tells it.
const METHODS: [(&str, Option<Pair>, &str, Pair); 7] = [
    ("rslora", None, "lora", ("use_rslora", "true")),
    ("lora-fa", None, "lora", ("peft_type", "\"LORA\"")),
    ("dora", None, "dora", ("use_dora", "true")),
    ("vera", Some(("projection_prng_key", "5")), "vera", ("projection_prng_key", "5")),
    ("qalora", Some(("group_size", "4")), "qalora", ("qalora_group_size", "4")),
    ("ia3", None, "ia3", ("peft_type", "\"IA3\"")),
    ("lora", Some(("quantize", "int8")), "lora", ("quantize", "\"int8\"")),
];

fn settings(home: &Home, method: &str, option: Option<(&str, &str)>) -> Settings {
    let named = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Settings {
        method: method.to_owned(),
        method_option: option.map(named).into_iter().collect(),
        target_modules: "auto".into(),
        rank: 4,
        alpha: 8.0,
        max_steps: Some(2),
        lr: 2e-2,
        lr_scheduler: "constant".into(),
        warmup_steps: Some(0),
        output: home.path(method),
        ..home.settings(&[40])
    }
}

#[test]
fn adapters_of_every_method_mean_the_same_wherever_they_go() {
    let home = Home::new(&TinyLlama::default());
    let (gguf, hf) = (home.path("model.gguf"), home.path("dequantised"));
    write_gguf(&Base::open(&home.base()).unwrap(), &gguf);
    dequantise(&Base::open(&gguf).unwrap(), &hf);
    let be = Simd::new(2);
    for (method, option, read_as, (field, value)) in METHODS {
        let settings = Settings { model: gguf.clone(), ..settings(&home, method, option) };
        finetune(&settings, &be, 2, &mut |_| ()).unwrap();
        let (data, adapter) = (&settings.data, &settings.output);
        let text = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        assert!(text.contains(&format!("\"{field}\": {value}")), "{method}: {text}");
        assert_eq!(LoadedAdapter::open(adapter).unwrap().kind, read_as, "{method}");

        let loss = |base: &Path, adapter| eval_loss(base, adapter, data, &be);
        let (bare, on_gguf) = (loss(&gguf, None), loss(&gguf, Some(adapter)));
        assert!((on_gguf - bare).abs() > 1e-4, "{method}: {bare} to {on_gguf}");
        let on_hf = loss(&hf, Some(adapter));
        assert_close(&format!("{method} on the folder"), &[on_hf], &[on_gguf], 1e-5, 0.0);

        // What was read from the folder is what training begins with.
        let on = Settings {
            model: hf.clone(),
            init_adapter: Some(adapter.clone()),
            method_option: std::collections::BTreeMap::new(),
            max_steps: Some(1),
            output: home.path("on"),
            ..settings.clone()
        };
        let first = finetune(&on, &be, 2, &mut |_| ()).unwrap().loss_first.unwrap();
        assert_close(&format!("{method} gone on with"), &[first], &[on_hf], 1e-6, 0.0);

        let merged = MergeSettings {
            model: hf.clone(),
            adapter: adapter.clone(),
            output: home.path("merged"),
            kind: None,
            memory_budget: 64 << 20,
            shard_bytes: 1 << 30,
            overwrite: true,
        };
        merge(&merged, &registry(), &be, &mut |_| ()).unwrap();
        let whole = loss(&merged.output, None);
        assert_close(&format!("{method} merged"), &[whole], &[on_hf], 1e-4, 0.0);
    }
}

#[test]
fn an_adapter_of_another_method_is_no_start() {
    let home = Home::new(&TinyLlama::default());
    let be = Simd::new(1);
    let dora = settings(&home, "dora", None);
    finetune(&dora, &be, 1, &mut |_| ()).unwrap();
    let refused = |method: &str, init: &Settings, options: &[(&str, &str)]| {
        let named = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let again = Settings {
            init_adapter: Some(init.output.clone()),
            method_option: options.iter().map(named).collect(),
            output: home.path("none"),
            ..settings(&home, method, None)
        };
        let error = finetune(&again, &be, 1, &mut |_| ()).unwrap_err().to_string();
        assert!(!again.output.exists());
        error
    };
    let words = "it is of method dora, and this run has --method lora: give its own";
    let error = refused("lora", &dora, &[]);
    assert!(error.ends_with(words), "{error}");
    let vera = settings(&home, "vera", Some(("projection_prng_key", "5")));
    finetune(&vera, &be, 1, &mut |_| ()).unwrap();
    let words = "it was trained with `projection_prng_key` = `5`, and this run has `6`: leave it \
                 out, and the adapter's own holds";
    let error = refused("vera", &vera, &[("projection_prng_key", "6")]);
    assert!(error.ends_with(words), "{error}");
    let bottleneck = settings(&home, "bottleneck", None);
    finetune(&bottleneck, &be, 1, &mut |_| ()).unwrap();
    let words = "it was trained with the usual `non_linearity`, and this run gives another: leave \
                 it out";
    let error = refused("bottleneck", &bottleneck, &[("non_linearity", "relu")]);
    assert!(error.ends_with(words), "{error}");
}

#[test]
fn an_option_written_out_as_its_default_is_no_other() {
    let home = Home::new(&TinyLlama::default());
    let be = Simd::new(1);
    for (method, name, usual) in
        [("lars", "pool", "prompt"), ("bottleneck", "non_linearity", "gelu")]
    {
        // Written down only after the second run: the third gives none and takes it over.
        let mut start = settings(&home, method, None);
        finetune(&start, &be, 1, &mut |_| ()).unwrap();
        for option in [Some((name, usual)), None] {
            let on = Settings {
                init_adapter: Some(start.output.clone()),
                output: home.path(&format!("{method} {}", option.is_some())),
                ..settings(&home, method, option)
            };
            finetune(&on, &be, 1, &mut |_| ()).unwrap();
            start = on;
        }
        let options = LoadedAdapter::open(&start.output).unwrap().config.options;
        assert_eq!(options.get(name).map(String::as_str), Some(usual));
    }
}

#[test]
fn an_adapter_of_some_sites_goes_on_with_those() {
    let home = Home::new(&TinyLlama::default());
    let be = Simd::new(1);
    let none = PatternTable(vec![("q_proj".into(), 0), (r"layers\.0\..*".into(), 2)]);
    let some = Settings { rank_pattern: none, ..settings(&home, "lora", None) };
    finetune(&some, &be, 1, &mut |_| ()).unwrap();
    let sites = |output: &Path| {
        let adapter = LoadedAdapter::open(output).unwrap();
        let config_of = |name: &String| adapter.patterns.config_of(name, &adapter.config);
        let ranks = adapter.modules.iter().map(|name| config_of(name).unwrap().rank).collect();
        (adapter.modules.clone(), ranks)
    };
    let (modules, ranks): (Vec<String>, Vec<usize>) = sites(&some.output);
    assert!(modules.iter().all(|name| !name.ends_with("q_proj")), "{modules:?}");
    let low = |name: &String| if name.contains("layers.0.") { 2 } else { 4 };
    assert_eq!(ranks, modules.iter().map(low).collect::<Vec<_>>());
    let on = Settings {
        init_adapter: Some(some.output.clone()),
        output: home.path("on"),
        ..settings(&home, "lora", None)
    };
    finetune(&on, &be, 1, &mut |_| ()).unwrap();
    assert_eq!(sites(&on.output), (modules, ranks));
}
