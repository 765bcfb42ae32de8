//! Safetensors files: mapped reading, streamed writing.
//!
//! The header is parsed and checked by the `safetensors` crate: every byte of the data belongs to
//! exactly one tensor.

mod stream;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{BF16, F16, F32};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};

pub use stream::{SafeData, SafeWriter};

use crate::peft::Coded;
use crate::{Error, MappedFile, Tensor, rows};

/// What the metadata of a file of floats say, without which transformers and PEFT refuse it.
const FORMAT: (&str, &str) = ("format", "pt");

/// Longest header that is parsed: room for 50,000 tensors. Parsed, the worst JSON takes some 50
/// times its length.
pub const HEADER_BYTES_MAX: u64 = 8 << 20;

/// A safetensors file that is not sound, or holds a dtype that is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SafeError {
    /// The header or the offsets in it.
    #[error("not a sound safetensors file: {message}")]
    Container {
        /// What the `safetensors` crate said.
        message: String,
    },
    /// A header that is longer than any sound file needs.
    #[error("the header has {found} bytes; expected at most {HEADER_BYTES_MAX}")]
    Header {
        /// Its length as the file says it.
        found: u64,
    },
    /// A dtype that is no block format here.
    #[error(
        "tensor `{tensor}` has dtype {dtype}, which is not supported; supported: F32, F16, BF16"
    )]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: String,
    },
    /// An axis of no length.
    #[error("tensor `{tensor}` has shape {shape:?}; expected positive axes")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
}

/// The structure of a safetensors file.
#[derive(Clone, Debug)]
pub struct SafeContents {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Clone, Debug)]
struct Place {
    shape: Vec<usize>,
    dtype: Dtype,
    range: Range<usize>,
}

/// A tensor of any dtype that is read, as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawTensor<'a> {
    pub(crate) shape: &'a [usize],
    pub(crate) dtype: Dtype,
    pub(crate) bytes: &'a [u8],
}

impl SafeContents {
    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor of the bytes that were parsed.
    pub fn tensor<'a>(&'a self, bytes: &'a [u8], name: &str) -> Option<Tensor<'a>> {
        let RawTensor { shape, dtype, bytes } = self.raw(bytes, name)?;
        Some(Tensor { shape, format: block_format(dtype)?, bytes, apart: None, lines: None })
    }

    /// Names of all tensors, sorted, with their shapes and dtypes.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (&str, &[usize], Dtype)> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), &place.shape[..], place.dtype))
    }

    /// A tensor of the bytes that were parsed, whatever its dtype.
    pub(crate) fn raw<'a>(&'a self, bytes: &'a [u8], name: &str) -> Option<RawTensor<'a>> {
        let Place { shape, dtype, range } = self.tensors.get(name)?;
        Some(RawTensor { shape, dtype: *dtype, bytes: &bytes[range.clone()] })
    }

    /// The text the file says about itself, such as `format`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Checks the structure of a safetensors file.
///
/// # Errors
/// [`SafeError`], naming the tensor.
pub fn parse(bytes: &[u8]) -> Result<SafeContents, SafeError> {
    parse_if(bytes, |dtype| block_format(dtype).is_some())
}

/// As [`parse`], of a file that may also hold bytes, for [`peft::CodedContents`].
///
/// # Errors
/// [`SafeError`], naming the tensor.
///
/// [`peft::CodedContents`]: crate::peft::CodedContents
pub fn parse_with_codes(bytes: &[u8]) -> Result<SafeContents, SafeError> {
    parse_if(bytes, |dtype| matches!(dtype, Dtype::U8 | Dtype::I8) || block_format(dtype).is_some())
}

/// Checks the structure of a safetensors file whose tensors all have a dtype that is `read`.
fn parse_if(bytes: &[u8], read: fn(Dtype) -> bool) -> Result<SafeContents, SafeError> {
    if let Some((length, _)) = bytes.split_first_chunk() {
        let found = u64::from_le_bytes(*length);
        // A header beyond the end of the file is for the crate to refuse.
        if found > HEADER_BYTES_MAX && found < bytes.len() as u64 {
            return Err(SafeError::Header { found });
        }
    }
    let (header_bytes, header) = SafeTensors::read_metadata(bytes)
        .map_err(|e| SafeError::Container { message: e.to_string() })?;
    let data = size_of::<u64>() + header_bytes;
    let mut tensors = BTreeMap::new();
    for (name, info) in header.tensors() {
        let dtype = info.dtype;
        if !read(dtype) {
            return Err(SafeError::Dtype { tensor: name, dtype: format!("{dtype:?}") });
        }
        let shape = info.shape.clone();
        if shape.contains(&0) {
            return Err(SafeError::Shape { tensor: name, shape });
        }
        let (start, end) = info.data_offsets;
        tensors.insert(name, Place { shape, dtype, range: data + start..data + end });
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(SafeContents { metadata, tensors })
}

fn block_format(dtype: Dtype) -> Option<&'static dyn BlockFormat> {
    match dtype {
        Dtype::F32 => Some(&F32),
        Dtype::F16 => Some(&F16),
        Dtype::BF16 => Some(&BF16),
        _ => None,
    }
}

/// A mapped safetensors file whose structure has been checked.
#[derive(Clone, Debug)]
pub struct SafeFile {
    file: MappedFile,
    contents: SafeContents,
}

impl SafeFile {
    /// Maps and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be mapped, [`Error::Safe`] if it is not a sound file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_if(path, |dtype| block_format(dtype).is_some())
    }

    /// As [`open`](Self::open), also with tensors of bytes, which [`raw`](Self::raw) gives.
    pub(crate) fn open_with_bytes(path: &Path) -> Result<Self, Error> {
        Self::open_if(path, |dtype| {
            matches!(dtype, Dtype::U8 | Dtype::I8) || block_format(dtype).is_some()
        })
    }

    fn open_if(path: &Path, read: fn(Dtype) -> bool) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let contents = parse_if(file.bytes(), read)
            .map_err(|reason| Error::Safe { path: path.to_path_buf(), reason })?;
        Ok(Self { file, contents })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    /// Its structure.
    pub(crate) fn contents(&self) -> &SafeContents {
        &self.contents
    }

    /// The mapping.
    pub(crate) fn mapped(&self) -> &MappedFile {
        &self.file
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.contents.tensor_names()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.contents.tensor(self.file.bytes(), name)
    }

    /// The tensor of that name, whatever its dtype.
    pub(crate) fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.contents.raw(self.file.bytes(), name)
    }
}

/// A tensor to be written, borrowed from wherever it lives.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    /// Its name in the file.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Values<'a>,
    /// Set where the first axis is in the order of [`rows`]: it is written in HF order.
    pub permuted: Option<PermutedRows>,
}

/// Values in the type they are written in.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// Brain floats.
    Bf16(&'a [bf16]),
    /// Floats that are rounded to 16 bits on the way.
    Rounded(&'a [f32], Half),
    /// A tensor of another file, written as 32-bit floats; a row at least at a time.
    Stored(Tensor<'a>),
    /// Numbers of an adapter that are written as codes, in HF order.
    Codes(&'a Coded<'a>),
    /// Numbers of an adapter that are written as the 32-bit floats that their codes stand for, in
    /// HF order.
    Decoded(&'a Coded<'a>),
}

/// A type of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Brain float: the exponents of F32.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Half {
    /// The nearest value of the type, ties to even.
    #[must_use]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
        }
    }

    fn to_le_bytes(self, value: f32) -> [u8; 2] {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_le_bytes(),
            Self::F16 => f16::from_f32(value).to_le_bytes(),
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }
}

/// The heads in which rows are permuted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermutedRows {
    /// Number of heads along the first axis.
    pub heads: usize,
    /// Rows of a head.
    pub head_dim: usize,
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) | Self::Rounded(values, _) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Stored(tensor) => tensor.len(),
            Self::Codes(coded) => coded.code_bytes(),
            Self::Decoded(coded) => coded.shape().iter().product(),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) | Self::Stored(_) | Self::Decoded(_) => Dtype::F32,
            Self::Codes(coded) => coded.dtype(),
            Self::Bf16(_) => Dtype::BF16,
            Self::Rounded(_, half) => half.dtype(),
        }
    }
}

/// Writes a safetensors file, a piece at a time: no copy of the tensors is made.
///
/// The layout is the one of the `safetensors` crate: wider types first, then by name. The metadata
/// says `format: pt`, without which transformers and PEFT refuse a file.
///
/// # Errors
/// Those of `out`.
///
/// # Panics
/// If a shape does not match its values, two names are equal, or permuted rows do not match the
/// first axis.
pub fn write(out: &mut dyn Write, tensors: &[Outgoing<'_>]) -> io::Result<()> {
    write_saying(out, tensors, FORMAT)
}

/// As [`write()`], with metadata of one name and its value.
pub(crate) fn write_saying(
    out: &mut dyn Write,
    tensors: &[Outgoing<'_>],
    metadata: (&str, &str),
) -> io::Result<()> {
    let mut order: Vec<&Outgoing<'_>> = tensors.iter().collect();
    order.sort_by(|a, b| b.values.dtype().cmp(&a.values.dtype()).then_with(|| a.name.cmp(&b.name)));
    order.iter().for_each(|tensor| tensor.assert_sound());
    let entries = order.iter().map(|t| (t.name.clone(), t.values.dtype(), t.shape.clone()));
    let (header, _) = header(entries, metadata)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    order.iter().try_for_each(|tensor| tensor.write_data(out))
}

/// Bytes of a file of tensors of these names and shapes, all of 32-bit floats, or all of a type of
/// 16 bits.
///
/// # Panics
/// Never: a header is plain values.
#[must_use]
pub fn file_bytes(
    tensors: impl IntoIterator<Item = (String, Vec<usize>)>,
    half: Option<Half>,
) -> u64 {
    let dtype = half.map_or(Dtype::F32, Half::dtype);
    let tensors = tensors.into_iter().map(|(name, shape)| (name, dtype, shape)).collect();
    bytes_of(tensors, FORMAT)
}

/// Bytes of a file of tensors of these names, types and shapes, with its metadata.
pub(crate) fn bytes_of(
    mut tensors: Vec<(String, Dtype, Vec<usize>)>,
    metadata: (&str, &str),
) -> u64 {
    tensors.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let (header, data) = header(tensors.into_iter(), metadata).expect("a header is plain values");
    (size_of::<u64>() + header.len() + data) as u64
}

/// What stands before the data of tensors in their order, and the bytes of the data.
fn header(
    tensors: impl Iterator<Item = (String, Dtype, Vec<usize>)>,
    (key, value): (&str, &str),
) -> io::Result<(Vec<u8>, usize)> {
    let (mut infos, mut offset) = (Vec::new(), 0);
    for (name, dtype, shape) in tensors {
        let end = offset + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        infos.push((name, TensorInfo { dtype, shape, data_offsets: (offset, end) }));
        offset = end;
    }
    let said = HashMap::from([(key.to_owned(), value.to_owned())]);
    let header = Metadata::new(Some(said), infos).expect("offsets follow each other");
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    Ok((header, offset))
}

impl Outgoing<'_> {
    fn assert_sound(&self) {
        let Self { name, shape, values, permuted } = self;
        let (expected, found) = (shape.iter().product::<usize>(), values.len());
        assert!(expected == found, "`{name}`: {found} values for shape {shape:?}");
        if let Some(PermutedRows { heads, head_dim }) = permuted {
            let rows = shape.first().copied().unwrap_or(1);
            assert!(rows == heads * head_dim, "`{name}`: {rows} rows, {heads} heads of {head_dim}");
        }
    }

    fn write_data(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(PermutedRows { heads, head_dim }) = self.permuted else {
            return write_values(out, self.values, 0..self.values.len());
        };
        let row_len = self.values.len() / (heads * head_dim);
        let mut ranges = (0..heads * head_dim).map(|row| {
            let start = rows::hf_row_to_gguf_row(row, heads, head_dim) * row_len;
            start..start + row_len
        });
        if let Values::Stored(tensor) = self.values {
            return tensor.write_f32(ranges, &mut |piece| out.write_all(piece));
        }
        ranges.try_for_each(|range| write_values(out, self.values, range))
    }
}

/// Writes some values, little-endian on every machine.
fn write_values(out: &mut dyn Write, values: Values<'_>, range: Range<usize>) -> io::Result<()> {
    const PIECE: usize = 1024;
    let mut piece = [0_u8; PIECE * 4];
    match values {
        Values::F32(values) => {
            for values in values[range].chunks(PIECE) {
                for (value, bytes) in values.iter().zip(piece.chunks_exact_mut(4)) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
                out.write_all(&piece[..values.len() * 4])?;
            }
        }
        Values::Bf16(values) => {
            for values in values[range].chunks(PIECE) {
                for (value, bytes) in values.iter().zip(piece.chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
                out.write_all(&piece[..values.len() * 2])?;
            }
        }
        Values::Rounded(values, half) => {
            for values in values[range].chunks(PIECE) {
                for (value, bytes) in values.iter().zip(piece.chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&half.to_le_bytes(*value));
                }
                out.write_all(&piece[..values.len() * 2])?;
            }
        }
        Values::Stored(tensor) => {
            tensor.write_f32(std::iter::once(range), &mut |piece| out.write_all(piece))?;
        }
        Values::Codes(coded) => {
            assert!(range == (0..values.len()), "codes are written whole");
            coded.encode(&mut |line| out.write_all(line))?;
        }
        Values::Decoded(coded) => {
            let [_, columns] = coded.shape();
            for at in range {
                let value = coded.rounded_at(at / columns, at % columns);
                out.write_all(&value.to_le_bytes())?;
            }
        }
    }
    Ok(())
}
