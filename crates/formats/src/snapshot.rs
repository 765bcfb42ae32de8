//! A snapshot: a JSON document and named runs of bytes that belong together, in one file that is
//! whole or refused.
//!
//! It is a safetensors file. Runs are tensors of bytes; the document and a SHA-256 over it and over
//! all runs stand in the metadata. A run keeps the byte order of the machine it was made on.

use std::io::{self, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::safe::{RawTensor, SafeContents, SafeError, parse_with_codes};
use crate::{Error, Fingerprint, MappedFile, atomic};

/// Key of the document in the metadata.
const DOCUMENT: &str = "snapshot";

/// Key of the checksum.
const CHECKSUM: &str = "sha256";

/// Writes the bytes of a section, the same ones each time it is asked.
pub type WriteSection<'a> = &'a dyn Fn(&mut dyn Write) -> io::Result<()>;

/// A named run of bytes.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    /// Its name, one of a kind in the file.
    pub name: &'a str,
    /// How many bytes it has. One of none is not in the file.
    pub bytes: u64,
    /// Writes exactly those; called twice, once for the checksum.
    pub write: WriteSection<'a>,
}

/// What is wrong with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The container around it.
    #[error(transparent)]
    Container(#[from] SafeError),
    /// A safetensors file of something else.
    #[error("not a snapshot: its metadata have no `{field}`")]
    Missing {
        /// What they should have.
        field: &'static str,
    },
    /// A document that is no JSON object.
    #[error("`{DOCUMENT}` in the metadata is not a JSON object: {message}")]
    Document {
        /// What the parser said.
        message: String,
    },
    /// A section that is not made of bytes.
    #[error("`{section}` is not a run of bytes")]
    Section {
        /// Its name.
        section: String,
    },
    /// A file that was cut or changed.
    #[error("the checksum does not match: the file was cut or changed after it was written")]
    Checksum,
}

/// Writes a snapshot; the one that was there is kept until the new one is whole.
///
/// # Errors
/// [`Error::Io`], naming the file; then the old file, if there was one, is untouched.
pub fn write(
    path: &Path,
    document: &Map<String, Value>,
    sections: &[Section<'_>],
) -> Result<(), Error> {
    let refuse = |error: io::Error| Error::io(path, "write", &error);
    let document = serde_json::to_string(document).map_err(|e| refuse(e.into()))?;
    let sections = || sections.iter().filter(|section| section.bytes > 0);
    let mut hash = Hashed::of(&document);
    let (mut end, mut infos) = (0, Vec::new());
    for Section { name, bytes, write } in sections() {
        hash.begin(name, *bytes);
        write(&mut hash).map_err(refuse)?;
        let start = end;
        end += usize::try_from(*bytes).map_err(|e| refuse(io::Error::other(e)))?;
        let info =
            TensorInfo { dtype: Dtype::U8, shape: vec![end - start], data_offsets: (start, end) };
        infos.push(((*name).to_owned(), info));
    }
    let metadata = [(DOCUMENT.to_owned(), document), (CHECKSUM.to_owned(), hash.finish())];
    let header = Metadata::new(Some(metadata.into()), infos).map_err(io::Error::other);
    let header = header.and_then(|header| Ok(serde_json::to_vec(&header)?));
    let mut header = header.map_err(refuse)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    atomic::write_file(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        sections().try_for_each(|section| (section.write)(out))
    })
}

/// A snapshot, its checksum checked.
#[derive(Clone, Debug)]
pub struct Snapshot {
    file: MappedFile,
    contents: SafeContents,
    document: Map<String, Value>,
}

impl Snapshot {
    /// Maps and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be mapped, [`Error::Snapshot`] if it is not whole.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let (contents, document) = parse(file.bytes())
            .map_err(|reason| Error::Snapshot { path: path.to_path_buf(), reason })?;
        Ok(Self { file, contents, document })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The document.
    pub fn document(&self) -> &Map<String, Value> {
        &self.document
    }

    /// The bytes of a section; none where there is no such section, or it had none.
    pub fn section(&self, name: &str) -> &[u8] {
        self.contents.raw(self.file.bytes(), name).map_or(&[], |raw| raw.bytes)
    }
}

/// Checks the bytes of a snapshot; its structure and its document.
///
/// # Errors
/// [`SnapshotError`].
pub fn parse(bytes: &[u8]) -> Result<(SafeContents, Map<String, Value>), SnapshotError> {
    let contents = parse_with_codes(bytes)?;
    let said = |field| contents.metadata().get(field).ok_or(SnapshotError::Missing { field });
    let (document, checksum) = (said(DOCUMENT)?, said(CHECKSUM)?);
    let mut hash = Hashed::of(document);
    // In the order of the file, which is that of writing.
    let mut sections: Vec<(&str, RawTensor<'_>)> = Vec::new();
    for (name, _, dtype) in contents.kinds() {
        match contents.raw(bytes, name) {
            Some(raw) if dtype == Dtype::U8 => sections.push((name, raw)),
            _ => return Err(SnapshotError::Section { section: name.to_owned() }),
        }
    }
    sections.sort_by_key(|(_, raw)| raw.bytes.as_ptr().addr());
    for (name, raw) in sections {
        hash.begin(name, raw.bytes.len() as u64);
        hash.0.update(raw.bytes);
    }
    if hash.finish() != *checksum {
        return Err(SnapshotError::Checksum);
    }
    let parsed = serde_json::from_str(document);
    let document = parsed.map_err(|e| SnapshotError::Document { message: e.to_string() })?;
    Ok((contents, document))
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The checksum under way.
struct Hashed(Sha256);

impl Hashed {
    fn of(document: &str) -> Self {
        let mut hashed = Self(Sha256::new());
        hashed.begin(DOCUMENT, document.len() as u64);
        hashed.0.update(document);
        hashed
    }

    fn begin(&mut self, name: &str, bytes: u64) {
        self.0.update((name.len() as u64).to_le_bytes());
        self.0.update(name);
        self.0.update(bytes.to_le_bytes());
    }

    fn finish(self) -> String {
        Fingerprint(self.0.finalize().into()).to_string()
    }
}
