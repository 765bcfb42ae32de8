//! Adapters in GGUF: what llama.cpp's converter wrote is read, what is written is the same.

mod support;

use std::fs;
use std::path::Path;

use lowtide_formats::gguf::{Gguf, Value, Writer, parse};
use lowtide_formats::gguf_adapter::{GgufAdapter, Settings, describe, permuted_rows, write};
use lowtide_formats::peft::{
    AdapterError, AdapterFiles, AdapterTensor, Coded, LORA_DOWN, LORA_UP, LoraConfig, LoraPair,
};
use lowtide_formats::safe::{PermutedRows, Values};
use lowtide_formats::{Base, DocumentError, Error, Hyperparameters, Tensor, peft, rows};
use lowtide_quant::LineCodes;
use lowtide_quant::formats::F32;
use proptest::collection::vec;
use proptest::prelude::*;
use support::golden;

const Q: &str = "model.layers.0.self_attn.q_proj";

fn hyper(model: &str) -> Hyperparameters {
    Base::open(&golden(model)).unwrap().hyper().clone()
}

fn plain(alpha: f32) -> Settings<'static> {
    Settings { alpha, alphas: &[], name: None, base_name: None }
}

#[test]
fn an_adapter_of_llama_cpp() {
    let file = GgufAdapter::open(&golden("formats/l4.gguf")).unwrap();
    let facts = file.facts();
    assert_eq!((facts.architecture, facts.alpha, facts.common_rank()), ("llama", 8.0, 4));
    assert_eq!((facts.alpha_at(4), facts.modules.len()), (8.0, 8));
    let q = facts.modules.iter().find(|module| module.module == Q).unwrap();
    assert_eq!((q.tensor.as_str(), q.rank), ("blk.0.attn_q.weight", 4));
    let up = file.tensor(Q, LORA_UP).unwrap();
    assert_eq!(up.bytes, file.named("blk.0.attn_q.weight.lora_b").unwrap().bytes);
    assert_eq!(up.shape, [32, 4]);
    assert!(file.tensor(Q, "lora_C").is_none() && file.tensor("model.norm", LORA_UP).is_none());
    assert_eq!((file.tensor_names().count(), file.pairs().count()), (16, 8));
    assert!(file.check_base(&hyper("formats/base")).is_ok());
    let other = file.check_base(&hyper("qwen2")).unwrap_err().to_string();
    let expected = "`general.architecture` is \"llama\", but `the base's` is \"qwen2\"";
    assert!(other.ends_with(expected), "{other}");
}

#[test]
fn what_is_written_equals_what_llama_cpp_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let files = AdapterFiles::open(&golden("formats/l4")).unwrap();
    let (_, pairs) = files.lora().unwrap();
    let settings = Settings { name: Some("L4"), ..plain(8.0) };
    write(&path, &hyper("formats/base"), &settings, &pairs).unwrap();
    let (ours, theirs) = (Gguf::open(&path).unwrap(), golden("formats/l4.gguf"));
    let theirs = Gguf::open(&theirs).unwrap();
    let names = |gguf: &Gguf| gguf.tensor_names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for name in theirs.tensor_names() {
        let (ours, theirs) = (ours.tensor(name).unwrap(), theirs.tensor(name).unwrap());
        assert_eq!((ours.shape, ours.format.name()), (theirs.shape, theirs.format.name()));
        assert!(ours.bytes == theirs.bytes, "{name}");
    }
    for key in ["general.architecture", "general.type", "adapter.type", "general.name"] {
        let texts = [&ours, &theirs].map(|gguf| gguf.metadata().get_str(key).unwrap().unwrap());
        assert_eq!(texts[0], texts[1], "{key}");
    }
    let alphas = [&ours, &theirs].map(|gguf| gguf.metadata().get_f32("adapter.lora.alpha"));
    assert_eq!(alphas, [Ok(Some(8.0)), Ok(Some(8.0))]);
    // The data is the same to the last byte: order and padding of tensors, too.
    let data = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let contents = parse(&bytes).unwrap();
        let start = contents.tensors().values().map(|info| info.range.start).min().unwrap();
        bytes[start..].to_vec()
    };
    assert!(data(&path) == data(&golden("formats/l4.gguf")));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
}

/// A parameter of q.
fn tensor<'a>(
    parameter: &str,
    shape: [usize; 2],
    values: Values<'a>,
    permuted: Option<PermutedRows>,
) -> AdapterTensor<'a> {
    let (module, parameter) = (Q.to_owned(), parameter.to_owned());
    AdapterTensor { module, parameter, shape: shape.to_vec(), values, permuted }
}

#[test]
fn codes_are_written_as_the_floats_that_they_stand_for() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = ([0.5; 2 * 64], std::array::from_fn::<f32, 128, _>(|i| (i as f32 - 40.0) / 9.0));
    let hyper = hyper("llama_tied");
    let order = permuted_rows(&hyper, Q).unwrap();
    let config = LoraConfig { r: 2, ..LoraConfig::default() }.to_document();
    for codes in [LineCodes::Int8, LineCodes::Int4] {
        let coded = [([2, 64], &a), ([64, 2], &b)].map(|(s, v)| Coded::new(codes, v, s, None));
        let tensors = [
            tensor(LORA_DOWN, [2, 64], Values::Codes(&coded[0]), None),
            tensor(LORA_UP, [64, 2], Values::Codes(&coded[1]), None),
        ];
        peft::write(dir.path(), &config, &tensors).unwrap();
        let files = AdapterFiles::open(dir.path()).unwrap();
        let (_, pairs) = files.lora().unwrap();
        let in_hf = pairs[0].b.to_f32_vec();
        let path = dir.path().join("a.gguf");
        write(&path, &hyper, &plain(4.0), &pairs).unwrap();
        let file = GgufAdapter::open(&path).unwrap();
        let mut expected = vec![f32::NAN; 128];
        rows::permute(&in_hf, &mut expected, order.heads, order.head_dim);
        assert_eq!(file.pairs().next().unwrap().b.to_f32_vec(), expected);
        // The other way in a folder of floats.
        let turned = dir.path().join("turned");
        let up = tensor(LORA_UP, [64, 2], Values::Stored(pairs[0].b), Some(order));
        peft::write(&turned, &config, &[up]).unwrap();
        rows::unpermute(&in_hf, &mut expected, order.heads, order.head_dim);
        let turned = AdapterFiles::open(&turned).unwrap();
        assert_eq!(turned.tensor(Q, LORA_UP).unwrap().to_f32_vec(), expected);
    }
}

#[test]
fn only_llamas_move_rows() {
    for (model, moves) in [("llama_tied", true), ("qwen2", false), ("qwen3", false)] {
        let hyper = hyper(model);
        assert_eq!(permuted_rows(&hyper, Q).is_some(), moves, "{model}");
        assert_eq!(permuted_rows(&hyper, "model.layers.0.self_attn.v_proj"), None);
    }
    let k = permuted_rows(&hyper("llama_tied"), "model.layers.0.self_attn.k_proj").unwrap();
    assert_eq!((k.heads, k.head_dim), (2, 16));
}

/// A file with these settings and tensors of ones.
fn file(settings: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut writer = Writer::new();
    settings.iter().for_each(|(key, value)| writer.metadata(key, value.clone()));
    tensors.iter().for_each(|(name, shape)| writer.tensor(name, shape, &F32));
    let mut data = writer.start(Vec::new()).unwrap();
    for (_, shape) in tensors {
        let values = vec![1.0_f32.to_le_bytes(); shape.iter().product()].concat();
        data.write(&values).unwrap();
    }
    data.finish().unwrap()
}

fn refused(settings: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> String {
    let bytes = file(settings, tensors);
    describe(&parse(&bytes).unwrap(), &bytes).unwrap_err().to_string()
}

const A: (&str, &[usize]) = ("blk.0.attn_q.weight.lora_a", &[2, 8]);
const B: (&str, &[usize]) = ("blk.0.attn_q.weight.lora_b", &[8, 2]);

fn sound() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "qwen3".into()),
        ("general.type", "adapter".into()),
        ("adapter.type", "lora".into()),
        ("adapter.lora.alpha", 4.0_f32.into()),
    ]
}

#[test]
fn an_alpha_of_nothing_adds_the_product_as_it_is() {
    let mut settings = sound();
    settings.truncate(3);
    let bytes = file(&settings, &[A, B]);
    let facts = describe(&parse(&bytes).unwrap(), &bytes).unwrap();
    assert_eq!((facts.alpha, facts.alpha_at(2)), (0.0, 2.0));
}

#[test]
fn settings_that_are_refused() {
    for (key, value, words) in [
        ("general.type", Value::from("model"), "`general.type` is \"model\", which is not"),
        ("general.type", 1_u32.into(), "`general.type` is of type u32; expected text"),
        ("adapter.type", "dora".into(), "`adapter.type` is \"dora\", which is not supported"),
        ("general.architecture", "gpt2".into(), "`general.architecture` is \"gpt2\", which is"),
        ("adapter.lora.alpha", f32::NAN.into(), "`adapter.lora.alpha` is NaN; expected a finite"),
        ("adapter.lora.alpha", (-1.0_f32).into(), "`adapter.lora.alpha` is -1; expected"),
        ("adapter.alora.invocation_tokens", Value::U32s(vec![1]), "`adapter.alora.invocation_tok"),
    ] {
        let mut settings = sound();
        settings.retain(|(other, _)| *other != key);
        settings.push((key, value));
        let error = refused(&settings, &[A, B]);
        assert!(error.starts_with(words), "{error}");
    }
    for key in ["general.type", "adapter.type", "general.architecture"] {
        let mut settings = sound();
        settings.retain(|(other, _)| *other != key);
        let error = refused(&settings, &[A, B]);
        assert!(error.starts_with(&format!("`{key}` is missing; expected")), "{error}");
    }
}

#[test]
fn tensors_that_are_refused() {
    let q = "blk.0.attn_q.weight";
    for (tensors, words) in [
        (&[][..], "there are no tensors".to_owned()),
        (&[A], format!("tensor `{q}.lora_b` is missing; `{q}.lora_a` is there")),
        (&[B], format!("tensor `{q}.lora_a` is missing; `{q}.lora_b` is there")),
        (&[A, ("blk.0.attn_q.weight.lora_b", &[8, 3])], format!("tensor `{q}.lora_b` has shape")),
        (&[("blk.0.attn_q.weight.lora_a", &[16]), B], format!("tensor `{q}.lora_a` has shape")),
        (&[A, B, ("blk.0.attn_q.weight.lora_m", &[8])], format!("tensor `{q}.lora_m` does not")),
        (&[A, B, ("blk.0.attn_q.weight", &[8, 8])], format!("tensor `{q}` does not belong")),
        (&[("blk.0.attn_norm.weight.lora_a", &[2, 8])], "tensor `blk.0.attn_norm".to_owned()),
        (&[("token_embd.weight.lora_a", &[2, 8])], "tensor `token_embd.weight".to_owned()),
        (&[("blk.0.attn_q.bias.lora_a", &[2, 8])], "tensor `blk.0.attn_q.bias".to_owned()),
        (&[("blk.0.nothing.weight.lora_a", &[2, 8])], "tensor `blk.0.nothing".to_owned()),
    ] {
        let error = refused(&sound(), tensors);
        assert!(error.starts_with(&words), "{error}");
    }
    let mut bytes = file(&sound(), &[A, B]);
    let last = bytes.len() - 32;
    bytes[last..last + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let error = describe(&parse(&bytes).unwrap(), &bytes).unwrap_err();
    let AdapterError::NotFinite { name, index, value } = error else { panic!("{error}") };
    assert_eq!((name.as_str(), index, value.as_str()), (B.0, 8, "inf"));
}

#[test]
fn files_that_are_no_adapters_are_named() {
    let path = golden("formats/base/model.safetensors");
    let Error::Gguf { path: found, .. } = GgufAdapter::open(&path).unwrap_err() else { panic!() };
    assert_eq!(found, path);
    let dir = tempfile::tempdir().unwrap();
    let path = support::GgufBase::llama().write(dir.path());
    let error = GgufAdapter::open(&path).unwrap_err();
    let Error::Adapter { path: found, reason } = error else { panic!("{error}") };
    let missing = DocumentError::Missing { key: "general.type".into(), expected: "\"adapter\"" };
    assert_eq!((found, reason), (path, AdapterError::from(missing)));
}

/// A pair over bytes.
fn pair<'a>(
    module: &'a str,
    a: &'a (Vec<usize>, Vec<u8>),
    b: &'a (Vec<usize>, Vec<u8>),
) -> LoraPair<'a> {
    let part = |(shape, bytes): &'a (Vec<usize>, Vec<u8>)| Tensor {
        shape,
        format: &F32,
        bytes,
        apart: None,
        lines: None,
    };
    LoraPair { module, a: part(a), b: part(b) }
}

fn packed(shape: &[usize], values: &[f32]) -> (Vec<usize>, Vec<u8>) {
    assert_eq!(shape.iter().product::<usize>(), values.len());
    (shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

#[test]
fn pairs_that_cannot_be_written_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let hyper = hyper("llama_tied");
    let a = packed(&[2, 64], &[1.0; 128]);
    let b = packed(&[64, 2], &[1.0; 128]);
    let short = packed(&[32, 2], &[1.0; 64]);
    let nan = packed(&[64, 2], &[f32::NAN; 128]);
    for (pairs, words) in [
        (vec![], "there are no tensors"),
        (vec![pair("model.layers.0.mlp.gate", &a, &b)], "gate.lora_A.weight` does not belong"),
        (vec![pair(Q, &a, &short)], "q_proj.lora_B.weight` has shape [32, 2]; expected [64, 2]"),
        (vec![pair(Q, &b, &a)], "q_proj.lora_B.weight` has shape [2, 64]; expected [64, 64]"),
        (vec![pair(Q, &a, &nan)], "q_proj.lora_B.weight` holds NaN at index 0"),
    ] {
        let error = write(&path, &hyper, &plain(1.0), &pairs).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// PEFT to GGUF and back, for a family that moves rows and one that does not.
    #[test]
    fn a_round_trip_keeps_every_bit(
        llama in any::<bool>(),
        rank in 1_usize..5,
        alpha in 0.1_f32..64.0,
        values in vec(-2.0_f32..2.0, 4 * (64 + 64)),
    ) {
        let hyper = hyper(if llama { "llama_tied" } else { "qwen2" });
        let (a, rest) = values.split_at(rank * 64);
        let (a, b) = (packed(&[rank, 64], a), packed(&[64, rank], &rest[..rank * 64]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        write(&path, &hyper, &plain(alpha), &[pair(Q, &a, &b)]).unwrap();
        let file = GgufAdapter::open(&path).unwrap();
        prop_assert_eq!(file.facts().alpha, alpha);
        let back: Vec<_> = file.pairs().collect();
        prop_assert_eq!((back.len(), back[0].module, back[0].rank()), (1, Q, rank));
        prop_assert_eq!(back[0].a.bytes, &a.1);
        let tensors = [(LORA_DOWN, back[0].a, None), (LORA_UP, back[0].b, permuted_rows(&hyper, Q))]
            .map(|(parameter, tensor, permuted)| AdapterTensor {
                module: Q.to_owned(),
                parameter: parameter.to_owned(),
                shape: tensor.shape.to_vec(),
                values: Values::Stored(tensor),
                permuted,
            });
        let folder = dir.path().join("peft");
        let config = LoraConfig { r: rank, ..LoraConfig::default() };
        peft::write(&folder, &config.to_document(), &tensors).unwrap();
        let files = AdapterFiles::open(&folder).unwrap();
        let (_, pairs) = files.lora().unwrap();
        prop_assert_eq!((pairs[0].a.bytes, pairs[0].b.bytes), (&a.1[..], &b.1[..]));
    }

    /// Any bytes changed in a sound file: an answer, never a panic, and pairs that fit.
    #[test]
    fn mangled_files_are_answered(
        at in vec(any::<prop::sample::Index>(), 1..6),
        bytes in vec(any::<u8>(), 6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut file = fs::read(golden("formats/l4.gguf")).unwrap();
        // Most changes go to the head, where the structure is.
        at.iter().zip(bytes).for_each(|(at, byte)| file[at.index(1504)] = byte);
        if cuts {
            file.truncate(cut.index(file.len()));
        }
        let Ok(contents) = parse(&file) else { return Ok(()) };
        let Ok(facts) = describe(&contents, &file) else { return Ok(()) };
        prop_assert!(!facts.modules.is_empty() && facts.alpha >= 0.0);
        for module in &facts.modules {
            let a = contents.tensor(&file, &format!("{}.lora_a", module.tensor)).unwrap();
            prop_assert_eq!(a.shape[0], module.rank);
        }
    }
}
