//! The tokens that end an answer, and chat templates that are given beside the base.

use std::path::Path;

use lowtide_data::Message;
use lowtide_runtime::{BaseText, OpenBase, RuntimeError};
use lowtide_testkit::text::{BYTE_VOCAB, byte_tokenizer_files};
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};
use serde_json::{Value, json};

/// Ids of the two control tokens that every byte tokenizer has.
const START: u32 = 256;
const END: u32 = 257;

/// What `config.json` of a tiny base calls its end.
const EOS: u32 = 2;

/// A base whose files name no end but that of `config.json`, with further tokens in its vocabulary:
/// control tokens if `special` says so.
fn base(dir: &Path, further: &[(&str, bool)]) -> OpenBase {
    let vocab = BYTE_VOCAB + further.len();
    tiny_llama_folder(dir, &TinyLlama { vocab, ..TinyLlama::default() });
    byte_tokenizer_files(dir, false);
    std::fs::write(dir.join("tokenizer_config.json"), "{}").unwrap();
    let path = dir.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for ((token, special), id) in further.iter().zip(BYTE_VOCAB..) {
        tokenizer["model"]["vocab"][token] = json!(id);
        tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": id, "content": token, "special": special, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        }));
    }
    std::fs::write(path, tokenizer.to_string()).unwrap();
    OpenBase::open(dir).unwrap()
}

#[test]
fn known_control_tokens_end_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["<end_of_turn>", "</s>", "<|eot_id|>", "<|im_end|>", "<start_of_turn>"];
    let special = names.map(|name| (name, name != "</s>"));
    let text = BaseText::open(&base(dir.path(), &special)).unwrap();
    let id = |name| text.tokenizer.as_ref().unwrap().token_id(name).unwrap();
    // `<|end|>` is known and special in every byte tokenizer; an ordinary `</s>` is markup.
    let want = [EOS, END, id("<end_of_turn>"), id("<|eot_id|>"), id("<|im_end|>")];
    assert_eq!(text.ends(), want);
    assert_eq!(id("</s>"), 259);
}

#[test]
fn a_given_template_takes_the_place_of_none() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(&dir.path().join("base"), &[("<turn|>", true)]);
    let bare = BaseText::open(&base).unwrap();
    assert_eq!(bare.ends(), [EOS, END]);
    let hello = [Message::new("user", "hi")];
    assert!(matches!(bare.chat(&hello), Err(RuntimeError::NoTemplate { .. })));

    let path = dir.path().join("turns.jinja");
    let template = "{% for m in messages %}<|start|>{{ m.content }}<turn|>{% endfor %}\
                    {% if add_generation_prompt %}<|start|>{% endif %}";
    std::fs::write(&path, template).unwrap();
    let text = bare.with_template(&base, &path).unwrap();
    let turn_end = BYTE_VOCAB as u32;
    assert_eq!(text.ends(), [EOS, END, turn_end], "the template's own end counts too");
    let want = [START, u32::from(b'h'), u32::from(b'i'), turn_end, START];
    assert_eq!(text.chat(&hello).unwrap(), want);
}

#[test]
fn a_file_that_is_no_template_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(&dir.path().join("base"), &[]);
    let path = dir.path().join("turns.jinja");
    let refused = || {
        let error = BaseText::open(&base).unwrap().with_template(&base, &path).unwrap_err();
        error.to_string().replace(&path.display().to_string(), "FILE")
    };
    assert!(refused().starts_with("FILE: No such file"), "{}", refused());
    std::fs::write(&path, "{% if %}").unwrap();
    assert!(refused().starts_with("FILE: chat template, line 1: "), "{}", refused());
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(refused().contains("UTF-8"), "{}", refused());
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert_eq!(refused(), "FILE: more than 1048576 bytes are no chat template");
    std::fs::write(&path, "{{ raise_exception('only users speak') }}").unwrap();
    let text = BaseText::open(&base).unwrap().with_template(&base, &path).unwrap();
    let error = text.chat(&[Message::new("user", "hi")]).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    assert!(error.ends_with("only users speak"), "{error}");
}
