//! LoRA by hand: initial values, scale, dropout, memory, refusals.

use lowtide_adapter::{
    Adapter, BadValue, BuildError, Config, Cx, Forward, FrozenLinear, Init, Linear, Method,
    ParamSpec, Phase, Place, Registry, Rows, SiteInfo, Vjp,
};
use lowtide_backend::{Backend, DropoutKey, OpShape, Req, Scalar, Span};
use lowtide_lora::{Lora, LoraMethod, RANK_MAX};
use lowtide_quant::{QMat, formats::F32};
use lowtide_tensor::{Mat, MatMut};
use lowtide_testkit::rng::Rng;

const SPANS: &[Span] = &[Span { start: 0, prompt_end: 40, end: 100 }];

fn rows(phase: Phase) -> Rows<'static> {
    Rows { spans: SPANS, row0: 0, past: 0, key: DropoutKey { seed: 1, step: 2, site: 3 }, phase }
}

fn config(rank: usize, alpha: f64) -> Config {
    Config { rank, alpha, ..Config::default() }
}

fn zeros(out_features: usize, in_features: usize) -> Vec<u8> {
    vec![0; 4 * out_features * in_features]
}

fn base(weight: &[u8], out_features: usize, in_features: usize) -> FrozenLinear<'_> {
    FrozenLinear::new(QMat::new(&F32, out_features, in_features, weight).unwrap(), None)
}

/// The adapted output of a base of zeros, `[rows.len() / I, O]`.
fn apply(lora: &Lora, dims: (usize, usize), p: &[f32], rows: Rows<'_>, x: &[f32]) -> Vec<f32> {
    let (i, o) = dims;
    let (weight, tokens) = (zeros(o, i), x.len() / i);
    let base = base(&weight, o, i);
    let mut y = vec![f32::NAN; tokens * o];
    let mut scratch = vec![f32::NAN; lora.req(&Scalar, &base, tokens).scratch];
    let (x, y_view) = (Mat::new(x, tokens, i), MatMut::new(&mut y, tokens, o));
    let cx = Cx { be: &Scalar, base: &base, p, fixed: &[], rows };
    let scratch = &mut scratch[..];
    lora.apply(&cx, Forward { x, y: y_view, kept: None, state: None, scratch });
    y
}

#[test]
fn parameters_are_those_of_peft() {
    let lora = Lora::new(64, 48, &config(4, 8.0)).unwrap();
    let [a, b] = Adapter::<f32>::params(&lora) else { panic!("two parameters") };
    assert_eq!((a.name, a.shape, a.output_axis), ("lora_A.weight", [4, 64], None));
    assert_eq!((a.rank_axis, b.rank_axis), (Some(0), Some(1)));
    assert_eq!(a.init, Init::Uniform { bound: 0.125 });
    assert_eq!((b.name, b.shape, b.output_axis), ("lora_B.weight", [48, 4], Some(0)));
    assert_eq!(b.init, Init::Zeros);
    assert_eq!((lora.rank(), lora.scale()), (4, 2.0));
    let rslora = Config { use_rslora: true, ..config(4, 8.0) };
    assert_eq!(Lora::new(64, 48, &rslora).unwrap().scale(), 4.0);
}

#[test]
fn output_and_gradients_by_hand() {
    let lora = Lora::new(2, 1, &config(1, 3.0)).unwrap();
    let p = [1.0, -2.0, 0.5]; // A = [1 -2], B = [0.5], s = 3
    let x = [3.0, 1.0, 1.0, 2.0]; // h = 1, -3
    assert_eq!(apply(&lora, (2, 1), &p, rows(Phase::Train), &x), [1.5, -4.5]);

    let weight = [10.0_f32, 20.0].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let base = base(&weight, 1, 2);
    let mut scratch = vec![f32::NAN; lora.req(&Scalar, &base, 2).scratch];
    let (mut grad, mut dx) = ([100.0; 3], [1000.0; 4]);
    let (x, dy) = (Mat::new(&x, 2, 2), Mat::new(&[1.0, 2.0], 2, 1));
    let dx_view = Some(MatMut::new(&mut dx, 2, 2));
    let rows = rows(Phase::Train);
    let cx = Cx { be: &Scalar, base: &base, p: &p, fixed: &[], rows };
    let (x, grad, scratch) = (Some(x), &mut grad[..], &mut scratch[..]);
    lora.vjp(&cx, Vjp { x, y: None, kept: None, dy, dx: dx_view, grad, scratch });
    // dh = s dy B = 1.5, 3; dA = dhᵀ x; dB = s dyᵀ h = 3 (1 - 6).
    assert_eq!(grad, [100.0 + 4.5 + 3.0, 100.0 + 1.5 + 6.0, 100.0 - 15.0]);
    // dx = dy W + dh A.
    assert_eq!(dx, [1011.5, 1017.0, 1023.0, 1034.0]);
}

#[test]
fn dropout_is_on_in_training_only_and_drops_what_the_backend_drops() {
    let (i, tokens) = (40, 100);
    let config = Config { dropout: 0.25, ..config(1, 1.0) };
    let lora = Lora::new(i, 1, &config).unwrap();
    let p = vec![1.0; i + 1];
    let x = Rng::new(1).uniform_vec(tokens * i, 0.5, 1.5);
    let sums = |x: &[f32]| x.chunks(i).map(|row| row.iter().sum::<f32>()).collect::<Vec<_>>();
    let close = |got: &[f32], want: &[f32]| {
        lowtide_testkit::compare::assert_close("y", got, want, 1e-4, 0.0);
    };
    let plain = sums(&x);
    close(&apply(&lora, (i, 1), &p, rows(Phase::Prefill), &x), &plain);
    close(&apply(&lora, (i, 1), &p, rows(Phase::Decode), &x), &plain);

    let mut dropped = vec![0.0; x.len()];
    let call = rows(Phase::Train);
    Scalar.dropout(
        Mat::new(&x, tokens, i),
        0.25,
        call.key,
        0,
        MatMut::new(&mut dropped, tokens, i),
    );
    let kept = dropped.iter().filter(|x| **x != 0.0).count();
    assert!((2900..3100).contains(&kept), "{kept} of 4000 kept at 0.25");
    let trained = apply(&lora, (i, 1), &p, call, &x);
    close(&trained, &sums(&dropped));
    assert!(trained.iter().zip(&plain).all(|(trained, plain)| trained != plain));
    let later = Rows { row0: 64, ..call };
    let again = apply(&lora, (i, 1), &p, later, &x[64 * i..]);
    assert_eq!(again, trained[64..], "rows keep their mask wherever a call starts");
}

#[test]
fn memory_is_rank_sized() {
    let (i, o, rank) = (3000, 5000, 8);
    let weight = zeros(o, i);
    let base = base(&weight, o, i);
    let need = |dropout, tokens| {
        let config = Config { dropout, ..config(rank, 16.0) };
        let own = Lora::new(i, o, &config).unwrap().req(&NoScratch, &base, tokens);
        assert_eq!(own.library_bytes, 0);
        own.scratch
    };
    assert_eq!(need(0.0, 512), 512 * rank);
    assert_eq!(need(0.1, 512), 64 * (rank + i));
    assert_eq!(need(0.1, 3), 3 * rank + 4 * i);
}

/// A backend that needs no scratch of its own, so that only the adapter's is seen.
struct NoScratch;

impl Backend<f32> for NoScratch {
    fn name(&self) -> &'static str {
        "no scratch"
    }

    fn req(&self, _op: OpShape) -> Req {
        Req::default()
    }
}

#[test]
fn the_requirement_is_the_larger_of_the_base_and_the_adapter() {
    let weight = zeros(3, 5);
    let base = base(&weight, 3, 5);
    let lora = Lora::new(5, 3, &config(2, 4.0)).unwrap();
    let of_base = base.req(&Scalar, 1).scratch;
    assert_eq!(lora.req(&Scalar, &base, 1).scratch, of_base.max(2));
    let many = of_base + 1;
    assert_eq!(lora.req(&Scalar, &base, many).scratch, 2 * many);
}

#[test]
fn nonsense_is_refused_by_name() {
    let refuse = |config: &Config, field: &str| {
        let error = Lora::new(8, 8, config).unwrap_err();
        assert_eq!((error.method, error.field), ("lora", field));
        error
    };
    assert_eq!(refuse(&config(0, 1.0), "rank").value, 0.0);
    refuse(&config(RANK_MAX + 1, 1.0), "rank");
    refuse(&config(usize::MAX, 1.0), "rank");
    refuse(&config(1, f64::NAN), "alpha");
    refuse(&config(1, f64::INFINITY), "alpha");
    for dropout in [-0.1, 1.0, 1.5, f64::NAN] {
        refuse(&Config { dropout, ..config(1, 1.0) }, "dropout");
    }
    let error = refuse(&Config { dropout: 1.0, ..config(1, 1.0) }, "dropout");
    assert_eq!(error.to_string(), "lora: `dropout` is 1, expected a number from 0 to below 1");
    assert!(Lora::new(8, 8, &config(RANK_MAX, -1.0)).is_ok());
}

#[test]
fn a_registry_builds_it_by_name() {
    let registry: Registry = Registry::new().with(LoraMethod);
    let method: &dyn Method = registry.get("lora").unwrap();
    let site = SiteInfo {
        name: "model.layers.0.self_attn.q_proj".into(),
        layer: 0,
        in_features: 6,
        out_features: 10,
        place: Place::Linear,
    };
    let adapter = method.build(&site, &config(2, 4.0)).unwrap().unwrap();
    assert_eq!(adapter.kind(), "lora");
    assert_eq!(adapter.params().iter().map(ParamSpec::len).sum::<usize>(), 2 * (6 + 10));
    let error = method.build(&site, &config(0, 4.0)).map(|_| ()).unwrap_err();
    assert!(matches!(error, BuildError::BadValue(BadValue { field: "rank", .. })), "{error}");
}
