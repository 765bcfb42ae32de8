//! What the backend allocates: nothing of its own, and of the library's no more than it declares.

use lowtide_backend::{Activation, AttentionShape, Backend, OpShape, Req, Span};
use lowtide_ndarray::NdArray;
use lowtide_quant::{BlockFormat, QMat, formats::Q8_0};
use lowtide_tensor::{Mat, MatMut};
use lowtide_testkit::alloc::{Counts, TestAlloc};
use lowtide_testkit::rng::Rng;
use rayon::{ThreadPool, ThreadPoolBuilder};

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

/// Without the harness of tests: the allocator counts what its threads do as well.
fn main() {
    linears_hold_what_they_declare();
    products_hold_what_they_declare();
    attention_holds_what_it_declares();
    the_head_holds_what_it_declares();
    loops_over_rows_hold_nothing();
}

/// What rayon may allocate: a block of its job queue.
const QUEUE_BYTES: u64 = 4096;

const ROWS: usize = 300;
const INPUTS: usize = 320;
const OUTPUTS: usize = 544;
const VOCAB: usize = 1500;
const HEADS: AttentionShape =
    AttentionShape { heads: 6, kv_heads: 2, head_dim: 48, scale: 0.2, window: None };
const SPANS: [Span; 2] =
    [Span { start: 0, prompt_end: 0, end: 170 }, Span { start: 170, prompt_end: 170, end: ROWS }];

/// Runs a call twice in a pool and counts the second time.
fn counted(pool: &ThreadPool, mut call: impl FnMut() + Send) -> Counts {
    pool.install(|| {
        call();
        ALLOC.counting(QUEUE_BYTES as usize, call).1
    })
}

/// Runs an operation and compares what was allocated with what was declared.
fn check(
    threads: usize,
    name: &str,
    op: OpShape,
    mut call: impl FnMut(&NdArray, &mut [f32]) + Send,
) {
    let (backend, pool) = (NdArray::new(threads), pool(threads));
    let Req { scratch, library_bytes } = backend.req(op);
    let mut scratch = vec![0.0; scratch];
    let counts = counted(&pool, || call(&backend, &mut scratch));
    assert!(
        counts.live_peak <= library_bytes as u64 + QUEUE_BYTES,
        "{name} on {threads} threads held {} bytes, {library_bytes} declared",
        counts.live_peak
    );
    // A declaration that is far too large would be charged for nothing.
    assert!(
        threads > 1 || counts.live_peak * 4 >= library_bytes as u64,
        "{name} held {} bytes of {library_bytes} declared",
        counts.live_peak
    );
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn numbers(len: usize) -> Vec<f32> {
    Rng::new(len as u64).uniform_vec(len, -1.0, 1.0)
}

fn packed(rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = vec![0; rows * Q8_0.row_bytes(cols).unwrap()];
    Q8_0.encode(&numbers(rows * cols), &mut bytes);
    bytes
}

fn linears_hold_what_they_declare() {
    let bytes = packed(OUTPUTS, INPUTS);
    let w = QMat::new(&Q8_0, OUTPUTS, INPUTS, &bytes).unwrap();
    let (x, mut y) = (numbers(ROWS * INPUTS), numbers(ROWS * OUTPUTS));
    let (rows, out_features, in_features) = (ROWS, OUTPUTS, INPUTS);
    let forward = OpShape::Qmatmul { rows, out_features, in_features };
    let backward = OpShape::QmatmulT { rows, out_features, in_features };
    for threads in [1, 2] {
        check(threads, "qmatmul", forward, |backend, scratch| {
            let y = MatMut::new(&mut y, ROWS, OUTPUTS);
            backend.qmatmul(Mat::new(&x, ROWS, INPUTS), w, y, scratch);
        });
        let mut dx = numbers(ROWS * INPUTS);
        check(threads, "qmatmul_t", backward, |backend, scratch| {
            let dx = MatMut::new(&mut dx, ROWS, INPUTS);
            backend.qmatmul_t(Mat::new(&y, ROWS, OUTPUTS), w, dx, scratch);
        });
    }
}

fn products_hold_what_they_declare() {
    for (m, k, n) in [(ROWS, INPUTS, 8), (ROWS, 8, OUTPUTS), (8, ROWS, OUTPUTS)] {
        let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * n));
        for threads in [1, 2] {
            check(threads, "matmul", OpShape::Matmul { m, k, n }, |backend, scratch| {
                let c = MatMut::new(&mut c, m, n);
                backend.matmul(2.0, Mat::new(&a, m, k), Mat::new(&b, k, n), 1.0, c, scratch);
            });
        }
    }
}

fn attention_holds_what_it_declares() {
    let AttentionShape { heads, kv_heads, head_dim, .. } = HEADS;
    let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
    let (q, k, v) = (numbers(ROWS * wide), numbers(ROWS * narrow), numbers(ROWS * narrow));
    let (mut o, mut lse) = (vec![0.0; ROWS * wide], vec![0.0; ROWS * heads]);
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    let q = Mat::new(&q, ROWS, wide);
    let (k, v) = (Mat::new(&k, ROWS, narrow), Mat::new(&v, ROWS, narrow));
    for threads in [1, 2] {
        let op = OpShape::Attention { queries: ROWS, keys: ROWS, shape: HEADS };
        check(threads, "attention", op, |backend, scratch| {
            let (o, lse) = (MatMut::new(&mut o, ROWS, wide), MatMut::new(&mut lse, ROWS, heads));
            backend.attention(q, k, v, HEADS, &SPANS, o, lse, scratch);
        });
        let op = OpShape::AttentionVjp { queries: ROWS, keys: ROWS, shape: HEADS };
        check(threads, "attention_vjp", op, |backend, scratch| {
            let (o, lse) = (Mat::new(&o, ROWS, wide), Mat::new(&lse, ROWS, heads));
            let dq = MatMut::new(&mut dq, ROWS, wide);
            let (dk, dv) = (MatMut::new(&mut dk, ROWS, narrow), MatMut::new(&mut dv, ROWS, narrow));
            backend.attention_vjp(q, k, v, o, lse, q, HEADS, &SPANS, dq, dk, dv, scratch);
        });
    }
}

fn the_head_holds_what_it_declares() {
    let bytes = packed(VOCAB, INPUTS);
    let w = QMat::new(&Q8_0, VOCAB, INPUTS, &bytes).unwrap();
    let targets: Vec<u32> = (0..ROWS as u32).collect();
    let (mut loss, mut lse, mut argmax) = (vec![0.0; ROWS], vec![0.0; ROWS], vec![0; ROWS]);
    let (h, mut dh) = (numbers(ROWS * INPUTS), numbers(ROWS * INPUTS));
    let h = Mat::new(&h, ROWS, INPUTS);
    let (rows, vocab_size, hidden_size) = (ROWS, VOCAB, INPUTS);
    for threads in [1, 2] {
        let op = OpShape::XentHead { rows, vocab_size, hidden_size };
        check(threads, "xent_head", op, |backend, scratch| {
            backend.xent_head(h, w, &targets, &mut loss, &mut lse, &mut argmax, scratch);
        });
        let op = OpShape::XentHeadVjp { rows, vocab_size, hidden_size };
        check(threads, "xent_head_vjp", op, |backend, scratch| {
            let dh = MatMut::new(&mut dh, ROWS, INPUTS);
            backend.xent_head_vjp(h, w, &targets, &lse, 1.0, dh, scratch);
        });
        let op = OpShape::XentHeadGrad { rows, vocab_size, hidden_size };
        check(threads, "xent_head_grad", op, |backend, scratch| {
            let (dh, loss, lse) = (MatMut::new(&mut dh, ROWS, INPUTS), &mut loss, &mut lse);
            backend.xent_head_grad(h, w, &targets, 1.0, loss, lse, &mut argmax, dh, scratch);
        });
    }
}

fn loops_over_rows_hold_nothing() {
    let (x, w, mut y) = (numbers(ROWS * INPUTS), numbers(INPUTS), numbers(ROWS * INPUTS));
    let mut rstd = vec![0.0; ROWS];
    for threads in [1, 2] {
        let (backend, pool) = (NdArray::new(threads), pool(threads));
        let counts = counted(&pool, || {
            let x = Mat::new(&x, ROWS, INPUTS);
            let mut y = MatMut::new(&mut y, ROWS, INPUTS);
            backend.rmsnorm(x, &w, 1e-5, y.rb(), &mut rstd);
            backend.glu_in_place(Activation::Silu, y.rb(), x);
            backend.axpby(0.5, x, 0.5, y.rb());
            backend.rmsnorm_vjp(x, &w, &rstd, x, y);
        });
        assert!(counts.live_peak <= QUEUE_BYTES, "{threads} threads: {counts:?}");
        assert!(threads > 1 || counts.requests == 0, "one thread: {counts:?}");
    }
}
