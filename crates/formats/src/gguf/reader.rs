//! A cursor over untrusted bytes.

use std::fmt;

use super::GgufError;

/// What is being read, worded only when an error needs it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    /// A part of the header.
    Header(&'static str),
    /// The key of a metadata entry, counted from 0.
    Key(u64),
    /// The value of the metadata entry of that key.
    Value(&'a str),
    /// The name of a tensor, counted from 0.
    TensorName(u64),
    /// A part of the record of a tensor.
    Tensor(&'a str, &'static str),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(part) => write!(f, "the {part}"),
            Self::Key(i) => write!(f, "the key of metadata entry {i}"),
            Self::Value(key) => write!(f, "the value of `{key}`"),
            Self::TensorName(i) => write!(f, "the name of tensor {i}"),
            Self::Tensor(name, part) => write!(f, "the {part} of tensor `{name}`"),
        }
    }
}

/// Reads forward; every step is checked against the end.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, len: u64, field: Field<'_>) -> Result<&'a [u8], GgufError> {
        let left = self.left();
        match usize::try_from(len) {
            Ok(len) if len <= left => {
                let bytes = &self.bytes[self.at..self.at + len];
                self.at += len;
                Ok(bytes)
            }
            _ => {
                let (at, field) = (self.at, field.to_string());
                Err(GgufError::Truncated { field, at, needed: len, left })
            }
        }
    }

    fn array<const N: usize>(&mut self, field: Field<'_>) -> Result<[u8; N], GgufError> {
        let bytes = self.take(N as u64, field)?;
        Ok(bytes.try_into().expect("take gives the length asked for"))
    }

    pub(super) fn u32(&mut self, field: Field<'_>) -> Result<u32, GgufError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: Field<'_>) -> Result<u64, GgufError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A count of things.
    pub(super) fn count(&mut self, max: u64, field: Field<'_>) -> Result<u64, GgufError> {
        let found = self.u64(field)?;
        if found > max {
            return Err(GgufError::TooMany { field: field.to_string(), found, max });
        }
        Ok(found)
    }

    /// Sees that so many things, each of which takes at least `bytes_each`, can come next.
    pub(super) fn expect(
        &self,
        count: u64,
        bytes_each: u64,
        things: impl fmt::Display,
    ) -> Result<(), GgufError> {
        let (at, left) = (self.at, self.left());
        if count <= left as u64 / bytes_each {
            return Ok(());
        }
        let field = format!("{count} {things}");
        Err(GgufError::Truncated { field, at, needed: count.saturating_mul(bytes_each), left })
    }

    /// The bytes of a string of at most `most` bytes.
    pub(super) fn string_bytes(
        &mut self,
        most: u64,
        field: Field<'_>,
    ) -> Result<&'a [u8], GgufError> {
        let len = self.u64(field)?;
        if len > most {
            let field = format!("the length of {field}");
            return Err(GgufError::TooMany { field, found: len, max: most });
        }
        self.take(len, field)
    }

    /// A name: a string that must be UTF-8.
    pub(super) fn name(&mut self, most: u64, field: Field<'_>) -> Result<String, GgufError> {
        let bytes = self.string_bytes(most, field)?;
        match std::str::from_utf8(bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(GgufError::NotUtf8 { field: field.to_string() }),
        }
    }
}
