//! Tokenizers from `tokenizer.json`, with `tokenizer_config.json` beside it.

use std::fs;

use lowtide_data::tokenizer::TokenizerConfig;
use lowtide_data::{Tokenizer, TokenizerError};
use serde_json::{Value, json};

/// A byte-level BPE of a few tokens whose post-processor writes `<s>` before a text and `</s>`
/// after it, and which asks to be cut and padded.
pub(crate) fn document() -> Value {
    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    };
    let special = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
    let piece = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    json!({
        "version": "1.0",
        "truncation": {
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
        },
        "padding": {
            "strategy": { "Fixed": 16 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>",
        },
        "added_tokens": [added(0, "<s>"), added(1, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("<s>"), text, piece("</s>")],
            "pair": [text, text],
            "special_tokens": { "<s>": special("<s>", 0), "</s>": special("</s>", 1) },
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": { "<s>": 0, "</s>": 1, "a": 2, "b": 3, "Ġ": 4, "ab": 5, "Ġab": 6 },
            "merges": ["a b", "Ġ ab"],
        },
    })
}

fn read(document: &Value) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_json_bytes(document.to_string().as_bytes())
}

#[test]
fn ends_are_kept_apart_and_nothing_is_cut_or_padded() {
    let tokenizer = read(&document()).unwrap();
    let encoding = tokenizer.encode("ab ab ab<s>").unwrap();
    assert_eq!(encoding.ids, [5, 6, 6, 0]);
    // A leading space is part of its token.
    assert_eq!(encoding.offsets, [(0, 2), (2, 5), (5, 8), (8, 11)]);
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[0][..], &[1][..]));
    assert_eq!((tokenizer.vocab_size(), tokenizer.is_special(1)), (7, true));
    assert_eq!(tokenizer.decode(&[0, 5, 6, 1]).unwrap(), "<s>ab ab</s>");
}

#[test]
fn a_folder_says_what_its_tokens_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", &document().to_string());
    let bare = Tokenizer::from_hf_folder(folder.path()).unwrap();
    assert_eq!(bare.specials(), lowtide_data::Specials::default());
    assert_eq!(TokenizerConfig::read(folder.path()).unwrap(), TokenizerConfig::default());

    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "b",
            "pad_token": "[PAD]", "unk_token": null, "chat_template": [
            {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    let specials = Tokenizer::from_hf_folder(folder.path()).unwrap();
    assert!(specials.is_special(3) && !specials.is_special(2));
    let specials = specials.specials();
    assert_eq!((specials.bos, specials.eos, specials.pad), (Some(0), Some(3), None));
    let template = || TokenizerConfig::read(folder.path()).unwrap().chat_template;
    assert_eq!(template().as_deref(), Some("d"));
    write("chat_template.jinja", "j");
    assert_eq!(template().as_deref(), Some("j"));

    write("tokenizer_config.json", r#"{"eos_token": "<eos>"}"#);
    let error = Tokenizer::from_hf_folder(folder.path()).unwrap_err();
    let unknown = TokenizerError::UnknownToken { field: "eos_token", token: "<eos>".into() };
    assert_eq!(error, unknown);
    write("tokenizer_config.json", r#"{"eos_token": 3}"#);
    let error = Tokenizer::from_hf_folder(folder.path()).unwrap_err().to_string();
    let words = "`eos_token`: expected a string, an object with `content`, or null, found a number";
    assert!(error.ends_with(words), "{error}");
    let error = Tokenizer::from_hf_folder(&folder.path().join("none")).unwrap_err();
    assert!(matches!(error, TokenizerError::Io { kind: std::io::ErrorKind::NotFound, .. }));
}

#[test]
fn broken_documents_are_errors() {
    for text in ["", "{", "[]", "{}", "null", r#"{"version": "1.0", "model": {"type": "BPE"}}"#] {
        let error = Tokenizer::from_json_bytes(text.as_bytes()).unwrap_err();
        assert!(matches!(error, TokenizerError::Json { .. }), "{text}: {error}");
    }
    let mut unknown_piece = document();
    unknown_piece["model"]["merges"] = json!(["a zz"]);
    assert!(matches!(read(&unknown_piece), Err(TokenizerError::Json { .. })));
    let mut short_piece = document();
    short_piece["model"]["continuing_subword_prefix"] = json!("####");
    assert_eq!(
        read(&short_piece).unwrap_err().to_string(),
        "not a tokenizer: model.merges[0] ends in \"b\": expected it to begin with the subword \
         prefix \"####\""
    );
    let mut undefined = document();
    undefined["post_processor"]["special_tokens"] = json!({ "<s>": { "id": "<s>" } });
    assert_eq!(
        read(&undefined).unwrap_err().to_string(),
        "not a tokenizer: post_processor names \"</s>\" and does not define it"
    );
}
