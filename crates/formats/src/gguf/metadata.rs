//! Typed access to metadata, without copying.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ValueType;
use crate::DocumentError;

/// Where a value lies and what it is.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value_type: ValueType,
    /// Type and count of the elements of an array.
    pub(super) elements: Option<(ValueType, usize)>,
    /// The value, or the elements of the array.
    pub(super) range: Range<usize>,
}

impl Entry {
    /// The value of an entry of type u32.
    pub(super) fn u32_value(&self, bytes: &[u8]) -> u32 {
        assert!(self.value_type == ValueType::U32, "an entry of type {}", self.value_type);
        u32::from_le_bytes(fixed(&bytes[self.range.clone()]))
    }

    fn describe(&self) -> String {
        match self.elements {
            Some((element, count)) => format!("an array of {count} {element}"),
            None => format!("of type {}", self.value_type),
        }
    }
}

/// A value as it stands in a file: its type, type and number of an array's elements, its bytes.
pub(super) type RawValue<'a> = (ValueType, Option<(ValueType, usize)>, &'a [u8]);

/// The metadata of a GGUF file.
///
/// Getters answer `Ok(None)` where the key is absent and an error, naming key, expected and found
/// type, where the value is of another kind.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    bytes: &'a [u8],
    entries: &'a BTreeMap<String, Entry>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(bytes: &'a [u8], entries: &'a BTreeMap<String, Entry>) -> Self {
        Self { bytes, entries }
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether both have the same value of `key`, bit for bit; `None` if `other` has none.
    pub(super) fn same(&self, other: &Metadata<'_>, key: &str) -> Option<bool> {
        let (ours, theirs) = (self.entries.get(key)?, other.entries.get(key)?);
        let alike = ours.value_type == theirs.value_type && ours.elements == theirs.elements;
        Some(alike && self.slice(ours) == other.slice(theirs))
    }

    /// A whole number of any integer type that is not negative.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`] or [`DocumentError::OutOfRange`].
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        if entry.value_type == ValueType::U64 {
            return Ok(Some(u64::from_le_bytes(fixed(self.slice(entry)))));
        }
        let value = integer(entry.value_type, self.slice(entry));
        let value = value.ok_or_else(|| wrong_type(key, "a whole number", entry))?;
        let expected = "a whole number that is not negative";
        let negative = |_| DocumentError::out_of_range(key, value, expected);
        u64::try_from(value).map(Some).map_err(negative)
    }

    /// As [`get_u64`](Self::get_u64), for sizes.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`] or [`DocumentError::OutOfRange`].
    pub fn get_usize(&self, key: &str) -> Result<Option<usize>, DocumentError> {
        let Some(value) = self.get_u64(key)? else { return Ok(None) };
        let too_large = |_| DocumentError::out_of_range(key, value, "an addressable size");
        usize::try_from(value).map(Some).map_err(too_large)
    }

    /// As [`get_u64`](Self::get_u64), for token ids.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`] or [`DocumentError::OutOfRange`].
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, DocumentError> {
        let Some(value) = self.get_u64(key)? else { return Ok(None) };
        let too_large = |_| DocumentError::out_of_range(key, value, "a number of 32 bits");
        u32::try_from(value).map(Some).map_err(too_large)
    }

    /// A float. One of 64 bits is rounded.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`].
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match entry.value_type {
            ValueType::F32 => Ok(Some(f32::from_le_bytes(fixed(self.slice(entry))))),
            ValueType::F64 => Ok(Some(f64::from_le_bytes(fixed(self.slice(entry))) as f32)),
            _ => Err(wrong_type(key, "a float", entry)),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`].
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match entry.value_type {
            ValueType::Bool => Ok(Some(self.slice(entry) == [1])),
            _ => Err(wrong_type(key, "a truth value", entry)),
        }
    }

    /// Text.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`], also where the text is not UTF-8.
    pub fn get_str(&self, key: &str) -> Result<Option<&'a str>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        if entry.value_type != ValueType::Str {
            return Err(wrong_type(key, "text", entry));
        }
        let (text, _) = split_string(self.slice(entry));
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(not_utf8(key.to_owned())),
        }
    }

    /// An array of texts, each checked to be UTF-8.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`].
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'a>>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let Some((ValueType::Str, left)) = entry.elements else {
            return Err(wrong_type(key, "an array of texts", entry));
        };
        let mut rest = self.slice(entry);
        for i in 0..left {
            let (text, after) = split_string(rest);
            if std::str::from_utf8(text).is_err() {
                return Err(not_utf8(format!("{key}[{i}]")));
            }
            rest = after;
        }
        Ok(Some(Strings { rest: self.slice(entry), left }))
    }

    /// An array of whole numbers of any type but u64.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`].
    pub fn integers(&self, key: &str) -> Result<Option<Integers<'a>>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let whole = entry.elements.filter(|(element, _)| integer(*element, &[0; 8]).is_some());
        match whole.and_then(|(element, _)| Some((element, element.size()?))) {
            Some((element, size)) => {
                Ok(Some(Integers { element, chunks: self.slice(entry).chunks_exact(size) }))
            }
            None => Err(wrong_type(key, "an array of whole numbers", entry)),
        }
    }

    /// Whether the key holds an array.
    pub fn is_array(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.elements.is_some())
    }

    /// An array of 32-bit floats.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`].
    pub fn floats(&self, key: &str) -> Result<Option<Floats<'a>>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match entry.elements {
            Some((ValueType::F32, _)) => {
                Ok(Some(Floats { chunks: self.slice(entry).chunks_exact(4) }))
            }
            _ => Err(wrong_type(key, "an array of 32-bit floats", entry)),
        }
    }

    /// An array of truth values.
    ///
    /// # Errors
    /// [`DocumentError::WrongType`].
    pub fn bools(
        &self,
        key: &str,
    ) -> Result<Option<impl ExactSizeIterator<Item = bool> + use<'a>>, DocumentError> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match entry.elements {
            Some((ValueType::Bool, _)) => Ok(Some(self.slice(entry).iter().map(|b| *b == 1))),
            _ => Err(wrong_type(key, "an array of truth values", entry)),
        }
    }

    /// Type, type and number of elements, and the value's bytes.
    pub(super) fn raw(&self, key: &str) -> Option<RawValue<'a>> {
        let entry = self.entries.get(key)?;
        Some((entry.value_type, entry.elements, self.slice(entry)))
    }

    fn slice(&self, entry: &Entry) -> &'a [u8] {
        &self.bytes[entry.range.clone()]
    }
}

/// The texts of an array.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let (text, rest) = split_string(self.rest);
        self.rest = rest;
        Some(std::str::from_utf8(text).expect("checked when the iterator was made"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// The whole numbers of an array.
#[derive(Clone, Debug)]
pub struct Integers<'a> {
    element: ValueType,
    chunks: std::slice::ChunksExact<'a, u8>,
}

impl Iterator for Integers<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        let bytes = self.chunks.next()?;
        Some(integer(self.element, bytes).expect("the type was checked when it was made"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.chunks.size_hint()
    }
}

impl ExactSizeIterator for Integers<'_> {}

/// The floats of an array.
#[derive(Clone, Debug)]
pub struct Floats<'a> {
    chunks: std::slice::ChunksExact<'a, u8>,
}

impl Iterator for Floats<'_> {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        self.chunks.next().map(|bytes| f32::from_le_bytes(fixed(bytes)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.chunks.size_hint()
    }
}

impl ExactSizeIterator for Floats<'_> {}

/// The number in the first bytes, for integer types that fit in an `i64`.
fn integer(value_type: ValueType, bytes: &[u8]) -> Option<i64> {
    Some(match value_type {
        ValueType::U8 => i64::from(bytes[0]),
        ValueType::I8 => i64::from(bytes[0].cast_signed()),
        ValueType::U16 => i64::from(u16::from_le_bytes(fixed(bytes))),
        ValueType::I16 => i64::from(i16::from_le_bytes(fixed(bytes))),
        ValueType::U32 => i64::from(u32::from_le_bytes(fixed(bytes))),
        ValueType::I32 => i64::from(i32::from_le_bytes(fixed(bytes))),
        ValueType::I64 => i64::from_le_bytes(fixed(bytes)),
        _ => return None,
    })
}

/// The bytes of a value whose size the parser has checked.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes[..N].try_into().expect("a slice of N bytes")
}

/// A string whose length the parser has checked, and what follows it.
fn split_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = bytes.split_at(8);
    let len = usize::try_from(u64::from_le_bytes(fixed(len))).expect("a length within the file");
    rest.split_at(len)
}

fn wrong_type(key: &str, expected: &'static str, entry: &Entry) -> DocumentError {
    DocumentError::WrongType { key: key.to_owned(), expected, found: entry.describe() }
}

fn not_utf8(key: String) -> DocumentError {
    let found = "a string that is not UTF-8".to_owned();
    DocumentError::WrongType { key, expected: "text", found }
}
