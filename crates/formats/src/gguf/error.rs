//! What can be wrong with a GGUF container.

/// A GGUF container that is not sound, or not of a kind that is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?}, expected the four letters `GGUF`")]
    Magic {
        /// The bytes found, at most four.
        found: Vec<u8>,
    },
    /// Another version, or the other byte order.
    #[error("GGUF version {found} is not supported; supported: 2 and 3, little-endian")]
    Version {
        /// The version, as read little-endian.
        found: u32,
    },
    /// The file ends before a field does, or before as much as a count announces.
    #[error(
        "the file is truncated or damaged: {field} from byte {at} on: {needed} \
         bytes, and {left} are left"
    )]
    Truncated {
        /// What was being read.
        field: String,
        /// Where it starts.
        at: usize,
        /// Bytes it takes, at least.
        needed: u64,
        /// Bytes left in the file.
        left: usize,
    },
    /// A count or length beyond what is believed.
    #[error("{field} is {found}; expected at most {max}")]
    TooMany {
        /// What is counted.
        field: String,
        /// The number in the file.
        found: u64,
        /// The largest number that is believed here.
        max: u64,
    },
    /// A name that is not UTF-8.
    #[error("{field} is not UTF-8 text")]
    NotUtf8 {
        /// Which name.
        field: String,
    },
    /// A metadata value of a type that does not exist, or an array of arrays.
    #[error("{field} has value type {found}, which does not exist or cannot be used here")]
    ValueType {
        /// Which value.
        field: String,
        /// The number of the type.
        found: u32,
    },
    /// A truth value that is neither 0 nor 1.
    #[error("{field} is {found}; expected 0 or 1")]
    Bool {
        /// Which value.
        field: String,
        /// The byte found.
        found: u8,
    },
    /// The same metadata key twice.
    #[error("metadata key `{key}` is there twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// `general.alignment` is no 32-bit power of two.
    #[error("`general.alignment` is {found}; expected a power of two of type u32")]
    Alignment {
        /// The value or its type.
        found: String,
    },
    /// The same tensor twice.
    #[error("tensor `{tensor}` is there twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// More axes than the format has.
    #[error("tensor `{tensor}` has {found} dimensions; expected at most 4")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// The number in the file.
        found: u32,
    },
    /// An axis of no or of negative length, or a tensor too large to address.
    #[error("tensor `{tensor}` has shape {shape:?}; expected positive axes of addressable size")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The shape, slowest axis first.
        shape: Vec<i64>,
    },
    /// A block format that Lowtide does not read.
    #[error("tensor `{tensor}` has type {found}, which is not supported; supported: {supported}")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's name where it has one, and its number.
        found: String,
        /// The names of all formats that are read.
        supported: String,
    },
    /// Rows that do not end with a block.
    #[error("tensor `{tensor}` has rows of {row} values; {format} needs multiples of {block}")]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Values in a row.
        row: usize,
        /// The format's name.
        format: &'static str,
        /// Values in a block.
        block: usize,
    },
    /// An offset that is not a multiple of the alignment.
    #[error("tensor `{tensor}` starts at offset {offset}, not a multiple of {alignment}")]
    Unaligned {
        /// The tensor.
        tensor: String,
        /// Offset within the data.
        offset: u64,
        /// The file's alignment.
        alignment: usize,
    },
    /// A tensor that reaches past the end of the file.
    #[error(
        "the file is truncated or damaged: tensor `{tensor}` takes {bytes} bytes from data offset \
         {offset}, and there are {data_bytes} bytes of data"
    )]
    OutOfFile {
        /// The tensor.
        tensor: String,
        /// Offset within the data.
        offset: u64,
        /// Bytes it takes.
        bytes: usize,
        /// Bytes of data in the file.
        data_bytes: usize,
    },
    /// Two tensors that share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The other.
        second: String,
    },
}
