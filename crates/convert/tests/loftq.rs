//! A base packed with an adapter that makes up for a part of the rounding.

mod support;

use std::fs;
use std::path::Path;

use lowtide_convert::{
    ConvertError, Event, Kind, LoftqReport, LoftqSettings, Settings, convert, loftq,
};
use lowtide_formats::Base;
use lowtide_formats::peft::AdapterFiles;
use lowtide_formats::rows;
use support::{golden, settings};

const RANK: usize = 8;

fn fitted(source: &Path, output: &Path, adapter: &Path, kind: Kind) -> LoftqSettings {
    LoftqSettings {
        conversion: settings(source, output, Some(kind)),
        adapter: adapter.to_owned(),
        rank: RANK,
        ..LoftqSettings::default()
    }
}

fn run(settings: &LoftqSettings) -> LoftqReport {
    loftq(settings, &mut |_: Event<'_>| ()).unwrap()
}

/// Square of the distance of a matrix to the source, with and without its pair.
fn distances(source: &Base, packed: &Base, files: &AdapterFiles, module: &str) -> (f64, f64) {
    let tensor = |base: &Base| base.tensor(&format!("{module}.weight")).unwrap().to_f32_vec();
    let (whole, mut read) = (tensor(source), tensor(packed));
    let (config, pairs) = files.lora().unwrap();
    assert_eq!(config.scale_of(module).unwrap(), 1.0);
    let pair = pairs.iter().find(|pair| pair.module == module).unwrap();
    let (a, b) = (pair.a.to_f32_vec(), pair.b.to_f32_vec());
    let hyper = packed.hyper();
    let heads = match module.rsplit('.').next().unwrap() {
        "q_proj" => hyper.num_attention_heads,
        "k_proj" => hyper.num_key_value_heads,
        _ => 0,
    };
    if heads > 0 && hyper.architecture == "llama" {
        let packed = read.clone();
        rows::unpermute(&packed, &mut read, heads, hyper.head_dim);
    }
    let cols = pair.a.shape[1];
    let mut sums = (0.0, 0.0);
    for (at, (whole, read)) in whole.iter().zip(&read).enumerate() {
        let (row, col) = (at / cols, at % cols);
        let part: f32 = (0..RANK).map(|r| b[row * RANK + r] * a[r * cols + col]).sum();
        sums.0 += f64::from(whole - read).powi(2);
        sums.1 += f64::from(whole - read - part).powi(2);
    }
    sums
}

#[test]
fn base_and_adapter_together_are_nearer_than_the_base_alone() {
    for (model, kind) in
        [("llama_tied", Kind::Q4_0), ("llama_tied", Kind::Q4_K), ("qwen3", Kind::IQ4_NL)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let source = golden(model);
        let report = run(&fitted(&source, &path("m.gguf"), &path("a"), kind));
        convert(&settings(&source, &path("alone.gguf"), Some(kind)), &mut |_| ()).unwrap();
        assert_eq!((report.rank, report.steps, report.matrices.len()), (RANK, 5, 14));
        let open = |path: &Path| Base::open(path).unwrap();
        let (source, packed) = (open(&source), open(&path("m.gguf")));
        let alone = open(&path("alone.gguf"));
        let files = AdapterFiles::open(&path("a")).unwrap();
        let mut whole = (0.0, 0.0);
        for own in &report.matrices {
            let (before, _) = distances(&source, &alone, &files, &own.module);
            let (_, after) = distances(&source, &packed, &files, &own.module);
            let ratio = (after / before).sqrt();
            assert!((own.error_ratio - ratio).abs() < 1e-3, "{own:?} {ratio}");
            // Of 64 singular values or fewer, the largest 8 hold a good part.
            assert!(own.error_ratio < 0.85, "{own:?}");
            assert!(own.error < own.error_alone && (1..=5).contains(&own.step), "{own:?}");
            whole = (whole.0 + before, whole.1 + after);
        }
        assert!((report.error_ratio - (whole.1 / whole.0).sqrt()).abs() < 1e-3);
        // What is not fitted is packed as ever.
        let name = "model.embed_tokens.weight";
        assert!(packed.tensor(name).unwrap().bytes == alone.tensor(name).unwrap().bytes);
    }
}

#[test]
fn more_turns_and_more_rank_are_no_worse() {
    let dir = tempfile::tempdir().unwrap();
    let ratio = |rank: usize, steps: usize| {
        let path = |name: &str| dir.path().join(format!("{rank}-{steps}-{name}"));
        let first = fitted(&golden("llama_tied"), &path("m.gguf"), &path("a"), Kind::Q4_0);
        run(&LoftqSettings { rank, steps, ..first }).error_ratio
    };
    let (one, five, more) = (ratio(4, 1), ratio(4, 5), ratio(12, 5));
    assert!(five < one && more < five && one < 1.0, "{one} {five} {more}");
}

#[test]
fn neither_threads_nor_budgets_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |threads: usize, budget: u64| {
        let path = |name: &str| dir.path().join(format!("{threads}-{budget}-{name}"));
        let mut fit = fitted(&golden("llama_tied"), &path("m.gguf"), &path("a"), Kind::Q4_1);
        fit.conversion.memory_budget = budget;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| run(&fit));
        assert!(report.conversion.peak_bytes <= budget, "{}", report.conversion.peak_bytes);
        let weights = fs::read(path("a").join("adapter_model.safetensors")).unwrap();
        (fs::read(path("m.gguf")).unwrap(), weights)
    };
    let first = bytes(1, 64 << 20);
    assert!(first == bytes(3, 64 << 20), "threads");
    assert!(first == bytes(2, 400 << 10), "a small budget");
}

#[test]
fn targets_are_chosen_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let first = fitted(&golden("qwen2"), &path("m.gguf"), &path("a"), Kind::Q5_0);
    let names = ["q_proj", "down_proj"].map(str::to_owned).to_vec();
    let report = run(&LoftqSettings { target_modules: names, ..first });
    assert_eq!(report.matrices.len(), 4);
    let files = AdapterFiles::open(&path("a")).unwrap();
    assert_eq!(files.config()["target_modules"], serde_json::json!(["down_proj", "q_proj"]));
    assert_eq!(files.lora().unwrap().1.len(), 4);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let first = fitted(&golden("llama_tied"), &path("m.gguf"), &path("a"), Kind::Q4_0);
    let refused = |settings: &LoftqSettings| {
        let error = loftq(settings, &mut |_| ()).unwrap_err();
        assert!(!path("m.gguf").exists() && !path("a").exists(), "{error}");
        error.to_string()
    };
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = first.clone();
        change(&mut settings.conversion);
        settings
    };
    let error = refused(&with(&|s| s.kind = Some(Kind::BF16)));
    assert!(error.contains("type bf16 cannot be written"), "{error}");
    let error = refused(&with(&|s| s.kind = None));
    assert!(error.contains("a quantized type and a name that ends in .gguf"), "{error}");
    let error = refused(&with(&|s| s.output = path("folder")));
    assert!(error.contains("a name that ends in .gguf"), "{error}");
    let error = refused(&with(&|s| s.memory_budget = 100 << 10));
    assert!(error.contains("too small"), "{error}");
    let error = refused(&LoftqSettings { rank: 0, ..first.clone() });
    assert!(error.contains("a rank of 0"), "{error}");
    let error = refused(&LoftqSettings { rank: 33, ..first.clone() });
    assert!(error.contains("can have 1 to 32"), "{error}");
    let names = vec!["qproj".to_owned()];
    let error = refused(&LoftqSettings { target_modules: names, ..first.clone() });
    assert!(error.contains("no linear is called `qproj`"), "{error}");
    let onto = LoftqSettings { adapter: golden("llama_tied"), ..first.clone() };
    assert!(refused(&onto).contains("is a part of what is to be read"));
    fs::create_dir(path("full")).unwrap();
    fs::write(path("full/mine"), "mine").unwrap();
    let there = LoftqSettings { adapter: path("full"), ..first };
    let error = loftq(&there, &mut |_| ()).unwrap_err();
    assert!(matches!(error, ConvertError::Exists { .. }), "{error}");
}
