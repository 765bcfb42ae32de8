//! A model in GGUF as its readers see it: metadata of the first part, tensors of all.

use super::{Contents, Metadata, TensorInfo};
use crate::Tensor;

/// One file, or the parts of a split one in their order; never empty.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    parts: Vec<(&'a Contents, &'a [u8])>,
}

impl<'a> View<'a> {
    /// # Panics
    /// If there is no part.
    pub(crate) fn new(parts: Vec<(&'a Contents, &'a [u8])>) -> Self {
        assert!(!parts.is_empty(), "a model has at least one part");
        Self { parts }
    }

    pub(crate) fn metadata(&self) -> Metadata<'a> {
        let (contents, bytes) = self.parts[0];
        contents.metadata(bytes)
    }

    /// Names of all tensors, sorted within each part.
    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &'a str> + use<'a, '_> {
        self.parts.iter().flat_map(|(contents, _)| contents.tensors().keys().map(String::as_str))
    }

    pub(crate) fn info(&self, name: &str) -> Option<&'a TensorInfo> {
        self.parts.iter().find_map(|(contents, _)| contents.tensors().get(name))
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor<'a>> {
        self.parts.iter().find_map(|(contents, bytes)| contents.tensor(bytes, name))
    }
}
