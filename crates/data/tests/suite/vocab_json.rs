//! Vocabularies of GGUF files as `tokenizer.json`, and back.

use lowtide_data::tokenizer::TokenizerConfig;
use lowtide_data::{GgufVocab, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Single characters, two merges, two added tokens, an id that nothing has.
fn vocab(pre: &str) -> GgufVocab {
    let mut tokens: Vec<String> = ('a'..='z').map(String::from).collect();
    tokens.extend(["ab", "abc", "Ġ", "<s>", "</s>", "[Extra]"].map(String::from));
    let mut token_types = vec![1; tokens.len()];
    token_types[29] = 3;
    token_types[30] = 3;
    token_types[31] = 4;
    GgufVocab {
        model: "gpt2".into(),
        pre: pre.into(),
        tokens,
        token_types,
        merges: vec!["a b".into(), "ab c".into()],
        bos: Some(29),
        eos: Some(30),
        add_bos: Some(true),
        add_eos: Some(false),
        ..GgufVocab::default()
    }
}

fn config() -> TokenizerConfig {
    TokenizerConfig {
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        ..TokenizerConfig::default()
    }
}

fn read(document: &Value, rows: usize) -> Result<GgufVocab, TokenizerError> {
    GgufVocab::from_json(document.to_string().as_bytes(), &config(), rows)
}

#[test]
fn every_way_of_splitting_comes_back_under_its_name() {
    for (pre, back) in [
        ("gpt-2", "gpt-2"),
        ("smollm", "smollm"),
        ("starcoder", "smollm"),
        ("llama-bpe", "llama-bpe"),
        ("llama3", "llama-bpe"),
        ("dbrx", "dbrx"),
        ("qwen2", "qwen2"),
        ("tekken", "tekken"),
        ("gpt-4o", "gpt-4o"),
    ] {
        let document = vocab(pre).to_json().unwrap();
        assert_eq!(read(&document, 32).unwrap(), vocab(back), "{pre}");
        let ours = Tokenizer::from_json_bytes(document.to_string().as_bytes()).unwrap();
        let theirs = Tokenizer::from_gguf(vocab(pre)).unwrap();
        for text in ["abcab x", "<s>ab</s>[Extra]c", "abc  cab"] {
            assert_eq!(ours.encode_ids(text), theirs.encode_ids(text), "{pre}: {text}");
        }
        assert_eq!((ours.prefix(), ours.suffix()), (theirs.prefix(), theirs.suffix()), "{pre}");
    }
}

#[test]
fn rows_without_a_token_are_filled_up() {
    let document = vocab("qwen2").to_json().unwrap();
    let filled = read(&document, 40).unwrap();
    assert_eq!((filled.tokens.len(), filled.tokens[39].as_str()), (40, "[PAD39]"));
    assert_eq!((filled.token_types[31], filled.token_types[32]), (4, 5));
    let error = read(&document, 31).unwrap_err();
    assert_eq!(error, TokenizerError::IdOutside { id: 31, rows: 31 });
}

#[test]
fn what_gguf_has_no_words_for_is_refused_by_name() {
    let with = |path: &str, value: Value| {
        let mut document = vocab("qwen2").to_json().unwrap();
        *document.pointer_mut(path).unwrap() = value;
        read(&document, 32).unwrap_err().to_string()
    };
    let error = with("/pre_tokenizer", json!({"type": "Whitespace"}));
    let words = "`pre_tokenizer` {\"type\":\"Whitespace\"} with `normalizer` {\"type\":\"NFC\"} is \
                 none of the ways to split text that GGUF has names for here: gpt-2, smollm";
    assert!(error.starts_with(words), "{error}");
    assert!(with("/normalizer", json!({"type": "Lowercase"})).contains("Lowercase"));
    assert!(with("/model/type", json!("Unigram")).contains("the tokenizer is Unigram"));
    assert!(with("/model/byte_fallback", json!(true)).contains("each space as"));
    assert!(with("/model/vocab/z", json!(24)).contains("token id 24 belongs to"));
    assert!(with("/added_tokens/0/content", json!("other")).contains("token id 29 belongs to"));
    assert!(with("/model/vocab", json!([1])).contains("not a tokenizer"));
    let mut unnamed = vocab("qwen2").to_json().unwrap();
    unnamed["added_tokens"] = json!([]);
    unnamed["model"]["vocab"].as_object_mut().unwrap().remove("<s>");
    let words = "`bos_token` is \"<s>\", which is not in the vocabulary";
    assert_eq!(read(&unnamed, 32).unwrap_err().to_string(), words);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any damage to a document is an error or another vocabulary, never a panic.
    #[test]
    fn damaged_documents(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = vocab("smollm").to_json().unwrap().to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(read) = GgufVocab::from_json(&bytes, &config(), 32) {
            prop_assert_eq!(read.tokens.len(), 32);
        }
    }
}
