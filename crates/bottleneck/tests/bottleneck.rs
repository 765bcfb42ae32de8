//! Bottleneck adapters by hand: numbers, initial values, facts, refusals.

use lowtide_adapter::{
    Adapter, Config, Cx, Facts, Forward, Identity, Init, Keeps, Method, Phase, Place, Rows,
    SiteInfo, Vjp,
};
use lowtide_backend::{DropoutKey, Scalar, Span};
use lowtide_bottleneck::{Bottleneck, BottleneckMethod, NonLinearity};
use lowtide_tensor::{Mat, MatMut};

const ROWS: Rows<'static> = Rows {
    spans: &[Span { start: 0, prompt_end: 1, end: 2 }],
    row0: 0,
    past: 0,
    key: DropoutKey { seed: 1, step: 2, site: 3 },
    phase: Phase::Train,
};

fn bottleneck(width: usize, place: Place, act: NonLinearity, rank: usize) -> Bottleneck {
    Bottleneck::new(width, place, act, &Config { rank, ..Config::default() }).unwrap()
}

#[test]
fn output_and_gradients_by_hand() {
    let adapter = bottleneck(2, Place::Branch, NonLinearity::Relu, 1);
    let base = Identity { width: 2 };
    // D = [1 2], b1 = -1, U = [3; -1], b2 = [0 10].
    let p = [1.0, 2.0, -1.0, 3.0, -1.0, 0.0, 10.0_f32];
    let x = [1.0, 1.0, -1.0, 0.5]; // inner: 2, -1
    let mut scratch = vec![f32::NAN; Adapter::<f32>::req(&adapter, &Scalar, &base, 2).scratch];
    let cx = Cx { be: &Scalar, base: &base, p: &p, fixed: &[], rows: ROWS };
    let (x, mut y) = (Mat::new(&x, 2, 2), [f32::NAN; 4]);
    let room = MatMut::new(&mut y, 2, 2);
    adapter.apply(&cx, Forward { x, y: room, kept: None, state: None, scratch: &mut scratch });
    assert_eq!(y, [1.0 + 6.0, 1.0 - 2.0 + 10.0, -1.0, 0.5 + 10.0]);

    let (mut grad, mut dx) = ([0.0; 7], [0.0; 4]);
    let operands = Vjp {
        x: Some(x),
        y: None,
        kept: None,
        dy: Mat::new(&[1.0, 1.0, 2.0, 2.0], 2, 2),
        dx: Some(MatMut::new(&mut dx, 2, 2)),
        grad: &mut grad,
        scratch: &mut scratch,
    };
    adapter.vjp(&cx, operands);
    // da = dy U = 2 where the first row passes, 0 where the second does not.
    assert_eq!(grad, [2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0]);
    assert_eq!(dx, [1.0 + 2.0, 1.0 + 4.0, 2.0, 2.0]);
}

#[test]
fn it_starts_at_nothing_with_a_down_projection_of_unit_size() {
    let adapter = bottleneck(64, Place::Branch, NonLinearity::Gelu, 4);
    let specs = Adapter::<f32>::params(&adapter);
    let shapes: Vec<_> = specs.iter().map(|spec| (spec.name, spec.shape)).collect();
    let want = [
        ("adapter_down.weight", [64, 4]),
        ("adapter_down.bias", [4, 1]),
        ("adapter_up.weight", [64, 4]),
        ("adapter_up.bias", [64, 1]),
    ];
    assert_eq!(shapes, want);
    assert_eq!(specs[0].init, Init::Uniform { bound: 0.125 });
    assert!(specs[1..].iter().all(|spec| spec.init == Init::Zeros));
    assert_eq!(adapter.rank(), 4);
}

#[test]
fn nothing_wide_is_kept() {
    let facts =
        |reads_x| Facts { reads_x, reads_y: !reads_x, whole_sequence: false, mergeable: false };
    let branch = bottleneck(64, Place::Branch, NonLinearity::Gelu, 4);
    assert_eq!(Adapter::<f32>::facts(&branch), facts(true));
    assert_eq!(Adapter::<f32>::keeps(&branch), Keeps::Nothing);
    let linear = bottleneck(64, Place::Linear, NonLinearity::Gelu, 4);
    assert_eq!(Adapter::<f32>::facts(&linear), facts(false));
    assert_eq!(Adapter::<f32>::keeps(&linear), Keeps::PerRow(4));
}

#[test]
fn nonsense_is_refused_by_name() {
    let method: &dyn Method<f32> = &BottleneckMethod;
    assert_eq!(method.default_targets(), "self_attn,mlp");
    let site = SiteInfo {
        name: "model.layers.0.mlp".into(),
        layer: 0,
        in_features: 6,
        out_features: 6,
        place: Place::Branch,
    };
    let refused =
        |config: Config| method.build(&site, &config).map(|_| ()).unwrap_err().to_string();
    let rank = refused(Config { rank: 0, ..Config::default() });
    assert_eq!(rank, "bottleneck: `rank` is 0, expected a whole number from 1 to 65536");
    let dropout = refused(Config { dropout: 0.5, ..Config::default() });
    assert_eq!(dropout, "bottleneck: `dropout` is 0.5, expected 0: this method drops nothing");
    let options = |name: &str, value: &str| Config {
        options: [(name.into(), value.into())].into(),
        ..Config::default()
    };
    assert_eq!(
        refused(options("non_linearity", "tanh")),
        "bottleneck: option `non_linearity` is `tanh`, expected gelu, silu or relu"
    );
    assert_eq!(
        refused(options("act", "silu")),
        "bottleneck has no option `act`, it has: non_linearity"
    );
}
