//! Which bytes of a base are read together: every weight of a block, none of another.

use std::ops::Range;
use std::path::Path;

use lowtide_formats::Stretch;
use lowtide_runtime::{OpenBase, WeightParts, WeightStream};
use lowtide_tape::{Part, WeightKeeper};
use lowtide_testkit::golden::golden_dir;

/// Where the bytes of a tensor lie in memory.
fn at(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start + bytes.len()
}

fn total(stretches: &[Stretch]) -> usize {
    stretches.iter().map(Stretch::len).sum()
}

/// Checks the parts of a base against its tensors.
fn check(path: &Path) {
    let base = OpenBase::open(path).unwrap();
    let (parts, config) = (WeightParts::of(&base), base.config());
    let stored = |name: &str| base.file().tensor(name).unwrap().stored_bytes();
    for layer in 0..config.num_hidden_layers {
        let prefix = format!("model.layers.{layer}.");
        let names = || base.file().tensor_names().filter(|name| name.starts_with(&prefix));
        let own: usize = names().map(|name| stored(&name)).sum();
        let stretches = parts.stretches(Part::Segment(layer));
        // Some bytes between tensors, for alignment, may belong to the stretch.
        let found = total(stretches);
        assert!(found >= own && found < own + own / 4 + 512, "{path:?}: {found} bytes, {own}");
        let lowest = names().map(|name| at(base.file().tensor(&name).unwrap().bytes).start).min();
        let others = base.file().tensor_names().filter(|name| !name.starts_with(&prefix));
        let others: Vec<_> = others.map(|n| at(base.file().tensor(&n).unwrap().bytes)).collect();
        // All stretches of one file, so the first begins where the lowest tensor does.
        let origin = lowest.unwrap() - stretches[0].range().start;
        for range in stretches.iter().map(Stretch::range) {
            let here = origin + range.start..origin + range.end;
            for other in others.iter().filter(|other| other.len() >= 4096) {
                let apart = other.end <= here.start || here.end <= other.start;
                assert!(apart, "{path:?}: {here:?} of block {layer} meets {other:?}");
            }
        }
    }
    let head = if config.tie_word_embeddings { "embed_tokens" } else { "lm_head" };
    let head = base.file().tensor_names().find(|name| name.contains(head)).unwrap();
    assert_eq!(total(parts.stretches(Part::Head)), stored(&head), "{path:?}");
    assert!(parts.bytes() <= base.file().file_bytes());
    let largest = (0..config.num_hidden_layers).map(|i| total(parts.stretches(Part::Segment(i))));
    assert_eq!(Some(parts.largest_block() as usize), largest.max());
}

#[test]
fn parts_hold_every_weight_and_no_neighbours() {
    for family in ["llama_untied", "qwen2", "qwen3", "gemma3"] {
        check(&golden_dir().join(family));
    }
}

#[test]
fn a_stream_may_be_told_anything_and_changes_no_byte() {
    let base = OpenBase::open(&golden_dir().join("qwen2")).unwrap();
    let bytes = || -> Vec<Vec<u8>> {
        let tensor = |name: String| base.file().tensor(&name).unwrap().bytes.to_vec();
        base.file().tensor_names().map(tensor).collect()
    };
    let before = bytes();
    for room in [0, 1 << 14, u64::MAX] {
        let mut stream = WeightStream::start(WeightParts::of(&base), room).unwrap();
        let last = base.config().num_hidden_layers - 1;
        for (part, next) in [
            (Part::Segment(0), Part::Segment(last)),
            (Part::Segment(last), Part::Head),
            (Part::Head, Part::Head),
            (Part::Segment(last), Part::Segment(0)),
            (Part::Segment(0), Part::Segment(0)),
        ] {
            stream.enter(part, next);
            assert!(bytes() == before, "room for {room}");
        }
    }
}
