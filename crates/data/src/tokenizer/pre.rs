//! How a text is split before byte pairs are merged, by the name a GGUF file gives it.
//!
//! llama.cpp names each way of splitting after the model that brought it. The patterns are those
//! of the models' own `tokenizer.json`. A name that is not in the table is refused: a near miss
//! would tokenize most texts rightly and some wrongly.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;

/// The names understood.
pub(super) const KNOWN: [&str; 14] = [
    "gpt-2",
    "smollm",
    "starcoder",
    "refact",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "dbrx",
    "smaug-bpe",
    "qwen2",
    "deepseek-r1-qwen",
    "tekken",
    "gpt-4o",
    "llama4",
];

/// cl100k's pattern: up to three digits in a token.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The same with one digit in a token.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Words split where lower case turns to upper case; one digit in a token.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// o200k's pattern: the same with contractions and up to three digits.
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// What a name stands for.
pub(super) struct Recipe {
    pub(super) splitter: PreTokenizerWrapper,
    pub(super) normalizer: Option<NormalizerWrapper>,
    /// A piece that is a token as it stands is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether a sequence begins with the bos token where the file does not say.
    pub(super) add_bos: bool,
}

/// Looks a name up.
pub(super) fn recipe(pre: &str) -> Result<Recipe, TokenizerError> {
    let plain =
        |splitter| Recipe { splitter, normalizer: None, ignore_merges: false, add_bos: false };
    Ok(match pre {
        "gpt-2" => plain(byte_level(true).into()),
        "smollm" | "starcoder" | "refact" => {
            plain(Sequence::new(vec![Digits::new(true).into(), byte_level(true).into()]).into())
        }
        "llama-bpe" | "llama3" | "llama-v3" => {
            Recipe { ignore_merges: true, add_bos: true, ..plain(pattern(LLAMA3)) }
        }
        "dbrx" | "smaug-bpe" => plain(pattern(LLAMA3)),
        "qwen2" | "deepseek-r1-qwen" => {
            Recipe { normalizer: Some(NFC.into()), ..plain(pattern(QWEN2)) }
        }
        "tekken" => Recipe { ignore_merges: true, add_bos: true, ..plain(pattern(TEKKEN)) },
        "gpt-4o" | "llama4" => plain(pattern(O200K)),
        _ => return Err(TokenizerError::UnknownPre { pre: pre.to_owned() }),
    })
}

fn pattern(regex: &str) -> PreTokenizerWrapper {
    let split = SplitPattern::Regex(regex.to_owned());
    let split = Split::new(split, SplitDelimiterBehavior::Isolated, false)
        .unwrap_or_else(|error| panic!("a pattern of the table above does not compile: {error}"));
    Sequence::new(vec![split.into(), byte_level(false).into()]).into()
}

/// Bytes as printable characters; with GPT-2's own pattern when asked. Nothing is put in front of
/// the text, and offsets keep the spaces they cover.
fn byte_level(gpt2_pattern: bool) -> ByteLevel {
    ByteLevel::new(false, false, gpt2_pattern)
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    fn pieces(pre: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        recipe(pre).unwrap().splitter.pre_tokenize(&mut pieces).unwrap();
        let spans = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        spans.into_iter().map(|(_, (a, b), _)| text[a..b].to_owned()).collect()
    }

    #[test]
    fn every_name_of_the_table_has_a_recipe() {
        for pre in KNOWN {
            assert!(!pieces(pre, "Hello world's 1234 …\n\n x").is_empty(), "{pre}");
        }
    }

    #[test]
    fn splits_as_the_models_do() {
        let text = "I'LL pay 1234.\n\n  Ok";
        assert_eq!(pieces("gpt-2", text), ["I", "'", "LL", " pay", " 1234", ".", "\n\n ", " Ok"]);
        assert_eq!(
            pieces("smollm", text),
            ["I", "'", "LL", " pay", " ", "1", "2", "3", "4", ".", "\n\n ", " Ok"]
        );
        assert_eq!(
            pieces("llama-bpe", text),
            ["I", "'LL", " pay", " ", "123", "4", ".\n\n", " ", " Ok"]
        );
        assert_eq!(
            pieces("qwen2", text),
            ["I", "'LL", " pay", " ", "1", "2", "3", "4", ".\n\n", " ", " Ok"]
        );
        assert_eq!(pieces("tekken", "camelCase 12"), ["camel", "Case", " ", "1", "2"]);
        assert_eq!(pieces("gpt-4o", "It's a/b/\nx"), ["It's", " a", "/b", "/\n", "x"]);
    }

    #[test]
    fn an_unknown_name_is_refused_by_name() {
        let error = recipe("default").err().unwrap();
        assert_eq!(error, TokenizerError::UnknownPre { pre: "default".into() });
        let words = error.to_string();
        assert!(
            words.starts_with("tokenizer.ggml.pre is \"default\": expected one of gpt-2, smol")
        );
    }
}
