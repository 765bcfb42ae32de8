//! GGUF files as they are opened: one, or the parts of a split model.

use std::path::Path;

use super::{Contents, GgufError, Metadata, View, parse, split};
use crate::{Error, MappedFile, Tensor};

/// A mapped GGUF file whose structure has been checked, with the other parts of the model if it is
/// split over several.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// In their order; never empty.
    parts: Vec<Part>,
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) file: MappedFile,
    pub(super) contents: Contents,
}

impl Part {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let of_file = |reason: GgufError| Error::Gguf { path: path.to_path_buf(), reason };
        let contents = parse(file.bytes()).map_err(of_file)?;
        Ok(Self { file, contents })
    }
}

impl Gguf {
    /// Maps and checks the file at `path`. Of a model split into `name-00001-of-00003.gguf` and so
    /// on, any part may be given; all are mapped.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be mapped, [`Error::Gguf`] if it is not a sound GGUF file,
    /// [`Error::Split`] if parts are missing or do not belong together.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { parts: split::gather(Part::open(path)?)? })
    }

    /// The path of the first part.
    pub fn path(&self) -> &Path {
        self.first().file.path()
    }

    /// The paths of all parts.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(|part| part.file.path())
    }

    /// Size of all parts.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.file.len() as u64).sum()
    }

    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.first().contents.version()
    }

    /// The metadata, which is that of the first part.
    pub fn metadata(&self) -> Metadata<'_> {
        let Part { file, contents } = self.first();
        contents.metadata(file.bytes())
    }

    /// Names of all tensors, sorted within each part.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| part.contents.tensors().keys().map(String::as_str))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.parts.iter().find_map(|part| part.contents.tensor(part.file.bytes(), name))
    }

    /// The mapped files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &MappedFile> {
        self.parts.iter().map(|part| &part.file)
    }

    /// What a family reads.
    pub(crate) fn view(&self) -> View<'_> {
        View::new(self.parts.iter().map(|part| (&part.contents, part.file.bytes())).collect())
    }

    fn first(&self) -> &Part {
        &self.parts[0]
    }
}
