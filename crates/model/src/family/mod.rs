//! Families: how each wires a block, one file each.
//!
//! To add one, write its file, put it into [`Family`] and into the matches below.

mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use alloc::borrow::ToOwned;
use core::str::FromStr;

use lowtide_tape::ValueId;
use lowtide_tensor::Float;

use crate::ModelError;
use crate::block::Block;

/// A family of decoders. The numbers of a particular model are in [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Norms before attention and the feed-forward part.
    Llama,
    /// As Llama; attention may be limited to a window of keys.
    Mistral,
    /// As Llama; q, k and v have biases.
    Qwen2,
    /// As Llama, with normed queries and keys.
    Qwen3,
    /// Norms around attention and the feed-forward part, normed queries and keys, sliding layers.
    Gemma3,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// The `model_type` of Hugging Face.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
        }
    }

    /// Records the operations of a block with input `x`; the last gives its output.
    pub(crate) fn record<F: Float>(
        self,
        block: &mut Block<'_, '_, '_, F>,
        x: ValueId,
    ) -> Result<(), ModelError> {
        match self {
            Self::Llama => llama::record(block, x),
            Self::Mistral => mistral::record(block, x),
            Self::Qwen2 => qwen2::record(block, x),
            Self::Qwen3 => qwen3::record(block, x),
            Self::Gemma3 => gemma3::record(block, x),
        }
    }
}

impl FromStr for Family {
    type Err = ModelError;

    /// Reads a `model_type` of Hugging Face.
    fn from_str(name: &str) -> Result<Self, ModelError> {
        let unknown = || ModelError::UnknownFamily {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).into(),
        };
        Self::ALL.into_iter().find(|family| family.name() == name).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::Family;
    use alloc::string::ToString;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for family in Family::ALL {
            assert_eq!(family.name().parse(), Ok(family));
        }
        let error = "gpt2".parse::<Family>().unwrap_err().to_string();
        assert_eq!(
            error,
            "model family `gpt2` is not known; known: llama, mistral, qwen2, qwen3, gemma3_text"
        );
    }
}
