//! GGUF containers: the structure, every value of the metadata, what it says about a model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::{describe_gguf, gguf};

fuzz_target!(|bytes: &[u8]| {
    let Ok(contents) = gguf::parse(bytes) else { return };
    let metadata = contents.metadata(bytes);
    for key in metadata.keys() {
        let _ = (metadata.get_u64(key), metadata.get_u32(key), metadata.get_usize(key));
        let _ = (metadata.get_f32(key), metadata.get_bool(key), metadata.get_str(key));
        let _ = metadata.strings(key).map(|found| found.map(Iterator::count));
        let _ = metadata.integers(key).map(|found| found.map(Iterator::count));
        let _ = metadata.floats(key).map(|found| found.map(Iterator::count));
    }
    for name in contents.tensors().keys() {
        let tensor = contents.tensor(bytes, name).expect("a name of the file is found in it");
        assert!(tensor.bytes.len() <= bytes.len());
        let _ = tensor.qmat();
    }
    let _ = describe_gguf(&contents, bytes);
});
