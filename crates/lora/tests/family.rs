//! DoRA, LoRA-FA, VeRA and QA-LoRA by hand: names, initial values, outputs, gradients, memory.

use lowtide_adapter::{
    Adapter, BuildError, Config, Cx, Forward, FrozenLinear, Init, Keeps, Linear, Method, Phase,
    Place, Rows, SiteInfo, Vjp,
};
use lowtide_backend::{DropoutKey, Scalar, Span};
use lowtide_lora::{Dora, DoraMethod, LoraFa, QaLora, QaLoraMethod, Vera, VeraMethod};
use lowtide_quant::{QMat, formats::F32};
use lowtide_tensor::{Mat, MatMut};

const ROWS: Rows<'static> = Rows {
    spans: &[Span { start: 0, prompt_end: 1, end: 2 }],
    row0: 0,
    past: 0,
    key: DropoutKey { seed: 1, step: 2, site: 3 },
    phase: Phase::Train,
};

fn config(rank: usize, alpha: f64) -> Config {
    Config { rank, alpha, ..Config::default() }
}

fn with(config: &Config, options: &[(&str, &str)]) -> Config {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Config { options, ..config.clone() }
}

fn site(name: &str, in_features: usize, out_features: usize) -> SiteInfo {
    SiteInfo { name: name.into(), layer: 0, in_features, out_features, place: Place::Linear }
}

fn bytes(weights: &[f32]) -> Vec<u8> {
    weights.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// An adapter on a base, its operands and what it says about them.
struct Try<'a> {
    adapter: &'a dyn Adapter,
    base: FrozenLinear<'a>,
    p: &'a [f32],
    fixed: Vec<f32>,
}

impl<'a> Try<'a> {
    fn new(adapter: &'a dyn Adapter, base: FrozenLinear<'a>, p: &'a [f32], frozen: &[f32]) -> Self {
        let mut fixed = frozen.to_vec();
        fixed.resize(frozen.len() + adapter.derived(), f32::NAN);
        let mut scratch = vec![f32::NAN; adapter.req(&Scalar, &base, 1).scratch];
        adapter.prepare(&Scalar, &base, p, &mut fixed, &mut scratch);
        Self { adapter, base, p, fixed }
    }

    /// Output, kept values, gradient of the parameters and of the input.
    fn run(&self, x: &[f32], dy: &[f32]) -> [Vec<f32>; 4] {
        let (i, o) = Linear::<f32>::dims(&self.base);
        let rows = x.len() / i;
        let mut scratch = vec![f32::NAN; self.adapter.req(&Scalar, &self.base, rows).scratch];
        let scratch = &mut scratch[..];
        let keeps = match self.adapter.keeps() {
            Keeps::PerRow(n) => n,
            _ => 0,
        };
        let cx = Cx { be: &Scalar, base: &self.base, p: self.p, fixed: &self.fixed, rows: ROWS };
        let (mut y, mut kept) = (vec![f32::NAN; rows * o], vec![f32::NAN; rows * keeps]);
        let x = Mat::new(x, rows, i);
        let y_view = MatMut::new(&mut y, rows, o);
        let kept_view = (keeps > 0).then(|| MatMut::new(&mut kept, rows, keeps));
        let forward = Forward { x, y: y_view, kept: kept_view, state: None, scratch };
        self.adapter.apply(&cx, forward);

        let facts = self.adapter.facts();
        let (mut grad, mut dx) = (vec![0.0; self.p.len()], vec![0.0; rows * i]);
        let mut again = vec![f32::NAN; scratch.len()];
        self.adapter.vjp(
            &cx,
            Vjp {
                x: facts.reads_x.then_some(x),
                y: facts.reads_y.then(|| Mat::new(&y, rows, o)),
                kept: (keeps > 0).then(|| Mat::new(&kept, rows, keeps)),
                dy: Mat::new(dy, rows, o),
                dx: Some(MatMut::new(&mut dx, rows, i)),
                grad: &mut grad,
                scratch: &mut again,
            },
        );
        [y, kept, grad, dx]
    }
}

#[test]
fn dora_starts_at_the_lengths_of_the_rows() {
    let dora = Dora::new(2, 2, &config(1, 1.0)).unwrap();
    let adapter: &dyn Adapter = &dora;
    let m = adapter.params()[2];
    assert_eq!((m.name, m.shape, m.output_axis), ("lora_magnitude_vector", [2, 1], Some(0)));
    assert_eq!((adapter.derived(), adapter.facts().reads_y), (2, true));
    let weight = bytes(&[3.0, 4.0, 0.0, -2.0]);
    let base = FrozenLinear::new(QMat::new(&F32, 2, 2, &weight).unwrap(), None);
    let mut p = [0.5, 0.5, 0.0, 0.0, 1.0, 1.0];
    let mut scratch = vec![f32::NAN; adapter.req(&Scalar, &base, 1).scratch];
    adapter.start(&Scalar, &base, &mut p, &mut [f32::NAN; 2], &mut scratch);
    assert_eq!(p, [0.5, 0.5, 0.0, 0.0, 5.0, 2.0]);
}

#[test]
fn dora_scales_rows_but_not_the_bias() {
    let dora = Dora::new(2, 1, &config(1, 2.0)).unwrap();
    let (weight, bias) = (bytes(&[1.0, 2.0]), [100.0]);
    let base = FrozenLinear::new(QMat::new(&F32, 1, 2, &weight).unwrap(), Some(&bias));
    // A = [1 1], B = 1, s = 2: W + sBA = [3 4], n = 5, m = 10.
    let p = [1.0, 1.0, 1.0, 10.0];
    let tried = Try::new(&dora, base, &p, &[]);
    assert_eq!(tried.fixed, [5.0]);
    let [y, _, grad, dx] = tried.run(&[1.0, 0.0, 0.0, 1.0], &[1.0, 1.0]);
    assert_eq!(y, [106.0, 108.0]);
    // g = m/n dy = 2: dA = s B Σ g x, dB = s Σ g (x A), dm = Σ dy (y - b) / m.
    assert_eq!(grad[..3], [4.0, 4.0, 8.0]);
    assert!((grad[3] - 1.4).abs() < 1e-6, "{}", grad[3]);
    assert_eq!(dx, [6.0, 8.0, 6.0, 8.0]);
}

#[test]
fn dora_has_a_gradient_where_the_output_says_nothing() {
    let dora = Dora::new(2, 2, &config(1, 1.0)).unwrap();
    let weight = bytes(&[3.0, 4.0, 0.0, 0.0]);
    let base = FrozenLinear::new(QMat::new(&F32, 2, 2, &weight).unwrap(), None);
    // The first row has no magnitude, the second no length.
    let p = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    let tried = Try::new(&dora, base, &p, &[]);
    assert_eq!(tried.fixed, [5.0, 0.0]);
    let [y, _, grad, dx] = tried.run(&[1.0, 1.0], &[1.0, 1.0]);
    assert_eq!((y, dx), (vec![0.0, 0.0], vec![0.0, 0.0]));
    assert_eq!(grad[..4], [0.0; 4]);
    assert!((grad[4] - 1.4).abs() < 1e-6 && grad[5] == 0.0, "{grad:?}");
}

#[test]
fn dora_with_dropout_reads_no_output_and_drops_what_peft_drops() {
    let dora = Dora::new(1, 1, &Config { dropout: 0.5, ..config(1, 1.0) }).unwrap();
    assert!(!Adapter::<f32>::facts(&dora).reads_y);
    let weight = bytes(&[2.0]);
    let base = FrozenLinear::new(QMat::new(&F32, 1, 1, &weight).unwrap(), Some(&[10.0]));
    // m/n = 3 / 2; an input is 1 and becomes 0 or 2. The base's own output is not dropped.
    let p = [1.0, 0.0, 3.0];
    let tried = Try::new(&dora, base, &p, &[]);
    let [y, _, grad, dx] = tried.run(&[1.0; 64], &[1.0; 64]);
    let (dropped, kept) = (12.0, 10.0 + 2.0 + 0.5 * 4.0);
    let count = y.iter().filter(|y| **y == kept).count();
    assert!((16..48).contains(&count), "{count} of 64 kept at 0.5");
    assert!(y.iter().all(|y| [dropped, kept].contains(y)), "{y:?}");
    // dm = Σ W x̃ / n, dB = Σ (m/n) A x̃.
    assert_eq!((grad[2], grad[1]), (2.0 * count as f32, 3.0 * count as f32));
    for (dx, y) in dx.iter().zip(&y) {
        assert_eq!(*dx, if *y == kept { 2.0 + 2.0 * 0.5 * 2.0 } else { 2.0 });
    }
}

#[test]
fn lora_fa_keeps_the_low_rank_product_and_trains_the_second_factor() {
    let lora = LoraFa::new(2, 1, &config(1, 3.0)).unwrap();
    let adapter: &dyn Adapter = &lora;
    assert_eq!(adapter.params().len() + adapter.frozen().len(), 2);
    assert_eq!(adapter.params()[0].name, "lora_B.weight");
    assert_eq!(adapter.frozen()[0].name, "lora_A.weight");
    assert!(!adapter.facts().reads_x && !adapter.facts().reads_y);
    let weight = bytes(&[10.0, 20.0]);
    let base = FrozenLinear::new(QMat::new(&F32, 1, 2, &weight).unwrap(), None);
    let tried = Try::new(adapter, base, &[0.5], &[1.0, -2.0]);
    let [y, kept, grad, dx] = tried.run(&[3.0, 1.0, 1.0, 2.0], &[1.0, 2.0]);
    assert_eq!(kept, [3.0, -9.0]);
    assert_eq!(y, [51.5, 45.5]);
    assert_eq!(grad, [3.0 - 18.0]);
    assert_eq!(dx, [11.5, 17.0, 23.0, 34.0]);
}

#[test]
fn vera_shares_its_matrices_among_all_sites() {
    let (narrow, wide) = (site("a.q_proj", 4, 3), site("a.down_proj", 6, 5));
    let config = with(&config(2, 1.0), &[("projection_prng_key", "3"), ("d_initial", "0.5")]);
    let sites = [(&narrow, &config), (&wide, &config)];
    let built = Method::<f32>::build_all(&VeraMethod, &sites).unwrap();
    let [Some(first), Some(second)] = &built[..] else { panic!("two adapters") };
    assert_eq!((first.held(), second.held()), (2 * 6 + 5 * 2, 0));
    let [d, b] = first.params() else { panic!("two parameters") };
    assert_eq!((d.name, d.shape, d.init), ("vera_lambda_d", [2, 1], Init::Constant(0.5)));
    assert_eq!((b.name, b.shape, b.init), ("vera_lambda_b", [3, 1], Init::Zeros));

    let other = Config { rank: 3, ..config.clone() };
    let sites = [(&narrow, &config), (&wide, &other)];
    let error = Method::<f32>::build_all(&VeraMethod, &sites).map(|_| ()).unwrap_err();
    assert!(matches!(&error, BuildError::BadSite { site, .. } if site == "a.down_proj"), "{error}");
    let bad = with(&config, &[("projection_prng_key", "-1")]);
    let error = Method::<f32>::build(&VeraMethod, &narrow, &bad).map(|_| ()).unwrap_err();
    let text = "vera: option `projection_prng_key` is `-1`, expected a whole number from 0";
    assert_eq!(error.to_string(), text);
}

#[test]
fn vera_output_and_gradients_by_hand() {
    let shared = std::sync::Arc::new(lowtide_lora::Projections::new(1, 2, 1, 7));
    let vera = Vera::new(1, 1, &config(1, 1.0), shared, 0.1).unwrap();
    let (a, b) = (vera.projections().a(1).get(0, 0), vera.projections().b(1).get(0, 0));
    let weight = bytes(&[2.0]);
    let base = FrozenLinear::new(QMat::new(&F32, 1, 1, &weight).unwrap(), None);
    let (lambda_d, lambda_b) = (0.5, -4.0);
    let p = [lambda_d, lambda_b];
    let [y, _, grad, dx] = Try::new(&vera, base, &p, &[]).run(&[3.0], &[1.0]);
    let close = |got: f32, want: f32| assert!((got - want).abs() < 1e-5, "{got} for {want}");
    close(y[0], 6.0 + lambda_b * b * lambda_d * a * 3.0);
    close(grad[0], lambda_b * b * a * 3.0);
    close(grad[1], b * lambda_d * a * 3.0);
    close(dx[0], 2.0 + lambda_b * b * lambda_d * a);
}

#[test]
fn qalora_pools_groups_and_merges_one_number_a_group() {
    let lora = QaLora::new(4, 1, 2, &config(1, 3.0)).unwrap();
    let adapter: &dyn Adapter = &lora;
    assert_eq!(adapter.params()[0].shape, [1, 2]);
    assert_eq!(adapter.params()[0].init, Init::Uniform { bound: 1.0 / 2.0_f32.sqrt() });
    assert_eq!((adapter.keeps(), adapter.facts().reads_x), (Keeps::PerRow(2), false));
    let weight = bytes(&[0.0; 4]);
    let base = FrozenLinear::new(QMat::new(&F32, 1, 4, &weight).unwrap(), None);
    let p = [1.0, -1.0, 0.5];
    // The mean of two, times two groups: the sum. h = s A pool(x) = 3 (3 - 7).
    let [y, kept, grad, dx] = Try::new(adapter, base, &p, &[]).run(&[1.0, 2.0, 3.0, 4.0], &[1.0]);
    assert_eq!((kept, y), (vec![3.0, 7.0], vec![-6.0]));
    assert_eq!(grad, [4.5, 10.5, -12.0]);
    assert_eq!(dx, [1.5, 1.5, -1.5, -1.5]);
    let mut corrections = [f32::NAN; 2];
    let out = MatMut::new(&mut corrections, 1, 2);
    let mut scratch = vec![0.0; lora.group_corrections_req::<f32>(&Scalar, 1).scratch];
    lora.group_corrections(&Scalar, &p, 0..1, out, &mut scratch);
    assert_eq!(corrections, [1.5, -1.5]);
}

#[test]
fn qalora_refuses_groups_that_do_not_fit() {
    let refused = |size: &str| {
        let config = with(&config(1, 1.0), &[("group_size", size)]);
        let built = Method::<f32>::build(&QaLoraMethod, &site("a.k_proj", 48, 8), &config);
        built.map(|_| ()).unwrap_err().to_string()
    };
    let text = "qalora cannot adapt `a.k_proj`: its width in is no multiple of the option \
                `group_size`";
    assert_eq!(refused("32"), text);
    let text = "qalora: option `group_size` is `x`, expected a whole number that is at least 1";
    assert_eq!(refused("x"), text);
    assert!(refused("0").starts_with("qalora: `group_size` is 0"), "{}", refused("0"));
}

#[test]
fn branches_are_left_alone() {
    let site = SiteInfo { place: Place::Branch, ..site("mlp", 4, 4) };
    let methods: [&dyn Method; 3] = [&DoraMethod, &VeraMethod, &QaLoraMethod];
    for method in methods {
        assert!(method.build(&site, &config(1, 1.0)).unwrap().is_none(), "{}", method.kind());
    }
}
