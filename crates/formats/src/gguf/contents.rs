//! What a parsed container holds: places in the file, not the bytes themselves.

use std::collections::BTreeMap;
use std::ops::Range;

use lowtide_quant::BlockFormat;

use super::metadata::{Entry, Metadata};
use crate::Tensor;

/// The structure of a GGUF file. Ranges refer to the bytes it was parsed from.
#[derive(Clone, Debug)]
pub struct Contents {
    pub(super) version: u32,
    pub(super) alignment: usize,
    pub(super) metadata: BTreeMap<String, Entry>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// Where a tensor lies and what it is.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Row-major shape, slowest axis first.
    pub shape: Vec<usize>,
    /// How rows are packed.
    pub format: &'static dyn BlockFormat,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

impl Contents {
    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Every tensor starts at a multiple of this many bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The metadata, read from the bytes that were parsed.
    pub fn metadata<'a>(&'a self, bytes: &'a [u8]) -> Metadata<'a> {
        Metadata::new(bytes, &self.metadata)
    }

    /// A tensor of the bytes that were parsed.
    pub fn tensor<'a>(&'a self, bytes: &'a [u8], name: &str) -> Option<Tensor<'a>> {
        let info = self.tensors.get(name)?;
        let bytes = &bytes[info.range.clone()];
        Some(Tensor { shape: &info.shape, format: info.format, bytes, apart: None, lines: None })
    }
}
