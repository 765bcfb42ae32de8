//! LARS by hand: parameters, which rows get which bias, decoding, facts, refusals.

use lowtide_adapter::{
    Adapter, Config, Cx, Forward, FrozenLinear, Init, Keeps, Method, ParamSpec, Phase, Place, Rows,
    SiteInfo, State,
};
use lowtide_backend::{DropoutKey, Scalar, Span};
use lowtide_lars::{Gate, LarsMethod, Pool, Pooled};
use lowtide_quant::{QMat, formats::F32};
use lowtide_tensor::{Mat, MatMut};

fn rows(spans: &[Span], past: usize) -> Rows<'_> {
    let key = DropoutKey { seed: 1, step: 2, site: 3 };
    Rows { spans, row0: 0, past, key, phase: Phase::Prefill }
}

fn pooled(inputs: usize, outputs: usize, rank: usize, pool: Pool) -> Pooled {
    Pooled::new(inputs, outputs, pool, &Config { rank, ..Config::default() }).unwrap()
}

/// Rank 1 on a zero linear from 1 feature to 1. A norm over one value is its shift, here 1; with no
/// gate, no mixing and a second layer that sees nothing, `h3 = 1 + c2`, so the bias says that there
/// is one: `alpha B = 2 × 3`. The chain itself is checked by the suite.
fn constant_bias() -> Vec<f32> {
    let mut p = vec![0.0; 2 + 1 + 10 + 7 + 3];
    p[1] = 3.0; // B, behind A.
    let after = |place: usize| 5 + 4 + 4 + 4 + 1 + place; // behind c2
    p[after(1)] = 1.0; // The norm's shift.
    p[after(2)] = 2.0; // alpha
    p
}

/// The output on the zero linear.
fn apply(adapter: &dyn Adapter, p: &[f32], rows: Rows<'_>, x: &[f32]) -> Vec<f32> {
    with_state(adapter, p, rows, x, None)
}

fn with_state(
    adapter: &dyn Adapter,
    p: &[f32],
    rows: Rows<'_>,
    x: &[f32],
    state: Option<State<'_, f32>>,
) -> Vec<f32> {
    let weight = [0; 4];
    let base = FrozenLinear::new(QMat::new(&F32, 1, 1, &weight).unwrap(), None);
    let mut y = vec![f32::NAN; x.len()];
    let mut scratch = vec![f32::NAN; adapter.req(&Scalar, &base, x.len()).scratch];
    let cx = Cx { be: &Scalar, base: &base, p, fixed: &[], rows };
    let (x, room) = (Mat::new(x, x.len(), 1), MatMut::new(&mut y, x.len(), 1));
    adapter.apply(&cx, Forward { x, y: room, kept: None, state, scratch: &mut scratch });
    y
}

#[test]
fn parameters_are_those_of_the_paper() {
    let adapter = pooled(2048, 512, 8, Pool::Prompt);
    let specs = Adapter::<f32>::params(&adapter);
    let paper = (2 * 2048 + 512) * 8 + 10 * 64 + 7 * 8 + 3;
    assert_eq!(specs.iter().map(ParamSpec::len).sum::<usize>(), paper);
    let init = |name| specs.iter().find(|spec| spec.name == name).unwrap().init;
    assert_eq!(init("lars_A.weight"), Init::Normal { std: 0.01 });
    assert_eq!(init("lars_B.weight"), Init::Zeros);
    assert_eq!(init("lars_M.weight"), Init::Identity);
    assert_eq!(init("lars_alpha"), Init::Constant(0.5));
    assert_eq!(init("lars_tau2"), Init::Constant(1.0));
    let learned = pooled(2048, 512, 8, Pool::Learned);
    assert_eq!(Adapter::<f32>::params(&learned).last().unwrap().name, "lars_P.weight");
    assert_eq!(Adapter::<f32>::params(&learned).len(), specs.len() + 1);
}

#[test]
fn every_row_of_a_sequence_with_a_prompt_gets_its_bias() {
    let spans = [
        Span { start: 0, prompt_end: 1, end: 3 },
        Span { start: 3, prompt_end: 3, end: 5 },
        Span { start: 5, prompt_end: 5, end: 5 },
        Span { start: 5, prompt_end: 6, end: 6 },
    ];
    let (p, x) = (constant_bias(), [0.0; 6]);
    let bias = |pool| apply(&pooled(1, 1, 1, pool), &p, rows(&spans, 0), &x);
    assert_eq!(bias(Pool::Prompt), [6.0, 6.0, 6.0, 0.0, 0.0, 6.0]);
    assert_eq!(bias(Pool::All), [6.0; 6]);
    assert_eq!(bias(Pool::Chunk(1)), [0.0, 6.0, 6.0, 0.0, 6.0, 0.0]);
    assert_eq!(bias(Pool::Chunk(2)), [0.0, 0.0, 6.0, 0.0, 0.0, 0.0]);
    assert_eq!(bias(Pool::Chunk(3)), [0.0; 6]);
}

#[test]
fn the_bias_of_the_prompt_is_kept_while_decoding() {
    let adapter = pooled(1, 1, 1, Pool::Prompt);
    let p = constant_bias();
    let (mut values, mut made_from) = ([f32::NAN], 0);
    let spans = |len| [Span { start: 0, prompt_end: len, end: len }];
    let state = State { values: &mut values, made_from: &mut made_from };
    let y = with_state(&adapter, &p, rows(&spans(4), 0), &[1.0; 4], Some(state));
    assert_eq!(y, [6.0; 4]);
    assert_eq!((values, made_from), ([6.0], 4));
    values[0] = 7.0;
    let state = State { values: &mut values, made_from: &mut made_from };
    let y = with_state(&adapter, &p, rows(&spans(1), 4), &[1.0], Some(state));
    assert_eq!((y[0], made_from), (7.0, 4));
}

#[test]
fn chunks_can_be_continued_from_every_token() {
    let adapter = pooled(1, 1, 1, Pool::Chunk(2));
    let p = constant_bias();
    let (mut values, mut made_from) = ([f32::NAN; 2], 0);
    let mut read = |past: usize, x: &[f32]| {
        let spans = [Span { start: 0, prompt_end: x.len(), end: x.len() }];
        let state = State { values: &mut values, made_from: &mut made_from };
        let y = with_state(&adapter, &p, rows(&spans, past), x, Some(state));
        (y, values, made_from)
    };
    assert_eq!(read(0, &[1.0, 2.0, 4.0]), (vec![0.0, 0.0, 6.0], [4.0, 6.0], 3));
    assert_eq!(read(3, &[8.0]), (vec![6.0], [0.0, 6.0], 4));
    assert_eq!(read(4, &[3.0]), (vec![6.0], [3.0, 6.0], 5));
}

#[test]
fn pooled_vectors_are_kept_and_nothing_of_the_rows() {
    let keeps = |pool| Adapter::<f32>::keeps(&pooled(100, 30, 2, pool));
    assert_eq!(keeps(Pool::Prompt), Keeps::PerSequence(100));
    assert_eq!(keeps(Pool::Chunk(64)), Keeps::PerRow(2));
    assert_eq!(keeps(Pool::Chunk(1)), Keeps::PerRow(100));
    let state = |pool| Adapter::<f32>::state(&pooled(100, 30, 2, pool));
    assert_eq!((state(Pool::Prompt), state(Pool::Chunk(64))), (30, 130));
    let facts = |pool| Adapter::<f32>::facts(&pooled(100, 30, 2, pool));
    assert!(facts(Pool::Learned).reads_x && !facts(Pool::All).reads_x);
    assert!(Adapter::<f32>::looks_ahead(&pooled(4, 4, 1, Pool::All)));
    assert!(!Adapter::<f32>::looks_ahead(&pooled(4, 4, 1, Pool::Prompt)));
    let gate = Gate::new(64, &Config::default()).unwrap().unwrap();
    let gate = Adapter::<f32>::facts(&gate);
    assert!(gate.reads_x && !gate.whole_sequence && !gate.mergeable);
}

#[test]
fn prompts_are_needed_where_they_are_pooled() {
    let needs = |pool: &str| {
        let options = [("pool".into(), pool.into())].into();
        Method::<f32>::needs_prompts(&LarsMethod, &Config { options, ..Config::default() })
    };
    assert_eq!(
        ["prompt", "learned", "all", "chunk", "gate"].map(needs),
        [true, true, false, false, false]
    );
    assert!(Method::<f32>::needs_prompts(&LarsMethod, &Config::default()));
}

#[test]
fn nonsense_is_refused_by_name() {
    let method: &dyn Method<f32> = &LarsMethod;
    let build = |inputs, config: &Config| {
        let site = SiteInfo {
            name: "model.layers.0.mlp.up_proj".into(),
            layer: 0,
            in_features: inputs,
            out_features: 10,
            place: Place::Linear,
        };
        method.build(&site, config).map(|_| ()).map_err(|error| error.to_string())
    };
    let refused = |options: &[(&str, &str)]| {
        let options = options.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        build(33, &Config { options, ..Config::default() }).unwrap_err()
    };
    assert_eq!(
        refused(&[("pool", "mean")]),
        "lars: option `pool` is `mean`, expected prompt, all, chunk, learned or gate"
    );
    for rows in ["0", "65", "-1", "many"] {
        assert_eq!(
            refused(&[("pool", "chunk"), ("chunk", rows)]),
            format!("lars: option `chunk` is `{rows}`, expected a whole number from 1 to 64")
        );
    }
    assert_eq!(refused(&[("act", "silu")]), "lars has no option `act`, it has: pool, chunk");
    assert_eq!(
        refused(&[("pool", "gate")]),
        "lars cannot adapt `model.layers.0.mlp.up_proj`: \
         a gate scales blocks of 32 inputs, and its inputs are no multiple of 32"
    );
    let bad = |config: Config| build(32, &config).unwrap_err();
    assert_eq!(
        bad(Config { rank: 0, ..Config::default() }),
        "lars: `rank` is 0, expected a whole number from 1 to 4096"
    );
    assert_eq!(
        bad(Config { dropout: 1.0, ..Config::default() }),
        "lars: `dropout` is 1, expected a number from 0 to below 1"
    );
    assert_eq!(build(33, &Config::default()), Ok(()));
}
