//! Coded adapters by hand: what is decoded is what was trained.

use lowtide_adapter::{
    Adapter, BuildError, Config, Cx, Forward, FrozenLinear, Init, Method, ParamSpec, Phase, Place,
    Rows, SiteInfo,
};
use lowtide_backend::{DropoutKey, Scalar, Span};
use lowtide_lora::{CodedInOrder, DoraMethod, FakeQuant, Lora, LoraMethod, codes};
use lowtide_quant::{LineCodes, QMat, formats::F32};
use lowtide_tensor::{Mat, MatMut};
use lowtide_testkit::rng::Rng;
use proptest::prelude::*;

fn spec(rows: usize, cols: usize) -> ParamSpec {
    let (shape, init) = ([rows, cols], Init::Zeros);
    ParamSpec { name: "a", shape, init, output_axis: None, rank_axis: None }
}

fn round(codes: LineCodes, spec: &ParamSpec, p: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; p.len()];
    codes::round(codes, spec, None, p, &mut out);
    out
}

#[test]
fn scales_lie_along_the_longer_side() {
    // Two columns, each a line: scales 2 and 1.
    let p = [254.0, 127.0, -3.1, 0.4, 5.0, -0.6];
    let (tall, wide) = (spec(3, 2), spec(2, 3));
    assert_eq!(round(LineCodes::Int8, &tall, &p), [254.0, 127.0, -4.0, 0.0, 4.0, -1.0]);
    let p = [254.0, -3.1, 5.0, 127.0, 0.4, -0.6];
    assert_eq!(round(LineCodes::Int8, &wide, &p), [254.0, -4.0, 4.0, 127.0, 0.0, -1.0]);
}

#[test]
fn bytes_of_a_tensor_are_counted() {
    assert_eq!(codes::bytes(LineCodes::Int8, &spec(8, 2048)), 8 * 2048 + 8 * 2);
    assert_eq!(codes::bytes(LineCodes::Int8, &spec(2048, 8)), 8 * 2048 + 8 * 2);
    assert_eq!(codes::bytes(LineCodes::Int4, &spec(8, 2048)), 8 * 1024 + 8 * 32 * 2);
    assert_eq!(codes::bytes(LineCodes::Int4, &spec(1, 65)), 33 + 2 * 2);
    let kept = ParamSpec { init: Init::Constant(1.0), ..spec(10, 1) };
    assert_eq!(codes::bytes(LineCodes::Int4, &kept), 40);
    let p: Vec<f32> = (0..10).map(|i| 1.0 + i as f32 / 3.0).collect();
    assert_eq!(round(LineCodes::Int4, &kept, &p), p);
}

#[test]
fn damage_stays_visible_and_in_its_line() {
    let p = [f32::INFINITY, 1.0, 2.0, 3.0, 4.0, 5.0];
    let rounded = round(LineCodes::Int8, &spec(2, 3), &p);
    assert!(rounded[..3].iter().all(|x| x.is_nan()), "{rounded:?}");
    assert!(rounded[3..].iter().all(|x| x.is_finite()), "{rounded:?}");
}

#[test]
fn groups_are_cut_in_the_order_of_hugging_face() {
    // Outputs that are kept in reverse: a group is the last 64 rows, then the 16 before them.
    let tall = ParamSpec { output_axis: Some(0), ..spec(80, 2) };
    let order: Vec<u32> = (0..80).rev().collect();
    let p = Rng::new(7).uniform_vec(160, -1.0, 1.0);
    let turned: Vec<f32> =
        order.iter().flat_map(|&row| p[2 * row as usize..][..2].to_vec()).collect();
    let expected = round(LineCodes::Int4, &tall, &turned);
    let mut out = vec![f32::NAN; 160];
    codes::round(LineCodes::Int4, &tall, Some(&order), &p, &mut out);
    let found: Vec<f32> =
        order.iter().flat_map(|&row| out[2 * row as usize..][..2].to_vec()).collect();
    assert_eq!(found, expected);
    assert_ne!(out, round(LineCodes::Int4, &tall, &p));
    // Other tensors of the site do not follow the outputs.
    let other = ParamSpec { output_axis: None, ..tall };
    codes::round(LineCodes::Int4, &other, Some(&order), &p, &mut out);
    assert_eq!(out, round(LineCodes::Int4, &other, &p));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the numbers, what training works on, `p` plus what rounding adds, has the bits of
    /// what is coded, lies within half a step of `p`, and is the same when it is coded again.
    #[test]
    fn what_is_coded_is_what_was_trained(
        seed in any::<u64>(),
        rows in 1..70_usize,
        cols in 1..70_usize,
        size in -40..30_i32,
        int8 in any::<bool>(),
    ) {
        let codes = if int8 { LineCodes::Int8 } else { LineCodes::Int4 };
        let (spec, bound) = (spec(rows, cols), 2.0_f32.powi(size));
        let p = Rng::new(seed).uniform_vec(rows * cols, -bound, bound);
        let rounded = round(codes, &spec, &p);
        let step = bound / if int8 { 127.0 } else { 7.0 } * 1.01;
        for (&p, &rounded) in p.iter().zip(&rounded) {
            prop_assert_eq!(p + (rounded - p), rounded);
            prop_assert!((p - rounded).abs() <= 0.5 * step, "{} became {}", p, rounded);
        }
        prop_assert_eq!(round(codes, &spec, &rounded), rounded);
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
    for (name, codes) in LineCodes::NAMES {
        let trained = FakeQuant::new(Box::new(lora.clone()), codes);
        let mut deployed = Vec::new();
        for spec in Adapter::<f32>::params(&lora) {
            deployed.extend(round(codes, spec, &p[deployed.len()..][..spec.len()]));
        }
        assert_eq!(apply(&trained, &p, &x), apply(&lora, &deployed, &x), "{name}");
        assert_eq!(apply(&trained, &deployed, &x), apply(&lora, &deployed, &x), "{name}");
        assert_ne!(apply(&trained, &p, &x), apply(&lora, &p, &x), "{name}");
        assert_eq!(trained.codes(), codes);
    }
    let bytes = FakeQuant::<f32>::new(Box::new(lora), LineCodes::Int8).bytes();
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
    let order = |_: &SiteInfo| Some(vec![3, 2, 1, 0]);
    let in_order = CodedInOrder { method: &DoraMethod, order: &order };
    assert_eq!(build(&in_order, "int4").unwrap().derived(), 4 + 2 * 10 + 4);
    let error = build(&in_order, "int3").map(|_| ()).unwrap_err();
    assert!(matches!(error, BuildError::BadOption { option: "quantize", .. }));
}
