//! Writing safetensors files whose tensors come in pieces.

use std::collections::HashMap;
use std::io::{self, Write};

use lowtide_quant::BlockFormat;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// Declares tensors; then their data is streamed through [`SafeData`], in order of declaration.
///
/// The metadata says `format: pt`, without which transformers refuses a file. All tensors have one
/// type, so that the data follows the header without gaps whatever the order.
#[derive(Clone, Debug)]
pub struct SafeWriter {
    dtype: Dtype,
    value_bytes: usize,
    tensors: Vec<(String, TensorInfo)>,
    end: usize,
}

impl SafeWriter {
    /// A file of tensors in `format`: F32, F16 or BF16. `None` for any other.
    pub fn new(format: &dyn BlockFormat) -> Option<Self> {
        let dtype = match format.name() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            _ => return None,
        };
        Some(Self { dtype, value_bytes: format.block_bytes(), tensors: Vec::new(), end: 0 })
    }

    /// Declares a tensor of row-major `shape`.
    ///
    /// # Panics
    /// If the name is already there.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) {
        assert!(self.tensors.iter().all(|(other, _)| other != name), "tensor {name:?} twice");
        let end = self.end + shape.iter().product::<usize>() * self.value_bytes;
        let data_offsets = (self.end, end);
        let info = TensorInfo { dtype: self.dtype, shape: shape.to_vec(), data_offsets };
        self.tensors.push((name.to_owned(), info));
        self.end = end;
    }

    /// Bytes of all data declared so far.
    pub fn data_bytes(&self) -> usize {
        self.end
    }

    /// Names of the tensors declared so far, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// Writes everything up to the data.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn start<W: Write>(self, mut out: W) -> io::Result<SafeData<W>> {
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let header = Metadata::new(Some(format), self.tensors).map_err(io::Error::other)?;
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        Ok(SafeData { out, left: self.end })
    }
}

/// Takes the data of the declared tensors, in order and in pieces of any size.
#[derive(Debug)]
pub struct SafeData<W> {
    out: W,
    left: usize,
}

impl<W: Write> SafeData<W> {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// # Panics
    /// If there are more than were declared.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        assert!(piece.len() <= self.left, "{} bytes for the last {}", piece.len(), self.left);
        self.left -= piece.len();
        self.out.write_all(piece)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// # Panics
    /// If data is missing.
    pub fn finish(mut self) -> io::Result<()> {
        assert!(self.left == 0, "{} bytes of data are missing", self.left);
        self.out.flush()
    }
}
