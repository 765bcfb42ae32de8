//! Single operations at the shapes of a small real model.

use criterion::{BenchmarkId, Criterion, Throughput};
use lowtide_backend::{Activation, AttentionShape, Backend, OpShape, Span};
use lowtide_quant::formats::{Q4_1, Q8_0};
use lowtide_tensor::{Mat, MatMut};
use rayon::ThreadPool;

use crate::shapes::{Packed, numbers};

/// Rows of every operand.
const TOKENS: usize = 512;
const HIDDEN: usize = 576;
const FEED_FORWARD: usize = 1536;
const VOCAB: usize = 49_152;
const HEADS: AttentionShape =
    AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None };

/// A backend, the pool it runs in, and how it is called in the figures.
pub struct Subject<'a> {
    /// Name of the backend and of what it was told, such as `ndarray/2`.
    pub label: String,
    /// What is timed.
    pub backend: &'a dyn Backend,
    /// Where it runs.
    pub pool: &'a ThreadPool,
}

impl Subject<'_> {
    /// Scratch of the size that an operation asks for.
    fn scratch(&self, op: OpShape) -> Vec<f32> {
        vec![0.0; self.backend.req(op).scratch]
    }
}

/// Times every operation on every subject.
pub fn ops(criterion: &mut Criterion, subjects: &[Subject<'_>]) {
    for (outputs, inputs) in [(FEED_FORWARD, HIDDEN), (HIDDEN, FEED_FORWARD), (HIDDEN, HIDDEN)] {
        qmatmul(criterion, subjects, outputs, inputs);
        qmatmul_t(criterion, subjects, outputs, inputs);
    }
    for (m, k, n) in [(TOKENS, HIDDEN, 8), (TOKENS, 8, FEED_FORWARD), (8, TOKENS, FEED_FORWARD)] {
        matmul(criterion, subjects, m, k, n);
    }
    attention(criterion, subjects);
    attention_vjp(criterion, subjects);
    glu(criterion, subjects);
    rmsnorm(criterion, subjects);
    xent_head(criterion, subjects);
    xent_head_vjp(criterion, subjects);
}

/// Times one operation on every subject; `flops` a call.
fn time(
    criterion: &mut Criterion,
    name: &str,
    flops: usize,
    subjects: &[Subject<'_>],
    mut call: impl FnMut(&Subject<'_>) + Send,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).throughput(Throughput::Elements(flops as u64));
    for subject in subjects {
        group.bench_function(BenchmarkId::from_parameter(&subject.label), |bencher| {
            subject.pool.install(|| bencher.iter(|| call(subject)));
        });
    }
    group.finish();
}

fn qmatmul(criterion: &mut Criterion, subjects: &[Subject<'_>], outputs: usize, inputs: usize) {
    let (w, x) = (Packed::new(&Q4_1, outputs, inputs), numbers(TOKENS * inputs));
    let mut y = vec![0.0; TOKENS * outputs];
    let op = OpShape::Qmatmul { rows: TOKENS, out_features: outputs, in_features: inputs };
    let name = format!("qmatmul {TOKENS}x{inputs}x{outputs} Q4_1");
    let flops = 2 * TOKENS * inputs * outputs;
    let mut scratch = widest(subjects, op);
    time(criterion, &name, flops, subjects, |subject| {
        let (x, y) = (Mat::new(&x, TOKENS, inputs), MatMut::new(&mut y, TOKENS, outputs));
        subject.backend.qmatmul(x, w.view(), y, &mut scratch);
    });
}

fn qmatmul_t(criterion: &mut Criterion, subjects: &[Subject<'_>], outputs: usize, inputs: usize) {
    let (w, dy) = (Packed::new(&Q4_1, outputs, inputs), numbers(TOKENS * outputs));
    let mut dx = vec![0.0; TOKENS * inputs];
    let op = OpShape::QmatmulT { rows: TOKENS, out_features: outputs, in_features: inputs };
    let name = format!("qmatmul_t {TOKENS}x{outputs}x{inputs} Q4_1");
    let flops = 2 * TOKENS * inputs * outputs;
    let mut scratch = widest(subjects, op);
    time(criterion, &name, flops, subjects, |subject| {
        let (dy, dx) = (Mat::new(&dy, TOKENS, outputs), MatMut::new(&mut dx, TOKENS, inputs));
        subject.backend.qmatmul_t(dy, w.view(), dx, &mut scratch);
    });
}

fn matmul(criterion: &mut Criterion, subjects: &[Subject<'_>], m: usize, k: usize, n: usize) {
    let (a, b) = (numbers(m * k), numbers(k * n));
    let mut c = vec![0.0; m * n];
    let mut scratch = widest(subjects, OpShape::Matmul { m, k, n });
    let name = format!("matmul {m}x{k}x{n}");
    time(criterion, &name, 2 * m * k * n, subjects, |subject| {
        let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
        subject.backend.matmul(2.0, a, b, 1.0, MatMut::new(&mut c, m, n), &mut scratch);
    });
}

/// Operands of attention: one sequence.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    lse: Vec<f32>,
}

const SPANS: [Span; 1] = [Span { start: 0, prompt_end: 0, end: TOKENS }];
const WIDE: usize = HEADS.heads * HEADS.head_dim;
const NARROW: usize = HEADS.kv_heads * HEADS.head_dim;

/// A product of attention touches half of the scores.
const ATTENTION_FLOPS: usize = TOKENS * TOKENS * WIDE;

impl Sequence {
    fn new() -> Self {
        let kv = numbers(2 * TOKENS * NARROW);
        Self {
            q: numbers(TOKENS * WIDE),
            k: kv[..TOKENS * NARROW].to_vec(),
            v: kv[TOKENS * NARROW..].to_vec(),
            o: vec![0.0; TOKENS * WIDE],
            lse: vec![0.0; TOKENS * HEADS.heads],
        }
    }

    fn forward(&mut self, backend: &dyn Backend, scratch: &mut [f32]) {
        let q = Mat::new(&self.q, TOKENS, WIDE);
        let (k, v) = (Mat::new(&self.k, TOKENS, NARROW), Mat::new(&self.v, TOKENS, NARROW));
        let o = MatMut::new(&mut self.o, TOKENS, WIDE);
        let lse = MatMut::new(&mut self.lse, TOKENS, HEADS.heads);
        backend.attention(q, k, v, HEADS, &SPANS, o, lse, scratch);
    }
}

fn attention(criterion: &mut Criterion, subjects: &[Subject<'_>]) {
    let mut sequence = Sequence::new();
    let op = OpShape::Attention { queries: TOKENS, keys: TOKENS, shape: HEADS };
    let mut scratch = widest(subjects, op);
    time(criterion, "attention 512, 9/3 heads of 64", 2 * ATTENTION_FLOPS, subjects, |subject| {
        sequence.forward(subject.backend, &mut scratch);
    });
}

fn attention_vjp(criterion: &mut Criterion, subjects: &[Subject<'_>]) {
    let mut sequence = Sequence::new();
    let Some(first) = subjects.first() else { return };
    let op = OpShape::Attention { queries: TOKENS, keys: TOKENS, shape: HEADS };
    sequence.forward(first.backend, &mut first.scratch(op));
    let Sequence { q, k, v, o, lse } = &sequence;
    let dout = numbers(TOKENS * WIDE);
    let mut dq = vec![0.0; TOKENS * WIDE];
    let (mut dk, mut dv) = (vec![0.0; TOKENS * NARROW], vec![0.0; TOKENS * NARROW]);
    let mut scratch = widest(subjects, OpShape::AttentionVjp { rows: TOKENS, shape: HEADS });
    let name = "attention_vjp 512, 9/3 heads of 64";
    time(criterion, name, 5 * ATTENTION_FLOPS, subjects, |subject| {
        subject.backend.attention_vjp(
            Mat::new(q, TOKENS, WIDE),
            Mat::new(k, TOKENS, NARROW),
            Mat::new(v, TOKENS, NARROW),
            Mat::new(o, TOKENS, WIDE),
            Mat::new(lse, TOKENS, HEADS.heads),
            Mat::new(&dout, TOKENS, WIDE),
            HEADS,
            &SPANS,
            MatMut::new(&mut dq, TOKENS, WIDE),
            MatMut::new(&mut dk, TOKENS, NARROW),
            MatMut::new(&mut dv, TOKENS, NARROW),
            &mut scratch,
        );
    });
}

/// Per element, not per operation: what an activation costs depends on its exponential.
fn glu(criterion: &mut Criterion, subjects: &[Subject<'_>]) {
    let (gate, up) = (numbers(TOKENS * FEED_FORWARD), numbers(TOKENS * FEED_FORWARD));
    let mut y = vec![0.0; TOKENS * FEED_FORWARD];
    time(criterion, "glu Silu 512x1536", TOKENS * FEED_FORWARD, subjects, |subject| {
        let view = |x| Mat::new(x, TOKENS, FEED_FORWARD);
        let out = MatMut::new(&mut y, TOKENS, FEED_FORWARD);
        subject.backend.glu(Activation::Silu, view(&gate), view(&up), out);
    });
}

fn rmsnorm(criterion: &mut Criterion, subjects: &[Subject<'_>]) {
    let (x, w) = (numbers(TOKENS * HIDDEN), numbers(HIDDEN));
    let (mut y, mut rstd) = (vec![0.0; TOKENS * HIDDEN], vec![0.0; TOKENS]);
    time(criterion, "rmsnorm 512x576", TOKENS * HIDDEN, subjects, |subject| {
        let (x, y) = (Mat::new(&x, TOKENS, HIDDEN), MatMut::new(&mut y, TOKENS, HIDDEN));
        subject.backend.rmsnorm(x, &w, 1e-5, y, &mut rstd);
    });
}

fn targets() -> Vec<u32> {
    (0..TOKENS).map(|t| (t * 7919 % VOCAB) as u32).collect()
}

fn xent_head(criterion: &mut Criterion, subjects: &[Subject<'_>]) {
    let (w, h, targets) = (Packed::new(&Q8_0, VOCAB, HIDDEN), numbers(TOKENS * HIDDEN), targets());
    let (mut loss, mut lse) = (vec![0.0; TOKENS], vec![0.0; TOKENS]);
    let mut argmax = vec![0; TOKENS];
    let op = OpShape::XentHead { rows: TOKENS, vocab_size: VOCAB, hidden_size: HIDDEN };
    let mut scratch = widest(subjects, op);
    let flops = 2 * TOKENS * HIDDEN * VOCAB;
    time(criterion, "xent_head 512x576x49152 Q8_0", flops, subjects, |subject| {
        let h = Mat::new(&h, TOKENS, HIDDEN);
        let out = (&mut loss, &mut lse, &mut argmax);
        subject.backend.xent_head(h, w.view(), &targets, out.0, out.1, out.2, &mut scratch);
    });
}

fn xent_head_vjp(criterion: &mut Criterion, subjects: &[Subject<'_>]) {
    let (w, h, targets) = (Packed::new(&Q8_0, VOCAB, HIDDEN), numbers(TOKENS * HIDDEN), targets());
    let (lse, mut dh) = (vec![30.0; TOKENS], vec![0.0; TOKENS * HIDDEN]);
    let op = OpShape::XentHeadVjp { rows: TOKENS, vocab_size: VOCAB, hidden_size: HIDDEN };
    let mut scratch = widest(subjects, op);
    let flops = 4 * TOKENS * HIDDEN * VOCAB;
    time(criterion, "xent_head_vjp 512x576x49152 Q8_0", flops, subjects, |subject| {
        let (h, dh) = (Mat::new(&h, TOKENS, HIDDEN), MatMut::new(&mut dh, TOKENS, HIDDEN));
        subject.backend.xent_head_vjp(h, w.view(), &targets, &lse, 1.0, dh, &mut scratch);
    });
}

/// Scratch enough for every subject.
fn widest(subjects: &[Subject<'_>], op: OpShape) -> Vec<f32> {
    let need = subjects.iter().map(|subject| subject.backend.req(op).scratch).max();
    vec![0.0; need.unwrap_or(0)]
}
