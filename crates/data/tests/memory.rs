//! What the heap holds: nothing that grows with the data once it is read, and nothing of the
//! tokenizer once it is dropped.

use std::path::Path;

use lowtide_data::record::Record;
use lowtide_data::{Dataset, DatasetBuilder, DatasetOptions, GgufVocab, Tokenizer, order};
use lowtide_testkit::alloc::TestAlloc;

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

/// A vocabulary of a few thousand tokens, made of all bytes that print and pairs of them.
fn vocab() -> GgufVocab {
    let mut tokens: Vec<String> = ('!'..='~').map(String::from).collect();
    let letters: Vec<String> = tokens.clone();
    let mut merges = Vec::new();
    for a in &letters[..64] {
        for b in &letters[..64] {
            merges.push(format!("{a} {b}"));
            tokens.push(format!("{a}{b}"));
        }
    }
    GgufVocab {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        token_types: vec![1; tokens.len()],
        tokens,
        merges,
        ..GgufVocab::default()
    }
}

/// Without the harness of tests: the allocator counts what its threads do as well.
fn main() {
    reading_allocates_nothing_and_the_index_is_in_a_file();
    packing_holds_a_window();
    a_dropped_tokenizer_holds_nothing();
}

fn build(examples: u32) -> Dataset {
    let options = DatasetOptions { vocab_size: Some(100), ..DatasetOptions::default() };
    let mut builder = DatasetBuilder::new(&options, None, None).unwrap();
    let mut record = Record::Ids { ids: Vec::new(), labels: None };
    for i in 0..examples {
        let Record::Ids { ids, .. } = &mut record else { unreachable!() };
        ids.clear();
        ids.resize(i as usize % 50 + 2, i % 100);
        builder.add_record(&record, Path::new("x"), 1).unwrap();
    }
    builder.finish().unwrap()
}

fn packing_holds_a_window() {
    let [small, large] = [5_000, 40_000].map(|examples| {
        let data = build(examples);
        let (packed, counts) = ALLOC.counting(usize::MAX, || data.pack(64, 0).unwrap());
        let packing = packed.packing().unwrap();
        let fill = packing.fill(packed.stats().tokens);
        assert!(fill > 0.95, "{fill}: {packing:?}");
        assert_eq!(packed.stats(), data.stats());
        counts.live_peak
    });
    assert!(large <= small + 65_536 && large < 1 << 20, "{large} against {small}");
}

fn reading_allocates_nothing_and_the_index_is_in_a_file() {
    let (_, small) = ALLOC.counting(usize::MAX, || build(10));
    let (dataset, large) = ALLOC.counting(usize::MAX, || build(20_000));
    assert!(large.live_peak <= small.live_peak + 1024, "{large:?} against {small:?}");

    let (sum, counts) = ALLOC.counting(1, || {
        let mut buf = dataset.buffer();
        let order = order::permutation(dataset.len(), 1, 0);
        order.iter().map(|i| dataset.read(i, &mut buf).unwrap().ids.len() as u64).sum::<u64>()
    });
    assert_eq!(sum, dataset.stats().tokens);
    assert_eq!(counts.requests, 1, "the buffer and nothing else");
}

fn a_dropped_tokenizer_holds_nothing() {
    let use_one = |vocab| {
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        assert_eq!(tokenizer.encode_ids("ABCD").unwrap().len(), 2);
    };
    // The first use fills what the libraries keep for good, such as compiled patterns.
    use_one(vocab());
    let (vocabs, _) = ALLOC.counting(usize::MAX, || [vocab(), vocab(), vocab(), vocab()]);
    let [first, others @ ..] = vocabs;
    let ((), once) = ALLOC.counting(usize::MAX, || use_one(first));
    let ((), again) = ALLOC.counting(usize::MAX, || others.into_iter().for_each(use_one));
    assert!(once.live_peak > 100_000, "{once:?}");
    assert!(again.live_peak < once.live_peak + 16_384, "{again:?} against {once:?}");
}
