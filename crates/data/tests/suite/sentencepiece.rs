//! SentencePiece tokenizers, from GGUF metadata and from `tokenizer.json`, against sentencepiece
//! and Hugging Face tokenizers.

use std::path::Path;
use std::sync::OnceLock;

use lowtide_data::encode::Encoder;
use lowtide_data::{
    DatasetBuilder, DatasetOptions, GgufVocab, NO_LOSS, Record, Tokenizer, TokenizerError,
};
use lowtide_testkit::golden::{golden_dir, integers, load_json};
use proptest::prelude::*;
use serde_json::Value;

/// The documents among the reference data: Llama 2's form, its later one, Gemma's, and a Unigram.
const DOCUMENTS: [&str; 4] = ["llama", "llama_first", "gemma", "unigram"];

fn golden() -> &'static Value {
    static GOLDEN: OnceLock<Value> = OnceLock::new();
    GOLDEN.get_or_init(|| load_json(&golden_dir().join("tokenizers/sentencepiece.json")))
}

fn ids(value: &Value) -> Vec<u32> {
    integers(value).into_iter().map(|id| u32::try_from(id).unwrap()).collect()
}

pub(crate) fn vocab() -> GgufVocab {
    let gguf = &golden()["gguf"];
    let texts = gguf["tokens"].as_array().unwrap().iter();
    let scores = gguf["scores"].as_array().unwrap().iter();
    GgufVocab {
        model: "llama".into(),
        tokens: texts.map(|token| token.as_str().unwrap().to_owned()).collect(),
        token_types: ids(&gguf["types"]).into_iter().map(|kind| kind as i32).collect(),
        scores: scores.map(|score| score.as_f64().unwrap() as f32).collect(),
        ..GgufVocab::default()
    }
}

fn from_gguf() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::from_gguf(vocab()).unwrap())
}

fn from_document(name: &str) -> Tokenizer {
    Tokenizer::from_json_bytes(golden()[name]["document"].to_string().as_bytes()).unwrap()
}

#[test]
fn a_gguf_vocabulary_has_the_ids_of_sentencepiece() {
    for case in golden()["gguf"]["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let got = from_gguf().encode_ids(text).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
        assert_eq!(from_gguf().decode(&got).unwrap(), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn documents_have_the_ids_offsets_and_words_of_the_reference() {
    for name in DOCUMENTS {
        let tokenizer = from_document(name);
        for case in golden()[name]["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let encoding = tokenizer.encode(text).unwrap();
            assert_eq!(encoding.ids, ids(&case["ids"]), "{name}: {text:?}");
            let offsets = case["offsets"].as_array().unwrap().iter();
            let offsets: Vec<_> = offsets.map(|pair| (ids(pair)[0], ids(pair)[1])).collect();
            let found = encoding.offsets.iter().map(|&(a, b)| (a as u32, b as u32));
            assert_eq!(found.collect::<Vec<_>>(), offsets, "{name}: {text:?}");
            let words = case["decoded"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), words, "{name}: {text:?}");
        }
        assert_eq!(tokenizer.prefix(), [1], "{name}");
        assert_eq!(tokenizer.puts_space_first(), name != "gemma", "{name}");
    }
}

/// Llama 2's form asks for the same as a GGUF file: a space after every special token.
#[test]
fn both_ways_to_carry_a_vocabulary_agree() {
    for case in golden()["llama"]["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let encoding = from_gguf().encode(text).unwrap();
        assert_eq!(encoding, from_document("llama").encode(text).unwrap(), "{text:?}");
    }
}

#[test]
fn the_habits_of_the_kind_fill_what_a_file_leaves_unsaid() {
    let tokenizer = from_gguf();
    let specials = tokenizer.specials();
    assert_eq!((specials.unk, specials.bos, specials.eos), (Some(0), Some(1), Some(2)));
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[1][..], &[][..]));
    assert!([0, 1, 2].into_iter().all(|id| tokenizer.is_special(id)));
    assert!(tokenizer.puts_space_first() && !tokenizer.is_special(3));
    assert_eq!(tokenizer.vocab_size(), vocab().tokens.len());

    let bare = GgufVocab {
        add_space_prefix: Some(false),
        add_bos: Some(false),
        add_eos: Some(true),
        ..vocab()
    };
    let bare = Tokenizer::from_gguf(bare).unwrap();
    assert_eq!((bare.prefix(), bare.suffix()), (&[][..], &[2][..]));
    assert!(!bare.puts_space_first());
    assert_eq!(bare.decode(&bare.encode_ids(" a<s>b").unwrap()).unwrap(), " a<s>b");
    let gemma = from_document("gemma");
    assert_eq!(bare.encode("Ü b  c\n").unwrap(), gemma.encode("Ü b  c\n").unwrap());
}

fn refused(change: impl FnOnce(&mut GgufVocab)) -> TokenizerError {
    let mut vocab = vocab();
    change(&mut vocab);
    Tokenizer::from_gguf(vocab).unwrap_err()
}

#[test]
fn contradictions_name_their_place() {
    let tokens = vocab().tokens.len();
    assert_eq!(
        refused(|vocab| vocab.scores.truncate(5)),
        TokenizerError::ScoreCount { tokens, scores: 5 }
    );
    assert_eq!(
        refused(|vocab| vocab.scores[7] = f32::NAN).to_string(),
        "tokenizer.ggml.scores[7] is not a number"
    );
    let error = refused(|vocab| vocab.tokens[300] = vocab.tokens[301].clone());
    assert!(matches!(error, TokenizerError::DuplicateToken { first: 300, second: 301, .. }));
    assert_eq!(
        refused(|vocab| vocab.token_types.truncate(2)),
        TokenizerError::TypeCount { tokens, types: 2 }
    );
}

#[test]
fn merges_are_never_dropped_by_chance() {
    let mut document = golden()["llama"]["document"].clone();
    let whole = from_document("llama").encode("The plan is the ledger.").unwrap();
    document["model"]["dropout"] = 0.9.into();
    let tokenizer = Tokenizer::from_json_bytes(document.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("The plan is the ledger.").unwrap(), whole);
}

/// The labelled tokens of a completion are those that hold a byte of it, although spaces became
/// three bytes, one was put in front, and characters became bytes.
#[test]
fn masks_are_right_where_bytes_move() {
    let exchanges =
        [("Q: 🙂", " A  b"), ("日本 ", "語 ü"), ("a", "🙂🙂"), ("  x", "  y\n\nz"), ("é", "é")];
    let documents = DOCUMENTS.map(from_document);
    for tokenizer in documents.iter().chain([from_gguf()]) {
        for (prompt, completion) in exchanges {
            let encoder = Encoder {
                tokenizer: Some(tokenizer),
                template: None,
                mask_prompt: true,
                append_eos: false,
                vocab_size: None,
            };
            let (prompt, completion) = (prompt.to_owned(), completion.to_owned());
            let record = Record::Completion { prompt: prompt.clone(), completion };
            let example = encoder.encode(&record).unwrap();
            let first = example.labels.iter().position(|&label| label != NO_LOSS).unwrap();
            assert!(example.labels[first..].iter().all(|&label| label != NO_LOSS));
            // Some forms put no space before a space and yet take one off.
            let before = tokenizer.decode_plain(&example.ids[..first]).unwrap();
            assert!(prompt.trim_start().starts_with(before.trim_start()), "{before:?}");
            // At most one token, of at most one word, reaches over the seam.
            let over = tokenizer.decode_plain(&example.ids[..=first]).unwrap();
            assert!(over.len() > before.len() && example.prompt_len == first, "{over:?}");
        }
    }
}

/// Plain text goes through the tokenizer in pieces, and no piece may get a space of its own.
#[test]
fn plain_text_in_pieces_has_the_ids_of_the_whole() {
    let line = "The  plan is the ledger, naïve 日本語 🙂.\n\nEvery segment";
    let text = (0..2500).map(|n| format!("{line} {n}\n  and more")).collect::<String>();
    for tokenizer in DOCUMENTS.map(from_document).iter().chain([from_gguf()]) {
        let options = DatasetOptions { max_seq_len: 1 << 20, ..DatasetOptions::default() };
        let mut builder = DatasetBuilder::new(&options, Some(tokenizer), None).unwrap();
        builder.add_text(Path::new("plain.txt"), text.as_bytes()).unwrap();
        let data = builder.finish().unwrap();
        let mut buffer = data.buffer();
        let ids = data.read(0, &mut buffer).unwrap().ids;
        assert!(ids == tokenizer.encode_ids(&text).unwrap(), "{} ids", ids.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn offsets_cover_any_text_in_order(
        text in "(\\PC|[a-e \n]|  |🙂|</s>|<x>){0,40}",
        which in 0_usize..5,
    ) {
        let document;
        let tokenizer = match DOCUMENTS.get(which) {
            Some(name) => {
                document = from_document(name);
                &document
            }
            None => from_gguf(),
        };
        let encoding = tokenizer.encode(&text).unwrap();
        let mut covered = 0;
        for &(start, end) in &encoding.offsets {
            // Tokens that share a character share its range; the space in front has that of the
            // first character.
            prop_assert!(start < end && text.get(start..end).is_some());
            prop_assert!(start >= covered || end == covered || start == 0 || end >= covered);
            prop_assert!(start <= covered, "a gap before {start}");
            covered = covered.max(end);
        }
        prop_assert_eq!(covered, text.len());
        tokenizer.decode(&encoding.ids).unwrap();
    }

    #[test]
    fn any_vocabulary_is_a_tokenizer_or_an_error(
        tokens in prop::collection::vec("(<0x[0-9a-fA-F+]{1,2}>|[abé▁<]{0,3})", 0..12),
        kinds in prop::collection::vec(-1_i32..8, 0..12),
        scores in prop::collection::vec(prop::num::f32::ANY, 12),
        given in prop::collection::vec(prop::option::of(0_u32..20), 5),
        habits in any::<(Option<bool>, Option<bool>, Option<bool>)>(),
        text in "[abé<▁ 🙂]{0,20}",
    ) {
        let size = tokens.len();
        let vocab = GgufVocab {
            model: "llama".into(),
            token_types: if kinds.len() == size { kinds } else { Vec::new() },
            scores: scores.into_iter().take(size).collect(),
            tokens,
            bos: given[0],
            eos: given[1],
            eot: given[2],
            unk: given[3],
            pad: given[4],
            add_bos: habits.0,
            add_eos: habits.1,
            add_space_prefix: habits.2,
            ..GgufVocab::default()
        };
        match Tokenizer::from_gguf(vocab) {
            Ok(tokenizer) => {
                prop_assert_eq!(tokenizer.vocab_size(), size);
                match tokenizer.encode(&text) {
                    Ok(encoding) => {
                        prop_assert!(encoding.ids.iter().all(|&id| (id as usize) < size));
                        tokenizer.decode(&encoding.ids).unwrap();
                    }
                    Err(error) => {
                        prop_assert!(matches!(error, TokenizerError::Encode { .. }), "{error}");
                    }
                }
            }
            Err(error) => prop_assert!(!matches!(error, TokenizerError::Broken { .. }), "{error}"),
        }
    }
}
