//! Weights that bitsandbytes packed: NF4, with or without double quantization, and int8.
//!
//! The codes of `X.weight` lie in the tensor of that name, its scales in others:
//!
//! - NF4: codes U8 `[out · in / 2, 1]`; scales F32 `X.weight.absmax`, one for 64 values. The JSON
//!   in `X.weight.quant_state.bitsandbytes__nf4` says so, and gives the shape.
//! - NF4, doubly quantized: `X.weight.absmax` is U8, with F32 `X.weight.nested_absmax`, one for 256
//!   of them, F32 `X.weight.nested_quant_map` `[256]`, and `nested_offset` in the JSON.
//! - int8: codes I8 `[out, in]`; scales F32 `X.SCB` `[out]`. `X.weight_format` is 0 if it is there.
//!
//! Nothing is copied. A matrix whose rows are not whole blocks of 64 is refused, as blocks would
//! cross rows. Compute types and outlier thresholds of the config concern activations of a run in
//! bitsandbytes; here weights are unpacked to `f32`.

use lowtide_quant::formats::{INT8, NF4};
use lowtide_quant::{Apart, BlockFormat, Codes, Nested, QMat, Scales};
use safetensors::Dtype;

use super::Weights;
use crate::document::shown;
use crate::json::{Object, parse_object, required};
use crate::safe::RawTensor;
use crate::{DocumentError, Error, Tensor, TensorError};

/// How a config says that its weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Each tensor by itself.
    None,
    /// Some with scales in other tensors.
    Bitsandbytes,
}

const METHOD: &str = "bitsandbytes";
const STATE: &str = ".quant_state.bitsandbytes__nf4";
/// Longest description of a tensor that is parsed; they have some 170 bytes.
const STATE_BYTES_MAX: usize = 4096;

/// Reads `quantization_config`.
pub(super) fn packing(config: Object<'_>) -> Result<Packing, DocumentError> {
    let Some(config) = config.object("quantization_config")? else { return Ok(Packing::None) };
    let flag = |key| Ok(config.bool(key)?.unwrap_or(false));
    let (four, eight) = (flag("load_in_4bit")?, flag("load_in_8bit")?);
    // Early versions of transformers wrote no method.
    let method = config.str("quant_method")?.or((four || eight).then_some(METHOD));
    let path = config.path("quant_method");
    let method = required(method, &path, "the name of a quantization method")?;
    if method != METHOD {
        return Err(DocumentError::unsupported(path, shown(method), shown(METHOD)));
    }
    if !four && !eight {
        let supported = "true, or load_in_8bit";
        return Err(DocumentError::unsupported(config.path("load_in_4bit"), false, supported));
    }
    if four {
        for (key, default, supported) in
            [("bnb_4bit_quant_type", "fp4", "nf4"), ("bnb_4bit_quant_storage", "uint8", "uint8")]
        {
            let value = config.str(key)?.unwrap_or(default);
            if value != supported {
                let (value, supported) = (shown(value), shown(supported));
                return Err(DocumentError::unsupported(config.path(key), value, supported));
            }
        }
    }
    Ok(Packing::Bitsandbytes)
}

/// A weight whose scales lie in other tensors, checked.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    shape: Vec<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Nf4,
    /// With the offset of its scales.
    Nf4Nested(f32),
    Int8,
}

impl Packed {
    /// The weight of that name, if it is packed and can be unpacked.
    pub(super) fn find(
        weights: &Weights,
        name: &str,
        of_file: impl Fn(DocumentError) -> Error,
        of_tensor: impl Fn(TensorError) -> Error,
    ) -> Result<Option<Self>, Error> {
        let Some(raw) = weights.raw(name) else { return Ok(None) };
        let state = format!("{name}{STATE}");
        let packed = match (raw.dtype, weights.raw(&state)) {
            (Dtype::U8, Some(bytes)) => read_state(&state, bytes).map_err(of_file)?,
            (Dtype::I8, _) if name.ends_with(".weight") => {
                Self { shape: raw.shape.to_vec(), kind: Kind::Int8 }
            }
            _ => return Ok(None),
        };
        packed.check(weights, name).map_err(of_tensor)?;
        Ok(Some(packed))
    }

    /// The other tensors that belong to it, some of which may not be there.
    pub(super) fn companions(&self, name: &str) -> impl Iterator<Item = String> {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let (parent, ends): (_, &[&str]) = match self.kind {
            Kind::Nf4 => (name, &[".absmax", ".quant_map", STATE]),
            Kind::Nf4Nested(_) => {
                (name, &[".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE])
            }
            Kind::Int8 => (module, &[".SCB", ".weight_format"]),
        };
        ends.iter().map(move |end| format!("{parent}{end}"))
    }

    /// The weight with its scales.
    pub(super) fn tensor<'a>(&'a self, weights: &'a Weights, name: &str) -> Option<Tensor<'a>> {
        let apart = self.apart(weights, name).ok()?;
        let bytes = weights.raw(name)?.bytes;
        Some(Tensor {
            shape: &self.shape,
            format: apart.format,
            bytes,
            apart: Some(apart),
            lines: None,
        })
    }

    fn apart<'a>(&self, weights: &'a Weights, name: &str) -> Result<Apart<'a>, TensorError> {
        let blocks = self.shape.iter().product::<usize>() / NF4.block_len();
        let part = |end: &str, dtype, length| companion(weights, name, end, dtype, vec![length]);
        let format: &dyn Codes = if matches!(self.kind, Kind::Int8) { &INT8 } else { &NF4 };
        let scales = match self.kind {
            Kind::Int8 => {
                let module = name.strip_suffix(".weight").unwrap_or(name);
                let rows = self.shape.first().copied().unwrap_or_default();
                let bytes = companion(weights, module, ".SCB", Dtype::F32, vec![rows])?;
                Scales::Rows(bytes.as_chunks().0)
            }
            Kind::Nf4 => Scales::Blocks(part(".absmax", Dtype::F32, blocks)?.as_chunks().0),
            Kind::Nf4Nested(offset) => {
                let magnitudes = blocks.div_ceil(Nested::BLOCK);
                let levels = part(".nested_quant_map", Dtype::F32, 256)?.as_chunks().0;
                Scales::Nested(Nested {
                    codes: part(".absmax", Dtype::U8, blocks)?,
                    levels: levels.try_into().expect("a length that was checked"),
                    magnitudes: part(".nested_absmax", Dtype::F32, magnitudes)?.as_chunks().0,
                    offset,
                })
            }
        };
        Ok(Apart { format, scales })
    }

    fn check(&self, weights: &Weights, name: &str) -> Result<(), TensorError> {
        let &[rows, cols] = &self.shape[..] else {
            return Err(TensorError::NotAMatrix { shape: self.shape.clone() });
        };
        let Apart { format, scales } = self.apart(weights, name)?;
        let codes = weights.raw(name).map_or(&[][..], |raw| raw.bytes);
        QMat::apart(format, rows, cols, codes, scales)
            .map_err(|reason| TensorError::Packed { name: name.to_owned(), reason })?;
        match self.kind {
            Kind::Int8 => self.check_int8_layout(weights, name),
            Kind::Nf4 | Kind::Nf4Nested(_) => {
                let map = companion(weights, name, ".quant_map", Dtype::F32, vec![16])?;
                let levels = map.as_chunks().0.iter().map(|level| f32::from_le_bytes(*level));
                let same = levels.eq(NF4::LEVELS);
                let name = format!("{name}.quant_map");
                same.then_some(()).ok_or(TensorError::Levels { name })
            }
        }
    }

    /// Codes lie row by row; the layouts that other versions had for some devices have numbers.
    fn check_int8_layout(&self, weights: &Weights, name: &str) -> Result<(), TensorError> {
        let layout = format!("{name}_format");
        match weights.raw(&layout) {
            Some(RawTensor { bytes, .. }) if bytes != [0] => {
                let found = format!("{:?}", &bytes[..bytes.len().min(4)]);
                Err(TensorError::Layout { name: layout, found })
            }
            _ => Ok(()),
        }
    }
}

/// The bytes of `{parent}{end}`, which must have that type and shape.
fn companion<'a>(
    weights: &'a Weights,
    parent: &str,
    end: &str,
    dtype: Dtype,
    expected: Vec<usize>,
) -> Result<&'a [u8], TensorError> {
    let name = format!("{parent}{end}");
    let Some(raw) = weights.raw(&name) else {
        return Err(TensorError::Missing { name, expected });
    };
    if raw.dtype != dtype {
        let expected = if dtype == Dtype::U8 { "U8" } else { "F32" };
        return Err(TensorError::Dtype { name, expected, found: format!("{:?}", raw.dtype) });
    }
    if raw.shape != expected {
        return Err(TensorError::Shape { name, expected, found: raw.shape.to_vec() });
    }
    Ok(raw.bytes)
}

/// Reads the JSON that describes an NF4 weight.
fn read_state(name: &str, raw: RawTensor<'_>) -> Result<Packed, DocumentError> {
    let of_tensor = |key: &str| format!("{name}: {key}");
    if raw.bytes.len() > STATE_BYTES_MAX {
        let expected = format!("at most {STATE_BYTES_MAX} bytes");
        return Err(DocumentError::out_of_range(name, raw.bytes.len(), expected));
    }
    let text = String::from_utf8_lossy(raw.bytes);
    let state = parse_object(&text)?;
    let state = Object::root(&state);
    let kind = required(state.str("quant_type")?, &of_tensor("quant_type"), "the name of a type")?;
    if kind != "nf4" {
        return Err(DocumentError::unsupported(of_tensor("quant_type"), shown(kind), "\"nf4\""));
    }
    for (key, supported) in [("blocksize", NF4.block_len()), ("nested_blocksize", Nested::BLOCK)] {
        let nested = key != "blocksize";
        match state.usize(key)? {
            Some(found) if found != supported => {
                return Err(DocumentError::unsupported(
                    of_tensor(key),
                    found,
                    supported.to_string(),
                ));
            }
            None if !nested => {
                return Err(DocumentError::missing(of_tensor(key), "the length of a block"));
            }
            _ => {}
        }
    }
    let shape = state.get("shape").and_then(|shape| {
        let axes = shape.as_array().filter(|axes| axes.len() == 2)?;
        let axis = |axis: &serde_json::Value| usize::try_from(axis.as_u64()?).ok();
        let axes: Option<Vec<usize>> = axes.iter().map(axis).collect();
        axes.filter(|axes| axes[0].checked_mul(axes[1]).is_some_and(|len| len > 0))
    });
    let shape = required(shape, &of_tensor("shape"), "a list of rows and columns")?;
    let kind = match state.f64("nested_offset")? {
        Some(offset) => Kind::Nf4Nested(offset as f32),
        None => Kind::Nf4,
    };
    Ok(Packed { shape, kind })
}
