//! QA-LoRA merged into the minima of a packed base: not a code changes.

use std::path::{Path, PathBuf};

use lowtide_adapter::Config;
use lowtide_backend::Scalar;
use lowtide_convert::{Kind, Settings, convert};
use lowtide_formats::Base;
use lowtide_formats::peft::{AdapterTensor, LoraConfig, write};
use lowtide_formats::safe::Values;
use lowtide_runtime::{
    LoadedAdapter, MergeReport, MergeSettings, OpenBase, lora_config, merge, registry,
};
use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::rng::Rng;

const RANK: usize = 2;
const MODULES: [&str; 2] = ["self_attn.q_proj", "mlp.down_proj"];

fn base(dir: &Path, kind: Kind) -> PathBuf {
    let output = dir.join(format!("{kind:?}.gguf"));
    let source = golden_dir().join("llama_tied");
    let settings =
        Settings { source, output: output.clone(), kind: Some(kind), ..Settings::default() };
    convert(&settings, &mut |_| ()).unwrap();
    output
}

/// An adapter of random numbers on two linears of each layer.
fn adapter(dir: &Path, base: &Path, group: usize) -> PathBuf {
    let base = Base::open(base).unwrap();
    let names = (0..base.hyper().num_hidden_layers)
        .flat_map(|layer| MODULES.map(|module| format!("model.layers.{layer}.{module}")));
    let factors: Vec<_> = names
        .map(|name| {
            let shape = base.tensor(&format!("{name}.weight")).unwrap().shape;
            let groups = shape[1] / group;
            let a = Rng::named(1, &name).uniform_vec(RANK * groups, -0.5, 0.5);
            let b = Rng::named(2, &name).uniform_vec(shape[0] * RANK, -0.5, 0.5);
            (name, ([RANK, groups], a), ([shape[0], RANK], b))
        })
        .collect();
    let tensors: Vec<_> = factors
        .iter()
        .flat_map(|(name, a, b)| [(name, "lora_A.weight", a), (name, "lora_B.weight", b)])
        .map(|(module, parameter, (shape, values))| AdapterTensor {
            module: module.clone(),
            parameter: parameter.into(),
            shape: shape.to_vec(),
            values: Values::F32(values),
            permuted: None,
        })
        .collect();
    let options = [("group_size".to_owned(), group.to_string())].into();
    let config = Config { rank: RANK, alpha: 4.0, options, ..Config::default() };
    let said: LoraConfig = lora_config("qalora", &config).unwrap();
    let output = dir.join(format!("adapter{group}"));
    write(&output, &said.to_document(), &tensors).unwrap();
    output
}

fn merged(base: &Path, adapter: &Path, output: &Path, kind: Option<Kind>) -> MergeReport {
    let (model, adapter, output) = (base.to_owned(), adapter.to_owned(), output.to_owned());
    let settings = MergeSettings { model, adapter, output, kind, ..MergeSettings::default() };
    merge(&settings, &registry(), &Scalar, &mut |_| ()).unwrap()
}

/// The blocks of the adapted matrices, without their minima where `codes` says so.
fn blocks(path: &Path, codes: bool) -> Vec<u8> {
    let base = Base::open(path).unwrap();
    let mut all = Vec::new();
    for name in LAYERS.iter().flat_map(|layer| MODULES.map(|module| format!("{layer}.{module}"))) {
        let tensor = base.tensor(&format!("{name}.weight")).unwrap();
        for block in tensor.bytes.chunks(tensor.format.block_bytes()) {
            all.extend(if codes { &block[..2] } else { &block[..4] });
            all.extend(&block[4..]);
        }
    }
    all
}

const LAYERS: [&str; 2] = ["model.layers.0", "model.layers.1"];

/// How far the adapted matrices are from what they should be: the largest of all weights.
fn farthest(one: &Path, other: &Path) -> f32 {
    let (one, other) = (Base::open(one).unwrap(), Base::open(other).unwrap());
    let mut most = 0.0_f32;
    for name in LAYERS.iter().flat_map(|layer| MODULES.map(|module| format!("{layer}.{module}"))) {
        let values = |base: &Base| base.tensor(&format!("{name}.weight")).unwrap().to_f32_vec();
        for (a, b) in values(&one).into_iter().zip(values(&other)) {
            most = most.max((a - b).abs());
        }
    }
    most
}

#[test]
fn minima_take_up_what_is_constant_over_blocks() {
    for (kind, group) in [(Kind::Q4_1, 32), (Kind::Q4_1, 64), (Kind::Q5_1, 32)] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let base = base(dir.path(), kind);
        let adapter = adapter(dir.path(), &base, group);
        let report = merged(&base, &adapter, &path("same.gguf"), None);
        assert_eq!((report.minima_only, report.updates.len()), (4, 4), "{kind:?}");
        assert!(blocks(&base, true) == blocks(&path("same.gguf"), true), "{kind:?}: codes");
        assert!(blocks(&base, false) != blocks(&path("same.gguf"), false), "{kind:?}: minima");
        // What is lost is the rounding of minima to 16 bits, and the report says so.
        assert!((report.update_survived - 1.0).abs() < 1e-3, "{kind:?}: {report:?}");
        assert!(report.update_error < 2e-2, "{kind:?}: {}", report.update_error);
        let whole = merged(&base, &adapter, &path("floats.gguf"), Some(Kind::F32));
        assert_eq!((whole.minima_only, whole.update_error), (0, 0.0));
        let apart = farthest(&path("same.gguf"), &path("floats.gguf"));
        let update = farthest(&base, &path("floats.gguf"));
        assert!(apart < 2e-2 * update, "{kind:?}: {apart} of {update}");
        // The type asked for by name is the same, byte for byte.
        merged(&base, &adapter, &path("named.gguf"), Some(kind));
        assert!(blocks(&path("named.gguf"), false) == blocks(&path("same.gguf"), false));
    }
}

#[test]
fn other_groups_and_types_are_encoded_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let packed = base(dir.path(), Kind::Q4_1);
    // Two groups to a block.
    let small = adapter(dir.path(), &packed, 16);
    let report = merged(&packed, &small, &path("small.gguf"), None);
    assert_eq!(report.minima_only, 0);
    assert!(blocks(&packed, true) != blocks(&path("small.gguf"), true));
    // Another type than the base's, and a type without minima.
    let whole = adapter(dir.path(), &packed, 32);
    assert_eq!(merged(&packed, &whole, &path("q5.gguf"), Some(Kind::Q5_1)).minima_only, 0);
    let plain = base(dir.path(), Kind::Q8_0);
    assert_eq!(merged(&plain, &whole, &path("q8.gguf"), None).minima_only, 0);
    // The adapter is one that models are built with.
    let opened = OpenBase::open(&packed).unwrap();
    let loaded = LoadedAdapter::open(&whole).unwrap();
    assert_eq!(opened.build_adapted::<f32>(&registry(), &loaded).unwrap().sites.len(), 4);
}
