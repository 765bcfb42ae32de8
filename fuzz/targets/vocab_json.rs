//! `tokenizer.json` as a GGUF vocabulary: read from any bytes, then written and used.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_data::tokenizer::TokenizerConfig;
use lowtide_data::{GgufVocab, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    let config = TokenizerConfig { bos_token: Some("<s>".into()), ..TokenizerConfig::default() };
    // What names no bos is as good.
    let vocab = GgufVocab::from_json(bytes, &config, 600)
        .or_else(|_| GgufVocab::from_json(bytes, &TokenizerConfig::default(), 600));
    let Ok(vocab) = vocab else { return };
    assert_eq!(vocab.tokens.len(), 600);
    let Ok(document) = vocab.to_json() else { return };
    let written = document.to_string();
    let ours = Tokenizer::from_json_bytes(written.as_bytes());
    if let (Ok(ours), Ok(theirs)) = (ours, Tokenizer::from_gguf(vocab)) {
        let _ = (ours.encode(" ab  é🙂\n<s>"), theirs.encode(" ab  é🙂\n<s>"));
    }
});
