//! An adapter merged into its base computes what it does beside its base.

use std::fs;
use std::path::{Path, PathBuf};

use lowtide_adapter::{
    Adapter, BuildError, Config, Cx, Facts, Forward, Init, Linear, Method, ParamSpec, Registry,
    SiteInfo, Vjp,
};
use lowtide_backend::{Backend, Req, Scalar, Span};
use lowtide_convert::{AdapterSettings, ConvertError, Kind, convert, convert_adapter};
use lowtide_formats::Base;
use lowtide_memory::{Budget, Ledger};
use lowtide_runtime::{
    LoadedAdapter, MergeReport, MergeSettings, OpenBase, RuntimeError, merge, registry,
};
use lowtide_tape::{Batch, Executor, Limits, Plan, Policy};
use lowtide_tensor::MatMut;
use lowtide_testkit::golden::{Array, Arrays, golden_dir};
use lowtide_testkit::rng::Rng;
use lowtide_testkit::tiny::write_safetensors;

fn golden(name: &str) -> PathBuf {
    golden_dir().join(name)
}

/// Logits of a few tokens.
fn logits(base: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let base = OpenBase::open(base).unwrap();
    let adapter = adapter.map(|path| LoadedAdapter::open(path).unwrap());
    let model = match &adapter {
        Some(adapter) => base.build_adapted(&registry(), adapter).unwrap(),
        None => base.build(None).unwrap(),
    };
    let mut params = vec![0.0; model.program.params()];
    if let Some(adapter) = &adapter {
        adapter.fill(base.file().hyper(), &model.sites, &mut params[..]).unwrap();
    }
    let ids: Vec<u32> = (0..12).map(|t| t * 7 % 96).collect();
    let positions: Vec<u32> = (0..12).collect();
    let limits = Limits { tokens: 12, sequences: 1, labelled: 12 };
    let be: &dyn Backend<f32> = &Scalar;
    let plan = Plan::new(&model.program, be, limits, Policy::Block, false);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut executor = Executor::reserve(&model.program, be, plan, 0, &mut ledger).unwrap();
    let spans = [Span { start: 0, prompt_end: 12, end: 12 }];
    let (labelled, targets, words, counter) = (&[][..], &[][..], None, 0);
    let (ids, positions, spans) = (&ids[..], &positions[..], &spans[..]);
    let batch = Batch { ids, positions, spans, labelled, targets, words, counter };
    let vocab = model.program.head.weight.rows();
    let mut logits = vec![0.0; 12 * vocab];
    executor.logits(&params, &batch, positions, MatMut::new(&mut logits, 12, vocab));
    executor.release(&mut ledger);
    logits
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn settings(model: &Path, adapter: &Path, output: &Path, kind: Option<Kind>) -> MergeSettings {
    let (model, adapter, output) = (model.to_owned(), adapter.to_owned(), output.to_owned());
    MergeSettings { model, adapter, output, kind, ..MergeSettings::default() }
}

fn merged(settings: &MergeSettings) -> MergeReport {
    merge(settings, &registry(), &Scalar, &mut |_| ()).unwrap()
}

fn refused(settings: &MergeSettings, methods: &Registry<f32>) -> RuntimeError {
    let error = merge(settings, methods, &Scalar, &mut |_| ()).unwrap_err();
    assert!(!settings.output.exists(), "{error}");
    error
}

/// A base as a GGUF file, with rows of q and k in its order.
fn gguf_of(model: &Path, path: &Path, kind: Kind) {
    let (source, output) = (model.to_owned(), path.to_owned());
    let settings = lowtide_convert::Settings {
        source,
        output,
        kind: Some(kind),
        ..lowtide_convert::Settings::default()
    };
    convert(&settings, &mut |_| ()).unwrap();
}

#[test]
fn merged_is_unmerged_for_every_kind_of_base_and_output() {
    for model in ["llama_tied", "qwen2", "qwen3", "gemma3"] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (folder, adapter) = (golden(model), golden(&format!("{model}/lora")));
        gguf_of(&folder, &path("base.gguf"), Kind::F32);
        let adapted = logits(&folder, Some(&adapter));
        assert!(farthest(&adapted, &logits(&folder, None)) > 0.1, "{model}");
        for (i, base) in [&folder, &path("base.gguf")].into_iter().enumerate() {
            for name in ["out", "out.gguf"] {
                let output = path(&format!("{i}{name}"));
                let report = merged(&settings(base, &adapter, &output, Some(Kind::F32)));
                let apart = farthest(&adapted, &logits(&output, None));
                assert!(apart <= 1e-4, "{model} {name}: {apart}");
                assert_eq!((report.updates.len(), report.method.as_str()), (14, "lora"));
                // Nothing is rounded, up to the last bits of the sum of W and its update.
                assert_eq!(report.update_error, 0.0);
                assert_eq!(report.update_survived, 1.0, "{model} {name}");
            }
        }
    }
}

#[test]
fn a_rank_stabilised_scale_is_merged_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = (golden("llama_tied"), dir.path().join("a"));
    fs::create_dir(&adapter).unwrap();
    // The two share their tensors.
    for (from, file) in [("rslora", "adapter_config.json"), ("lora", "adapter_model.safetensors")] {
        fs::copy(base.join(from).join(file), adapter.join(file)).unwrap();
    }
    let output = dir.path().join("out.gguf");
    merged(&settings(&base, &adapter, &output, Some(Kind::F32)));
    let apart = farthest(&logits(&base, Some(&adapter)), &logits(&output, None));
    assert!(apart <= 1e-4, "{apart}");
}

/// An IA3 folder of vectors near one for a base's k, v and down projections.
fn ia3_folder(base: &Path, dir: &Path) {
    let source = Base::open(base).unwrap();
    let mut vectors = Arrays::new();
    for layer in 0..source.hyper().num_hidden_layers {
        for (module, outputs) in
            [("self_attn.k_proj", true), ("self_attn.v_proj", true), ("mlp.down_proj", false)]
        {
            let name = format!("model.layers.{layer}.{module}");
            let shape = source.tensor(&format!("{name}.weight")).unwrap().shape;
            let shape = if outputs { vec![shape[0], 1] } else { vec![1, shape[1]] };
            let mut data = Rng::named(1, &name).normal_vec(shape.iter().product(), 0.2);
            data.iter_mut().for_each(|value| *value += 1.0);
            vectors.insert(format!("base_model.model.{name}.ia3_l"), Array { shape, data });
        }
    }
    fs::create_dir_all(dir).unwrap();
    write_safetensors(&dir.join("adapter_model.safetensors"), &vectors);
    let config = golden("llama_tied/ia3/adapter_config.json");
    fs::copy(config, dir.join("adapter_config.json")).unwrap();
}

#[test]
fn a_method_that_scales_outputs_scales_biases_too() {
    for model in ["llama_tied", "qwen2"] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (folder, adapter) = (golden(model), path("ia3"));
        ia3_folder(&folder, &adapter);
        gguf_of(&folder, &path("base.gguf"), Kind::F32);
        let adapted = logits(&folder, Some(&adapter));
        for (i, base) in [&folder, &path("base.gguf")].into_iter().enumerate() {
            for name in ["out", "out.gguf"] {
                let output = path(&format!("{i}{name}"));
                let report = merged(&settings(base, &adapter, &output, Some(Kind::F32)));
                let apart = farthest(&adapted, &logits(&output, None));
                assert!(apart <= 1e-4, "{model} {name}: {apart}");
                // Two biases a layer of Qwen2, beside three matrices.
                assert_eq!(report.updates.len(), if model == "qwen2" { 10 } else { 6 });
                assert_eq!(report.method, "ia3");
            }
        }
    }
}

#[test]
fn a_gguf_adapter_merges_like_the_folder_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (base, adapter) = (golden("llama_tied"), golden("llama_tied/lora"));
    let conversion = AdapterSettings {
        source: adapter.clone(),
        base: base.clone(),
        base_name: "base".to_owned(),
        output: path("a.gguf"),
        overwrite: false,
    };
    convert_adapter(&conversion).unwrap();
    merged(&settings(&base, &adapter, &path("one"), None));
    merged(&settings(&base, &path("a.gguf"), &path("two"), None));
    let bytes = |name: &str| fs::read(path(name).join("model.safetensors")).unwrap();
    assert!(bytes("one") == bytes("two"));
}

/// The numbers of the report, from the files themselves.
#[test]
fn the_report_says_what_rounding_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (folder, adapter) = (golden("llama_tied"), golden("llama_tied/lora"));
    gguf_of(&folder, &path("base.gguf"), Kind::Q8_0);
    let report = merged(&settings(&path("base.gguf"), &adapter, &path("packed.gguf"), None));
    merged(&settings(&path("base.gguf"), &adapter, &path("exact.gguf"), Some(Kind::F32)));
    let open = |name: &str| Base::open(&path(name)).unwrap();
    let (base, packed, exact) = (open("base.gguf"), open("packed.gguf"), open("exact.gguf"));
    let mut whole = (0.0, 0.0, 0.0);
    for own in &report.updates {
        assert_eq!(own.kind, "Q8_0");
        let values = |base: &Base| base.tensor(&own.hf_name).unwrap().to_f32_vec();
        let (before, rounded, goal) = (values(&base), values(&packed), values(&exact));
        let (mut update, mut errors, mut held) = (0.0, 0.0, 0.0);
        for ((w, r), g) in before.iter().zip(&rounded).zip(&goal) {
            let (w, r, g) = (f64::from(*w), f64::from(*r), f64::from(*g));
            update += (g - w) * (g - w);
            errors += (r - g) * (r - g);
            held += (r - w) * (g - w);
        }
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
        assert!(near(own.update_norm, update.sqrt()), "{own:?}");
        assert!(near(own.error, (errors / update).sqrt()), "{own:?}");
        assert!(near(own.survived, held / update), "{own:?}");
        assert!(own.survived > 0.9 && own.survived < 1.1 && own.error < 0.2, "{own:?}");
        whole = (whole.0 + update, whole.1 + errors, whole.2 + held);
    }
    let (update, errors, held) = whole;
    assert!((report.update_norm - update.sqrt()).abs() < 1e-9);
    assert!((report.update_error - (errors / update).sqrt()).abs() < 1e-9);
    assert!((report.update_survived - held / update).abs() < 1e-9);
    // What is not adapted is not touched.
    let (was, is) = (base.tensor("model.embed_tokens.weight"), packed.tensor("model.norm.weight"));
    assert!(was.unwrap().bytes == packed.tensor("model.embed_tokens.weight").unwrap().bytes);
    assert!(is.unwrap().bytes == base.tensor("model.norm.weight").unwrap().bytes);
}

#[test]
fn neither_threads_nor_budgets_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = (golden("llama_tied"), golden("llama_tied/lora"));
    let bytes = |threads: usize, memory_budget: u64| {
        let output = dir.path().join(format!("{threads}-{memory_budget}.gguf"));
        let settings =
            MergeSettings { memory_budget, ..settings(&base, &adapter, &output, Some(Kind::Q5_1)) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| merged(&settings));
        assert!(report.conversion.peak_bytes <= memory_budget);
        (fs::read(output).unwrap(), report.update_survived)
    };
    let first = bytes(1, 64 << 20);
    assert!(first == bytes(3, 64 << 20), "threads");
    assert!(first == bytes(2, 144 << 10), "a small budget");
    for memory_budget in [1 << 10, 60 << 10] {
        let output = dir.path().join("none.gguf");
        let settings = MergeSettings { memory_budget, ..settings(&base, &adapter, &output, None) };
        let error = refused(&settings, &registry());
        let RuntimeError::Convert(error) = error else { panic!("{error}") };
        let ConvertError::Budget { budget, needed } = *error else { panic!("{error}") };
        assert_eq!(budget, memory_budget);
        merged(&MergeSettings { memory_budget: needed, ..settings });
        fs::remove_file(output).unwrap();
    }
}

/// A trained bias, which is no change of a matrix; it goes by the name of LoRA.
struct Shift([ParamSpec; 2]);
struct ShiftMethod;

impl Adapter for Shift {
    fn kind(&self) -> &'static str {
        "lora"
    }
    fn params(&self) -> &[ParamSpec] {
        &self.0
    }
    fn facts(&self) -> Facts {
        Facts { reads_x: false, reads_y: false, whole_sequence: false, mergeable: false }
    }
    fn req(&self, be: &dyn Backend<f32>, base: &dyn Linear, rows: usize) -> Req {
        base.req(be, rows)
    }
    fn apply(&self, _cx: &Cx<'_, f32>, _operands: Forward<'_, f32>) {
        unreachable!("nothing is computed with it");
    }
    fn vjp(&self, _cx: &Cx<'_, f32>, _operands: Vjp<'_, f32>) {
        unreachable!("nothing is computed with it");
    }
}

impl Method for ShiftMethod {
    fn kind(&self) -> &'static str {
        "lora"
    }
    fn build(
        &self,
        site: &SiteInfo,
        config: &Config,
    ) -> Result<Option<Box<dyn Adapter>>, BuildError> {
        let (init, output_axis, rank_axis) = (Init::Zeros, None, None);
        let spec = |name, shape| ParamSpec { name, shape, init, output_axis, rank_axis };
        let a = spec("lora_A.weight", [config.rank, site.in_features]);
        let b = spec("lora_B.weight", [site.out_features, config.rank]);
        Ok(Some(Box::new(Shift([a, b]))))
    }
}

#[test]
fn what_cannot_be_merged_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = (golden("llama_tied"), golden("llama_tied/lora"));
    let output = dir.path().join("out");
    let first = settings(&base, &adapter, &output, None);
    let error = refused(&first, &Registry::new().with(ShiftMethod)).to_string();
    let words = "method `lora` at `model.layers.0.self_attn.q_proj` cannot be merged";
    assert!(error.contains(words), "{error}");
    let other = MergeSettings { model: golden("qwen3"), ..first.clone() };
    let error = refused(&other, &registry()).to_string();
    assert!(error.contains("the adapter is of another base"), "{error}");
    let packed = MergeSettings { kind: Some(Kind::Q8_0), ..first.clone() };
    let error = refused(&packed, &registry()).to_string();
    assert!(error.contains("type q8_0 cannot be written to"), "{error}");
    // The adapter's own folder is no place for a base, with or without permission.
    let copy = dir.path().join("adapter");
    fs::create_dir(&copy).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(adapter.join(file), copy.join(file)).unwrap();
    }
    let onto = MergeSettings { overwrite: true, ..settings(&base, &copy, &copy, None) };
    let error = merge(&onto, &registry(), &Scalar, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("is a part of what is to be read"), "{error}");
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 2);
}
