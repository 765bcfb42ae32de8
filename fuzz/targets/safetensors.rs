//! Safetensors files: the header, and every tensor as a matrix.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::safe;

fuzz_target!(|bytes: &[u8]| {
    let Ok(contents) = safe::parse(bytes) else { return };
    for name in contents.tensor_names() {
        let tensor = contents.tensor(bytes, name).expect("a name of the file is found in it");
        assert!(tensor.bytes.len() <= bytes.len());
        let _ = tensor.qmat();
    }
});
