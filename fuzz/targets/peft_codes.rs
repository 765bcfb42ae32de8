//! Files of codes of adapters: the header, names, scales and every tensor.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::peft::CodedContents;
use lowtide_formats::safe;

fuzz_target!(|bytes: &[u8]| {
    let Ok(contents) = safe::parse_with_codes(bytes) else { return };
    let Ok(coded) = CodedContents::new(contents) else { return };
    for name in coded.tensor_names() {
        let tensor = coded.tensor(bytes, name).expect("a name of the file is found in it");
        assert!(tensor.stored_bytes() <= bytes.len());
        assert_eq!(tensor.to_f32_vec().len(), tensor.len());
    }
});
