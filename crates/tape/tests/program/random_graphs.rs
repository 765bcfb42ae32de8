//! Programs of random segments: whatever is kept, tiled or undone, the gradient is the same bits,
//! and that of finite differences.

use core::num::NonZeroUsize;

use lowtide_adapter::{Adapter, Config};
use lowtide_backend::{Activation, AttentionShape, Pairing};
use lowtide_lora::Lora;
use lowtide_quant::QMat;
use lowtide_quant::formats::F32;
use lowtide_tape::ops::{AdaptedLinear, Add, Attention, Glu, RmsNorm, Rope};
use lowtide_tape::{
    Checkpointing, Embedding, Graph, Limits, LossHead, Policy, Program, Segment, Store, ValueId,
};
use lowtide_tensor::Float;
use lowtide_testkit::rng::Rng;

use crate::model::{Data, HIDDEN, VOCAB};
use crate::{How, step};

const HEAD_DIM: usize = 16;

/// Packed matrices that every program shares.
struct Weights {
    table: Vec<u8>,
    linear: Vec<u8>,
}

impl Weights {
    fn new() -> Self {
        let floats = |name: &str, len: usize, std: f32| -> Vec<u8> {
            let values = Rng::named(5, name).normal_vec(len, std);
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        let (table, linear) = (VOCAB * HIDDEN, HIDDEN * HIDDEN);
        Self { table: floats("table", table, 0.7), linear: floats("linear", linear, 0.15) }
    }

    fn program<F: Float>(&self, seed: u64) -> Program<'_, F> {
        let mut draw = Rng::new(seed);
        let table = QMat::new(&F32, VOCAB, HIDDEN, &self.table).unwrap();
        let segments = (0..3).map(|i| self.segment(i, &mut draw)).collect();
        let head = LossHead { norm: vec![F::ONE; HIDDEN].into(), eps: eps(), weight: table };
        Program { embedding: Embedding { table, scale: F::ONE }, segments, head }
    }

    /// Operations on values of before, which they may share; then a norm, to keep numbers tame, and
    /// a linear, which in the topmost segment is trained for sure.
    fn segment<F: Float>(&self, index: u64, draw: &mut Rng) -> Segment<'_, F> {
        let (mut graph, x) = Graph::new(HIDDEN);
        let mut values = vec![x];
        for site in 0..2 + draw.below(8) as u64 {
            let value = self.operation(&mut graph, &values, draw, 100 * index + site);
            values.push(value);
        }
        let normed = graph.push(norm(), &[values[values.len() - 1]]);
        let trained = index == 2 || draw.below(4) > 0;
        let last = graph.push(self.linear(trained, 0.0, 100 * index + 99), &[normed]);
        if draw.below(2) == 0 {
            graph.push(Add, &[last, x]);
        }
        Segment::new(graph)
    }

    fn operation<'w, F: Float>(
        &'w self,
        graph: &mut Graph<'w, F>,
        values: &[ValueId],
        draw: &mut Rng,
        site: u64,
    ) -> ValueId {
        let [a, b, c] = core::array::from_fn(|_| values[draw.below(values.len())]);
        match draw.below(7) {
            0 => graph.push(Add, &[a, b]),
            1 => graph.push(norm(), &[a]),
            2 => {
                let inv_freq = (0..HEAD_DIM / 2).map(|i| F::from_f64(1.0 / (3 * i + 1) as f64));
                let (head_dim, pairing) = (HEAD_DIM, Pairing::Halves);
                graph.push(Rope { head_dim, inv_freq: inv_freq.collect(), pairing }, &[a])
            }
            3 | 4 => {
                let (heads, window) = (HIDDEN / HEAD_DIM, [None, Some(70)][draw.below(2)]);
                let (head_dim, scale) = (HEAD_DIM, 0.1);
                let shape = AttentionShape { heads, kv_heads: heads, head_dim, scale, window };
                graph.push(Attention { shape }, &[a, b, c])
            }
            5 => {
                let gate = graph.push(norm(), &[a]);
                graph.push(Glu { act: Activation::Silu }, &[gate, b])
            }
            _ => {
                let (trained, dropout) = (draw.below(3) > 0, [0.0, 0.2][draw.below(2)]);
                graph.push(self.linear(trained, dropout, site), &[a])
            }
        }
    }

    fn linear<F: Float>(&self, trained: bool, dropout: f64, site: u64) -> AdaptedLinear<'_, F> {
        let weight = QMat::new(&F32, HIDDEN, HIDDEN, &self.linear).unwrap();
        let config = Config { rank: 3, alpha: 3.0, dropout, ..Config::default() };
        let lora = || Box::new(Lora::new(HIDDEN, HIDDEN, &config).unwrap()) as Box<dyn Adapter<F>>;
        AdaptedLinear::new(weight, None, trained.then(lora), site)
    }
}

fn norm<F: Float>() -> RmsNorm<F> {
    RmsNorm { weight: vec![F::ONE; HIDDEN].into(), eps: eps() }
}

fn eps<F: Float>() -> F {
    F::from_f64(1e-3)
}

/// Every kind of policy, store and tile.
fn ways() -> [Checkpointing; 7] {
    let tiled = |way: Checkpointing, rows| way.tiled(NonZeroUsize::new(rows).unwrap());
    [
        Policy::Store.into(),
        Policy::Selective { bytes: 25_000 }.into(),
        tiled(Policy::Selective { bytes: 100_000 }.into(), 64),
        Policy::Sqrt.into(),
        tiled(Policy::Block.into(), 64),
        tiled(Policy::ALL[3].into(), 128),
        tiled(Checkpointing::new(Policy::Sqrt, Store::File), 64),
    ]
}

#[test]
fn what_is_kept_and_tiled_changes_no_bit_of_any_graph() {
    let weights = Weights::new();
    for seed in 0..5 {
        let data = Data::new(seed, &[37, 90, 20 + 9 * seed as usize]);
        let program = weights.program::<f32>(seed);
        let at = Rng::named(seed, "params").normal_vec(program.params(), 0.15);
        let (sum, want) = step(&program, &at, &data, How::tight(Policy::Block, &data));
        assert!(want.iter().all(|g| g.is_finite()) && want.iter().any(|g| *g != 0.0));
        for checkpointing in ways() {
            let tight = How::tight(checkpointing, &data);
            let limits = Limits { tokens: 300, sequences: 5, labelled: 300 };
            for how in [tight, How { limits, ..tight }] {
                let (again, grads) = step(&program, &at, &data, how);
                assert_eq!(again, sum, "{seed}, {how:?}");
                // A gradient of zero may have either sign.
                assert!(grads == want, "{seed}, {how:?}");
            }
        }
    }
}

#[test]
fn the_gradient_of_any_graph_is_its_slope() {
    let weights = Weights::new();
    for seed in 5..8 {
        let data = Data::new(seed, &[70, 20]);
        let program = weights.program::<f64>(seed);
        let mut rng = Rng::named(seed, "params");
        let mut draw = |std| rng.normal_vec_f64(program.params(), std);
        let (at, direction) = (draw(0.15), draw(1.0));
        let how = ways()[4];
        let (_, grads) = step(&program, &at, &data, How::tight(how, &data));
        let loss = |h: f64| {
            let moved: Vec<f64> = at.iter().zip(&direction).map(|(p, d)| p + h * d).collect();
            step(&program, &moved, &data, How::tight(Policy::Block, &data)).0.loss
        };
        let slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
        let along: f64 = grads.iter().zip(&direction).map(|(g, d)| g * d).sum();
        assert!((slope - along).abs() < 1e-5 * (1.0 + slope.abs()), "{seed}: {slope}, {along}");
    }
}
