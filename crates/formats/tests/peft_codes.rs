//! Adapters in eight and four bits as files: the bytes that are written down, and any others.

use std::fs;

use lowtide_formats::peft::{
    AdapterError, AdapterFiles, AdapterTensor, CODES_FILE, CONFIG_FILE, Coded, CodedContents,
    WEIGHTS_FILE, coded_bytes, round_to_codes, write,
};
use lowtide_formats::safe::{PermutedRows, Values, parse_with_codes};
use lowtide_formats::{Error, rows};
use lowtide_quant::LineCodes::{self, Int4, Int8};
use lowtide_testkit::rng::Rng;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const Q: &str = "model.layers.0.self_attn.q_proj";
const HEADS: PermutedRows = PermutedRows { heads: 2, head_dim: 40 };

fn config() -> Map<String, Value> {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4}).as_object().unwrap().clone()
}

fn tensor<'a>(parameter: &str, shape: &[usize], values: Values<'a>) -> AdapterTensor<'a> {
    let (module, parameter) = (Q.to_owned(), parameter.to_owned());
    AdapterTensor { module, parameter, shape: shape.to_vec(), values, permuted: None }
}

/// What a matrix in HF order is after coding, by the words of the description.
fn by_hand(codes: LineCodes, [rows, columns]: [usize; 2], values: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len()];
    let (lines, line) = (rows.min(columns), rows.max(columns));
    for index in 0..lines {
        let place =
            |at: usize| if rows <= columns { index * columns + at } else { at * columns + index };
        for start in (0..line).step_by(codes.group().min(line)) {
            let group = start..line.min(start.saturating_add(codes.group()));
            let scale = codes.scale(group.clone().map(|at| values[place(at)]));
            group.for_each(|at| out[place(at)] = codes.round(values[place(at)], scale));
        }
    }
    out
}

#[test]
fn numbers_are_rounded_where_they_are() {
    let mut rng = Rng::new(2);
    for (shape, permuted) in
        [([2, 70], None), ([80, 2], Some(HEADS)), ([80, 200], Some(HEADS)), ([1, 7], None)]
    {
        let values = rng.uniform_vec(shape[0] * shape[1], -1.0, 1.0);
        for (name, codes) in LineCodes::NAMES {
            let mut own = values.clone();
            round_to_codes(codes, &mut own, shape, permuted);
            let coded = Coded::new(codes, &values, shape, permuted);
            assert_eq!(own, coded.rounded().collect::<Vec<_>>(), "{name} {shape:?}");
        }
    }
    round_to_codes(Int4, &mut [], [0, 3], None);
}

#[test]
fn what_is_read_is_what_the_codes_stand_for() {
    let (dir, mut rng) = (tempfile::tempdir().unwrap(), Rng::new(1));
    let (a, b) = (rng.uniform_vec(2 * 70, -1.0, 1.0), rng.uniform_vec(80 * 2, -0.1, 0.1));
    let (odd, vector, plain) =
        (rng.uniform_vec(7, -1.0, 1.0), rng.uniform_vec(6, -1.0, 1.0), [1.5; 3]);
    for (name, codes) in LineCodes::NAMES {
        let coded = [
            Coded::new(codes, &a, [2, 70], None),
            Coded::new(codes, &b, [80, 2], Some(HEADS)),
            Coded::new(codes, &odd, [1, 7], None),
            Coded::new(codes, &vector, [6, 1], None),
        ];
        let tensors = [
            tensor("lora_A.weight", &[2, 70], Values::Codes(&coded[0])),
            tensor("lora_B.weight", &[80, 2], Values::Codes(&coded[1])),
            tensor("odd", &[1, 7], Values::Codes(&coded[2])),
            tensor("vera_lambda_b", &[6], Values::Codes(&coded[3])),
            tensor("lora_magnitude_vector", &[3], Values::F32(&plain)),
        ];
        fs::write(dir.path().join(WEIGHTS_FILE), "of an earlier run").unwrap();
        write(dir.path(), &config(), &tensors).unwrap();
        assert!(!dir.path().join(WEIGHTS_FILE).exists());
        let bytes = fs::metadata(dir.path().join(CODES_FILE)).unwrap().len();
        let parameters = tensors.iter().map(|tensor| {
            let coded = matches!(tensor.values, Values::Codes(_));
            (Q, tensor.parameter.as_str(), tensor.shape.clone(), coded)
        });
        assert_eq!(coded_bytes(parameters, codes), bytes, "{name}");

        let files = AdapterFiles::open(dir.path()).unwrap();
        assert_eq!((files.codes(), files.modules()), (Some(codes), 1));
        assert_eq!(files.config()["adapter_type"], name);
        assert_eq!(files.config_of_floats(), config());
        let read = |parameter: &str, shape: &[usize]| {
            let tensor = files.tensor(Q, parameter).unwrap();
            assert_eq!(tensor.shape, shape, "{name} {parameter}");
            assert!(tensor.qmat().is_err() || tensor.format.name() == "F32");
            tensor.to_f32_vec()
        };
        let mut hf = b.clone();
        rows::unpermute(&b, &mut hf, HEADS.heads, HEADS.head_dim);
        assert_eq!(read("lora_A.weight", &[2, 70]), by_hand(codes, [2, 70], &a), "{name}");
        let read_b = read("lora_B.weight", &[80, 2]);
        assert_eq!(read_b, by_hand(codes, [80, 2], &hf), "{name}");
        assert_eq!(read("odd", &[1, 7]), by_hand(codes, [1, 7], &odd), "{name}");
        assert_eq!(read("vera_lambda_b", &[6]), by_hand(codes, [6, 1], &vector), "{name}");
        assert_eq!(read("lora_magnitude_vector", &[3]), plain, "{name}");
        // Where the trained numbers lie, they become the same.
        let mut rounded = vec![f32::NAN; 160];
        rows::permute(&read_b, &mut rounded, HEADS.heads, HEADS.head_dim);
        assert_eq!(coded[1].rounded().collect::<Vec<_>>(), rounded, "{name}");
        // Written as floats, they are read back as the same.
        let floats = dir.path().join("floats");
        write(&floats, &config(), &[tensor("b", &[80, 2], Values::Decoded(&coded[1]))]).unwrap();
        let floats = AdapterFiles::open(&floats).unwrap();
        assert_eq!(floats.tensor(Q, "b").unwrap().to_f32_vec(), read_b, "{name}");
        assert_eq!(floats.codes(), None);
        let stored = files.tensor(Q, "lora_B.weight").unwrap();
        write(
            &dir.path().join("stored"),
            &config(),
            &[tensor("b", &[80, 2], Values::Stored(stored))],
        )
        .unwrap();
        let again = AdapterFiles::open(&dir.path().join("stored")).unwrap();
        assert_eq!(again.tensor(Q, "b").unwrap().to_f32_vec(), read_b, "{name}");
    }
}

#[test]
fn bytes_lie_as_they_are_described() {
    let dir = tempfile::tempdir().unwrap();
    // Columns are lines: scales 2 and 1.
    let values = [254.0, 127.0, -3.1, 0.4, 5.0, -0.6];
    let coded = Coded::new(Int8, &values, [3, 2], None);
    write(dir.path(), &config(), &[tensor("lora_B.weight", &[3, 2], Values::Codes(&coded))])
        .unwrap();
    let bytes = fs::read(dir.path().join(CODES_FILE)).unwrap();
    let header = std::str::from_utf8(&bytes[8..bytes.len() - 10]).unwrap();
    let expected = json!({
        "__metadata__": {"codes": "int8"},
        "scales": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        format!("{Q}.lora_B.weight.T"): {"dtype": "I8", "shape": [2, 3], "data_offsets": [4, 10]},
    });
    assert_eq!(serde_json::from_str::<Value>(header).unwrap(), expected);
    let data = [0x00, 0x40, 0x80, 0x3f, 127, -2_i8 as u8, 2, 127, 0, 255];
    assert_eq!(bytes[bytes.len() - 10..], data);
}

/// A file of codes with this header and that many bytes of data.
fn file(metadata: &Value, tensors: &Value, data: usize) -> Vec<u8> {
    let mut header = tensors.as_object().unwrap().clone();
    header.insert("__metadata__".into(), metadata.clone());
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + data, 0x7f);
    bytes
}

fn opened(bytes: &[u8]) -> Result<CodedContents, AdapterError> {
    CodedContents::new(parse_with_codes(bytes).unwrap())
}

#[test]
fn files_of_something_else_are_refused_by_name() {
    let scales =
        |len: usize| json!({"dtype": "BF16", "shape": [len], "data_offsets": [0, 2 * len]});
    let codes = |dtype: &str, shape: &[usize], at: usize| {
        let len: usize = shape.iter().product();
        json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + len]})
    };
    let int8 = json!({"codes": "int8"});
    let refused = |metadata: &Value, tensors: Value, data| {
        opened(&file(metadata, &tensors, data)).unwrap_err().to_string()
    };
    let good = json!({"scales": scales(2), "x.a": codes("I8", &[2, 3], 4)});
    assert!(opened(&file(&int8, &good, 10)).is_ok());
    assert_eq!(
        refused(&json!({"format": "pt"}), good.clone(), 10),
        "the metadata say `codes` nothing; expected int8 or int4"
    );
    assert_eq!(
        refused(&json!({"codes": "int4"}), good, 10),
        "tensor `x.a` has dtype I8; expected codes of int4, or F32"
    );
    let few = json!({"scales": scales(1), "x.a": codes("I8", &[2, 3], 2)});
    assert_eq!(refused(&int8, few, 8), "there are 1 scales; the codes need 2");
    let none = json!({"x.a": codes("I8", &[2, 3], 0)});
    assert_eq!(refused(&int8, none, 6), "there are 0 scales; the codes need 2");
    let deep = json!({"scales": scales(2), "x.a": codes("I8", &[2, 1, 3], 4)});
    assert_eq!(
        refused(&int8, deep, 10),
        "tensor `x.a` has shape [2, 1, 3]; expected [lines, codes of a line]"
    );
    let twice = json!({
        "scales": scales(2), "x.a": codes("I8", &[1, 3], 4), "x.a.T": codes("I8", &[1, 3], 7),
    });
    assert_eq!(refused(&int8, twice, 10), "tensor `base_model.model.x.a` is there twice");
    let flat = json!({"scales": codes("I8", &[2], 0), "x.a": codes("I8", &[2, 3], 2)});
    assert_eq!(refused(&int8, flat, 8), "tensor `scales` has shape [2]; expected [scales] of BF16");
}

#[test]
fn damaged_folders_are_refused_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let values = [1.0; 6];
    let coded = Coded::new(Int4, &values, [1, 6], None);
    write(dir.path(), &config(), &[tensor("lora_A.weight", &[1, 6], Values::Codes(&coded))])
        .unwrap();
    let path = dir.path().join(CODES_FILE);
    let mut bytes = fs::read(&path).unwrap();
    // Settings that say other codes than the file does.
    let settings = dir.path().join(CONFIG_FILE);
    let sound = fs::read_to_string(&settings).unwrap();
    for other in ["int8", "ternary"] {
        fs::write(&settings, sound.replace("int4", other)).unwrap();
        let error = AdapterFiles::open(dir.path()).unwrap_err();
        assert!(matches!(&error, Error::Document { path, .. } if *path == settings), "{error}");
        let words = "expected int4, as adapter_codes.safetensors says";
        let error = error.to_string();
        assert!(error.contains("`adapter_type` is") && error.ends_with(words), "{error}");
    }
    fs::write(&settings, sound).unwrap();
    // A file of the other kind that cannot be removed: nothing is written.
    fs::create_dir(dir.path().join(WEIGHTS_FILE)).unwrap();
    let again = [tensor("lora_A.weight", &[1, 6], Values::Codes(&coded))];
    let error = write(dir.path(), &config(), &again).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: cannot remove"), "{error}");
    AdapterFiles::open(dir.path()).unwrap();
    // A scale that is no number.
    let end = bytes.len();
    bytes[end - 5..end - 3].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&path, &bytes).unwrap();
    let error = AdapterFiles::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Adapter { path: at, .. } if *at == path), "{error}");
    assert!(error.to_string().contains("holds NaN at index 0"), "{error}");
    fs::write(&path, &bytes[..end - 1]).unwrap();
    assert!(matches!(AdapterFiles::open(dir.path()), Err(Error::Safe { .. })));
    fs::remove_file(&path).unwrap();
    let error = AdapterFiles::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_codes.safetensors: cannot open"), "{error}");
    // Numbers that cannot be coded are not written.
    let bad = [f32::NAN, 1.0];
    let coded = Coded::new(Int8, &bad, [1, 2], None);
    let target = dir.path().join("bad");
    let error =
        write(&target, &config(), &[tensor("x", &[1, 2], Values::Codes(&coded))]).unwrap_err();
    assert!(error.to_string().contains("holds NaN at index 0"), "{error}");
    assert!(!target.exists());
}

/// Shapes and kinds of tensors.
fn tensors() -> impl Strategy<Value = Vec<(Vec<usize>, u8)>> {
    let shape = prop::collection::vec(1..9_usize, 1..4);
    prop::collection::vec((shape, 0..4_u8), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the header and the bytes say, they are refused or decoded, each tensor to as many
    /// numbers as its shape has.
    #[test]
    fn any_bytes_are_refused_or_decoded(
        int8 in any::<bool>(),
        shapes in tensors(),
        scales in 0..20_usize,
        data in prop::collection::vec(any::<u8>(), 0..400),
        cut in any::<bool>(),
    ) {
        let (mut tensors, mut at) = (Map::new(), 0);
        let mut add = |name: String, dtype: &str, width: usize, shape: &[usize]| {
            let end = at + width * shape.iter().product::<usize>();
            let offsets = [at, end];
            tensors.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            at = end;
        };
        if scales > 0 {
            add("scales".into(), "BF16", 2, &[scales]);
        }
        for (i, (shape, kind)) in shapes.iter().enumerate() {
            let (dtype, width) = [("I8", 1), ("U8", 1), ("F32", 4), ("I8", 1)][usize::from(*kind)];
            let end = if *kind == 3 { ".T" } else { "" };
            add(format!("x.{i}{end}"), dtype, width, shape);
        }
        let said = json!({"codes": if int8 { "int8" } else { "int4" }});
        let mut bytes = file(&said, &Value::Object(tensors), at);
        let start = bytes.len() - at;
        bytes[start..].iter_mut().zip(&data).for_each(|(byte, other)| *byte = *other);
        if cut {
            bytes.truncate(bytes.len() - data.len().min(bytes.len()));
        }
        let Ok(contents) = parse_with_codes(&bytes) else { return Ok(()) };
        if let Ok(contents) = CodedContents::new(contents) {
            for name in contents.tensor_names() {
                let tensor = contents.tensor(&bytes, name).unwrap();
                prop_assert_eq!(tensor.to_f32_vec().len(), tensor.len());
            }
        }
    }
}
