//! Mangled tokenizer documents: an error or a tokenizer, never a panic that escapes.

use lowtide_data::tokenizer::{Tokenizer, TokenizerConfig, TokenizerError};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::tokenizer_json::document;

/// Every place in a document, as a JSON pointer.
fn places(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                self::places(item, &format!("{at}/{index}"), places);
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                self::places(item, &format!("{at}/{key}"), places);
            }
        }
        _ => {}
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::from(u32::MAX)),
        "[ab#Ġ ]{0,3}".prop_map(Value::from),
        Just(serde_json::json!([])),
        Just(serde_json::json!({})),
        prop::sample::select(vec![
            "BPE",
            "WordPiece",
            "Unigram",
            "WordLevel",
            "FixedLength",
            "Split"
        ])
        .prop_map(Value::from),
    ]
}

/// A byte-level document, and small ones of SentencePiece's two kinds.
fn documents() -> [Value; 3] {
    let mut bytes = document();
    bytes["model"]["byte_fallback"] = true.into();
    bytes["normalizer"] = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ]});
    bytes["pre_tokenizer"] = Value::Null;
    bytes["decoder"] = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
        { "type": "ByteFallback" },
        { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ]});
    let mut scores = bytes.clone();
    scores["normalizer"] = Value::Null;
    scores["pre_tokenizer"] = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true,
    });
    scores["model"] = json!({
        "type": "Unigram", "unk_id": 0, "byte_fallback": true,
        "vocab": [["<s>", 0.0], ["</s>", 0.0], ["a", -1.5], ["ab", -2.0], ["▁a", -2.5]],
    });
    [document(), bytes, scores]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_value_anywhere(
        which in 0_usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd_value()), 1..3),
    ) {
        let mut document = documents()[which].clone();
        for (place, value) in changes {
            let mut all = Vec::new();
            places(&document, "", &mut all);
            *document.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
        }
        let read = Tokenizer::from_json_bytes(document.to_string().as_bytes());
        // Broken would mean a panic that was caught, and printed on the way.
        prop_assert!(!matches!(read, Err(TokenizerError::Broken { .. })), "{read:?}");
        if let Ok(tokenizer) = read {
            let encoding = tokenizer.encode("ab <s> a zé\n");
            if let Ok(encoding) = encoding {
                let _ = tokenizer.decode(&encoding.ids);
            }
        }
    }

    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        let _ = Tokenizer::from_json_bytes(&bytes);
        let _ = TokenizerConfig::from_json_bytes(&bytes);
    }

    #[test]
    fn any_cut(at in any::<prop::sample::Index>()) {
        let text = document().to_string();
        let cut = &text.as_bytes()[..at.index(text.len())];
        prop_assert!(Tokenizer::from_json_bytes(cut).is_err());
    }
}
