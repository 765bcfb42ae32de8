//! The GGUF container: what is written can be read, what is unsound is refused with its reason.

mod support;

use lowtide_formats::gguf::{GgufError, NAME_BYTES_MAX, Value, Writer, parse};
use lowtide_formats::{DocumentError, Error, gguf::Gguf};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{F16, F32, Q8_0};
use support::Raw;

#[test]
fn what_is_written_is_read() {
    let mut writer = Writer::new();
    let entries = [
        ("a.u32", Value::U32(7)),
        ("a.i32", Value::I32(-7)),
        ("a.u64", Value::U64(u64::MAX)),
        ("a.f32", Value::F32(0.5)),
        ("a.bool", Value::Bool(true)),
        ("a.text", Value::from("schön")),
        ("a.texts", Value::Strings(vec!["x".into(), String::new(), "yz".into()])),
        ("a.i32s", Value::I32s(vec![1, -2])),
        ("a.u32s", Value::U32s(vec![3])),
        ("a.f32s", Value::F32s(vec![1.5, -0.25])),
    ];
    for (key, value) in entries {
        writer.metadata(key, value);
    }
    let row: Vec<f32> = (0..64).map(|i| i as f32 - 32.0).collect();
    let mut packed = vec![0; 2 * 34];
    Q8_0.encode(&row, &mut packed);
    writer.tensor("vector", &[3], &F32);
    writer.tensor("matrix", &[2, 32], &Q8_0);
    writer.tensor("cube", &[1, 2, 3], &F16);
    let mut data = writer.start(Vec::new()).unwrap();
    for value in [1.0_f32, 2.0, 3.0] {
        data.write(&value.to_le_bytes()).unwrap();
    }
    data.write(&packed).unwrap();
    data.write(&[0; 12]).unwrap();
    let file = data.finish().unwrap();

    let contents = parse(&file).unwrap();
    assert_eq!((contents.version(), contents.alignment()), (3, 32));
    let metadata = contents.metadata(&file);
    assert_eq!(metadata.get_u64("a.u32"), Ok(Some(7)));
    assert_eq!(metadata.get_u64("a.u64"), Ok(Some(u64::MAX)));
    assert_eq!(metadata.get_f32("a.f32"), Ok(Some(0.5)));
    assert_eq!(metadata.get_bool("a.bool"), Ok(Some(true)));
    assert_eq!(metadata.get_str("a.text"), Ok(Some("schön")));
    assert_eq!(metadata.get_str("absent"), Ok(None));
    let texts: Vec<_> = metadata.strings("a.texts").unwrap().unwrap().collect();
    assert_eq!(texts, ["x", "", "yz"]);
    let whole = |key| metadata.integers(key).unwrap().unwrap().collect::<Vec<_>>();
    assert_eq!((whole("a.i32s"), whole("a.u32s")), (vec![1, -2], vec![3]));
    let floats: Vec<_> = metadata.floats("a.f32s").unwrap().unwrap().collect();
    assert_eq!(floats, [1.5, -0.25]);

    let tensor = |name| contents.tensor(&file, name).unwrap();
    assert_eq!(tensor("vector").to_f32_vec(), [1.0, 2.0, 3.0]);
    assert_eq!((tensor("matrix").shape, tensor("matrix").bytes), (&[2, 32][..], &packed[..]));
    assert_eq!((tensor("cube").shape, tensor("cube").len()), (&[1, 2, 3][..], 6));
    assert!(tensor("cube").qmat().is_err());
}

#[test]
fn getters_name_key_expected_and_found() {
    let mut writer = Writer::new();
    writer.metadata("text", Value::from("x"));
    writer.metadata("negative", Value::I32(-1));
    writer.metadata("large", Value::U64(1 << 40));
    writer.metadata("list", Value::I32s(vec![1, 2]));
    let file = writer.start(Vec::new()).unwrap().finish().unwrap();
    let contents = parse(&file).unwrap();
    let metadata = contents.metadata(&file);
    let words = |error: DocumentError| error.to_string();
    assert_eq!(
        words(metadata.get_u64("text").unwrap_err()),
        "`text` is of type string; expected a whole number"
    );
    assert_eq!(
        words(metadata.get_u64("negative").unwrap_err()),
        "`negative` is -1; expected a whole number that is not negative"
    );
    assert_eq!(
        words(metadata.get_u32("large").unwrap_err()),
        "`large` is 1099511627776; expected a number of 32 bits"
    );
    assert_eq!(
        words(metadata.get_str("list").unwrap_err()),
        "`list` is an array of 2 i32; expected text"
    );
    assert_eq!(
        words(metadata.strings("list").err().unwrap()),
        "`list` is an array of 2 i32; expected an array of texts"
    );
    assert!(metadata.floats("text").is_err() && metadata.integers("text").is_err());
}

#[test]
fn text_that_is_not_utf8_is_refused_where_it_is_read() {
    let texts = Raw::new(0, 1).entry("k", 9, &[]).u32(8).u64(2).text(b"ok").text(b"\xff");
    let contents = parse(&texts.bytes).unwrap();
    let error = contents.metadata(&texts.bytes).strings("k").err().unwrap();
    assert_eq!(error.to_string(), "`k[1]` is a string that is not UTF-8; expected text");
}

/// Parses and compares the words of the error.
fn refused(bytes: &[u8], words: &str) {
    assert_eq!(parse(bytes).unwrap_err().to_string(), words);
}

/// How a file is told of that ends too early.
const CUT: &str = "the file is truncated or damaged:";
const END: &str = "bytes of data";

#[test]
fn unsound_headers() {
    refused(b"", "not a GGUF file: it starts with [], expected the four letters `GGUF`");
    refused(
        b"PK\x03\x04",
        "not a GGUF file: it starts with [50, 4b, 03, 04], expected the four letters `GGUF`",
    );
    let version = "is not supported; supported: 2 and 3, little-endian";
    refused(b"GGUF\x01\0\0\0", &format!("GGUF version 1 {version}"));
    refused(b"GGUF\0\0\0\x03", &format!("GGUF version 50331648 {version}"));
    refused(
        b"GGUF\x03\0\0\0\x01",
        &format!("{CUT} the number of tensors from byte 8 on: 8 bytes, and 1 are left"),
    );
    refused(
        &Raw::new(0, u64::MAX).bytes,
        "the number of metadata entries is 18446744073709551615; expected at most 65536",
    );
    refused(
        &Raw::new(0, 4).raw(&[0; 20]).bytes,
        &format!("{CUT} 4 metadata entries from byte 24 on: 52 bytes, and 20 are left"),
    );
    refused(
        &Raw::new(u64::MAX, 0).raw(&[0; 48]).bytes,
        "the number of tensors is 18446744073709551615; expected at most 1048576",
    );
    refused(
        &Raw::new(3, 0).raw(&[0; 48]).bytes,
        &format!("{CUT} 3 records of tensors from byte 24 on: 72 bytes, and 48 are left"),
    );
    assert!(parse(&Raw::new(0, 0).bytes).is_ok());
}

#[test]
fn unsound_metadata() {
    let two = Raw::new(0, 2).entry("k", 0, &[1]).entry("k", 0, &[1]);
    refused(&two.bytes, "metadata key `k` is there twice");
    let one = || Raw::new(0, 1);
    let long_key = one().u64(70_000).raw(&[0; 99]);
    refused(
        &long_key.bytes,
        "the length of the key of metadata entry 0 is 70000; expected at most 65535",
    );
    let bad_key = one().text(b"\xc3").u32(0).raw(&[0; 9]);
    refused(&bad_key.bytes, "the key of metadata entry 0 is not UTF-8 text");
    let unknown = one().entry("k", 13, &[0; 9]);
    let no_type = "which does not exist or cannot be used here";
    refused(&unknown.bytes, &format!("the value of `k` has value type 13, {no_type}"));
    let nested = one().entry("k", 9, &[]).u32(9).u64(0);
    refused(&nested.bytes, &format!("the value of `k` has value type 9, {no_type}"));
    let truth = one().entry("k", 7, &[2]);
    refused(&truth.bytes, "the value of `k` is 2; expected 0 or 1");
    let truths = one().entry("k", 9, &[]).u32(7).u64(2).raw(&[1, 3]);
    refused(&truths.bytes, "the value of `k` is 3; expected 0 or 1");
    let many = one().entry("k", 9, &[]).u32(10).u64(1 << 61).raw(&[0; 16]);
    refused(
        &many.bytes,
        &format!(
            "{CUT} 2305843009213693952 elements of `k` from byte 49 on: 18446744073709551615 \
             bytes, and 16 are left"
        ),
    );
    let long = one().entry("k", 8, &[]).u64(u64::MAX).raw(&[0; 5]);
    refused(
        &long.bytes,
        &format!(
            "{CUT} the value of `k` from byte 45 on: 18446744073709551615 bytes, and 5 are left"
        ),
    );
}

#[test]
fn unsound_alignments() {
    let with = |value_type, value: &[u8]| {
        Raw::new(0, 1).entry("general.alignment", value_type, value).bytes
    };
    let words = "expected a power of two of type u32";
    refused(&with(4, &0_u32.to_le_bytes()), &format!("`general.alignment` is 0; {words}"));
    refused(&with(4, &24_u32.to_le_bytes()), &format!("`general.alignment` is 24; {words}"));
    refused(
        &with(10, &32_u64.to_le_bytes()),
        &format!("`general.alignment` is of type u64; {words}"),
    );
    assert_eq!(parse(&with(4, &64_u32.to_le_bytes())).unwrap().alignment(), 64);
}

#[test]
fn unsound_tensors() {
    let one =
        |axes: &[u64], type_id, offset| Raw::new(1, 0).tensor("t", axes, type_id, offset).data(256);
    refused(&one(&[1; 5], 0, 0), "tensor `t` has 5 dimensions; expected at most 4");
    let shape = "expected positive axes of addressable size";
    refused(&one(&[4, 0], 0, 0), &format!("tensor `t` has shape [0, 4]; {shape}"));
    refused(&one(&[u64::MAX], 0, 0), &format!("tensor `t` has shape [-1]; {shape}"));
    refused(
        &one(&[1 << 32, 1 << 31], 0, 0),
        &format!("tensor `t` has shape [2147483648, 4294967296]; {shape}"),
    );
    let types = "supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL";
    refused(
        &one(&[256], 10, 0),
        &format!("tensor `t` has type Q2_K (10), which is not supported; {types}"),
    );
    refused(
        &one(&[256], 999, 0),
        &format!("tensor `t` has type number 999, which is not supported; {types}"),
    );
    refused(&one(&[33, 2], 8, 0), "tensor `t` has rows of 33 values; Q8_0 needs multiples of 32");
    refused(&one(&[4], 0, 16), "tensor `t` starts at offset 16, not a multiple of 32");
    refused(
        &one(&[4], 0, 256),
        &format!("{CUT} tensor `t` takes 16 bytes from data offset 256, and there are 256 {END}"),
    );
    refused(
        &one(&[65], 0, 0),
        &format!("{CUT} tensor `t` takes 260 bytes from data offset 0, and there are 256 {END}"),
    );
    assert!(matches!(
        parse(&one(&[4], 0, u64::MAX - 31)).unwrap_err(),
        GgufError::OutOfFile { offset, .. } if offset == u64::MAX - 31
    ));
    let scalar = one(&[], 0, 0);
    assert_eq!(parse(&scalar).unwrap().tensor(&scalar, "t").unwrap().len(), 1);
}

#[test]
fn tensors_that_share_bytes_or_names() {
    let two = |first: (&str, u64), second: (&str, u64)| {
        let records = Raw::new(2, 0).tensor(first.0, &[16], 0, first.1);
        records.tensor(second.0, &[16], 0, second.1).data(256)
    };
    refused(&two(("a", 32), ("b", 64)), "tensors `a` and `b` overlap");
    refused(&two(("a", 64), ("b", 32)), "tensors `b` and `a` overlap");
    refused(&two(("a", 0), ("a", 0)), "tensor `a` is there twice");
    refused(&two(("a", 0), ("a", 128)), "tensor `a` is there twice");
    assert!(parse(&two(("a", 64), ("b", 0))).is_ok(), "order and gaps are free");
    let long = "n".repeat(NAME_BYTES_MAX as usize + 1);
    refused(
        &two((&long, 0), ("b", 64)),
        "the length of the name of tensor 0 is 64; expected at most 63",
    );
}

#[test]
fn errors_of_files_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let words = Gguf::open(&path).unwrap_err().to_string();
    assert!(words.starts_with(&format!("{}: cannot open: ", path.display())), "{words}");
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(Gguf::open(&path).unwrap_err(), Error::Gguf { .. }), "an empty file");
    let error = Gguf::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "a folder: {error}");
}
