//! Bases of all families, there and back, and quantized.

mod support;

use std::fs;

use lowtide_convert::{Kind, convert};
use lowtide_formats::{Base, RopeScaling, gguf::Gguf};
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};
use support::{GOLDEN, files, golden, loss, run, settings, tensors};

#[test]
fn f32_files_compute_what_the_folder_does() {
    for model in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let gguf = dir.path().join("m.gguf");
        let report = run(&golden(model), &gguf, Some(Kind::F32));
        let (before, after) = (loss(&golden(model)), loss(&gguf));
        assert!((before - after).abs() <= 1e-6 * before, "{model}: {before} {after}");
        assert!(report.relative_error < 1e-7, "{model}: {report:?}");
        let (ours, theirs) = (Base::open(&gguf).unwrap(), Base::open(&golden(model)).unwrap());
        assert_eq!(ours.hyper().local, theirs.hyper().local, "{model}");
        assert_eq!(ours.hyper().hidden_act, theirs.hyper().hidden_act, "{model}");
        assert_eq!(ours.hyper().attention_scale as f32, theirs.hyper().attention_scale as f32);
    }
}

#[test]
fn a_file_comes_back_from_a_folder_byte_for_byte() {
    for model in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        run(&golden(model), &path("a.gguf"), Some(Kind::F32));
        run(&path("a.gguf"), &path("folder"), None);
        run(&path("folder"), &path("b.gguf"), Some(Kind::F32));
        assert_eq!(tensors(&path("a.gguf")), tensors(&path("b.gguf")), "{model}");
        let (before, after) = (loss(&golden(model)), loss(&path("folder")));
        assert!((before - after).abs() <= 1e-6 * before, "{model}: {before} {after}");
        let (a, b) = (Base::open(&golden(model)).unwrap(), Base::open(&path("folder")).unwrap());
        assert_eq!(a.hyper().rope, b.hyper().rope, "{model}");
        let bias = |base: &Base| (base.hyper().attention_bias, base.hyper().tie_word_embeddings);
        assert_eq!(bias(&a), bias(&b), "{model}");
    }
}

/// A tiny Llama whose rows are whole blocks of 256.
fn wide(dir: &std::path::Path) {
    let model = TinyLlama {
        hidden: 256,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        intermediate: 512,
        ..TinyLlama::default()
    };
    tiny_llama_folder(dir, &model);
}

/// Rounding errors are independent of one another, so the loss of one example moves by about the
/// relative error times the size of its gradient, up or down; for random weights as these, with a
/// loss near 40 for logits of that size, a bound of ten times the relative error times the loss
/// has a wide margin on all types and would not hold for a wrong scale, order or sign, each of
/// which changes the loss by more than a tenth.
const MARGIN: f64 = 10.0;

#[test]
fn quantized_files_stay_near() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    wide(&source);
    let before = loss(&source);
    for (kind, largest) in [
        (Kind::F16, 3e-4),
        (Kind::BF16, 3e-3),
        (Kind::Q8_0, 0.01),
        (Kind::Q6_K, 0.03),
        (Kind::Q5_K, 0.05),
        (Kind::Q5_0, 0.06),
        (Kind::Q5_1, 0.06),
        (Kind::Q4_0, 0.12),
        (Kind::Q4_1, 0.12),
        (Kind::Q4_K, 0.1),
        (Kind::Q4_K_M, 0.1),
        (Kind::IQ4_NL, 0.1),
    ] {
        let output = dir.path().join(format!("{kind}.gguf"));
        let report = run(&source, &output, Some(kind));
        let after = loss(&output);
        let moved = (after - before).abs() / before;
        assert!(report.relative_error > 0.0 && report.relative_error < largest, "{report:?}");
        assert!(moved <= MARGIN * report.relative_error, "{kind}: {before} {after}");
        assert!(report.bytes_after < report.bytes_before);
    }
}

#[test]
fn golden_files_of_narrow_rows_fall_back_and_stay_near() {
    for model in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let before = loss(&golden(model));
        for kind in [Kind::F16, Kind::Q8_0, Kind::Q4_0, Kind::Q4_K] {
            let output = dir.path().join(format!("{kind}.gguf"));
            let report = run(&golden(model), &output, Some(kind));
            let moved = (loss(&output) - before).abs() / before;
            assert!(moved <= MARGIN * report.relative_error.max(1e-7), "{model} {kind}: {moved}");
            let names: Vec<_> = report.types.iter().map(|own| own.name).collect();
            assert!(names.contains(&"F32"), "norms stay: {names:?}");
        }
    }
}

#[test]
fn neither_threads_nor_budgets_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    wide(&source);
    let bytes = |threads: usize, budget: u64| {
        let output = dir.path().join(format!("{threads}-{budget}.gguf"));
        let settings = lowtide_convert::Settings {
            memory_budget: budget,
            ..settings(&source, &output, Some(Kind::Q4_K_M))
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| convert(&settings, &mut |_| ()).map_err(Box::new)).unwrap();
        assert!(report.peak_bytes <= budget, "{} of {budget}", report.peak_bytes);
        (fs::read(output).unwrap(), report.relative_error)
    };
    let first = bytes(1, 64 << 20);
    assert!(first == bytes(3, 64 << 20), "threads");
    assert!(first == bytes(2, 96 << 10), "a small budget");
}

#[test]
fn large_folders_are_cut_into_files() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("folder");
    let first = lowtide_convert::Settings {
        shard_bytes: 100_000,
        ..settings(&golden("llama_tied"), &output, Some(Kind::F32))
    };
    convert(&first, &mut |_| ()).unwrap();
    let names = files(&output);
    assert!(names.contains(&"model.safetensors.index.json".into()), "{names:?}");
    assert!(names.contains(&"model-00001-of-00004.safetensors".into()), "{names:?}");
    assert_eq!(loss(&output), loss(&golden("llama_tied")));
    // A second conversion leaves nothing of the first.
    let second = lowtide_convert::Settings {
        overwrite: true,
        ..settings(&golden("llama_tied"), &output, Some(Kind::F16))
    };
    convert(&second, &mut |_| ()).unwrap();
    let left: Vec<_> = files(&output).into_iter().filter(|n| n.contains("model")).collect();
    assert_eq!(left, ["model.safetensors"]);
    assert_eq!(tensors(&output)[0].1, "F16");
}

#[test]
fn files_keep_their_types_and_metadata_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    wide(&path("source"));
    run(&path("source"), &path("q4.gguf"), Some(Kind::Q4_K_M));
    let report = run(&path("q4.gguf"), &path("copy.gguf"), None);
    assert_eq!(report.relative_error, 0.0);
    assert_eq!(tensors(&path("q4.gguf")), tensors(&path("copy.gguf")));
    run(&path("q4.gguf"), &path("q8.gguf"), Some(Kind::Q8_0));
    let (a, b) = (Gguf::open(&path("q4.gguf")).unwrap(), Gguf::open(&path("q8.gguf")).unwrap());
    for key in a.metadata().keys().filter(|key| *key != "general.file_type") {
        assert!(b.metadata().contains(key), "{key}");
    }
    assert_eq!(a.metadata().get_u32("general.file_type"), Ok(Some(15)));
    assert_eq!(b.metadata().get_u32("general.file_type"), Ok(Some(7)));
    assert_eq!(b.metadata().get_u32("general.quantization_version"), Ok(Some(2)));
}

#[test]
fn rotary_factors_of_llama_3_go_into_a_tensor_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let model = TinyLlama { rope_theta: 5e5, head_dim: 32, ..TinyLlama::default() };
    tiny_llama_folder(&path("source"), &model);
    let mut config = model.config();
    config["rope_scaling"] = serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    fs::write(path("source").join("config.json"), config.to_string()).unwrap();
    run(&path("source"), &path("m.gguf"), Some(Kind::F32));
    let base = Base::open(&path("m.gguf")).unwrap();
    let RopeScaling::Factors(factors) = &base.hyper().rope.scaling else {
        panic!("{:?}", base.hyper().rope)
    };
    assert_eq!((factors.len(), factors[0], factors[15]), (16, 1.0, 8.0));
    let (before, after) = (loss(&path("source")), loss(&path("m.gguf")));
    assert!((before - after).abs() <= 1e-6 * before, "{before} {after}");
    run(&path("m.gguf"), &path("back"), None);
    let (a, b) = (Base::open(&path("source")).unwrap(), Base::open(&path("back")).unwrap());
    assert_eq!(a.hyper().rope, b.hyper().rope);
}

#[test]
fn folders_packed_by_bitsandbytes_are_unpacked() {
    for model in ["bnb_nf4", "bnb_nf4dq", "bnb_int8"] {
        let source = golden("formats").join(model);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        run(&source, &path("m.gguf"), Some(Kind::F32));
        run(&source, &path("folder"), Some(Kind::F32));
        let (packed, plain) = (Base::open(&source).unwrap(), Base::open(&path("folder")).unwrap());
        let gguf = Base::open(&path("m.gguf")).unwrap();
        for name in packed.tensor_names() {
            let values = |base: &Base| base.tensor(&name).unwrap().to_f32_vec();
            assert_eq!(values(&packed), values(&plain), "{model} {name}");
            let moved = ["q_proj", "k_proj"].iter().any(|end| name.contains(end));
            assert!(moved || values(&packed) == values(&gguf), "{model} {name}");
        }
        let report = run(&source, &path("kept.gguf"), None);
        assert!(report.types.iter().any(|own| own.name == "F16"), "{report:?}");
    }
}
