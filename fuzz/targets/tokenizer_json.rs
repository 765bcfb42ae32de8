//! `tokenizer.json`: read from any bytes, then used on a short text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_data::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json_bytes(bytes) else { return };
    if let Ok(encoding) = tokenizer.encode(" A b  é🙂\n<s>") {
        let _ = tokenizer.decode(&encoding.ids);
    }
});
