//! A tokenizer of single bytes and a chat template, for tiny models that are to speak.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Ids of [`byte_tokenizer_files`]: every byte, and two control tokens.
pub const BYTE_VOCAB: usize = 258;

/// What the chat template writes: every turn between two control tokens.
const TEMPLATE: &str = "{% for message in messages %}<|start|>{{ message.role }}: \
                        {{ message.content }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}<|start|>assistant: {% endif %}";

/// Every byte as a byte-level vocabulary spells it: printable ones as themselves, the others as the
/// characters from U+0100 on.
///
/// # Panics
/// Never: all these are characters.
#[must_use]
pub fn byte_tokens() -> Vec<String> {
    let mut others = 0x100_u32..;
    let spell = |byte: u8| {
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte).to_string();
        }
        others.next().and_then(char::from_u32).expect("a character").to_string()
    };
    (0..=255).map(spell).collect()
}

/// Writes `tokenizer.json`, whose token `b` is byte `b`, and `tokenizer_config.json` into `dir`,
/// the latter with a chat template when `chat` says so.
///
/// # Panics
/// When a file cannot be written.
pub fn byte_tokenizer_files(dir: &Path, chat: bool) {
    let mut vocab: Map<String, Value> =
        byte_tokens().into_iter().zip((0..).map(|id: u32| id.into())).collect();
    let control = [("<|start|>", 256), ("<|end|>", 257)];
    vocab.extend(control.map(|(token, id)| (token.to_owned(), id.into())));
    let added = control.map(|(content, id)| {
        json!({
            "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    });
    let level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": [],
        },
    });
    let mut config = json!({ "eos_token": "<|end|>" });
    if chat {
        config["chat_template"] = TEMPLATE.into();
    }
    for (name, document) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
        let path = dir.join(name);
        std::fs::write(&path, document.to_string())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}
