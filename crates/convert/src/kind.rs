//! Types of a whole file, and the type that each tensor gets.
//!
//! A quantized file is a mix: norms stay f32, the head keeps more bits than the rest, and rows that
//! are not whole blocks of the type fall back to one with smaller blocks. The rules are those of
//! llama.cpp, so that files are of the size and quality that their names lead to expect.

use std::fmt;
use std::str::FromStr;

use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{
    BF16, F16, F32, IQ4_NL, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "they are the names of the types")]
pub enum Kind {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Brain floats.
    BF16,
    /// 8.5 bits.
    Q8_0,
    /// 4.5 bits.
    Q4_0,
    /// 5 bits.
    Q4_1,
    /// 5.5 bits.
    Q5_0,
    /// 6 bits.
    Q5_1,
    /// 4.5 bits, in large blocks.
    Q4_K,
    /// 5.5 bits, in large blocks.
    Q5_K,
    /// 6.6 bits, in large blocks.
    Q6_K,
    /// Q4_K with Q6_K where it pays most: half of the value and down projections.
    Q4_K_M,
    /// 4.5 bits on uneven levels.
    IQ4_NL,
}

/// Of the number of layers, at each end, where [`Kind::Q4_K_M`] takes more bits.
const ENDS: usize = 8;

impl Kind {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Q4_K_M,
        Self::IQ4_NL,
    ];

    /// Its name, lower case: `q4_k_m`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4_K => "q4_k",
            Self::Q5_K => "q5_k",
            Self::Q6_K => "q6_k",
            Self::Q4_K_M => "q4_k_m",
            Self::IQ4_NL => "iq4_nl",
        }
    }

    /// Whether it is a type of floats, which HF folders hold.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// The format of most of its matrices.
    #[must_use]
    pub fn format(self) -> &'static dyn BlockFormat {
        match self {
            Self::F32 => &F32,
            Self::F16 => &F16,
            Self::BF16 => &BF16,
            Self::Q8_0 => &Q8_0,
            Self::Q4_0 => &Q4_0,
            Self::Q4_1 => &Q4_1,
            Self::Q5_0 => &Q5_0,
            Self::Q5_1 => &Q5_1,
            Self::Q4_K | Self::Q4_K_M => &Q4_K,
            Self::Q5_K => &Q5_K,
            Self::Q6_K => &Q6_K,
            Self::IQ4_NL => &IQ4_NL,
        }
    }

    /// The number that `general.file_type` gives it.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q5_0 => 8,
            Self::Q5_1 => 9,
            Self::Q4_K => 14,
            Self::Q4_K_M => 15,
            Self::Q5_K => 16,
            Self::Q6_K => 18,
            Self::IQ4_NL => 25,
            Self::BF16 => 32,
        }
    }

    /// The format of one matrix in a GGUF file. `name` is its HF name, `row` the values in a row,
    /// `tied` whether the embedding is the head as well.
    pub(crate) fn format_of(
        self,
        name: &str,
        row: usize,
        layers: usize,
        tied: bool,
    ) -> &'static dyn BlockFormat {
        let format = self.format();
        if self.is_float() {
            return format;
        }
        let head = name == "lm_head.weight" || tied && name == "model.embed_tokens.weight";
        let wanted: &'static dyn BlockFormat = match () {
            () if head && (!fits(format, row) || self == Self::Q8_0) => &Q8_0,
            () if head => &Q6_K,
            () if self == Self::Q4_K_M && more_bits(name, layers) => &Q6_K,
            () => format,
        };
        fallback(wanted, row)
    }
}

/// Whether a matrix of [`Kind::Q4_K_M`] has more bits than others: values and down projections of
/// the first and the last eighth of the layers, and of every third between.
fn more_bits(name: &str, layers: usize) -> bool {
    let Some(rest) = name.strip_prefix("model.layers.") else { return false };
    let Some((layer, module)) = rest.split_once('.') else { return false };
    let Ok(layer) = layer.parse::<usize>() else { return false };
    let chosen = ["self_attn.v_proj.weight", "mlp.down_proj.weight"].contains(&module);
    let end = layers / ENDS;
    let last = layer >= (ENDS - 1) * layers / ENDS;
    chosen && (layer < end || last || (layer - end) % 3 == 2)
}

/// `wanted`, or where rows are not whole blocks of it, a type of small blocks with no fewer bits;
/// where not even those fit, f16.
fn fallback(wanted: &'static dyn BlockFormat, row: usize) -> &'static dyn BlockFormat {
    if fits(wanted, row) {
        return wanted;
    }
    let small: &'static dyn BlockFormat = match wanted.name() {
        "Q4_K" => &Q5_0,
        "Q5_K" => &Q5_1,
        "Q6_K" => &Q8_0,
        _ => &F16,
    };
    if fits(small, row) { small } else { &F16 }
}

fn fits(format: &dyn BlockFormat, row: usize) -> bool {
    row.is_multiple_of(format.block_len())
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no type; expected one of {expected}")]
pub struct KindError {
    found: String,
    expected: String,
}

impl FromStr for Kind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| KindError {
            found: text.chars().take(40).collect(),
            expected: Self::ALL.map(Self::name).join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.name().to_uppercase().parse(), Ok(kind));
        }
        let words = "q3_k".parse::<Kind>().unwrap_err().to_string();
        assert!(words.starts_with("\"q3_k\" is no type; expected one of f32, f16"), "{words}");
    }

    #[test]
    fn heads_keep_more_bits_and_narrow_rows_fall_back() {
        let of = |kind: Kind, name: &str, row| kind.format_of(name, row, 30, true).name();
        let (head, q) = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight");
        assert_eq!((of(Kind::Q4_1, head, 576), of(Kind::Q4_1, q, 576)), ("Q8_0", "Q4_1"));
        assert_eq!((of(Kind::Q4_0, head, 512), of(Kind::Q8_0, head, 512)), ("Q6_K", "Q8_0"));
        assert_eq!((of(Kind::Q4_K, head, 512), of(Kind::Q4_K, q, 512)), ("Q6_K", "Q4_K"));
        assert_eq!((of(Kind::Q4_K, head, 576), of(Kind::Q4_K, q, 576)), ("Q8_0", "Q5_0"));
        assert_eq!((of(Kind::Q5_K, q, 576), of(Kind::Q6_K, q, 576)), ("Q5_1", "Q8_0"));
        assert_eq!((of(Kind::Q4_0, q, 40), of(Kind::Q4_K, q, 40)), ("F16", "F16"));
        assert_eq!((of(Kind::F16, head, 40), of(Kind::BF16, q, 40)), ("F16", "BF16"));
        let untied = |row| Kind::Q4_K.format_of(head, row, 30, false).name();
        assert_eq!((untied(512), untied(576)), ("Q4_K", "Q5_0"));
        assert_eq!(Kind::Q4_K.format_of("lm_head.weight", 512, 30, false).name(), "Q6_K");
    }

    #[test]
    fn the_mix_gives_half_of_the_chosen_layers_more_bits() {
        let more = |layers: usize| -> Vec<usize> {
            let down =
                |l: &usize| more_bits(&format!("model.layers.{l}.mlp.down_proj.weight"), layers);
            (0..layers).filter(down).collect()
        };
        assert_eq!(more(16), [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(more(30), [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
        assert!(!more_bits("model.layers.0.mlp.up_proj.weight", 16));
        assert!(!more_bits("model.norm.weight", 16));
    }
}
