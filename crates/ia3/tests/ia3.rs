//! IA3 by hand: which side is scaled, scales at zero, memory, refusals.

use lowtide_adapter::{
    Adapter, Config, Cx, Forward, FrozenLinear, Init, Linear, Method, Phase, Place, Rows, SiteInfo,
    Vjp,
};
use lowtide_backend::{DropoutKey, Scalar, Span};
use lowtide_ia3::{Ia3, Ia3Method, SMALLEST, Scales};
use lowtide_quant::{QMat, formats::F32};
use lowtide_tensor::{Mat, MatMut};

const ROWS: Rows<'static> = Rows {
    spans: &[Span { start: 0, prompt_end: 1, end: 2 }],
    row0: 0,
    past: 0,
    key: DropoutKey { seed: 1, step: 2, site: 3 },
    phase: Phase::Train,
};

/// `W = [1 2; -1 0]`, `b = [10, 1]`, `x = [1 1; 0 2]`: the base gives `13 0; 14 1`.
const WEIGHT: [f32; 4] = [1.0, 2.0, -1.0, 0.0];
const BIAS: [f32; 2] = [10.0, 1.0];
const X: [f32; 4] = [1.0, 1.0, 0.0, 2.0];

/// Output, gradient of the scales and gradient of the input, for `dy = [1 2; 3 4]`.
fn both_ways(scales: Scales, l: &[f32]) -> ([f32; 4], [f32; 2], [f32; 4]) {
    let bytes: Vec<u8> = WEIGHT.iter().flat_map(|w| w.to_le_bytes()).collect();
    let base = FrozenLinear::new(QMat::new(&F32, 2, 2, &bytes).unwrap(), Some(&BIAS));
    let ia3 = Ia3::new(2, 2, scales);
    let mut scratch = vec![f32::NAN; ia3.req(&Scalar, &base, 2).scratch];
    let cx = Cx { be: &Scalar, base: &base, p: l, fixed: &[], rows: ROWS };
    let (mut y, mut grad, mut dx) = ([f32::NAN; 4], [0.0; 2], [0.0; 4]);
    let (x, room) = (Mat::new(&X, 2, 2), MatMut::new(&mut y, 2, 2));
    ia3.apply(&cx, Forward { x, y: room, kept: None, state: None, scratch: &mut scratch });
    let facts = Adapter::<f32>::facts(&ia3);
    let operands = Vjp {
        x: facts.reads_x.then_some(x),
        y: facts.reads_y.then(|| Mat::new(&y, 2, 2)),
        kept: None,
        dy: Mat::new(&[1.0, 2.0, 3.0, 4.0], 2, 2),
        dx: Some(MatMut::new(&mut dx, 2, 2)),
        grad: &mut grad,
        scratch: &mut scratch,
    };
    ia3.vjp(&cx, operands);
    (y, grad, dx)
}

#[test]
fn outputs_are_scaled_with_their_bias() {
    let (y, grad, dx) = both_ways(Scales::Outputs, &[2.0, 0.5]);
    assert_eq!(y, [26.0, 0.0, 28.0, 0.5]);
    // dl = Σ dy (xWᵀ + b); dx = (dy ⊙ l) W = [2 1; 6 2] W.
    assert_eq!(grad, [13.0 + 42.0, 4.0]);
    assert_eq!(dx, [1.0, 4.0, 4.0, 12.0]);
}

#[test]
fn inputs_are_scaled_and_the_bias_is_not() {
    let (y, grad, dx) = both_ways(Scales::Inputs, &[2.0, 0.5]);
    // x ⊙ l = [2 0.5; 0 1].
    assert_eq!(y, [13.0, -1.0, 12.0, 1.0]);
    // dy W = [-1 2; -1 6]; dl = Σ (dy W) x.
    assert_eq!(grad, [-1.0, 2.0 + 12.0]);
    assert_eq!(dx, [-2.0, 1.0, -2.0, 3.0]);
}

#[test]
fn a_scale_of_zero_still_has_its_gradient() {
    for (l, counts_as) in [(0.0, SMALLEST), (-1e-9, -SMALLEST), (-0.25, -0.25)] {
        let (y, grad, _) = both_ways(Scales::Outputs, &[l, 1.0]);
        assert_eq!(y[0], 13.0 * counts_as);
        assert!((grad[0] - 55.0).abs() < 1e-4, "{} at {l}", grad[0]);
    }
}

#[test]
fn parameters_are_those_of_peft() {
    let spec = |scales| Adapter::<f32>::params(&Ia3::new(64, 48, scales))[0];
    let (out, inner) = (spec(Scales::Outputs), spec(Scales::Inputs));
    assert_eq!((out.name, out.shape, out.output_axis), ("ia3_l", [48, 1], Some(0)));
    assert_eq!((inner.name, inner.shape, inner.output_axis), ("ia3_l", [1, 64], None));
    assert_eq!((out.init, inner.init), (Init::Constant(1.0), Init::Constant(1.0)));
}

#[test]
fn only_a_tile_of_scaled_rows_has_room() {
    let bytes = vec![0; 4 * 40 * 30];
    let base = FrozenLinear::new(QMat::new(&F32, 40, 30, &bytes).unwrap(), None);
    let need = |scales, rows| Ia3::new(30, 40, scales).req(&Scalar, &base, rows).scratch;
    let of_base = |rows| Linear::<f32>::req(&base, &Scalar, rows).scratch;
    assert_eq!(need(Scales::Outputs, 1), of_base(1) + 40);
    assert_eq!(need(Scales::Inputs, 128), of_base(128) + 128 * 30);
    assert_eq!(need(Scales::Inputs, 4096), of_base(4096).max(of_base(128) + 128 * 30));
}

fn site(name: &str, place: Place) -> SiteInfo {
    SiteInfo { name: name.into(), layer: 0, in_features: 6, out_features: 10, place }
}

/// Shape of the scales at a site of this name.
fn shape(name: &str, options: &[(&str, &str)]) -> Result<[usize; 2], String> {
    let options = options.iter().map(|&(k, v)| (k.into(), v.into())).collect();
    let config = Config { options, ..Config::default() };
    let method: &dyn Method<f32> = &Ia3Method;
    let adapter = method.build(&site(name, Place::Linear), &config).map_err(|e| e.to_string())?;
    Ok(adapter.unwrap().params()[0].shape)
}

#[test]
fn feed_forward_linears_are_told_by_name() {
    assert_eq!(shape("model.layers.0.mlp.down_proj", &[]), Ok([1, 6]));
    assert_eq!(shape("model.layers.0.self_attn.k_proj", &[]), Ok([10, 1]));
    let named = [("feedforward_modules", "up_proj, gate_proj")];
    assert_eq!(shape("model.layers.0.mlp.gate_proj", &named), Ok([1, 6]));
    assert_eq!(shape("model.layers.0.mlp.down_proj", &named), Ok([10, 1]));
}

#[test]
fn branches_are_left_alone_and_nonsense_is_refused() {
    let method: &dyn Method<f32> = &Ia3Method;
    let built = method.build(&site("model.layers.0.mlp", Place::Branch), &Config::default());
    assert!(built.unwrap().is_none());
    let refused = |options: &[(&str, &str)]| shape("k_proj", options).unwrap_err();
    assert_eq!(
        refused(&[("pool", "all")]),
        "ia3 has no option `pool`, it has: feedforward_modules"
    );
    let empty = refused(&[("feedforward_modules", "down_proj,")]);
    assert!(empty.starts_with("ia3: option `feedforward_modules` is `down_proj,`"), "{empty}");
    let config = Config { dropout: 0.1, ..Config::default() };
    let error = method.build(&site("k_proj", Place::Linear), &config).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "ia3: `dropout` is 0.1, expected 0: this method drops nothing");
}
