//! From bytes to checked structure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use lowtide_quant::{BlockFormat, formats};

use super::metadata::Entry;
use super::reader::{Field, Reader};
use super::{
    Contents, GgufError, KEY_BYTES_MAX, METADATA_MAX, NAME_BYTES_MAX, TENSORS_MAX, TensorInfo,
    ValueType, types,
};

/// Least bytes of a metadata entry: empty key, type, one byte of value.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;
/// Least bytes of a tensor record: empty name, no axes, type, offset.
const RECORD_BYTES_MIN: u64 = 8 + 4 + 4 + 8;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: usize = 32;
const DIMENSIONS_MAX: usize = 4;

/// Checks the structure of a GGUF file.
///
/// Afterwards every range lies within `bytes`, no two tensors share a byte, every tensor has
/// exactly the bytes that its shape and format take, and every metadata value can be read.
///
/// # Errors
/// [`GgufError`], naming the field.
pub fn parse(bytes: &[u8]) -> Result<Contents, GgufError> {
    let mut reader = Reader::new(bytes);
    let version = header(&mut reader, bytes)?;
    let tensor_count = reader.count(TENSORS_MAX, Field::Header("number of tensors"))?;
    let entry_count = reader.count(METADATA_MAX, Field::Header("number of metadata entries"))?;
    reader.expect(entry_count, ENTRY_BYTES_MIN, "metadata entries")?;
    let metadata = read_metadata(&mut reader, entry_count)?;
    let alignment = alignment(&metadata, bytes)?;

    reader.expect(tensor_count, RECORD_BYTES_MIN, "records of tensors")?;
    let mut records = Vec::new();
    for i in 0..tensor_count {
        records.push(Record::read(&mut reader, i)?);
    }
    let data_start = reader.at().checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let tensors = place(records, data_start, alignment, bytes.len())?;
    Ok(Contents { version, alignment, metadata, tensors })
}

fn header(reader: &mut Reader<'_>, bytes: &[u8]) -> Result<u32, GgufError> {
    match reader.take(4, Field::Header("magic")) {
        Ok(b"GGUF") => {}
        _ => return Err(GgufError::Magic { found: bytes[..bytes.len().min(4)].to_vec() }),
    }
    match reader.u32(Field::Header("version"))? {
        version @ 2..=3 => Ok(version),
        found => Err(GgufError::Version { found }),
    }
}

fn read_metadata(
    reader: &mut Reader<'_>,
    count: u64,
) -> Result<BTreeMap<String, Entry>, GgufError> {
    let mut metadata = BTreeMap::new();
    for i in 0..count {
        let key = reader.name(KEY_BYTES_MAX, Field::Key(i))?;
        let entry = read_entry(reader, &key)?;
        match metadata.entry(key) {
            Slot::Vacant(slot) => slot.insert(entry),
            Slot::Occupied(slot) => {
                return Err(GgufError::DuplicateKey { key: slot.key().clone() });
            }
        };
    }
    Ok(metadata)
}

fn read_entry(reader: &mut Reader<'_>, key: &str) -> Result<Entry, GgufError> {
    let field = Field::Value(key);
    let value_type = read_type(reader, field)?;
    if value_type != ValueType::Array {
        let start = reader.at();
        skip_values(reader, value_type, 1, field)?;
        return Ok(Entry { value_type, elements: None, range: start..reader.at() });
    }
    let element_type = read_type(reader, field)?;
    // A string takes at least its length; an array in an array is refused here.
    let bytes_each = match element_type {
        ValueType::Str => 8,
        ValueType::Array => {
            let (field, found) = (field.to_string(), element_type.id());
            return Err(GgufError::ValueType { field, found });
        }
        other => other.size().expect("all others have one size"),
    };
    let count = reader.count(u64::MAX, field)?;
    reader.expect(count, bytes_each as u64, format_args!("elements of `{key}`"))?;
    let start = reader.at();
    skip_values(reader, element_type, count, field)?;
    let count = usize::try_from(count).expect("a count of bytes in memory");
    Ok(Entry { value_type, elements: Some((element_type, count)), range: start..reader.at() })
}

fn read_type(reader: &mut Reader<'_>, field: Field<'_>) -> Result<ValueType, GgufError> {
    let found = reader.u32(field)?;
    ValueType::from_id(found)
        .ok_or_else(|| GgufError::ValueType { field: field.to_string(), found })
}

/// Walks over `count` values, checking what a later read relies on.
fn skip_values(
    reader: &mut Reader<'_>,
    value_type: ValueType,
    count: u64,
    field: Field<'_>,
) -> Result<(), GgufError> {
    match value_type {
        ValueType::Str => {
            for _ in 0..count {
                reader.string_bytes(u64::MAX, field)?;
            }
        }
        ValueType::Bool => {
            let bytes = reader.take(count, field)?;
            if let Some(&found) = bytes.iter().find(|b| **b > 1) {
                return Err(GgufError::Bool { field: field.to_string(), found });
            }
        }
        ValueType::Array => unreachable!("arrays are taken apart by read_entry"),
        other => {
            let size = other.size().expect("strings and arrays are handled above") as u64;
            reader.take(count.saturating_mul(size), field)?;
        }
    }
    Ok(())
}

fn alignment(metadata: &BTreeMap<String, Entry>, bytes: &[u8]) -> Result<usize, GgufError> {
    let Some(entry) = metadata.get(ALIGNMENT_KEY) else { return Ok(ALIGNMENT_DEFAULT) };
    if entry.value_type != ValueType::U32 {
        return Err(GgufError::Alignment { found: format!("of type {}", entry.value_type) });
    }
    let value = entry.u32_value(bytes);
    match usize::try_from(value) {
        Ok(alignment) if value.is_power_of_two() => Ok(alignment),
        _ => Err(GgufError::Alignment { found: value.to_string() }),
    }
}

/// A tensor's record, its size computed and its place still unchecked.
#[derive(Debug)]
struct Record {
    name: String,
    shape: Vec<usize>,
    format: &'static dyn BlockFormat,
    bytes: usize,
    offset: u64,
}

impl Record {
    fn read(reader: &mut Reader<'_>, i: u64) -> Result<Self, GgufError> {
        let name = reader.name(NAME_BYTES_MAX, Field::TensorName(i))?;
        let shape = read_shape(reader, &name)?;
        let type_id = reader.u32(Field::Tensor(&name, "type"))?;
        let offset = reader.u64(Field::Tensor(&name, "offset"))?;
        let Some(format) = formats::by_ggml_type(type_id) else {
            let (found, supported) = (types::describe(type_id), types::supported());
            return Err(GgufError::TensorType { tensor: name, found, supported });
        };
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(format.block_len()) {
            let (block, format) = (format.block_len(), format.name());
            return Err(GgufError::PartialBlock { tensor: name, row, format, block });
        }
        let bytes = format
            .row_bytes(row)
            .and_then(|row_bytes| {
                let rows = &shape[..shape.len().saturating_sub(1)];
                rows.iter().try_fold(row_bytes, |bytes, &axis| bytes.checked_mul(axis))
            })
            // The number of values must fit as well: a block can hold more values than bytes.
            .filter(|_| shape.iter().try_fold(1_usize, |n, &axis| n.checked_mul(axis)).is_some());
        match bytes {
            Some(bytes) => Ok(Self { name, shape, format, bytes, offset }),
            None => {
                let shape = shape.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect();
                Err(GgufError::Shape { tensor: name, shape })
            }
        }
    }
}

fn read_shape(reader: &mut Reader<'_>, name: &str) -> Result<Vec<usize>, GgufError> {
    let found = reader.u32(Field::Tensor(name, "number of dimensions"))?;
    if found as usize > DIMENSIONS_MAX {
        return Err(GgufError::Dimensions { tensor: name.to_owned(), found });
    }
    let mut axes = Vec::with_capacity(DIMENSIONS_MAX);
    for _ in 0..found {
        axes.push(reader.u64(Field::Tensor(name, "shape"))?.cast_signed());
    }
    axes.reverse();
    let shape: Option<Vec<usize>> =
        axes.iter().map(|&n| usize::try_from(n).ok().filter(|n| *n > 0)).collect();
    shape.ok_or_else(|| GgufError::Shape { tensor: name.to_owned(), shape: axes })
}

/// Gives every record its range in the file.
fn place(
    mut records: Vec<Record>,
    data_start: usize,
    alignment: usize,
    file_bytes: usize,
) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
    let data_bytes = file_bytes.saturating_sub(data_start);
    records.sort_by_key(|record| record.offset);
    let mut tensors = BTreeMap::new();
    let mut previous: Option<(String, usize)> = None;
    for Record { name: tensor, shape, format, bytes, offset } in records {
        if !offset.is_multiple_of(alignment as u64) {
            return Err(GgufError::Unaligned { tensor, offset, alignment });
        }
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(bytes)?))
            .filter(|range| range.end <= data_bytes);
        let Some(range) = range else {
            return Err(GgufError::OutOfFile { tensor, offset, bytes, data_bytes });
        };
        if let Some((first, _)) = previous.take_if(|(_, end)| range.start < *end) {
            return Err(if tensors.contains_key(&tensor) {
                GgufError::DuplicateTensor { tensor }
            } else {
                GgufError::Overlap { first, second: tensor }
            });
        }
        previous = Some((tensor.clone(), range.end));
        let range = data_start + range.start..data_start + range.end;
        match tensors.entry(tensor) {
            Slot::Vacant(slot) => slot.insert(TensorInfo { shape, format, range }),
            Slot::Occupied(slot) => {
                return Err(GgufError::DuplicateTensor { tensor: slot.key().clone() });
            }
        };
    }
    Ok(tensors)
}
