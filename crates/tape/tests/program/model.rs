//! A small decoder in the manner of Llama, built from the tape's operations, with LoRA on any
//! choice of its linears, and batches for it.

use lowtide_adapter::{Adapter, Config};
use lowtide_backend::{Activation, AttentionShape, Pairing, Span};
use lowtide_lora::Lora;
use lowtide_quant::formats::{F32, Q8_0};
use lowtide_quant::{BlockFormat, QMat};
use lowtide_tape::ops::{AdaptedLinear, Add, Attention, Glu, RmsNorm, Rope};
use lowtide_tape::{Batch, Embedding, Graph, Limits, LossHead, Program, Segment};
use lowtide_tensor::Float;
use lowtide_testkit::rng::Rng;

pub(crate) const HIDDEN: usize = 32;
const FFN: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
pub(crate) const VOCAB: usize = 40;

/// Names, width in and width out of the linears of a block.
const SITES: [(&str, usize, usize); 7] = [
    ("q_proj", HIDDEN, HEADS * HEAD_DIM),
    ("k_proj", HIDDEN, KV_HEADS * HEAD_DIM),
    ("v_proj", HIDDEN, KV_HEADS * HEAD_DIM),
    ("o_proj", HEADS * HEAD_DIM, HIDDEN),
    ("gate_proj", HIDDEN, FFN),
    ("up_proj", HIDDEN, FFN),
    ("down_proj", FFN, HIDDEN),
];

/// Which sites are trained: a block and the name of a linear.
pub(crate) type Trained = fn(usize, &str) -> bool;

/// What a trained site is given: by its width in and out.
pub(crate) type Attach<F> = dyn Fn(usize, usize) -> Box<dyn Adapter<F>>;

/// LoRA of rank 3.
pub(crate) fn lora<F: Float>(dropout: f64) -> impl Fn(usize, usize) -> Box<dyn Adapter<F>> {
    move |cols, rows| {
        let config = Config { rank: 3, alpha: 6.0, dropout, ..Config::default() };
        Box::new(Lora::new(cols, rows, &config).unwrap())
    }
}

/// Packed weights of the decoder; the linears of a block are `Q8_0` and `F32` in turn.
pub(crate) struct Model {
    table: Vec<u8>,
    blocks: Vec<[Vec<u8>; SITES.len()]>,
    ornate: bool,
}

fn format(site: usize) -> &'static dyn BlockFormat {
    if site.is_multiple_of(2) { &Q8_0 } else { &F32 }
}

impl Model {
    pub(crate) fn new(blocks: usize) -> Self {
        let packed = |name: &str, format: &dyn BlockFormat, rows: usize, cols: usize| {
            let row_bytes = format.row_bytes(cols).unwrap();
            let mut bytes = vec![0; row_bytes * rows];
            let weights = Rng::named(1, name).normal_vec(rows * cols, 0.2);
            for (row, bytes) in weights.chunks(cols).zip(bytes.chunks_mut(row_bytes)) {
                format.encode(row, bytes);
            }
            bytes
        };
        let block = |block: usize| {
            core::array::from_fn(|i| {
                let (site, cols, rows) = SITES[i];
                packed(&format!("{block}.{site}"), format(i), rows, cols)
            })
        };
        let table = packed("table", &F32, VOCAB, HIDDEN);
        Self { table, blocks: (0..blocks).map(block).collect(), ornate: false }
    }

    /// The decoder with norms of q and k, a window, another activation and another pairing.
    pub(crate) fn ornate(blocks: usize) -> Self {
        Self { ornate: true, ..Self::new(blocks) }
    }

    /// The decoder with LoRA of rank 3 on the trained sites.
    pub(crate) fn program<F: Float>(&self, trained: Trained) -> Program<'_, F> {
        self.program_with(trained, &lora(0.0))
    }

    /// The decoder with adapters of any kind.
    pub(crate) fn program_with<F: Float>(
        &self,
        trained: Trained,
        attach: &Attach<F>,
    ) -> Program<'_, F> {
        let table = QMat::new(&F32, VOCAB, HIDDEN, &self.table).unwrap();
        let blocks = 0..self.blocks.len();
        Program {
            embedding: Embedding { table, scale: F::from_f64(1.5) },
            segments: blocks.map(|i| self.block(i, trained, attach)).collect(),
            head: LossHead {
                norm: norm_weight("final", HIDDEN),
                eps: F::from_f64(1e-5),
                weight: table,
            },
        }
    }

    fn block<'m, F: Float>(
        &'m self,
        block: usize,
        trained: Trained,
        attach: &Attach<F>,
    ) -> Segment<'m, F> {
        let (mut graph, x) = Graph::new(HIDDEN);
        let linear = |graph: &mut Graph<'m, F>, site, x| {
            let op = self.linear(block, site, trained, attach);
            graph.push(op, &[x])
        };
        let norm_of = |name: &str, width| RmsNorm {
            weight: norm_weight(name, width),
            eps: F::from_f64(1e-5),
        };
        let norm = |name: &str| norm_of(name, HIDDEN);
        let inv_freq = (0..HEAD_DIM / 2).map(|i| F::from_f64(1.0 / (3 * i + 1) as f64)).collect();
        let (pairing, act, window) = match self.ornate {
            false => (Pairing::Halves, Activation::Silu, None),
            true => (Pairing::Adjacent, Activation::GeluTanh, Some(3)),
        };
        let rope = Rope { head_dim: HEAD_DIM, inv_freq, pairing };
        let shape = AttentionShape {
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            scale: 0.4,
            window,
        };

        let h = graph.push(norm("input_layernorm"), &[x]);
        let q = linear(&mut graph, "q_proj", h);
        let k = linear(&mut graph, "k_proj", h);
        let v = linear(&mut graph, "v_proj", h);
        let (q, k) = match self.ornate {
            false => (q, k),
            true => (
                graph.push(norm_of("q_norm", HEAD_DIM), &[q]),
                graph.push(norm_of("k_norm", HEAD_DIM), &[k]),
            ),
        };
        let q = graph.push(rope.clone(), &[q]);
        let k = graph.push(rope, &[k]);
        let o = graph.push(Attention { shape }, &[q, k, v]);
        let o = linear(&mut graph, "o_proj", o);
        let x = graph.push(Add, &[x, o]);
        let h = graph.push(norm("post_attention_layernorm"), &[x]);
        let gate = linear(&mut graph, "gate_proj", h);
        let up = linear(&mut graph, "up_proj", h);
        let act = graph.push(Glu { act }, &[gate, up]);
        let down = linear(&mut graph, "down_proj", act);
        graph.push(Add, &[x, down]);
        Segment::new(graph)
    }

    fn linear<F: Float>(
        &self,
        block: usize,
        site: &str,
        trained: Trained,
        attach: &Attach<F>,
    ) -> AdaptedLinear<'_, F> {
        let i = SITES.iter().position(|(name, ..)| *name == site).unwrap();
        let (name, cols, rows) = SITES[i];
        let adapter = trained(block, name).then(|| attach(cols, rows));
        let weight = QMat::new(format(i), rows, cols, &self.blocks[block][i]).unwrap();
        let bias = (name == "k_proj").then(|| floats("bias", rows, 0.1));
        AdaptedLinear::new(weight, bias, adapter, (block * SITES.len() + i) as u64)
    }
}

fn floats<F: Float, C: FromIterator<F>>(name: &str, len: usize, std: f32) -> C {
    Rng::named(2, name).normal_vec(len, std).into_iter().map(F::from_f32).collect()
}

fn norm_weight<F: Float>(name: &str, width: usize) -> Box<[F]> {
    let around_one = |w: F| w + F::ONE;
    floats::<F, Vec<F>>(name, width, 0.2).into_iter().map(around_one).collect()
}

/// Adapter parameters none of which is zero, so that every gradient has something to pass through.
pub(crate) fn params<F: Float>(program: &Program<'_, F>) -> Vec<F> {
    floats("params", program.params(), 0.25)
}

/// A batch that owns its parts.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    ids: Vec<u32>,
    positions: Vec<u32>,
    spans: Vec<Span>,
    labelled: Vec<u32>,
    targets: Vec<u32>,
}

impl Data {
    /// Sequences of these lengths. All tokens after the first third of each are labelled with the
    /// token that follows; a token is a function of `seed`, its sequence and its position.
    pub(crate) fn new(seed: u64, lengths: &[usize]) -> Self {
        Self::numbered(seed, lengths.iter().copied().enumerate())
    }

    /// Only the `n`th sequence of [`Data::new`].
    pub(crate) fn only(seed: u64, lengths: &[usize], n: usize) -> Self {
        Self::numbered(seed, [(n, lengths[n])].into_iter())
    }

    fn numbered(seed: u64, sequences: impl Iterator<Item = (usize, usize)>) -> Self {
        let (ids, positions, labelled, targets) = (vec![], vec![], vec![], vec![]);
        let mut data = Self { ids, positions, spans: vec![], labelled, targets };
        for (n, len) in sequences {
            let tokens = Rng::named(seed, &n.to_string()).uniform_vec(len + 1, 0.0, VOCAB as f32);
            let (start, prompt) = (data.ids.len(), len / 3);
            for t in 0..len {
                if t >= prompt {
                    data.labelled.push(data.ids.len() as u32);
                    data.targets.push(tokens[t + 1] as u32);
                }
                data.ids.push(tokens[t] as u32);
                data.positions.push(t as u32);
            }
            data.spans.push(Span { start, prompt_end: start + prompt, end: start + len });
        }
        data
    }

    /// The same tokens with no label.
    pub(crate) fn unlabelled(mut self) -> Self {
        self.labelled.clear();
        self.targets.clear();
        self
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            ids: &self.ids,
            positions: &self.positions,
            spans: &self.spans,
            labelled: &self.labelled,
            targets: &self.targets,
            words: None,
            counter: 5,
        }
    }

    /// The smallest limits it runs in.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            tokens: self.ids.len(),
            sequences: self.spans.len(),
            labelled: self.labelled.len(),
        }
    }
}
