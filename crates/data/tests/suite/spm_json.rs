//! SentencePiece vocabularies as `tokenizer.json`, and back.

use lowtide_data::tokenizer::TokenizerConfig;
use lowtide_data::{GgufVocab, Tokenizer, TokenizerError};
use lowtide_testkit::golden::{golden_dir, load_json};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::sentencepiece::vocab;

fn golden(name: &str) -> Value {
    let golden = load_json(&golden_dir().join("tokenizers/sentencepiece.json"));
    golden[name]["document"].clone()
}

fn read(document: &Value) -> Result<GgufVocab, TokenizerError> {
    let config = TokenizerConfig { bos_token: Some("<s>".into()), ..TokenizerConfig::default() };
    GgufVocab::from_json(document.to_string().as_bytes(), &config, 560)
}

fn of(document: &Value) -> Tokenizer {
    Tokenizer::from_json_bytes(document.to_string().as_bytes()).unwrap()
}

fn agree(ours: &Tokenizer, theirs: &Tokenizer, text: &str) {
    let (ours, theirs) = (ours.encode(text).unwrap(), theirs.encode(text).unwrap());
    assert_eq!(ours, theirs, "{text:?}");
}

const TEXTS: [&str; 7] = [
    "the error: `x` is borrowed",
    "  two  spaces\n\nand lines",
    "<s>the</s> <x>and",
    "日本語 🙂 <unk> <0x0A>",
    "aaaaaaaaa bbbbb ======= ........ ",
    "",
    "▁▁the ▁",
];

#[test]
fn merges_say_what_scores_do() {
    for add_space_prefix in [None, Some(false)] {
        let vocab = GgufVocab { add_space_prefix, bos: Some(1), eos: Some(2), ..vocab() };
        let document = vocab.to_json().unwrap();
        let (ours, theirs) = (of(&document), Tokenizer::from_gguf(vocab.clone()).unwrap());
        TEXTS.iter().for_each(|text| agree(&ours, &theirs, text));
        assert_eq!((ours.prefix(), ours.suffix()), (theirs.prefix(), theirs.suffix()));
        let ids: Vec<u32> = (0..560).collect();
        assert_eq!(ours.decode(&ids).unwrap(), theirs.decode(&ids).unwrap());
        let back = read(&document).unwrap();
        assert_eq!((&back.tokens, &back.token_types), (&vocab.tokens, &vocab.token_types));
        assert_eq!((back.bos, back.unk, back.add_bos), (Some(1), Some(0), Some(true)));
        assert_eq!(back.add_space_prefix, Some(add_space_prefix.unwrap_or(true)));
        let again = Tokenizer::from_gguf(back).unwrap();
        TEXTS.iter().for_each(|text| agree(&again, &theirs, text));
    }
}

#[test]
fn documents_of_the_library_become_scores_with_the_same_ids() {
    for name in ["llama", "gemma"] {
        let document = golden(name);
        let theirs = of(&document);
        let vocab = read(&document).unwrap();
        assert_eq!((vocab.model.as_str(), vocab.scores.len()), ("llama", 560));
        let ours = Tokenizer::from_gguf(vocab).unwrap();
        for text in TEXTS.into_iter().filter(|text| !text.contains("<unk>")) {
            agree(&ours, &theirs, text);
        }
    }
}

#[test]
fn what_one_side_cannot_say_is_refused() {
    let words = |name: &str| read(&golden(name)).unwrap_err().to_string();
    assert!(words("llama_first").contains("expected each space as \"▁\""));
    assert!(words("unigram").contains("the tokenizer is Unigram"));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document = golden("llama");
        change(&mut document["model"]);
        read(&document).unwrap_err()
    };
    let merges = |model: &mut Value| model["merges"].as_array().unwrap().clone();
    let lacks = with(&|model| {
        let merges = merges(model).into_iter().filter(|merge| *merge != json!(["▁th", "e"]));
        model["merges"] = merges.collect();
    });
    assert_eq!(lacks, TokenizerError::MergeOrder { token: "▁the".into() });
    let shuffled = with(&|model| {
        let mut merges = merges(model);
        let first = merges.iter().position(|merge| *merge == json!(["▁th", "e"])).unwrap();
        let moved = merges.remove(first);
        merges.push(moved);
        model["merges"] = merges.into();
    });
    assert_eq!(shuffled, TokenizerError::MergeOrder { token: "▁the".into() });
    let absent = with(&|model| model["merges"][0] = json!(["no", "token"]));
    assert_eq!(absent, TokenizerError::MergeUnknown { index: 0, piece: "no".into() });

    let mut same = vocab();
    let the = same.tokens.iter().position(|token| token == "the").unwrap_or(266);
    same.scores[the] = same.scores[260];
    assert!(matches!(same.to_json(), Err(TokenizerError::SharedScore { .. })));
    let mut loose = vocab();
    loose.tokens[300] = "aЖ".into();
    let error = loose.to_json().unwrap_err();
    assert_eq!(error, TokenizerError::LooseCharacter { token: "aЖ".into(), character: 'Ж' });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Runs and repeats are where the order among equals would show.
    #[test]
    fn merges_and_scores_join_any_text_alike(
        text in "(the |a{1,9}|={1,9}| {1,9}|[a-e]{1,9}|é|<x>){0,12}",
    ) {
        let vocab = vocab();
        let (ours, theirs) =
            (of(&vocab.to_json().unwrap()), Tokenizer::from_gguf(vocab).unwrap());
        agree(&ours, &theirs, &text);
    }

    /// Any damage to a document is an error or another vocabulary, never a panic.
    #[test]
    fn damaged_documents(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = golden("llama").to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let config = TokenizerConfig::default();
        if let Ok(read) = GgufVocab::from_json(&bytes, &config, 560) {
            let scored = usize::from(read.model == "llama");
            prop_assert_eq!(read.scores.len(), read.tokens.len() * scored);
        }
    }
}
