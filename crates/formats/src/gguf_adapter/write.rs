//! Writing GGUF adapters.

use std::io;
use std::path::Path;

use lowtide_quant::formats::F32;

use super::{ALPHA, ARCHITECTURE, DOWN, KIND, METHOD, UP, WEIGHT, permuted_rows};
use crate::gguf::Writer;
use crate::peft::{AdapterError, LORA_DOWN, LORA_UP, LoraPair, tensor_name};
use crate::safe::PermutedRows;
use crate::{Error, Hyperparameters, Tensor, atomic, gguf_architecture, gguf_tensor_name, rows};

/// What is said of an adapter beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings<'a> {
    /// Numerator of the scale; each pair is scaled by alpha over its rank.
    pub alpha: f32,
    /// The alpha of each pair, where these differ; empty where all have `alpha`. Since the file has
    /// one, the `B` of a pair is written times what its own is of that.
    pub alphas: &'a [f64],
    /// Its name, for people.
    pub name: Option<&'a str>,
    /// The name of its base, for people.
    pub base_name: Option<&'a str>,
}

/// Writes an adapter of a base of those `hyper` as a GGUF file of F32, whole or not at all.
///
/// `pairs` have their rows in HF order, as PEFT folders do; where GGUF keeps q and k in another
/// order they are written in that. Tensors are streamed; nothing of their size is allocated, but
/// for one in codes at a time.
///
/// # Errors
/// [`Error::Adapter`], naming the tensor as PEFT does: there is no pair, one is of a module that
/// GGUF has no name for, its shapes do not fit each other or the heads, or a value is NaN or
/// infinite; [`Error::Io`]. Then what was at `path` is as it was.
///
/// # Panics
/// If a module is there twice, the family has no name in GGUF, alpha is no finite positive number,
/// or there are alphas for some pairs only.
pub fn write(
    path: &Path,
    hyper: &Hyperparameters,
    settings: &Settings<'_>,
    pairs: &[LoraPair<'_>],
) -> Result<(), Error> {
    let alpha = settings.alpha;
    assert!(alpha > 0.0 && alpha.is_finite(), "alpha is {alpha}");
    let own = settings.alphas;
    assert!(own.is_empty() || own.len() == pairs.len(), "{} alphas", own.len());
    let of_file = |reason| Error::Adapter { path: path.to_path_buf(), reason };
    let mut writer = head(hyper, settings);
    let mut parts = Vec::with_capacity(2 * pairs.len());
    for (at, pair) in pairs.iter().enumerate() {
        let factor = own.get(at).map_or(1.0, |own| (own / f64::from(alpha)) as f32);
        let (stem, order) = check(hyper, pair, factor).map_err(of_file)?;
        for (end, tensor, order, factor) in [(DOWN, pair.a, None, 1.0), (UP, pair.b, order, factor)]
        {
            writer.tensor(&format!("{stem}{end}"), tensor.shape, &F32);
            parts.push((tensor, order, factor));
        }
    }
    if parts.is_empty() {
        return Err(of_file(AdapterError::Empty));
    }
    atomic::write_file(path, |out| {
        let mut data = writer.start(out)?;
        for (tensor, order, factor) in &parts {
            let mut put = |piece: &[u8]| match *factor {
                1.0 => data.write(piece),
                factor => times(factor, piece, &mut |piece| data.write(piece)),
            };
            let Some(PermutedRows { heads, head_dim }) = *order else {
                tensor.write_f32(std::iter::once(0..tensor.len()), &mut put)?;
                continue;
            };
            let cols = tensor.shape[1];
            let ranges = (0..heads * head_dim).map(|row| {
                let from = rows::gguf_row_to_hf_row(row, heads, head_dim) * cols;
                from..from + cols
            });
            tensor.write_f32(ranges, &mut put)?;
        }
        data.finish().map(|_| ())
    })
}

/// Hands on floats, little-endian, times a factor.
fn times(
    factor: f32,
    piece: &[u8],
    put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut room = [[0; size_of::<f32>()]; 256];
    let (values, _) = piece.as_chunks();
    for values in values.chunks(room.len()) {
        let out = &mut room[..values.len()];
        for (out, value) in out.iter_mut().zip(values) {
            *out = (f32::from_le_bytes(*value) * factor).to_le_bytes();
        }
        put(out.as_flattened())?;
    }
    Ok(())
}

fn head(hyper: &Hyperparameters, settings: &Settings<'_>) -> Writer {
    let architecture = gguf_architecture(&hyper.architecture).expect("a family with GGUF files");
    let mut writer = Writer::new();
    writer.metadata(ARCHITECTURE, architecture.into());
    writer.metadata(KIND, "adapter".into());
    writer.metadata(METHOD, "lora".into());
    if let Some(name) = settings.name {
        writer.metadata("general.name", name.into());
    }
    if let Some(name) = settings.base_name {
        writer.metadata("general.base_model.count", 1_u32.into());
        writer.metadata("general.base_model.0.name", name.into());
    }
    writer.metadata(ALPHA, settings.alpha.into());
    writer
}

/// The GGUF name of the weights that a pair adapts, and the order of the rows of its `B` there,
/// which is written times `factor`.
fn check(
    hyper: &Hyperparameters,
    pair: &LoraPair<'_>,
    factor: f32,
) -> Result<(String, Option<PermutedRows>), AdapterError> {
    let (a_name, b_name) = (tensor_name(pair.module, LORA_DOWN), tensor_name(pair.module, LORA_UP));
    let stem = gguf_tensor_name(&hyper.architecture, &format!("{}{WEIGHT}", pair.module));
    let Some(stem) = stem else {
        let (name, method) = (a_name, "LoRA".to_owned());
        let expected = "a linear module of the base, which GGUF has a name for";
        return Err(AdapterError::Name { name, method, expected });
    };
    let wrong = |name: &str, tensor: Tensor<'_>, expected: String| AdapterError::Shape {
        name: name.to_owned(),
        shape: tensor.shape.to_vec(),
        expected,
    };
    let &[rank, _] = pair.a.shape else {
        return Err(wrong(&a_name, pair.a, "[rank, inputs]".to_owned()));
    };
    let order = permuted_rows(hyper, pair.module);
    let fits = |outputs: usize| order.is_none_or(|o| o.heads * o.head_dim == outputs);
    if !matches!(pair.b.shape, &[outputs, columns] if columns == rank && fits(outputs)) {
        let outputs =
            order.map_or_else(|| "outputs".to_owned(), |o| (o.heads * o.head_dim).to_string());
        return Err(wrong(&b_name, pair.b, format!("[{outputs}, {rank}]")));
    }
    for (name, tensor, factor) in [(a_name, pair.a, 1.0), (b_name, pair.b, factor)] {
        if let Some((index, value)) = tensor.first_non_finite_times(factor) {
            return Err(AdapterError::NotFinite { name, index, value: value.to_string() });
        }
    }
    Ok((stem, order))
}
