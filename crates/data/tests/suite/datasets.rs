//! Datasets: what goes in comes out, and every complaint names its line.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use lowtide_data::encode::Encoder;
use lowtide_data::record::Record;
use lowtide_data::{
    DataError, DataFiles, Dataset, DatasetBuilder, DatasetOptions, NO_LOSS, Sample, SampleBuf,
    SampleStyle, render_sample,
};
use proptest::prelude::*;

use crate::smollm2;

fn ids_only(max_seq_len: usize) -> DatasetOptions {
    DatasetOptions { max_seq_len, vocab_size: Some(1000), ..DatasetOptions::default() }
}

fn jsonl(options: &DatasetOptions, text: &str) -> Result<Dataset, DataError> {
    let template = smollm2::template();
    let mut builder =
        DatasetBuilder::new(options, Some(smollm2::tokenizer()), Some(&template)).unwrap();
    builder.add_jsonl(Path::new("x.jsonl"), text.as_bytes())?;
    builder.finish()
}

#[test]
fn prompts_can_be_asked_for() {
    let asked = DatasetOptions { needs_prompt: true, ..DatasetOptions::default() };
    let prompted = [
        r#"{"prompt": "Hi", "completion": "Ho"}"#,
        r#"{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}"#,
    ];
    assert_eq!(jsonl(&asked, &prompted.join("\n")).unwrap().len(), 2);
    let words = "no prompt before its first labelled token";
    for bare in [r#"{"text": "The lighthouse stood at the end."}"#, r#"{"input_ids": [5, 6, 7]}"#] {
        let error = jsonl(&asked, &[prompted[0], bare].join("\n")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("x.jsonl:2: {words}")), "{error}");
    }
    let unmasked = DatasetOptions { mask_prompt: false, ..asked };
    let error = jsonl(&unmasked, prompted[0]).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

/// Examples of `1..=n` tokens more than one, id and label both the example's number.
fn numbered(n: u32) -> Dataset {
    let mut builder = DatasetBuilder::new(&ids_only(4096), None, None).unwrap();
    for i in 0..n {
        let record = Record::Ids { ids: vec![i; i as usize + 2], labels: None };
        builder.add_record(&record, Path::new("x"), 1).unwrap();
    }
    builder.finish().unwrap()
}

fn first_ids(dataset: &Dataset) -> Vec<u32> {
    let mut buf = dataset.buffer();
    (0..dataset.len()).map(|i| dataset.read(i, &mut buf).unwrap().ids[0]).collect()
}

#[test]
fn examples_come_back_as_they_were_encoded() {
    let lines = [
        r#"{"prompt": "Hi", "completion": "Ho"}"#,
        r#"{"text": "The lighthouse stood at the end."}"#,
        r#"{"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}"#,
    ];
    let dataset = jsonl(&DatasetOptions::default(), &lines.join("\n")).unwrap();
    let template = smollm2::template();
    let encoder = Encoder {
        tokenizer: Some(smollm2::tokenizer()),
        template: Some(&template),
        mask_prompt: true,
        append_eos: true,
        vocab_size: None,
    };
    let (mut buf, mut tokens, mut labelled) = (SampleBuf::new(), 0, 0);
    for (index, line) in lines.iter().enumerate() {
        let record = Record::from_json_line(line.as_bytes()).unwrap();
        let expected = encoder.encode(&record).unwrap();
        let sample = dataset.read(index, &mut buf).unwrap();
        assert_eq!(sample.ids, expected.ids);
        assert_eq!(sample.labels, expected.labels);
        assert_eq!(sample.prompt_len, expected.prompt_len);
        let entry = dataset.entry(index).unwrap();
        assert_eq!((entry.tokens as usize, entry.cut), (sample.ids.len(), 0));
        assert_eq!(entry.labelled as usize, sample.labelled());
        tokens += sample.ids.len() as u64;
        labelled += sample.labelled() as u64;
    }
    let stats = dataset.stats();
    assert_eq!((stats.examples, stats.tokens, stats.labelled), (3, tokens, labelled));
    assert_eq!((stats.truncated, stats.tokens_cut, stats.dropped), (0, 0, 0));
    assert_eq!(dataset.file_bytes(), 8 * tokens + 24 * 3);
    assert_eq!(dataset.lengths().unwrap().iter().map(|&n| u64::from(n)).sum::<u64>(), tokens);
    assert_eq!(stats.longest, *dataset.lengths().unwrap().iter().max().unwrap() as usize);
}

#[test]
fn long_examples_are_cut_and_counted() {
    let text = "{\"input_ids\": [1, 2, 3, 4, 5, 6]}\n\
        {\"input_ids\": [1, 2, 3, 4, 5], \"labels\": [-100, -100, -100, -100, 5]}\n\
        {\"input_ids\": [1, 2]}\n";
    let dataset = jsonl(&ids_only(4), text).unwrap();
    let stats = dataset.stats();
    assert_eq!((stats.examples, stats.truncated, stats.tokens_cut, stats.dropped), (2, 1, 2, 1));
    assert_eq!((stats.tokens, stats.labelled, stats.longest, stats.labelled_max), (6, 4, 4, 3));
    let mut buf = SampleBuf::new();
    let sample = dataset.read(0, &mut buf).unwrap();
    assert_eq!((sample.ids, sample.labels), (&[1, 2, 3, 4][..], &[NO_LOSS, 2, 3, 4][..]));

    let late = "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, 3]}";
    let error = jsonl(&ids_only(2), late).unwrap_err();
    assert_eq!(error, DataError::AllTruncated { dropped: 1, max_seq_len: 2 });
    let nothing = DatasetBuilder::new(&ids_only(8), None, None).unwrap();
    assert_eq!(nothing.finish().unwrap_err(), DataError::NoData);
    let error = DatasetBuilder::new(&ids_only(1), None, None).unwrap_err();
    assert_eq!(error, DataError::SequenceLimit { max_seq_len: 1, most: 2_147_483_647 });
}

#[test]
fn complaints_name_file_line_and_field() {
    let words = |text: &str| jsonl(&DatasetOptions::default(), text).unwrap_err().to_string();
    let good = "{\"text\": \"good enough\"}\n";
    assert_eq!(
        words(&format!("{good}\n{{\"messages\": [{{\"role\": 3}}]}}")),
        "x.jsonl:3: `messages[0].role`: expected text, such as \"user\", found a number"
    );
    assert_eq!(
        words(&format!("{good}{good}{{\"input_ids\": [5, 49152]}}")),
        "x.jsonl:3: `input_ids[1]` is 49152: expected an id below the vocabulary's 49152"
    );
    assert_eq!(
        words("{\"input_ids\": [5, 6], \"labels\": [5, -100]}"),
        "x.jsonl:1: no labelled token in `input_ids`: expected a label other than -100 after the \
         first"
    );
    assert_eq!(words("{\"text\": \"x\",}"), "x.jsonl:1: not JSON: trailing comma, at column 14");
    assert_eq!(words(" \n\n"), "x.jsonl: no examples in it: expected at least one");
    let mut builder = DatasetBuilder::new(&ids_only(8), None, None).unwrap();
    let error = builder.add_jsonl(Path::new("y"), &b"{\"input_ids\": [1, 2]}\n\xff"[..]);
    assert_eq!(error.unwrap_err().to_string(), "y:2: invalid UTF-8 after byte 0 of the line");
}

#[test]
fn plain_text_is_cut_into_windows() {
    let text: String = (0..4000).map(|i| format!("Line {i} of the book.\n")).collect();
    let options = DatasetOptions { max_seq_len: 100, ..DatasetOptions::default() };
    let mut builder = DatasetBuilder::new(&options, Some(smollm2::tokenizer()), None).unwrap();
    builder.add_text(Path::new("book.txt"), text.as_bytes()).unwrap();
    let dataset = builder.finish().unwrap();
    let (mut all, mut buf) = (Vec::new(), dataset.buffer());
    for index in 0..dataset.len() {
        let sample = dataset.read(index, &mut buf).unwrap();
        assert!(sample.ids.len() == 100 || index + 1 == dataset.len());
        assert_eq!((sample.labels[0], sample.prompt_len), (NO_LOSS, 0));
        assert!(sample.labels[1..].iter().zip(&sample.ids[1..]).all(|(&l, &id)| l as u32 == id));
        all.extend_from_slice(sample.ids);
    }
    assert_eq!(all, smollm2::tokenizer().encode_ids(&text).unwrap());

    let add = |bytes: &[u8]| {
        let tokenizer = Some(smollm2::tokenizer());
        let mut builder = DatasetBuilder::new(&options, tokenizer, None).unwrap();
        builder.add_text(Path::new("b.txt"), bytes).unwrap_err().to_string()
    };
    assert_eq!(add(b""), "b.txt: no examples in it: expected at least one");
    assert_eq!(add(b"a\nb\xff"), "b.txt:2: invalid UTF-8 after byte 1 of the line");
    let mut builder = DatasetBuilder::new(&options, None, None).unwrap();
    let error = builder.add_text(Path::new("b.txt"), &b"words"[..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "b.txt:1: `text` needs a tokenizer, and the model has none: use `input_ids`"
    );
}

#[test]
fn files_are_known_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    };
    let ids = file("train.jsonl", "{\"input_ids\": [1, 2]}\n");
    let mut builder = DatasetBuilder::new(&ids_only(8), None, None).unwrap();
    builder.add_file(&ids).unwrap();
    assert_eq!(builder.finish().unwrap().len(), 1);
    assert_eq!(
        DataFiles::find(folder.path()).unwrap(),
        DataFiles { train: ids.clone(), valid: None, test: None }
    );
    let valid = file("valid.jsonl", "");
    assert_eq!(DataFiles::find(folder.path()).unwrap().valid, Some(valid));
    let alone = DataFiles { train: ids.clone(), valid: None, test: None };
    assert_eq!(DataFiles::find(&ids).unwrap(), alone);
    let valid = Some(file("train.valid.jsonl", ""));
    assert_eq!(DataFiles::find(&ids).unwrap(), DataFiles { valid, ..alone });

    let odd = file("data.csv", "a,b");
    let unknown = DataError::UnknownFile { path: odd.clone() };
    assert_eq!(DataFiles::find(&odd).unwrap_err(), unknown);
    let mut builder = DatasetBuilder::new(&ids_only(8), None, None).unwrap();
    assert_eq!(builder.add_file(&odd).unwrap_err(), unknown);
    let missing = builder.add_file(&folder.path().join("no.jsonl")).unwrap_err();
    assert!(matches!(missing, DataError::Io { kind: std::io::ErrorKind::NotFound, .. }));
    let nowhere = Some(folder.path().join("nowhere"));
    let options = DatasetOptions { temp_dir: nowhere, ..ids_only(8) };
    assert!(matches!(DatasetBuilder::new(&options, None, None), Err(DataError::Io { .. })));
    let nothing = tempfile::tempdir().unwrap();
    assert!(matches!(DataFiles::find(nothing.path()), Err(DataError::UnknownFile { .. })));
}

#[test]
fn the_store_has_no_name() {
    let folder = tempfile::tempdir().unwrap();
    let temp_dir = Some(folder.path().to_owned());
    let options = DatasetOptions { temp_dir, ..ids_only(8) };
    let mut builder = DatasetBuilder::new(&options, None, None).unwrap();
    builder.add_jsonl(Path::new("x"), &b"{\"input_ids\": [1, 2]}"[..]).unwrap();
    let dataset = builder.finish().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(dataset.read(0, &mut SampleBuf::new()).unwrap().ids, [1, 2]);
}

#[test]
fn a_split_is_disjoint_complete_and_the_same_again() {
    let whole = numbered(100);
    let (train, valid) = whole.split(0.2, 7).unwrap();
    let (train_ids, valid_ids) = (first_ids(&train), first_ids(&valid));
    assert_eq!((train.len(), valid.len()), (80, 20));
    assert!(train_ids.is_sorted() && valid_ids.is_sorted());
    let mut all = [train_ids.clone(), valid_ids.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    assert_eq!(first_ids(&whole.split(0.2, 7).unwrap().1), valid_ids);
    assert_ne!(first_ids(&whole.split(0.2, 8).unwrap().1), valid_ids);
    assert_eq!(train.stats().tokens + valid.stats().tokens, whole.stats().tokens);
    assert_eq!(valid.stats().longest as u32, valid_ids.last().unwrap() + 2);
    assert_eq!(whole.split(1e-9, 7).unwrap().1.len(), 1);
    for fraction in [0.0, 1.0, -0.5, 0.999, f64::NAN] {
        assert!(matches!(whole.split(fraction, 7), Err(DataError::Split { .. })), "{fraction}");
    }
    assert!(matches!(numbered(1).split(0.5, 7), Err(DataError::Split { .. })));
}

#[test]
#[should_panic(expected = "example 3 of a dataset of 3")]
fn reading_past_the_end_is_a_broken_contract() {
    let _ = numbered(3).read(3, &mut SampleBuf::new());
}

#[test]
fn a_sample_is_shown_with_its_mask() {
    let line = r#"{"messages": [{"role": "system", "content": "s"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho é"}]}"#;
    let dataset = jsonl(&DatasetOptions::default(), &line.replace('\n', " ")).unwrap();
    let mut buf = dataset.buffer();
    let sample = dataset.read(0, &mut buf).unwrap();
    let tokenizer = Some(smollm2::tokenizer());
    let before = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
        <|im_start|>assistant\n";
    assert_eq!(
        render_sample(tokenizer, sample, SampleStyle::Brackets).unwrap(),
        format!("{before}⟦Ho é<|im_end|>⟧\n")
    );
    assert_eq!(
        render_sample(tokenizer, sample, SampleStyle::Ansi).unwrap(),
        format!("\x1b[2m{before}\x1b[0m\x1b[32mHo é<|im_end|>\x1b[0m\x1b[2m\n\x1b[0m")
    );
    let ids = Sample { ids: &[7, 8, 9], labels: &[NO_LOSS, 8, 9], prompt_len: 1 };
    assert_eq!(render_sample(None, ids, SampleStyle::Brackets).unwrap(), "7 ⟦8 9⟧");
}

#[test]
fn loading_without_an_end_token_or_prefix_changes_nothing_else() {
    let options = DatasetOptions { append_eos: false, ..DatasetOptions::default() };
    let dataset = jsonl(&options, "{\"text\": \"The capital\"}").unwrap();
    assert_eq!(dataset.read(0, &mut SampleBuf::new()).unwrap().ids, [504, 3575]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_examples_come_back_cut(
        examples in prop::collection::vec(prop::collection::vec(0_u32..1000, 2..40), 1..20),
        max_seq_len in 2_usize..30,
    ) {
        let mut builder = DatasetBuilder::new(&ids_only(max_seq_len), None, None).unwrap();
        for ids in &examples {
            let record = Record::Ids { ids: ids.clone(), labels: None };
            builder.add_record(&record, Path::new("x"), 1).unwrap();
        }
        let dataset = builder.finish().unwrap();
        let (mut buf, stats) = (dataset.buffer(), dataset.stats());
        let room = buf.heap_bytes();
        prop_assert_eq!(stats.examples, examples.len());
        let total: usize = examples.iter().map(Vec::len).sum();
        prop_assert_eq!(stats.tokens + stats.tokens_cut, total as u64);
        for (index, ids) in examples.iter().enumerate().rev() {
            let sample = dataset.read(index, &mut buf).unwrap();
            prop_assert_eq!(sample.ids, &ids[..ids.len().min(max_seq_len)]);
            prop_assert_eq!(sample.labelled(), sample.ids.len() - 1);
        }
        prop_assert_eq!(buf.heap_bytes(), room);
    }

    #[test]
    fn any_bytes_are_data_or_an_error(bytes: Vec<u8>) {
        let mut builder = DatasetBuilder::new(&ids_only(8), None, None).unwrap();
        let _ = builder.add_jsonl(Path::new("x"), &bytes[..]);
        let _ = builder.add_text(Path::new("x"), &bytes[..]);
    }
}
