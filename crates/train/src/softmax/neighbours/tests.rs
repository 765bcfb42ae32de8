//! Neighbours of a small head against all similarities written out.

use lowtide_backend::{Scalar, Span};
use lowtide_data::{DatasetBuilder, DatasetOptions};
use lowtide_memory::{Budget, Ledger};
use lowtide_quant::Scales;
use lowtide_quant::formats::{F32, INT8};
use lowtide_tape::Batch;
use lowtide_testkit::rng::Rng;

use super::super::union::Union;
use super::*;

const VOCAB: usize = 2100;
const HIDDEN: usize = 4;

/// Examples of already tokenized words, everything but the first word of each labelled.
fn data(examples: &[&[u32]]) -> Dataset {
    let options = DatasetOptions { vocab_size: Some(VOCAB), ..DatasetOptions::default() };
    let mut builder = DatasetBuilder::new(&options, None, None).unwrap();
    let line = |ids: &&[u32]| format!("{{\"input_ids\": {ids:?}}}\n");
    let text: String = examples.iter().map(line).collect();
    builder.add_jsonl(Path::new("test.jsonl"), text.as_bytes()).unwrap();
    builder.finish().unwrap()
}

fn bytes_of(rows: &[f32]) -> Vec<u8> {
    rows.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn find(head: QMat<'_>, data: &Dataset, count: usize) -> Neighbours {
    let count = NonZeroUsize::new(count).unwrap();
    let folder = std::env::temp_dir();
    let mut told = Vec::new();
    let mut tell = |done, total| told.push((done, total));
    let found = Neighbours::find(head, &Scalar, data, count, &folder, &mut tell).unwrap();
    if found.lists.is_some() {
        let all = found.targets.len();
        assert_eq!((told[0], *told.last().unwrap()), ((0, all), (all, all)));
    }
    found
}

/// The words that `target` leads to.
fn words(found: &Neighbours, target: u32) -> Vec<u32> {
    let mut words = WordSet::new(found.vocabulary());
    found.add_to(target, &mut words, &mut vec![0; found.count()]).unwrap();
    words.iter().collect()
}

#[test]
fn neighbours_have_the_largest_cosines_and_equals_the_lower_id() {
    let mut rows = Rng::new(3).normal_vec(VOCAB * HIDDEN, 1.0);
    // The same direction as word 7 several times over, at two lengths.
    for twin in [11, 1500, 40, 2050] {
        let scale = if twin == 40 { 2.0 } else { 1.0 };
        for i in 0..HIDDEN {
            rows[twin * HIDDEN + i] = scale * rows[7 * HIDDEN + i];
        }
    }
    let bytes = bytes_of(&rows);
    let head = QMat::new(&F32, VOCAB, HIDDEN, &bytes).unwrap();
    let targets: Vec<u32> = (0..70).map(|i| i * 30 + 7).collect();
    let found = find(head, &data(&[&targets, &[0, 9]]), 3);
    assert_eq!(words(&found, 1507 % VOCAB as u32).len(), 3);
    // The first word of an example is no target.
    assert_eq!(found.targets.len(), 70);
    let row = |word: usize| &rows[word * HIDDEN..][..HIDDEN];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    for &target in &found.targets {
        let of =
            |word: usize| dot(row(target as usize), row(word)) / dot(row(word), row(word)).sqrt();
        let mut ranked: Vec<usize> = (0..VOCAB).collect();
        ranked.sort_by(|a, b| of(*b).total_cmp(&of(*a)).then(a.cmp(b)));
        let mut want: Vec<u32> = ranked[..3].iter().map(|word| *word as u32).collect();
        want.sort_unstable();
        assert_eq!(words(&found, target), want, "neighbours of {target}");
    }
    let twins = find(head, &data(&[&[0, 7, 1500]]), 3);
    assert_eq!((words(&twins, 7), words(&twins, 1500)), (vec![7, 11, 40], vec![7, 11, 40, 1500]));
}

#[test]
fn a_micro_batch_has_at_most_the_words_of_its_largest_sequences() {
    let rows = Rng::new(5).normal_vec(VOCAB * HIDDEN, 1.0);
    let bytes = bytes_of(&rows);
    let head = QMat::new(&F32, VOCAB, HIDDEN, &bytes).unwrap();
    let data = data(&[&[0, 1, 1], &[0, 2, 3, 4], &[0, 5, 6]]);
    let found = find(head, &data, 10);
    let size = |targets: &[u32]| {
        let mut all: Vec<u32> = targets.iter().flat_map(|target| words(&found, *target)).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    let (one, two) = (size(&[2, 3, 4]), size(&[2, 3, 4]) + size(&[5, 6]));
    assert_eq!(found.words_max(&data, 1).unwrap(), one);
    assert_eq!(found.words_max(&data, 2).unwrap(), two);
    assert_eq!(found.words_max(&data, 9).unwrap(), two + 10);

    let all = find(head, &data, 5000);
    assert_eq!((all.count(), all.words_max(&data, 1).unwrap()), (VOCAB, VOCAB));
    assert_eq!(words(&all, 3), (0..VOCAB as u32).collect::<Vec<_>>());
    assert_eq!(all.report(VOCAB, 1).file_bytes, 0);
}

#[test]
fn rows_are_copied_as_they_are_and_scales_that_lie_apart_are_worked_in() {
    const WIDTH: usize = 32;
    let codes: Vec<u8> = (0..VOCAB * WIDTH).map(|i| (i * 37 % 251) as u8).collect();
    let scales: Vec<[u8; 4]> = (0..VOCAB).map(|i| (1.0 + i as f32 / 64.0).to_le_bytes()).collect();
    let apart = QMat::apart(&INT8, VOCAB, WIDTH, &codes, Scales::Rows(&scales)).unwrap();
    let bytes = bytes_of(&Rng::new(5).normal_vec(VOCAB * WIDTH, 1.0));
    let data = data(&[&[0, 2000, 3, 2000, 4]]);
    for head in [QMat::new(&F32, VOCAB, WIDTH, &bytes).unwrap(), apart] {
        let found = find(head, &data, 5);
        let most = found.words_max(&data, 1).unwrap();
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let mut union = Union::reserve(&found, head, most, 4, &mut ledger).unwrap();
        let held = Union::bytes(&found, head, most, 4);
        assert_eq!(ledger.live().held(), held.head + held.data);
        assert_eq!(held.head, (most * WIDTH * 4) as u64);
        let targets = [2000, 3, 2000, 4];
        let batch = Batch {
            ids: &[0, 2000, 3, 2000],
            positions: &[0, 1, 2, 3],
            spans: &[Span { start: 0, prompt_end: 1, end: 4 }],
            labelled: &[0, 1, 2, 3],
            targets: &targets,
            words: None,
            counter: 0,
        };
        let batch = union.over(batch).unwrap();
        let (some, at) = (batch.words.unwrap(), batch.targets);
        assert_eq!(some.rows(), most);
        for (target, at) in targets.iter().zip(at) {
            let (mut want, mut got) = ([0.0; WIDTH], [0.0; WIDTH]);
            head.decode_row(*target as usize, &mut want);
            some.decode_row(*at as usize, &mut got);
            assert_eq!(got, want);
        }
        union.release(&mut ledger);
        assert_eq!(ledger.live().held(), 0);
    }
}
