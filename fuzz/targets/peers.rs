//! Files with the figures of others.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lowtide_bench::parse_peers;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_peers(Path::new("peers.json"), bytes);
});
