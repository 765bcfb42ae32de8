//! Adapters in eight or four bits: Lowtide's own file beside PEFT's settings.
//!
//! PEFT knows no such file. `adapter_type` in the settings says `int8` or `int4`, and the tensors
//! lie in [`CODES_FILE`] instead of PEFT's, so that PEFT finds no weights instead of wrong ones. It
//! is a safetensors file whose metadata says `codes`: `int8` or `int4`. Names are PEFT's without
//! `base_model.model.`.
//!
//! | tensor | type | shape |
//! |---|---|---|
//! | `X`, `X.T` | I8 for `int8`, U8 for `int4` | `[lines, line]`, or half a line for `int4` |
//! | `scales` | BF16 | one for each line (`int4`: each 64 numbers of a line) of all these |
//! | others | F32 | as PEFT has them |
//!
//! A matrix is coded in lines along its longer side ([`LineCodes`]): its rows, which are `X`, or
//! its columns, which are the rows of `X.T`. A vector is one line. Scales lie in the order of the
//! tensors' names in the file, then of lines, then of groups. A number is its code times its scale;
//! half a byte holds a code plus 8, the first of two lower. Lines of odd length have no place in
//! `int4` and are saved as the floats that their codes stand for.

use std::collections::BTreeMap;

use half::bf16;
use lowtide_quant::{BlockFormat, LineCodes};
use safetensors::Dtype;

use super::{AdapterError, PREFIX, tensor_name};
use crate::Tensor;
use crate::rows;
use crate::safe::{Outgoing, PermutedRows, SafeContents, Values};
use crate::tensor::Lines;

/// File name of the tensors of a coded adapter.
pub const CODES_FILE: &str = "adapter_codes.safetensors";
/// The setting that says how the tensors are coded.
pub(super) const ADAPTER_TYPE: &str = "adapter_type";
/// The metadata that say it in the file.
const CODES: &str = "codes";
const SCALES: &str = "scales";
/// The end of the name of a matrix whose columns are written as rows.
const TURNED: &str = ".T";

/// Numbers of a matrix that are to be written as codes, or as what those stand for.
#[derive(Clone, Debug)]
pub struct Coded<'a> {
    codes: LineCodes,
    values: &'a [f32],
    shape: [usize; 2],
    permuted: Option<PermutedRows>,
    scales: Vec<bf16>,
}

impl<'a> Coded<'a> {
    /// Finds the scales of `values` `[rows, columns]`; `permuted` is set where the rows are in the
    /// order of [`rows`]. They are coded in HF order.
    ///
    /// # Panics
    /// If the shape does not match the values.
    #[must_use]
    pub fn new(
        codes: LineCodes,
        values: &'a [f32],
        shape: [usize; 2],
        permuted: Option<PermutedRows>,
    ) -> Self {
        assert!(shape[0] * shape[1] == values.len(), "{} values for {shape:?}", values.len());
        let mut coded = Self { codes, values, shape, permuted, scales: Vec::new() };
        let (mut line, mut scales) = (Vec::new(), Vec::new());
        for index in 0..coded.lines() {
            coded.read_line(index, &mut line);
            let groups = line.chunks(codes.group().min(line.len()));
            scales.extend(groups.map(|group| codes.scale(group.iter().copied())));
        }
        coded.scales = scales;
        coded
    }

    /// How they are coded.
    #[must_use]
    pub fn codes(&self) -> LineCodes {
        self.codes
    }

    /// What each number is after coding, where it is here.
    pub fn rounded(&self) -> impl Iterator<Item = f32> {
        let [_, columns] = self.shape;
        self.values.iter().enumerate().map(move |(at, value)| {
            let (row, column) = (at / columns, at % columns);
            let row = self.permuted.map_or(row, |PermutedRows { heads, head_dim }| {
                rows::gguf_row_to_hf_row(row, heads, head_dim)
            });
            self.codes.round(*value, self.scale_at(row, column))
        })
    }

    /// What the number in a row of HF order is after coding.
    pub(crate) fn rounded_at(&self, row: usize, column: usize) -> f32 {
        let value = self.values[self.row(row) * self.shape[1] + column];
        self.codes.round(value, self.scale_at(row, column))
    }

    /// Row-major shape.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(crate) fn dtype(&self) -> Dtype {
        dtype(self.codes)
    }

    /// Bytes of all codes.
    pub(crate) fn code_bytes(&self) -> usize {
        self.lines() * self.codes.code_bytes(self.line())
    }

    /// The codes, a line at a time.
    pub(crate) fn encode<E>(&self, put: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut line = Vec::new();
        let mut bytes = vec![0; self.codes.code_bytes(self.line())];
        let each = self.codes.scales(self.line()).max(1);
        for (index, scales) in self.scales.chunks(each).enumerate() {
            self.read_line(index, &mut line);
            self.codes.encode(&line, scales, &mut bytes);
            put(&bytes)?;
        }
        Ok(())
    }

    fn scale_at(&self, row: usize, column: usize) -> bf16 {
        let along_rows = LineCodes::along_rows(self.shape);
        let (index, at) = if along_rows { (row, column) } else { (column, row) };
        self.scales[index * self.codes.scales(self.line()) + self.codes.of(at)]
    }

    fn lines(&self) -> usize {
        self.shape[0].min(self.shape[1])
    }

    fn line(&self) -> usize {
        self.shape[0].max(self.shape[1])
    }

    /// Where a row of HF order lies.
    fn row(&self, row: usize) -> usize {
        self.permuted.map_or(row, |PermutedRows { heads, head_dim }| {
            rows::hf_row_to_gguf_row(row, heads, head_dim)
        })
    }

    fn read_line(&self, index: usize, line: &mut Vec<f32>) {
        let [rows, columns] = self.shape;
        line.clear();
        if LineCodes::along_rows(self.shape) {
            line.extend_from_slice(&self.values[self.row(index) * columns..][..columns]);
        } else {
            line.extend((0..rows).map(|row| self.values[self.row(row) * columns + index]));
        }
    }
}

/// A tensor of the file: its name, type, shape and how many scales it has.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    scales: usize,
}

/// How a parameter of a shape in PEFT's file is stored.
fn stored(codes: Option<LineCodes>, module: &str, parameter: &str, shape: &[usize]) -> Stored {
    let name = tensor_name(module, parameter);
    let name = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
    let (lines, line, turned) = match *shape {
        [line] => (1, line, false),
        [rows, columns] if LineCodes::along_rows([rows, columns]) => (rows, columns, false),
        [rows, columns] => (columns, rows, true),
        _ => panic!("`{name}` of shape {shape:?} is no matrix"),
    };
    let Some(codes) = codes.filter(|codes| can_code(*codes, line)) else {
        return Stored { name, dtype: Dtype::F32, shape: shape.to_vec(), scales: 0 };
    };
    let bytes = codes.code_bytes(line);
    Stored {
        name: if turned { name + TURNED } else { name },
        dtype: dtype(codes),
        shape: if shape.len() == 1 { vec![bytes] } else { vec![lines, bytes] },
        scales: lines * codes.scales(line),
    }
}

/// Whether a line of so many numbers has a place in a file of codes: its length must follow from
/// the bytes.
#[must_use]
pub fn can_code(codes: LineCodes, line: usize) -> bool {
    match codes {
        LineCodes::Int8 => true,
        LineCodes::Int4 => line.is_multiple_of(2),
    }
}

fn dtype(codes: LineCodes) -> Dtype {
    match codes {
        LineCodes::Int8 => Dtype::I8,
        LineCodes::Int4 => Dtype::U8,
    }
}

/// What the metadata of a file of codes say.
pub(super) fn metadata(codes: LineCodes) -> (&'static str, &'static str) {
    (CODES, codes.name())
}

/// Tensors as a file of codes has them, with all scales, which the caller lends a place.
pub(super) fn outgoing<'a>(
    tensors: &'a [super::AdapterTensor<'_>],
    scales: &'a mut Vec<bf16>,
) -> Vec<Outgoing<'a>> {
    let mut all: Vec<(Stored, &super::AdapterTensor<'_>)> = tensors
        .iter()
        .map(|tensor| {
            let codes = match tensor.values {
                Values::Codes(coded) => Some(coded.codes),
                _ => None,
            };
            (stored(codes, &tensor.module, &tensor.parameter, &tensor.shape), tensor)
        })
        .collect();
    all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    for (place, tensor) in &all {
        if let Values::Codes(coded) = tensor.values
            && place.scales > 0
        {
            scales.extend(&coded.scales);
        }
    }
    let mut out: Vec<Outgoing<'a>> = all
        .into_iter()
        .map(|(place, tensor)| Outgoing {
            values: match tensor.values {
                Values::Codes(coded) if place.scales == 0 => Values::Decoded(coded),
                other => other,
            },
            name: place.name,
            shape: place.shape,
            permuted: tensor.permuted,
        })
        .collect();
    if !scales.is_empty() {
        out.push(Outgoing {
            name: SCALES.to_owned(),
            shape: vec![scales.len()],
            values: Values::Bf16(scales),
            permuted: None,
        });
    }
    out
}

/// Bytes of a file of codes of these modules, names, shapes in PEFT's file, and whether they are
/// coded.
pub(super) fn file_bytes<'a>(
    codes: LineCodes,
    parameters: impl IntoIterator<Item = (&'a str, &'a str, Vec<usize>, bool)>,
) -> u64 {
    let mut scales = 0;
    let mut entries: Vec<_> = parameters
        .into_iter()
        .map(|(module, parameter, shape, coded)| {
            let place = stored(coded.then_some(codes), module, parameter, &shape);
            scales += place.scales;
            (place.name, place.dtype, place.shape)
        })
        .collect();
    if scales > 0 {
        entries.push((SCALES.to_owned(), Dtype::BF16, vec![scales]));
    }
    crate::safe::bytes_of(entries, metadata(codes))
}

/// The structure of a file of codes: the tensors of an adapter by PEFT's names.
#[derive(Clone, Debug)]
pub struct CodedContents {
    contents: SafeContents,
    codes: LineCodes,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    stored: String,
    shape: Vec<usize>,
    /// The first scale, how many there are, and whether lines are columns; nothing of what is not
    /// coded.
    lines: Option<(usize, usize, bool)>,
}

impl CodedContents {
    /// Looks at the names, types and shapes of a file that
    /// [`parse_with_codes`](crate::safe::parse_with_codes) has checked.
    ///
    /// # Errors
    /// [`AdapterError`], naming the tensor.
    pub fn new(contents: SafeContents) -> Result<Self, AdapterError> {
        let said = contents.metadata().get(CODES).cloned();
        let Some(codes) = said.as_deref().and_then(LineCodes::named) else {
            return Err(AdapterError::Codes {
                found: said.unwrap_or_else(|| "nothing".to_owned()),
            });
        };
        let (mut tensors, mut expected, mut found) = (BTreeMap::new(), 0, 0);
        for (stored, shape, dtype) in contents.kinds() {
            if stored == SCALES {
                found = scales_of(shape, dtype)?;
                continue;
            }
            let (plain, place) = place(codes, stored, shape, dtype, &mut expected)?;
            let name = format!("{PREFIX}{plain}");
            if tensors.insert(name.clone(), place).is_some() {
                return Err(AdapterError::Twice { name });
            }
        }
        if found != expected {
            return Err(AdapterError::Scales { found, expected });
        }
        Ok(Self { contents, codes, tensors })
    }

    /// How they are coded.
    #[must_use]
    pub fn codes(&self) -> LineCodes {
        self.codes
    }

    /// Names of all tensors, sorted, as PEFT would name them.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor of the bytes that were parsed.
    pub fn tensor<'a>(&'a self, bytes: &'a [u8], name: &str) -> Option<Tensor<'a>> {
        let Place { stored, shape, lines } = self.tensors.get(name)?;
        let Some((first, count, turned)) = *lines else {
            return Some(Tensor { shape, ..self.contents.tensor(bytes, stored)? });
        };
        let scales = self.contents.raw(bytes, SCALES)?.bytes;
        let scales = &scales[2 * first..][..2 * count];
        let codes = self.codes;
        let format: &'static dyn BlockFormat = match codes {
            LineCodes::Int8 => &Int8,
            LineCodes::Int4 => &Int4,
        };
        let bytes = self.contents.raw(bytes, stored)?.bytes;
        Some(Tensor {
            shape,
            format,
            bytes,
            apart: None,
            lines: Some(Lines { codes, scales, turned }),
        })
    }
}

/// How many scales there are.
fn scales_of(shape: &[usize], found: Dtype) -> Result<usize, AdapterError> {
    match (shape, found) {
        (&[len], Dtype::BF16) => Ok(len),
        _ => {
            let (name, expected) = (SCALES.to_owned(), "[scales] of BF16".to_owned());
            Err(AdapterError::Shape { name, shape: shape.to_vec(), expected })
        }
    }
}

/// The name of a tensor but for what says how it lies, and its place. Its scales begin behind
/// `scales` others.
fn place<'n>(
    codes: LineCodes,
    stored: &'n str,
    shape: &[usize],
    found: Dtype,
    scales: &mut usize,
) -> Result<(&'n str, Place), AdapterError> {
    if found == Dtype::F32 {
        return Ok((stored, Place { stored: stored.into(), shape: shape.to_vec(), lines: None }));
    }
    if found != dtype(codes) {
        let (name, dtype) = (stored.to_owned(), format!("{found:?}"));
        return Err(AdapterError::Dtype { name, dtype, expected: codes.name() });
    }
    let turned = stored.strip_suffix(TURNED);
    let place = coded_place(codes, stored, shape, turned.is_some(), scales)?;
    Ok((turned.unwrap_or(stored), place))
}

/// The place of a coded tensor, whose scales begin behind `scales` others.
fn coded_place(
    codes: LineCodes,
    stored: &str,
    shape: &[usize],
    turned: bool,
    scales: &mut usize,
) -> Result<Place, AdapterError> {
    let numbers = match codes {
        LineCodes::Int8 => 1,
        LineCodes::Int4 => 2,
    };
    let (lines, shape) = match *shape {
        [line] if !turned => (1, vec![line * numbers]),
        [rows, bytes] if turned => (rows, vec![bytes * numbers, rows]),
        [rows, bytes] => (rows, vec![rows, bytes * numbers]),
        _ => {
            let (name, shape) = (stored.to_owned(), shape.to_vec());
            let expected = "[lines, codes of a line]".to_owned();
            return Err(AdapterError::Shape { name, shape, expected });
        }
    };
    let line = if turned { shape[0] } else { shape[shape.len() - 1] };
    let (first, count) = (*scales, lines * codes.scales(line));
    *scales += count;
    Ok(Place { stored: stored.to_owned(), shape, lines: Some((first, count, turned)) })
}

/// Codes of eight bits without their scales: what a coded tensor of a file is called.
#[derive(Debug)]
struct Int8;

/// Codes of four bits without their scales.
#[derive(Debug)]
struct Int4;

impl BlockFormat for Int8 {
    fn name(&self) -> &'static str {
        "int8"
    }

    fn block_len(&self) -> usize {
        1
    }

    fn block_bytes(&self) -> usize {
        1
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        lowtide_quant::block_count(self, bytes.len(), out.len());
        LineCodes::Int8.decode(bytes, &vec![bf16::ONE; LineCodes::Int8.scales(out.len())], out);
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        lowtide_quant::block_count(self, out.len(), x.len());
        LineCodes::Int8.encode(x, &vec![bf16::ONE; LineCodes::Int8.scales(x.len())], out);
    }
}

impl BlockFormat for Int4 {
    fn name(&self) -> &'static str {
        "int4"
    }

    fn block_len(&self) -> usize {
        2
    }

    fn block_bytes(&self) -> usize {
        1
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        lowtide_quant::block_count(self, bytes.len(), out.len());
        LineCodes::Int4.decode(bytes, &vec![bf16::ONE; LineCodes::Int4.scales(out.len())], out);
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        lowtide_quant::block_count(self, out.len(), x.len());
        LineCodes::Int4.encode(x, &vec![bf16::ONE; LineCodes::Int4.scales(x.len())], out);
    }
}
