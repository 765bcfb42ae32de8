//! Coded adapters by hand: what is decoded is what was trained.

use lowtide_adapter::{
    Adapter, BuildError, Config, Cx, Forward, FrozenLinear, Init, Method, ParamSpec, Phase, Place,
    Rows, SiteInfo,
};
use lowtide_backend::{DropoutKey, Scalar, Span};
use lowtide_lora::{BadLength, Codes, DoraMethod, FakeQuant, Lora, LoraMethod};
use lowtide_quant::{QMat, formats::F32};
use lowtide_tensor::{Mat, MatMut};
use lowtide_testkit::rng::Rng;
use proptest::prelude::*;

fn spec(rows: usize, cols: usize) -> ParamSpec {
    let (shape, init) = ([rows, cols], Init::Zeros);
    ParamSpec { name: "a", shape, init, output_axis: None, rank_axis: None }
}

fn round(codes: Codes, spec: &ParamSpec, p: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; p.len()];
    codes.round(spec, p, &mut out);
    out
}

#[test]
fn bytes_are_scales_then_codes() {
    // Two columns, each a line: scales 2 and 1.
    let p = [254.0, 127.0, -3.1, 0.4, 5.0, -0.6];
    let bytes = Codes::Int8.encode(&spec(3, 2), &p);
    assert_eq!(bytes, [0x00, 0x40, 0x80, 0x3f, 127, 127, -2_i8 as u8, 0, 2, 255]);
    assert_eq!(round(Codes::Int8, &spec(3, 2), &p), [254.0, 127.0, -4.0, 0.0, 4.0, -1.0]);
    // One row: a scale of 1, and the last half byte is empty.
    let bytes = Codes::Int4.encode(&spec(1, 3), &[7.0, -6.6, 1.4]);
    assert_eq!(bytes, [0x80, 0x3f, 0x1f, 0x89]);
}

#[test]
fn bytes_of_a_tensor_are_counted() {
    assert_eq!(Codes::Int8.bytes(&spec(8, 2048)), 8 * 2048 + 8 * 2);
    assert_eq!(Codes::Int8.bytes(&spec(2048, 8)), 8 * 2048 + 8 * 2);
    assert_eq!(Codes::Int4.bytes(&spec(8, 2048)), 8 * 1024 + 8 * 32 * 2);
    assert_eq!(Codes::Int4.bytes(&spec(1, 65)), 33 + 2 * 2);
    let kept = ParamSpec { init: Init::Constant(1.0), ..spec(10, 1) };
    assert_eq!(Codes::Int4.bytes(&kept), 40);
    let p: Vec<f32> = (0..10).map(|i| 1.0 + i as f32 / 3.0).collect();
    assert_eq!(round(Codes::Int4, &kept, &p), p);
    let mut back = vec![0.0; 10];
    Codes::Int4.decode(&kept, &Codes::Int4.encode(&kept, &p), &mut back).unwrap();
    assert_eq!(back, p);
}

#[test]
fn damage_stays_visible_and_in_its_line() {
    let p = [f32::INFINITY, 1.0, 2.0, 3.0, 4.0, 5.0];
    let rounded = round(Codes::Int8, &spec(2, 3), &p);
    assert!(rounded[..3].iter().all(|x| x.is_nan()), "{rounded:?}");
    assert!(rounded[3..].iter().all(|x| x.is_finite()), "{rounded:?}");
}

#[test]
fn other_lengths_are_refused() {
    let error = Codes::Int8.decode(&spec(2, 3), &[0; 9], &mut [0.0; 6]).unwrap_err();
    assert_eq!(error, BadLength { name: "a", found: 9, expected: 10 });
    assert_eq!(error.to_string(), "the codes of `a` are 9 bytes, expected 10");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the numbers, what training works on, `p` plus what rounding adds, has the bits of
    /// what is decoded, and lies within half a step of `p`.
    #[test]
    fn what_is_decoded_is_what_was_trained(
        seed in any::<u64>(),
        rows in 1..70_usize,
        cols in 1..70_usize,
        size in -40..30_i32,
        int8 in any::<bool>(),
    ) {
        let codes = if int8 { Codes::Int8 } else { Codes::Int4 };
        let (spec, bound) = (spec(rows, cols), 2.0_f32.powi(size));
        let p = Rng::new(seed).uniform_vec(rows * cols, -bound, bound);
        let rounded = round(codes, &spec, &p);
        let bytes = codes.encode(&spec, &p);
        prop_assert_eq!(bytes.len(), codes.bytes(&spec));
        let mut decoded = vec![f32::NAN; p.len()];
        codes.decode(&spec, &bytes, &mut decoded).unwrap();
        let step = bound / if int8 { 127.0 } else { 7.0 } * 1.01;
        for ((&p, &rounded), &decoded) in p.iter().zip(&rounded).zip(&decoded) {
            prop_assert_eq!(rounded, decoded);
            prop_assert_eq!(p + (rounded - p), decoded);
            prop_assert!((p - decoded).abs() <= 0.5 * step, "{} became {}", p, decoded);
        }
    }

    /// Decoding takes any bytes.
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for codes in [Codes::Int8, Codes::Int4] {
            let result = codes.decode(&spec(5, 7), &bytes, &mut [0.0; 35]);
            prop_assert_eq!(result.is_ok(), bytes.len() == codes.bytes(&spec(5, 7)));
        }
    }
}

/// The output of one row on a base of zeros.
fn apply(adapter: &dyn Adapter, p: &[f32], x: &[f32]) -> Vec<f32> {
    let (i, o) = (x.len(), 3);
    let weight = vec![0; 4 * i * o];
    let base = FrozenLinear::new(QMat::new(&F32, o, i, &weight).unwrap(), None);
    let mut scratch = vec![f32::NAN; adapter.req(&Scalar, &base, 1).scratch];
    let mut fixed = vec![f32::NAN; adapter.derived()];
    adapter.prepare(&Scalar, &base, p, &mut fixed, &mut scratch);
    let rows = Rows {
        spans: &[Span { start: 0, prompt_end: 1, end: 1 }],
        row0: 0,
        past: 0,
        key: DropoutKey { seed: 0, step: 0, site: 0 },
        phase: Phase::Train,
    };
    let mut y = vec![f32::NAN; o];
    let cx = Cx { be: &Scalar, base: &base, p, fixed: &fixed, rows };
    let (x, y_view) = (Mat::new(x, 1, i), MatMut::new(&mut y, 1, o));
    let forward = Forward { x, y: y_view, kept: None, state: None, scratch: &mut scratch };
    adapter.apply(&cx, forward);
    y
}

#[test]
fn a_deployed_adapter_gives_the_bits_of_the_trained_one() {
    let config = Config { rank: 2, ..Config::default() };
    let lora = Lora::new(40, 3, &config).unwrap();
    let p = Rng::new(3).uniform_vec(2 * 43, -0.7, 0.9);
    let x = Rng::new(4).uniform_vec(40, -1.0, 1.0);
    for (name, codes) in Codes::NAMES {
        let trained = FakeQuant::new(Box::new(lora.clone()), codes);
        let mut deployed = vec![f32::NAN; p.len()];
        let mut at = 0;
        for spec in Adapter::<f32>::params(&lora) {
            let range = at..at + spec.len();
            let bytes = codes.encode(spec, &p[range.clone()]);
            codes.decode(spec, &bytes, &mut deployed[range.clone()]).unwrap();
            at = range.end;
        }
        assert_eq!(apply(&trained, &p, &x), apply(&lora, &deployed, &x), "{name}");
        assert_ne!(apply(&trained, &p, &x), apply(&lora, &p, &x), "{name}");
        assert_eq!(trained.codes(), codes);
    }
    let bytes = FakeQuant::<f32>::new(Box::new(lora), Codes::Int8).bytes();
    assert_eq!(bytes, 2 * 43 + 4 * 2);
}

#[test]
fn an_option_chooses_the_codes() {
    let site = SiteInfo {
        name: "q_proj".into(),
        layer: 0,
        in_features: 6,
        out_features: 4,
        place: Place::Linear,
    };
    let build = |method: &dyn Method, codes: &str| {
        let options = [("quantize".to_owned(), codes.to_owned())].into();
        let config = Config { rank: 2, options, ..Config::default() };
        method.build(&site, &config).map(Option::unwrap)
    };
    let lora = build(&LoraMethod, "int8").unwrap();
    assert_eq!((lora.kind(), lora.derived()), ("lora", 2 * 10));
    assert_eq!(build(&DoraMethod, "int4").unwrap().derived(), 4 + 2 * 10 + 4);
    let error = build(&LoraMethod, "int3").map(|_| ()).unwrap_err();
    assert!(matches!(error, BuildError::BadOption { option: "quantize", .. }));
    let text = "lora: option `quantize` is `int3`, expected `int8` or `int4`";
    assert_eq!(error.to_string(), text);
}
