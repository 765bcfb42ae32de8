//! Bases that bitsandbytes packed.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lowtide_formats::{Base, Error, hf};
use lowtide_quant::formats::NF4;
use lowtide_testkit::golden::{Arrays, load_raw, load_safetensors};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use support::{copy_with, golden};

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const STATE: &str = "model.layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4";

fn open(name: &str) -> Base {
    Base::open(&golden(&format!("formats/{name}"))).unwrap()
}

fn file(name: &str) -> (std::path::PathBuf, Arrays) {
    let path = golden(&format!("formats/{name}/model.safetensors"));
    let arrays = load_safetensors(&path);
    (path, arrays)
}

/// The two codes of each byte, the first in the high half.
fn nf4_levels(path: &Path, name: &str) -> Vec<f32> {
    let level = |code: u8| NF4::LEVELS[usize::from(code)];
    load_raw(path, name).iter().flat_map(|b| [level(b >> 4), level(b & 15)]).collect()
}

/// Names and values of all packed weights, spelled out from the tensors of the file.
fn nf4_by_formula(name: &str) -> BTreeMap<String, Vec<f32>> {
    let (path, arrays) = file(name);
    let mut weights = BTreeMap::new();
    for (state, text) in arrays.keys().filter_map(|name| {
        let weight = name.strip_suffix(".quant_state.bitsandbytes__nf4")?;
        Some((weight.to_owned(), load_raw(&path, name)))
    }) {
        let state_json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let stored = &arrays[&format!("{state}.absmax")].data;
        let scales: Vec<f32> = match state_json.get("nested_offset") {
            None => stored.clone(),
            Some(offset) => {
                let map = &arrays[&format!("{state}.nested_quant_map")].data;
                let magnitudes = &arrays[&format!("{state}.nested_absmax")].data;
                let offset = offset.as_f64().unwrap() as f32;
                let scale =
                    |(i, code): (usize, &f32)| map[*code as usize] * magnitudes[i / 256] + offset;
                stored.iter().enumerate().map(scale).collect()
            }
        };
        let levels = nf4_levels(&path, &state);
        let values = levels.iter().enumerate().map(|(i, level)| level * scales[i / 64]).collect();
        weights.insert(state, values);
    }
    weights
}

/// Asserts that `base` gives exactly `packed`, and the values of the original where not packed;
/// each packed value is within `share` of the largest magnitude of its `group` of values.
fn assert_values(
    base: &Base,
    packed: &BTreeMap<String, Vec<f32>>,
    group: impl Fn(&[usize]) -> usize,
    share: f32,
) {
    let original = open("b64");
    assert_eq!(packed.len(), 7);
    assert!(base.tensor_names().eq(original.tensor_names()));
    for name in base.tensor_names() {
        let (got, want) = (base.tensor(&name).unwrap(), original.tensor(&name).unwrap());
        assert_eq!(got.shape, want.shape, "{name}");
        let (values, want) = (got.to_f32_vec(), want.to_f32_vec());
        let Some(formula) = packed.get(&name) else {
            assert_eq!(values, want, "{name}");
            continue;
        };
        assert_eq!(&values, formula, "{name}");
        let matrix = got.qmat().unwrap();
        let mut row = vec![f32::NAN; matrix.cols()];
        matrix.decode_row(matrix.rows() - 1, &mut row);
        assert_eq!(row, formula[formula.len() - row.len()..], "{name}");
        let group = group(got.shape);
        for (values, want) in values.chunks(group).zip(want.chunks(group)) {
            let largest = want.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            for (x, y) in values.iter().zip(want) {
                assert!((x - y).abs() <= share * largest, "{name}: {y} became {x}");
            }
        }
    }
    base.check_finite().unwrap();
    assert_ne!(base.fingerprint(), original.fingerprint());
}

#[test]
fn nf4_gives_the_values_of_bitsandbytes() {
    let base = open("bnb_nf4");
    assert_values(&base, &nf4_by_formula("bnb_nf4"), |_| 64, 0.1521);
    let q = base.tensor(Q).unwrap();
    assert_eq!((q.format.name(), q.bytes.len()), ("NF4", 64 * 64 / 2), "nothing is copied");
}

#[test]
fn doubly_quantized_nf4_gives_the_values_of_bitsandbytes() {
    // The magnitudes are rounded as well, to some percent.
    assert_values(&open("bnb_nf4dq"), &nf4_by_formula("bnb_nf4dq"), |_| 64, 0.17);
    assert_ne!(open("bnb_nf4").fingerprint(), open("bnb_nf4dq").fingerprint());
}

#[test]
fn int8_gives_the_values_of_bitsandbytes() {
    let (path, arrays) = file("bnb_int8");
    let packed = arrays.keys().filter_map(|name| name.strip_suffix(".SCB")).map(|module| {
        let (name, scales) = (format!("{module}.weight"), &arrays[&format!("{module}.SCB")].data);
        let codes = load_raw(&path, &name);
        let columns = codes.len() / scales.len();
        let values = codes
            .iter()
            .enumerate()
            .map(|(i, code)| f32::from(code.cast_signed()) * scales[i / columns] * (1.0 / 127.0));
        let values = values.collect();
        (name, values)
    });
    // Half a step, and some: bitsandbytes rounds weights to half precision first.
    assert_values(&open("bnb_int8"), &packed.collect(), |shape| shape[1], 0.6 / 127.0);
}

/// A tensor of a file that is put together for a test.
type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// The golden base `name` in `dir`, its tensors changed.
fn changed(name: &str, dir: &Path, change: impl FnOnce(&mut BTreeMap<String, Stored>)) {
    let source = golden(&format!("formats/{name}"));
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, Stored> = file
        .iter()
        .map(|(name, view)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    copy_with(&source, dir, "generation_config.json", "{}");
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn refused(name: &str, change: impl FnOnce(&mut BTreeMap<String, Stored>), words: &str) {
    let dir = tempfile::tempdir().unwrap();
    changed(name, dir.path(), change);
    let error = Base::open(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with(words), "{error}");
}

fn state(text: &str) -> Stored {
    (Dtype::U8, vec![text.len()], text.as_bytes().to_vec())
}

#[test]
fn tensors_that_do_not_belong_together_are_refused_by_name() {
    let gone = |end: &str| {
        let name = format!("{Q}{end}");
        move |tensors: &mut BTreeMap<String, Stored>| drop(tensors.remove(&name).unwrap())
    };
    let absmax = format!("tensor `{Q}.absmax` is missing; expected shape [64]");
    refused("bnb_nf4", gone(".absmax"), &absmax);
    let nested = format!("tensor `{Q}.nested_absmax` is missing; expected shape [1]");
    refused("bnb_nf4dq", gone(".nested_absmax"), &nested);
    let scb = "tensor `model.layers.0.self_attn.q_proj.SCB` is missing; expected shape [64]";
    let module = "model.layers.0.self_attn.q_proj";
    refused("bnb_int8", |t| drop(t.remove(&format!("{module}.SCB"))), scb);
    let stray = format!("tensor `{Q}` has dtype U8; expected a float, or a weight with scales");
    refused("bnb_nf4", gone(".quant_state.bitsandbytes__nf4"), &stray);
    refused(
        "bnb_nf4",
        |t| t.get_mut(&format!("{Q}.quant_map")).unwrap().2[5] ^= 1,
        &format!("tensor `{Q}.quant_map` does not hold the levels of NF4"),
    );
    refused(
        "bnb_int8",
        |t| t.get_mut(&format!("{module}.weight_format")).unwrap().2[0] = 1,
        &format!(
            "tensor `{module}.weight_format` is [1]; expected [0], codes in the order of rows"
        ),
    );
    refused(
        "bnb_nf4",
        |t| drop(t.insert(format!("{Q}.absmax"), (Dtype::U8, vec![64], vec![0; 64]))),
        &format!("tensor `{Q}.absmax` has dtype U8; expected F32"),
    );
    refused(
        "bnb_nf4",
        |t| drop(t.insert(Q.to_owned(), (Dtype::U8, vec![2047, 1], vec![0; 2047]))),
        &format!("tensor `{Q}`: a NF4 matrix [64, 64] takes 2048 bytes, not 2047"),
    );
    refused(
        "bnb_nf4",
        |t| drop(t.insert(format!("{Q}.other"), (Dtype::F32, vec![1], vec![0; 4]))),
        &format!("tensor `{Q}.other` is not part of a `llama` model"),
    );
}

#[test]
fn descriptions_of_other_packings_are_refused_by_name() {
    for (text, words) in [
        ("{", "EOF while parsing an object"),
        (
            r#"{"quant_type": "fp4"}"#,
            "quant_type` is \"fp4\", which is not supported; supported: \"nf4\"",
        ),
        (
            r#"{"quant_type": "nf4", "shape": [64, 64]}"#,
            "blocksize` is missing; expected the length of a block",
        ),
        (
            r#"{"quant_type": "nf4", "blocksize": 128, "shape": [64, 64]}"#,
            "blocksize` is 128, which is not supported; supported: 64",
        ),
        (
            r#"{"quant_type": "nf4", "blocksize": 64, "shape": [64]}"#,
            "shape` is missing; expected a list of rows and columns",
        ),
        (
            r#"{"quant_type": "nf4", "blocksize": 64, "shape": [18446744073709551615, 64]}"#,
            "shape` is missing; expected a list of rows and columns",
        ),
        (
            r#"{"quant_type": "nf4", "blocksize": 64, "shape": [128, 32]}"#,
            "a row of 32 values is not a whole number of NF4 blocks of 64",
        ),
        (
            r#"{"quant_type": "nf4", "blocksize": 64, "shape": [32, 128]}"#,
            "q_proj.weight` has shape [32, 128]; expected [64, 64]",
        ),
    ] {
        refused("bnb_nf4", |t| drop(t.insert(STATE.to_owned(), state(text))), words);
    }
}

#[test]
fn methods_that_are_not_read_are_named() {
    let config = fs::read_to_string(golden("formats/bnb_nf4/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let mut error = |quantization: serde_json::Value| {
        config["quantization_config"] = quantization;
        hf::parse_config(&config.to_string()).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(error(json!({"load_in_8bit": true})), Ok(()), "early files have no method");
    for (quantization, words) in [
        (
            json!({"quant_method": "gptq", "bits": 4}),
            "`quantization_config.quant_method` is \"gptq\", which is not supported; \
             supported: \"bitsandbytes\"",
        ),
        (
            json!({"bits": 4}),
            "`quantization_config.quant_method` is missing; expected the name of a quantization \
             method",
        ),
        (
            json!({"quant_method": "bitsandbytes"}),
            "`quantization_config.load_in_4bit` is false, which is not supported; supported: true, \
             or load_in_8bit",
        ),
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "`quantization_config.bnb_4bit_quant_type` is \"fp4\", which is not supported; \
             supported: \"nf4\"",
        ),
        (
            json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_quant_storage": "bfloat16"}),
            "`quantization_config.bnb_4bit_quant_storage` is \"bfloat16\", which is not supported; \
             supported: \"uint8\"",
        ),
    ] {
        assert_eq!(error(quantization), Err(words.to_owned()));
    }
}

#[test]
fn a_config_that_says_nothing_does_not_open_packed_weights() {
    let dir = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(golden("formats/b64/config.json")).unwrap();
    copy_with(&golden("formats/bnb_int8"), dir.path(), "config.json", &config);
    let error = Base::open(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("8, which is not supported; supported: F32, F16, BF16"), "{error}");
}

#[test]
fn scales_that_are_not_finite_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let nan = f32::NAN.to_le_bytes();
    changed("bnb_nf4", dir.path(), |t| {
        t.get_mut(&format!("{Q}.absmax")).unwrap().2[20..24].copy_from_slice(&nan);
    });
    let base = Base::open(dir.path()).unwrap();
    let error = base.check_finite().unwrap_err();
    assert!(matches!(error, Error::Tensor { .. }));
    let words = format!("tensor `{Q}` holds NaN at index 320; expected finite values");
    assert!(error.to_string().ends_with(&words), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_description_is_read_or_refused(
        text in "[{}\\[\\]\":,0-9a-z_]{1,60}",
        cut in 0usize..170,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let sound = load_raw(&golden("formats/bnb_nf4dq/model.safetensors"), STATE);
        let mut bytes = sound[..cut.min(sound.len())].to_vec();
        bytes.extend(text.as_bytes());
        let length = bytes.len();
        changed("bnb_nf4dq", dir.path(), |t| {
            t.insert(STATE.to_owned(), (Dtype::U8, vec![length], bytes));
        });
        if let Ok(base) = Base::open(dir.path()) {
            let q = base.tensor(Q).map(|q| (q.shape.to_vec(), q.to_f32_vec().len()));
            prop_assert_eq!(q, Some((vec![64, 64], 64 * 64)));
        }
    }
}
