//! The tokenizer and chat template of SmolLM2-135M-Instruct, from the reference data.

use std::sync::OnceLock;

use lowtide_data::{ChatTemplate, GgufVocab, Tokenizer};
use lowtide_testkit::golden::{golden_dir, integers, load_json};
use serde_json::Value;

/// What the GGUF file says about its tokenizer.
pub(crate) fn vocab() -> GgufVocab {
    let folder = golden_dir().join("smollm2");
    let head = load_json(&folder.join("tokenizer_head.json"));
    let text = |key: &str| head[key].as_str().unwrap().to_owned();
    let id = |key: &str| head[key].as_u64().and_then(|id| u32::try_from(id).ok());
    let list = head["tokens"].as_array().unwrap().iter();
    let mut tokens: Vec<String> = list.map(|token| token.as_str().unwrap().to_owned()).collect();
    let mut token_types: Vec<i32> =
        integers(&head["token_types"]).into_iter().map(|kind| kind.try_into().unwrap()).collect();
    let pairs = std::fs::read(folder.join("tokenizer_merges.bin")).unwrap();
    let mut merges = Vec::new();
    for &[a, b, c, d] in pairs.as_chunks::<4>().0 {
        let piece = |low, high| tokens[usize::from(u16::from_le_bytes([low, high]))].as_str();
        let (left, right) = (piece(a, b), piece(c, d));
        merges.push(format!("{left} {right}"));
        tokens.push([left, right].concat());
    }
    token_types.resize(tokens.len(), 1);
    GgufVocab {
        model: text("model"),
        pre: text("pre"),
        tokens,
        token_types,
        merges,
        bos: id("bos"),
        eos: id("eos"),
        eot: None,
        unk: id("unk"),
        pad: id("pad"),
        add_bos: head["add_bos"].as_bool(),
        ..GgufVocab::default()
    }
}

/// The tokenizer, made once.
pub(crate) fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::from_gguf(vocab()).unwrap())
}

/// The chat template.
pub(crate) fn template() -> ChatTemplate {
    let head = load_json(&golden_dir().join("smollm2/tokenizer_head.json"));
    let source = head["chat_template"].as_str().unwrap();
    ChatTemplate::new(source, Some("<|im_start|>"), Some("<|im_end|>")).unwrap()
}

/// The reference data.
pub(crate) fn golden() -> Value {
    load_json(&golden_dir().join("smollm2/golden.json"))
}
