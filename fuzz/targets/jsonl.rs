//! Lines of a data file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_data::Record;

fuzz_target!(|line: &[u8]| {
    if let Ok(record) = Record::from_json_line(line) {
        assert!(!record.field().is_empty());
    }
});
