//! The reference data under `testdata/golden`; its README says how each file was made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

/// A dense tensor widened to `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Row-major dimensions.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values.
    pub data: Vec<f32>,
}

/// Tensors of one file by name.
pub type Arrays = BTreeMap<String, Array>;

/// The folder `testdata/golden` of this checkout.
#[must_use]
pub fn golden_dir() -> PathBuf {
    repository_root().join("testdata").join("golden")
}

/// All tensors of a safetensors file. Floats are widened exactly; 8-bit integers become their
/// values.
///
/// # Panics
/// When the file cannot be read, or stores a type that the reference data does not use.
#[must_use]
pub fn load_safetensors(path: &Path) -> Arrays {
    let bytes = read(path);
    let file = SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|e| panic!("{}: not a safetensors file: {e}", path.display()));
    file.iter().map(|(name, view)| (name.to_owned(), widen(path, name, &view))).collect()
}

/// The bytes of one tensor as stored, e.g. the codes of a quantized one.
///
/// # Panics
/// When the file cannot be read or has no such tensor.
#[must_use]
pub fn load_raw(path: &Path, name: &str) -> Vec<u8> {
    let bytes = read(path);
    let view = SafeTensors::deserialize(&bytes).and_then(|file| file.tensor(name));
    match view {
        Ok(view) => view.data().to_vec(),
        Err(e) => panic!("{}: tensor {name}: {e}", path.display()),
    }
}

/// A JSON file.
///
/// # Panics
/// When the file cannot be read or is not JSON.
#[must_use]
pub fn load_json(path: &Path) -> Value {
    serde_json::from_slice(&read(path))
        .unwrap_or_else(|e| panic!("{}: not JSON: {e}", path.display()))
}

/// The numbers of a JSON array, nested arrays flattened in order.
///
/// # Panics
/// When the value holds anything but numbers and arrays.
#[must_use]
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Number(number) => vec![number.as_f64().expect("a JSON number is finite")],
        other => panic!("expected numbers, found {other}"),
    }
}

/// The integers of a JSON array, nested arrays flattened in order: token ids, labels.
///
/// # Panics
/// When the value holds anything but integers and arrays.
#[must_use]
pub fn integers(value: &Value) -> Vec<i64> {
    match value {
        Value::Array(items) => items.iter().flat_map(integers).collect(),
        Value::Number(number) if number.is_i64() => vec![number.as_i64().unwrap_or_default()],
        other => panic!("expected integers, found {other}"),
    }
}

/// The root of this checkout.
pub(crate) fn repository_root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).expect("this crate lies at crates/testkit").to_path_buf()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn widen(path: &Path, name: &str, view: &TensorView<'_>) -> Array {
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => words(bytes, f32::from_le_bytes),
        Dtype::F16 => words(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => words(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::U8 => words(bytes, |[b]| f32::from(b)),
        Dtype::I8 => words(bytes, |b| f32::from(i8::from_le_bytes(b))),
        other => panic!("{}: tensor {name} is stored as {other:?}", path.display()),
    };
    Array { shape: view.shape().to_vec(), data }
}

fn words<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&word| decode(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widens_each_stored_type() {
        let path = Path::new("x");
        let f16s: Vec<u8> = [1.5_f32, -2.0].map(f16::from_f32).map(f16::to_le_bytes).concat();
        let bf16s: Vec<u8> = [0.5_f32, -3.0].map(bf16::from_f32).map(bf16::to_le_bytes).concat();
        let view = |dtype, bytes| TensorView::new(dtype, vec![2], bytes).unwrap();
        assert_eq!(widen(path, "a", &view(Dtype::F16, &f16s)).data, [1.5, -2.0]);
        assert_eq!(widen(path, "a", &view(Dtype::BF16, &bf16s)).data, [0.5, -3.0]);
        assert_eq!(widen(path, "a", &view(Dtype::U8, &[7, 255])).data, [7.0, 255.0]);
        assert_eq!(widen(path, "a", &view(Dtype::I8, &[7, 255])).data, [7.0, -1.0]);
    }

    #[test]
    fn reads_the_tiny_models() {
        let tied = load_safetensors(&golden_dir().join("llama_tied/model.safetensors"));
        assert_eq!(tied["model.embed_tokens.weight"].shape, [256, 64]);
        assert_eq!(tied["model.embed_tokens.weight"].data.len(), 256 * 64);
        assert!(!tied.contains_key("lm_head.weight"));
        let untied = load_safetensors(&golden_dir().join("llama_untied/model.safetensors"));
        let head = &untied["lm_head.weight"];
        assert_eq!(head.shape, [256, 64]);
        let exact_bf16 = |v: &f32| bf16::from_f32(*v).to_f32() == *v;
        assert!(head.data.iter().all(exact_bf16), "widening bf16 is exact");
    }

    #[test]
    fn reads_codes_as_stored_and_as_values() {
        let path = golden_dir().join("bnb/bnb.safetensors");
        let codes = load_raw(&path, "q8_signed_codes_nearest");
        let values = &load_safetensors(&path)["q8_signed_codes_nearest"];
        assert_eq!(values.shape, [1000]);
        assert!(codes.iter().zip(&values.data).all(|(&c, &v)| f32::from(c) == v));
    }

    #[test]
    fn reads_numbers_out_of_json() {
        let golden = load_json(&golden_dir().join("llama_tied/golden.json"));
        assert_eq!(integers(&golden["input_ids"]).len(), 40);
        assert!(integers(&golden["labels"]).contains(&-100));
        assert_eq!(numbers(&golden["loss"]).len(), 1);
    }

    #[test]
    #[should_panic(expected = "tensor nothing: ")]
    fn names_a_missing_tensor() {
        let _ = load_raw(&golden_dir().join("bnb/bnb.safetensors"), "nothing");
    }
}
