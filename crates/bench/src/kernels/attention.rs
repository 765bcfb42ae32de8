//! Attention over one sequence, and over a cache.

use lowtide_backend::{AttentionShape, Backend, OpShape, Span};
use lowtide_tensor::{Mat, MatMut};

use super::operands::Scratch;
use super::{Kernel, numbers};
use crate::Work;

const FLOAT: usize = size_of::<f32>();

/// Forward, backward, and one query at the end of a cache.
pub(super) fn push(kernels: &mut Vec<Kernel>, shape: AttentionShape, rows: usize) {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
    let title = format!("{heads}/{kv_heads} heads of {head_dim}");
    // Each of its products touches half of the scores.
    let product = rows * rows * wide;

    let bytes = FLOAT * rows * (2 * wide + 2 * narrow + heads);
    let work = Work::new(2 * product, bytes);
    kernels.push(Kernel::new(format!("attention {rows}, {title}"), work, move || {
        let mut sequence = Sequence::new(shape, rows, rows);
        Box::new(move |backend| sequence.forward(backend))
    }));
    let bytes = FLOAT * rows * (5 * wide + 6 * narrow + heads);
    let work = Work::new(5 * product, bytes);
    kernels.push(Kernel::new(format!("attention_vjp {rows}, {title}"), work, move || {
        let mut pass = Backward::new(shape, rows);
        Box::new(move |backend| pass.run(backend))
    }));
    let work = Work::new(4 * rows * wide, FLOAT * (2 * wide + 2 * rows * narrow + heads));
    kernels.push(Kernel::new(format!("attention 1 of {rows}, {title}"), work, move || {
        let mut sequence = Sequence::new(shape, 1, rows);
        Box::new(move |backend| sequence.forward(backend))
    }));
}

/// Operands and results of attention: the last `queries` of `keys` tokens.
struct Sequence {
    shape: AttentionShape,
    queries: usize,
    keys: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    lse: Vec<f32>,
    scratch: Scratch,
}

impl Sequence {
    fn new(shape: AttentionShape, queries: usize, keys: usize) -> Self {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let (wide, narrow) = (queries * heads * head_dim, keys * kv_heads * head_dim);
        let mut k = numbers(2 * narrow);
        let v = k.split_off(narrow);
        let (o, lse) = (vec![0.0; wide], vec![0.0; queries * heads]);
        let scratch = Scratch::default();
        Self { shape, queries, keys, q: numbers(wide), k, v, o, lse, scratch }
    }

    fn forward(&mut self, backend: &dyn Backend) {
        let Self { shape, queries, keys, .. } = *self;
        let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let q = Mat::new(&self.q, queries, wide);
        let (k, v) = (Mat::new(&self.k, keys, narrow), Mat::new(&self.v, keys, narrow));
        let o = MatMut::new(&mut self.o, queries, wide);
        let lse = MatMut::new(&mut self.lse, queries, shape.heads);
        let spans = [Span { start: 0, prompt_end: 0, end: keys }];
        let scratch = self.scratch.lend(backend, OpShape::Attention { queries, keys, shape });
        backend.attention(q, k, v, shape, &spans, o, lse, scratch);
    }
}

/// What backward is given and what it adds to.
struct Backward {
    there: Sequence,
    /// Whether the forward pass was made. The first call makes it, which is never timed.
    ready: bool,
    dout: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    scratch: Scratch,
}

impl Backward {
    fn new(shape: AttentionShape, rows: usize) -> Self {
        let there = Sequence::new(shape, rows, rows);
        let (wide, narrow) = (there.q.len(), there.k.len());
        Self {
            there,
            ready: false,
            dout: numbers(wide),
            dq: vec![0.0; wide],
            dk: vec![0.0; narrow],
            dv: vec![0.0; narrow],
            scratch: Scratch::default(),
        }
    }

    fn run(&mut self, backend: &dyn Backend) {
        if !self.ready {
            self.there.forward(backend);
            self.ready = true;
        }
        let Sequence { shape, queries: rows, q, k, v, o, lse, .. } = &self.there;
        let (shape, rows) = (*shape, *rows);
        let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        backend.attention_vjp(
            Mat::new(q, rows, wide),
            Mat::new(k, rows, narrow),
            Mat::new(v, rows, narrow),
            Mat::new(o, rows, wide),
            Mat::new(lse, rows, shape.heads),
            Mat::new(&self.dout, rows, wide),
            shape,
            &[Span { start: 0, prompt_end: 0, end: rows }],
            MatMut::new(&mut self.dq, rows, wide),
            MatMut::new(&mut self.dk, rows, narrow),
            MatMut::new(&mut self.dv, rows, narrow),
            self.scratch.lend(backend, OpShape::AttentionVjp { queries: rows, keys: rows, shape }),
        );
    }
}
