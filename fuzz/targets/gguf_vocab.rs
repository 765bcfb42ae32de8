//! Vocabularies of GGUF files: any lists of tokens, types, scores and merges, then a short text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_data::{GgufVocab, Tokenizer};

// A line is a token: a character for its type, one for its score, and its text. Lines after an
// empty one are merges. The first character of all says which kind of vocabulary it is and what it
// puts around a text.
fuzz_target!(|text: &str| {
    let mut rest = text.chars();
    let Some(habits) = rest.next().map(u32::from) else { return };
    let bit = |n: u32| habits >> n & 1 == 1;
    let (tokens, merges) = rest.as_str().split_once("\n\n").unwrap_or((rest.as_str(), ""));
    let mut vocab = GgufVocab {
        model: if bit(0) { "llama" } else { "gpt2" }.into(),
        pre: "gpt-2".into(),
        merges: merges.lines().map(str::to_owned).collect(),
        bos: bit(1).then_some(0),
        unk: bit(2).then_some(1),
        add_space_prefix: Some(bit(3)),
        ..GgufVocab::default()
    };
    for line in tokens.lines() {
        let mut chars = line.chars();
        let mut byte = || chars.next().map_or(0, |c| u32::from(c) as i32 % 64 - 32);
        vocab.token_types.push(byte() & 7);
        vocab.scores.push(byte() as f32);
        vocab.tokens.push(chars.collect());
    }
    let Ok(tokenizer) = Tokenizer::from_gguf(vocab) else { return };
    if let Ok(encoding) = tokenizer.encode(" ab  é🙂\n<s>") {
        let _ = tokenizer.decode(&encoding.ids);
    }
});
