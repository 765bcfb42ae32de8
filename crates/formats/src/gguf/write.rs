//! Writing GGUF files, version 3.

use std::io::{self, Write};

use lowtide_quant::BlockFormat;

use super::{Metadata, Value, ValueType};

const ALIGNMENT: usize = 32;

/// Collects metadata and tensor records; then data is streamed through [`TensorData`].
///
/// ```
/// use lowtide_formats::gguf::{Writer, parse};
/// use lowtide_quant::formats::F32;
///
/// let mut writer = Writer::new();
/// writer.metadata("general.architecture", "llama".into());
/// writer.tensor("output_norm.weight", &[2], &F32);
///
/// let mut file = Vec::new();
/// let mut data = writer.start(&mut file)?;
/// data.write(&1.0_f32.to_le_bytes())?;
/// data.write(&2.0_f32.to_le_bytes())?;
/// data.finish()?;
///
/// let contents = parse(&file).expect("what is written can be read");
/// let norm = contents.tensor(&file, "output_norm.weight").expect("it was written");
/// assert_eq!(norm.to_f32_vec(), [1.0, 2.0]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// Keys, and values as they stand in the file.
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<Declared>,
}

#[derive(Clone, Debug)]
struct Declared {
    name: String,
    shape: Vec<usize>,
    type_id: u32,
    bytes: usize,
}

impl Writer {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry.
    ///
    /// # Panics
    /// If the key is already there.
    #[allow(clippy::needless_pass_by_value, reason = "values are made where they are added")]
    pub fn metadata(&mut self, key: &str, value: Value) {
        let mut bytes = Vec::new();
        put_value(&mut bytes, &value);
        self.encoded(key, bytes);
    }

    /// Copies an entry of another file, whatever its type; `false` if that file has no such key.
    ///
    /// # Panics
    /// If the key is already there.
    pub fn copy(&mut self, metadata: &Metadata<'_>, key: &str) -> bool {
        let Some((value_type, elements, value)) = metadata.raw(key) else { return false };
        let mut bytes = Vec::with_capacity(value.len() + 16);
        match elements {
            Some((element, count)) => put_array_head(&mut bytes, element, count),
            None => put_type(&mut bytes, value_type),
        }
        bytes.extend(value);
        self.encoded(key, bytes);
        true
    }

    fn encoded(&mut self, key: &str, value: Vec<u8>) {
        assert!(self.metadata.iter().all(|(k, _)| k != key), "metadata key {key:?} twice");
        self.metadata.push((key.to_owned(), value));
    }

    /// Bytes of everything up to the data, of which a copy is held while it is written.
    pub fn head_bytes(&self) -> usize {
        let metadata = self.metadata.iter().map(|(key, value)| 8 + key.len() + value.len());
        let tensors = self.tensors.iter().map(|t| 8 + t.name.len() + 4 + 8 * t.shape.len() + 12);
        (24 + metadata.sum::<usize>() + tensors.sum::<usize>()).next_multiple_of(ALIGNMENT)
    }

    /// Declares a tensor of row-major `shape`; its data comes in the order of declaration.
    ///
    /// # Panics
    /// If the name is already there or longer than the format allows, `shape` has more than four
    /// axes, `format` has no number in GGUF, or a row is not whole blocks.
    pub fn tensor(&mut self, name: &str, shape: &[usize], format: &dyn BlockFormat) {
        let max = super::NAME_BYTES_MAX as usize;
        assert!(name.len() <= max, "{name:?} is longer than {max} bytes");
        assert!(self.tensors.iter().all(|t| t.name != name), "tensor {name:?} twice");
        assert!(shape.len() <= 4, "{name:?} has {} axes; GGUF has at most four", shape.len());
        let type_id = format.ggml_type().expect("a format that GGUF knows");
        let (&row, rows) = shape.split_last().unwrap_or((&1, &[]));
        let row_bytes = format.row_bytes(row).expect("rows of whole blocks");
        let bytes = row_bytes * rows.iter().product::<usize>();
        let shape = shape.to_vec();
        self.tensors.push(Declared { name: name.to_owned(), shape, type_id, bytes });
    }

    /// Writes everything up to the data.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn start<W: Write>(&self, mut out: W) -> io::Result<TensorData<W>> {
        let mut head = Vec::with_capacity(self.head_bytes());
        head.extend(b"GGUF");
        head.extend(3_u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_str(&mut head, key);
            head.extend(value);
        }
        let mut offset = 0_usize;
        for tensor in &self.tensors {
            put_str(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            for &axis in tensor.shape.iter().rev() {
                head.extend((axis as u64).to_le_bytes());
            }
            head.extend(tensor.type_id.to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes.next_multiple_of(ALIGNMENT);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&head)?;
        let sizes = self.tensors.iter().map(|t| t.bytes).collect();
        Ok(TensorData { out, sizes, current: 0, written: 0 })
    }
}

/// Takes the data of the declared tensors, in order and in pieces of any size.
#[derive(Debug)]
pub struct TensorData<W> {
    out: W,
    sizes: Vec<usize>,
    current: usize,
    written: usize,
}

impl<W: Write> TensorData<W> {
    /// Writes the next bytes of the current tensor; after its last byte comes the next tensor.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// # Panics
    /// If the piece reaches past the current tensor or all tensors are written.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let size = *self.sizes.get(self.current).expect("data for a tensor that was declared");
        let left = size - self.written;
        assert!(piece.len() <= left, "{} bytes for the last {left} of a tensor", piece.len());
        self.out.write_all(piece)?;
        self.written += piece.len();
        if self.written == size {
            let padding = size.next_multiple_of(ALIGNMENT) - size;
            self.out.write_all(&[0; ALIGNMENT][..padding])?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Ends the file and gives the output back.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// # Panics
    /// If data is missing.
    pub fn finish(mut self) -> io::Result<W> {
        let declared = self.sizes.len();
        assert!(self.current == declared, "data of {} of {declared} tensors", self.current);
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_type(out: &mut Vec<u8>, value_type: ValueType) {
    out.extend(value_type.id().to_le_bytes());
}

fn put_array_head(out: &mut Vec<u8>, element: ValueType, count: usize) {
    put_type(out, ValueType::Array);
    put_type(out, element);
    out.extend((count as u64).to_le_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U32(v) => {
            put_type(out, ValueType::U32);
            out.extend(v.to_le_bytes());
        }
        Value::I32(v) => {
            put_type(out, ValueType::I32);
            out.extend(v.to_le_bytes());
        }
        Value::U64(v) => {
            put_type(out, ValueType::U64);
            out.extend(v.to_le_bytes());
        }
        Value::F32(v) => {
            put_type(out, ValueType::F32);
            out.extend(v.to_le_bytes());
        }
        Value::Bool(v) => {
            put_type(out, ValueType::Bool);
            out.push(u8::from(*v));
        }
        Value::Str(v) => {
            put_type(out, ValueType::Str);
            put_str(out, v);
        }
        Value::Strings(v) => {
            put_array_head(out, ValueType::Str, v.len());
            v.iter().for_each(|text| put_str(out, text));
        }
        Value::I32s(v) => {
            put_array_head(out, ValueType::I32, v.len());
            v.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::U32s(v) => {
            put_array_head(out, ValueType::U32, v.len());
            v.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::F32s(v) => {
            put_array_head(out, ValueType::F32, v.len());
            v.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::Bools(v) => {
            put_array_head(out, ValueType::Bool, v.len());
            out.extend(v.iter().map(|&truth| u8::from(truth)));
        }
    }
}
