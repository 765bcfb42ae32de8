//! Any bytes at all: never a panic, never more memory than the bytes justify.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use lowtide_formats::gguf::{GgufError, parse};
use lowtide_formats::mlx::{self, MlxAdapter};
use lowtide_formats::peft::{CONFIG_FILE, WEIGHTS_FILE};
use lowtide_formats::{Base, describe_gguf, hf, peft, safe};
use lowtide_testkit::alloc::TestAlloc;
use lowtide_testkit::golden::Array;
use lowtide_testkit::tiny::write_safetensors;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestRng, TestRunner};
use support::{GgufBase, Raw, golden};

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

/// One test at a time: the allocator counts what all threads ask for.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a parser may hold at once: structures are a few times larger than their shortest spelling.
fn bytes_max(input: usize) -> u64 {
    64 * input as u64 + (16 << 10)
}

/// Runs a parser and checks its memory; the result does not matter.
fn bounded<R>(input: usize, work: impl FnOnce() -> R) -> R {
    let (result, counts) = ALLOC.counting(usize::MAX, work);
    let (rise, max) = (counts.live_peak, bytes_max(input));
    assert!(rise <= max, "{rise} bytes held for {input} bytes of input; at most {max}");
    result
}

/// Everything that is ever read of a GGUF file, short of the values of large tensors.
fn read_gguf(bytes: &[u8]) -> Result<(), GgufError> {
    let contents = parse(bytes)?;
    let metadata = contents.metadata(bytes);
    for key in metadata.keys() {
        let _ = (metadata.get_u64(key), metadata.get_f32(key), metadata.get_str(key));
        let strings = metadata.strings(key).ok().flatten().into_iter().flatten();
        let integers = metadata.integers(key).ok().flatten().into_iter().flatten();
        let floats = metadata.floats(key).ok().flatten().into_iter().flatten();
        let _ = (strings.count(), integers.count(), floats.count());
    }
    for name in contents.tensors().keys() {
        let tensor = contents.tensor(bytes, name).expect("a name that was parsed");
        let bytes = tensor.format.row_bytes(tensor.shape.last().copied().unwrap_or(1));
        let rows = tensor.shape.iter().rev().skip(1).product::<usize>();
        assert_eq!(bytes.map(|row| row * rows), Some(tensor.bytes.len()), "{name}");
    }
    let _ = describe_gguf(&contents, bytes);
    Ok(())
}

/// A sound GGUF file that is small enough to be cut everywhere.
fn small_gguf() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(make_small_gguf)
}

fn make_small_gguf() -> Vec<u8> {
    let mut llama = GgufBase::llama();
    llama.tensors.truncate(2);
    for (_, shape, values) in &mut llama.tensors {
        *shape = vec![2, 4];
        values.truncate(8);
    }
    llama.set("tokenizer.ggml.tokens", lowtide_formats::gguf::Value::Strings(vec!["a".into(); 5]));
    llama.set("general.quantized", true.into());
    llama.bytes()
}

#[test]
fn a_gguf_file_cut_anywhere() {
    let _turn = turn();
    let whole = small_gguf();
    bounded(whole.len(), || read_gguf(whole)).unwrap();
    // Each of the two tensors has 32 bytes, so nothing of the end is padding.
    for len in 0..whole.len() {
        bounded(len, || read_gguf(&whole[..len])).unwrap_err();
    }
}

#[test]
fn a_gguf_file_with_every_byte_changed() {
    let _turn = turn();
    let whole = small_gguf();
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = whole.to_vec();
            bytes[at] ^= change;
            let _ = bounded(bytes.len(), || read_gguf(&bytes));
        }
    }
}

#[test]
fn counts_no_file_can_hold() {
    let _turn = turn();
    for count in [1 << 20, 1 << 32, 1 << 62, u64::MAX] {
        let files = [
            Raw::new(count, 0),
            Raw::new(0, count),
            Raw::new(0, 1).entry("k", 9, &[]).u32(8).u64(count),
            Raw::new(0, 1).entry("k", 9, &[]).u32(0).u64(count),
            Raw::new(0, 1).u64(count),
            Raw::new(0, 1).entry("k", 8, &count.to_le_bytes()),
            Raw::new(1, 0).u64(count),
            Raw::new(1, 0).tensor("t", &[count, count, count, count], 0, 0),
            Raw::new(1, 0).tensor("t", &[count], 0, count),
        ];
        for file in files {
            bounded(file.bytes.len(), || read_gguf(&file.bytes)).unwrap_err();
        }
    }
}

/// Runs a property with the same cases every time, alone.
fn check<S: Strategy>(strategy: &S, property: impl Fn(S::Value)) {
    let _turn = turn();
    let config = ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let result = TestRunner::new_with_rng(config, rng).run(strategy, |value| {
        property(value);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn random_bytes_after_a_gguf_header() {
    // Small numbers are what types and counts look like.
    let byte = prop_oneof![3 => 0_u8..14, 1 => any::<u8>()];
    let file = (0_u64..4, 0_u64..4, prop::collection::vec(byte, 0..400));
    check(&file, |(tensors, entries, rest)| {
        let bytes = Raw::new(tensors, entries).raw(&rest).bytes;
        let _ = bounded(bytes.len(), || read_gguf(&bytes));
    });
}

#[test]
fn several_bytes_of_a_gguf_file_changed() {
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 1..8);
    check(&changes, |changes| {
        let mut bytes = small_gguf().to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = bounded(bytes.len(), || read_gguf(&bytes));
    });
}

#[test]
fn any_text_as_a_config() {
    check(&".{0,200}", |text| {
        let _ = bounded(text.len(), || hf::parse_config(&text));
        let _ = bounded(text.len(), || peft::parse_lora_config(&text));
        let _ = bounded(text.len(), || peft::parse_method_config(&text, &BTreeSet::new()));
    });
}

/// Configs with all fields there are: of adapters, of families, in both styles.
const CONFIGS: [&str; 6] = [
    "llama_tied/lora/adapter_config.json",
    "llama_tied/ia3/adapter_config.json",
    "formats/vera/adapter_config.json",
    "qwen3/config.json",
    "gemma3/config.json",
    "gemma3/config.legacy.json",
];

#[test]
fn any_value_in_a_config() {
    let constant = |text: &str| Just(text.to_owned());
    let value = prop_oneof![
        constant("null"),
        constant("true"),
        constant("[]"),
        constant("{}"),
        constant("\"x\""),
        constant("\".*_proj\""),
        constant("\"(\""),
        constant("1e999"),
        constant("[1, [2, {\"a\": 3}]]"),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        (-1e30..1e30).prop_map(|n: f64| n.to_string()),
    ];
    check(&(any::<Index>(), value), |(at, value)| {
        for file in CONFIGS {
            let text = fs::read_to_string(golden(file)).unwrap();
            let lines: Vec<_> = text.lines().collect();
            let at = at.index(lines.len());
            let Some((key, _)) = lines[at].split_once(": ") else { continue };
            let comma = if lines[at].ends_with(',') { "," } else { "" };
            let line = format!("{key}: {value}{comma}");
            let changed = [&lines[..at], &[line.as_str()], &lines[at + 1..]].concat().join("\n");
            let _ = hf::parse_config(&changed);
            let _ = peft::parse_lora_config(&changed);
            let modules = BTreeSet::from(["model.layers.0.mlp.down_proj", "k_proj"]);
            if let Ok(config) = peft::parse_method_config(&changed, &modules) {
                let again = peft::MethodConfig::from_document(&config.to_document(), &modules);
                assert_eq!(again.map(|again| again.peft_type), Ok(config.peft_type));
            }
        }
    });
}

#[test]
fn a_safetensors_file_cut_and_changed() {
    let whole = fs::read(golden("formats/l4").join(WEIGHTS_FILE)).unwrap();
    check(&(any::<Index>(), any::<u8>(), any::<Index>()), |(at, value, len)| {
        let mut bytes = whole.clone();
        bytes[at.index(3000)] = value;
        let _ = bounded(bytes.len(), || safe::parse(&bytes));
        bytes.truncate(len.index(bytes.len()));
        assert!(bounded(bytes.len(), || safe::parse(&bytes)).is_err());
    });
}

#[test]
fn configs_cut_anywhere() {
    let _turn = turn();
    for file in CONFIGS {
        let text = fs::read_to_string(golden(file)).unwrap();
        let end = text.trim_end().len();
        for len in (0..end).filter(|&len| text.is_char_boundary(len)) {
            bounded(len, || hf::parse_config(&text[..len])).unwrap_err();
            bounded(len, || peft::parse_lora_config(&text[..len])).unwrap_err();
            bounded(len, || peft::parse_method_config(&text[..len], &BTreeSet::new())).unwrap_err();
        }
    }
}

#[test]
fn an_adapter_folder_with_files_cut_or_changed() {
    let _turn = turn();
    let source = golden("formats/l4");
    let (config, weights) = (source.join(CONFIG_FILE), source.join(WEIGHTS_FILE));
    let (config, weights) = (fs::read(config).unwrap(), fs::read(weights).unwrap());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CONFIG_FILE), &config).unwrap();
    let open = |weights: &[u8]| {
        fs::write(dir.path().join(WEIGHTS_FILE), weights).unwrap();
        peft::AdapterFiles::open(dir.path()).and_then(|files| files.lora().map(|_| ()))
    };
    open(&weights).unwrap();
    for len in (0..weights.len()).step_by(97) {
        open(&weights[..len]).unwrap_err();
    }
    for at in (0..3000).step_by(37) {
        let mut bytes = weights.clone();
        bytes[at] ^= 0x11;
        let _ = open(&bytes);
    }
}

#[test]
fn an_adapter_of_mlx_is_read_a_matrix_at_a_time() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let parameters = r#"{"lora_parameters": {"rank": 4, "scale": 2.0}}"#;
    fs::write(dir.path().join(CONFIG_FILE), parameters).unwrap();
    let ones = |shape: [usize; 2]| Array { shape: shape.to_vec(), data: vec![1.0; 4 * 4096] };
    let pair = |layer: usize| {
        let name = |end: &str| format!("model.layers.{layer}.mlp.up_proj.{end}");
        [(name("lora_a"), ones([4096, 4])), (name("lora_b"), ones([4, 4096]))]
    };
    write_safetensors(&dir.path().join(mlx::WEIGHTS_FILE), &(0..32).flat_map(pair).collect());
    // Of 64 matrices of 64 KiB, the one that is turned, and what it is written through.
    let (adapter, counts) = ALLOC.counting(usize::MAX, || MlxAdapter::open(dir.path()).unwrap());
    assert!(counts.live_peak < 256 << 10, "{} bytes held", counts.live_peak);
    assert_eq!(adapter.pairs().map(|pair| pair.a.len() + pair.b.len()).sum::<usize>(), 1 << 20);
}

#[test]
fn a_base_cut_anywhere_is_no_base() {
    let _turn = turn();
    let whole = GgufBase::llama().bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for len in (0..whole.len()).step_by(20_011) {
        fs::write(&path, &whole[..len]).unwrap();
        Base::open(&path).unwrap_err();
    }
}
