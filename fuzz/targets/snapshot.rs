//! Saved states of runs: whole or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_formats::snapshot;

fuzz_target!(|bytes: &[u8]| {
    let Ok((contents, _)) = snapshot::parse(bytes) else { return };
    for name in contents.tensor_names() {
        assert!(contents.metadata().len() >= 2, "a snapshot without its checksum: {name}");
    }
});
