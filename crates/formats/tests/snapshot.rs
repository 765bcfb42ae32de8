//! Snapshots: whole or refused.

use std::io::{self, Write};
use std::path::Path;

use lowtide_formats::snapshot::{Section, Snapshot, SnapshotError, parse, write};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn document(step: u64) -> Map<String, Value> {
    let Value::Object(map) = json!({ "step": step, "note": "ünïcode \" and \\" }) else {
        unreachable!("an object")
    };
    map
}

/// Writes runs of bytes under their names.
fn saved(path: &Path, step: u64, runs: &[(&str, Vec<u8>)]) {
    let writers: Vec<_> =
        runs.iter().map(|(_, bytes)| |out: &mut dyn Write| out.write_all(bytes)).collect();
    let sections: Vec<_> = runs
        .iter()
        .zip(&writers)
        .map(|((name, bytes), write)| Section { name, bytes: bytes.len() as u64, write })
        .collect();
    write(path, &document(step), &sections).unwrap();
}

fn runs() -> [(&'static str, Vec<u8>); 3] {
    [("zeta", (0..=255).collect()), ("alpha", vec![7; 13]), ("empty", Vec::new())]
}

#[test]
fn what_was_saved_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    saved(&path, 3, &runs());
    let read = Snapshot::open(&path).unwrap();
    assert_eq!(read.document(), &document(3));
    for (name, bytes) in runs() {
        assert_eq!(read.section(name), bytes, "{name}");
    }
    assert_eq!(read.section("beta"), b"");
    // A mapping of the old file outlives its replacement.
    saved(&path, 4, &runs()[1..]);
    assert_eq!(read.section("zeta").len(), 256);
    let read = Snapshot::open(&path).unwrap();
    assert_eq!((read.document(), read.section("zeta")), (&document(4), &b""[..]));
}

#[test]
fn a_failed_write_keeps_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    saved(&path, 3, &runs());
    let before = std::fs::read(&path).unwrap();
    // The disk is full when the file is written, not when its checksum is made.
    let calls = std::cell::Cell::new(0);
    let fails = |out: &mut dyn Write| {
        calls.set(calls.get() + 1);
        if calls.get() == 2 { Err(io::ErrorKind::StorageFull.into()) } else { out.write_all(&[1]) }
    };
    let section = Section { name: "run", bytes: 1, write: &fails };
    let error = write(&path, &document(4), &[section]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot write: ", path.display())), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn other_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    saved(&path, 3, &runs());
    let bytes = std::fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let header = text.find("sha256").unwrap();
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        parse(&bytes).map(drop).unwrap_err()
    };
    assert_eq!(with(header, b"sha257"), SnapshotError::Missing { field: "sha256" });
    let section = "zeta".into();
    assert_eq!(with(text.find("U8").unwrap(), b"I8"), SnapshotError::Section { section });
    assert_eq!(with(bytes.len() - 1, &[0]), SnapshotError::Checksum);
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = Snapshot::open(&path).unwrap_err().to_string();
    assert!(error.contains("state.safetensors: not a sound safetensors file"), "{error}");
}

proptest! {
    #[test]
    fn a_changed_byte_never_goes_unnoticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        saved(&path, 3, &runs());
        let good = std::fs::read(&path).unwrap();
        let mut bytes = good.clone();
        bytes[at.index(good.len())] ^= flip;
        if let Ok((contents, document)) = parse(&bytes) {
            // Only spaces around the header's JSON are nobody's.
            let (was, original) = parse(&good).unwrap();
            prop_assert_eq!(document, original);
            prop_assert!(contents.tensor_names().eq(was.tensor_names()));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_cut_is_refused(at in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        saved(&path, 3, &runs());
        let bytes = std::fs::read(&path).unwrap();
        prop_assert!(parse(&bytes[..at.index(bytes.len())]).is_err());
    }
}
