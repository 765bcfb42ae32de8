//! Models in several GGUF files.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use lowtide_formats::Base;
use lowtide_formats::gguf::{Gguf, Value};
use proptest::prelude::*;
use support::GgufBase;

const PARTS: usize = 3;

/// A tiny Llama cut into parts: metadata in the first, tensors in turn.
fn parts() -> Vec<GgufBase> {
    let whole = GgufBase::llama();
    let tensors = whole.tensors.len() as u32;
    let mut parts: Vec<_> = (0..PARTS)
        .map(|number| {
            let metadata = if number == 0 { whole.metadata.clone() } else { Vec::new() };
            let mut part = GgufBase { metadata, tensors: Vec::new() };
            part.set("split.no", (number as u32).into());
            part.set("split.count", (PARTS as u32).into());
            part.set("split.tensors.count", tensors.into());
            part
        })
        .collect();
    for (i, tensor) in whole.tensors.into_iter().enumerate() {
        parts[i % PARTS].tensors.push(tensor);
    }
    parts
}

fn path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("tiny-{number:05}-of-{PARTS:05}.gguf"))
}

fn write(dir: &Path, parts: &[GgufBase]) {
    for (number, part) in (1..).zip(parts) {
        fs::write(path(dir, number), part.bytes()).unwrap();
    }
}

#[test]
fn any_part_opens_the_whole_model() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &parts());
    let whole = GgufBase::llama().write(dir.path());
    let whole = Base::open(&whole).unwrap();
    for number in 1..=PARTS {
        let base = Base::open(&path(dir.path(), number)).unwrap();
        assert_eq!(base.hyper(), whole.hyper());
        assert_eq!(base.fingerprint(), whole.fingerprint());
        let names: Vec<_> = base.tensor_names().collect();
        assert_eq!(names, whole.tensor_names().collect::<Vec<_>>());
        for name in names {
            let (ours, theirs) = (base.tensor(&name).unwrap(), whole.tensor(&name).unwrap());
            assert_eq!((ours.shape, ours.bytes), (theirs.shape, theirs.bytes), "{name}");
        }
    }
    let gguf = Gguf::open(&path(dir.path(), 2)).unwrap();
    assert_eq!(gguf.path(), path(dir.path(), 1));
    let sizes = (1..=PARTS).map(|n| path(dir.path(), n).metadata().unwrap().len());
    assert_eq!((gguf.paths().len(), gguf.file_bytes()), (PARTS, sizes.sum()));
}

#[test]
fn one_part_of_one_is_a_plain_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = GgufBase::llama();
    file.set("split.no", 0.into()).set("split.count", 1.into());
    assert!(Base::open(&file.write(dir.path())).is_ok());
}

/// Opens part `number` after a change, and compares the error with `part: words`.
fn refused(number: usize, change: impl FnOnce(&mut [GgufBase], &Path), at: usize, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = parts();
    write(dir.path(), &parts);
    change(&mut parts, dir.path());
    for (number, part) in (1..).zip(&parts) {
        if path(dir.path(), number).exists() {
            fs::write(path(dir.path(), number), part.bytes()).unwrap();
        }
    }
    let error = Base::open(&path(dir.path(), number)).unwrap_err().to_string();
    let folder = format!("{}/", dir.path().display());
    assert_eq!(error.replace(&folder, ""), format!("tiny-{at:05}-of-00003.gguf: {words}"));
}

#[test]
fn parts_that_are_missing_or_unsound() {
    let missing = "part 3 of 3 is missing: expected tiny-00003-of-00003.gguf beside it";
    refused(1, |_, dir| fs::remove_file(path(dir, 3)).unwrap(), 1, missing);
    let missing = "part 1 of 3 is missing: expected tiny-00001-of-00003.gguf beside it";
    refused(2, |_, dir| fs::remove_file(path(dir, 1)).unwrap(), 2, missing);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &parts());
    fs::write(path(dir.path(), 2), b"nothing").unwrap();
    let error = Base::open(&path(dir.path(), 1)).unwrap_err().to_string();
    assert!(error.contains("tiny-00002-of-00003.gguf: not a GGUF file"), "{error}");
    fs::copy(path(dir.path(), 3), dir.path().join("renamed.gguf")).unwrap();
    let error = Base::open(&dir.path().join("renamed.gguf")).unwrap_err().to_string();
    let words = "renamed.gguf: `split.count` is 3, but the file name does not end in \
                 `-00001-of-00003.gguf` or another of these numbers, so the other parts cannot be \
                 found; rename it back";
    assert!(error.ends_with(words), "{error}");
}

#[test]
fn fields_that_contradict_each_other() {
    let name = "as the name of the file says";
    let set = |part: usize, key: &'static str, value: u32| {
        move |parts: &mut [GgufBase], _: &Path| {
            parts[part].set(key, value.into());
        }
    };
    let words = format!("`split.no` is 0; expected 1, {name}");
    refused(1, set(1, "split.no", 0), 2, &words);
    refused(2, set(1, "split.no", 0), 2, &words);
    refused(1, set(2, "split.count", 4), 3, &format!("`split.count` is 4; expected 3, {name}"));
    refused(1, set(2, "split.count", 1), 3, &format!("`split.count` is 1; expected 3, {name}"));
    let words = "`split.no` is 7; expected a number below 3, the number of parts";
    refused(1, set(0, "split.no", 7), 1, words);
    let words = "`split.tensors.count` is 9; expected 20, as the first part says";
    refused(1, set(1, "split.tensors.count", 9), 2, words);
    let unset = |parts: &mut [GgufBase], _: &Path| {
        parts[1].unset("split.no");
    };
    refused(2, unset, 2, "`split.no` is missing; expected the number of the part");
    let text = |parts: &mut [GgufBase], _: &Path| {
        parts[0].set("split.count", "many".into());
    };
    refused(1, text, 1, "`split.count` is of type string; expected a whole number");
}

#[test]
fn tensors_that_are_there_twice_or_not_at_all() {
    let twice = |parts: &mut [GgufBase], _: &Path| {
        let copy = parts[0].tensors[0].clone();
        parts[2].tensors.push(copy);
    };
    let words = "tensor `token_embd.weight` is in tiny-00001-of-00003.gguf too";
    refused(1, twice, 3, words);
    let fewer = |parts: &mut [GgufBase], _: &Path| {
        parts[1].tensors.pop();
    };
    let words = "the 3 parts hold 19 tensors; expected 20, as `split.tensors.count` says";
    refused(1, fewer, 1, words);
}

#[test]
fn parts_of_other_models() {
    let words = |key: &str| {
        format!("`{key}` differs from that of the first part: this is a part of another model")
    };
    let other = |key: &'static str, value: Value| {
        move |parts: &mut [GgufBase], _: &Path| {
            parts[2].set(key, value);
        }
    };
    let architecture = other("general.architecture", "qwen2".into());
    refused(1, architecture, 3, &words("general.architecture"));
    let count = other("llama.block_count", 7.into());
    refused(1, count, 3, &words("llama.block_count"));
    refused(1, other("llama.new_key", 7.into()), 3, &words("llama.new_key"));
    let same = other("general.architecture", "llama".into());
    let dir = tempfile::tempdir().unwrap();
    let mut parts = parts();
    same(&mut parts, dir.path());
    parts[1].set("general.note", "harmless".into());
    write(dir.path(), &parts);
    assert!(Base::open(&path(dir.path(), 2)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever happens to the bytes of one part, opening answers and does not panic.
    #[test]
    fn damaged_parts(
        part in 1..=PARTS,
        opened in 1..=PARTS,
        changes in proptest::collection::vec((0_usize..600, any::<u8>()), 1..4),
        cut in proptest::option::of(0_usize..2000),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &parts());
        let mut bytes = fs::read(path(dir.path(), part)).unwrap();
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        fs::write(path(dir.path(), part), bytes).unwrap();
        if let Err(error) = Base::open(&path(dir.path(), opened)) {
            prop_assert!(error.to_string().contains(".gguf: "), "{}", error);
        }
    }
}
