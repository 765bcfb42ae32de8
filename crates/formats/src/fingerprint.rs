//! Telling one base from another without reading all of it.

use std::fmt;
use std::str::FromStr;

use lowtide_quant::Scales;
use sha2::{Digest, Sha256};

use crate::Base;

/// Bytes looked at, at the start, in the middle and at the end of every tensor.
const SAMPLE_BYTES: usize = 64;

/// What a base is recognised by: SHA-256 over names, shapes, formats and samples of the bytes of
/// all tensors.
///
/// It is the same on every machine and does not depend on where the file lies. It catches another
/// model, another quantization and almost every fine-tune of the same model; it is no proof that
/// two files are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub(crate) fn of(base: &Base) -> Self {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        put(base.hyper().architecture.as_bytes());
        for name in base.tensor_names() {
            let tensor = base.tensor(&name).expect("a name that the base lists");
            put(name.as_bytes());
            put(tensor.format.name().as_bytes());
            put(&(tensor.bytes.len() as u64).to_le_bytes());
            for &axis in tensor.shape {
                put(&(axis as u64).to_le_bytes());
            }
            samples(tensor.bytes).for_each(&mut put);
            match tensor.apart.map(|apart| apart.scales) {
                None => {}
                Some(Scales::Rows(scales) | Scales::Blocks(scales)) => {
                    samples(scales.as_flattened()).for_each(&mut put);
                }
                Some(Scales::Nested(nested)) => {
                    samples(nested.codes).for_each(&mut put);
                    samples(nested.magnitudes.as_flattened()).for_each(&mut put);
                    put(&nested.offset.to_le_bytes());
                }
            }
        }
        Self(hash.finalize().into())
    }
}

/// Start, middle and end.
fn samples(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let last = bytes.len().saturating_sub(SAMPLE_BYTES);
    [0, last / 2, last]
        .into_iter()
        .map(|start| &bytes[start..bytes.len().min(start + SAMPLE_BYTES)])
}

/// 64 hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Text that is not 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a fingerprint; expected 64 lower-case hexadecimal digits")]
pub struct FingerprintError {
    /// The text.
    pub text: String,
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| match *pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            })
            .collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| FingerprintError { text: text.chars().take(80).collect() })
    }
}
