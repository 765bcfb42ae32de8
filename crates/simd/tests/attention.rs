//! Damage to one row of attention's operands reaches what reads that row, and nothing else.

use lowtide_backend::{AttentionShape, Backend, OpShape, Scalar, Span};
use lowtide_kernels::Kernels;
use lowtide_simd::Simd;
use lowtide_tensor::{Mat, MatMut};

const TOKENS: usize = 150;
const SPANS: [Span; 2] =
    [Span { start: 0, prompt_end: 0, end: 20 }, Span { start: 20, prompt_end: 20, end: TOKENS }];

/// The operands of one call: `q`, `k`, `v` and the gradient of `o`.
#[derive(Clone)]
struct Operands([Vec<f32>; 4]);

impl Operands {
    fn new(shape: AttentionShape) -> Self {
        let operand = |which: usize, heads: usize| {
            let value = |i: usize| ((i * (which + 3)) as f32 * 0.713).sin();
            (0..TOKENS * heads * shape.head_dim).map(value).collect()
        };
        let (heads, kv_heads) = (shape.heads, shape.kv_heads);
        Self([operand(0, heads), operand(1, kv_heads), operand(2, kv_heads), operand(3, heads)])
    }

    /// The same with one bad element in row `row` of one operand.
    fn damaged(&self, which: usize, row: usize, bad: f32) -> Self {
        let mut damaged = self.clone();
        let width = damaged.0[which].len() / TOKENS;
        damaged.0[which][row * width + 3] = bad;
        damaged
    }
}

/// `o`, `lse`, `dq`, `dk` and `dv`, one after another.
fn run(be: &dyn Backend, shape: AttentionShape, operands: &Operands) -> Vec<f32> {
    let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let [q, k, v, dout] = &operands.0;
    let q = Mat::new(q, TOKENS, wide);
    let (k, v) = (Mat::new(k, TOKENS, narrow), Mat::new(v, TOKENS, narrow));
    let dout = Mat::new(dout, TOKENS, wide);
    let (mut o, mut lse) = (vec![0.0; TOKENS * wide], vec![0.0; TOKENS * shape.heads]);
    let op = OpShape::Attention { queries: TOKENS, keys: TOKENS, shape };
    let mut scratch = vec![0.0; be.req(op).scratch];
    let (out, out_lse) =
        (MatMut::new(&mut o, TOKENS, wide), MatMut::new(&mut lse, TOKENS, shape.heads));
    be.attention(q, k, v, shape, &SPANS, out, out_lse, &mut scratch);
    let mut dq = vec![0.0; TOKENS * wide];
    let (mut dk, mut dv) = (vec![0.0; TOKENS * narrow], vec![0.0; TOKENS * narrow]);
    let op = OpShape::AttentionVjp { queries: TOKENS, keys: TOKENS, shape };
    let mut scratch = vec![0.0; be.req(op).scratch];
    be.attention_vjp(
        q,
        k,
        v,
        Mat::new(&o, TOKENS, wide),
        Mat::new(&lse, TOKENS, shape.heads),
        dout,
        shape,
        &SPANS,
        MatMut::new(&mut dq, TOKENS, wide),
        MatMut::new(&mut dk, TOKENS, narrow),
        MatMut::new(&mut dv, TOKENS, narrow),
        &mut scratch,
    );
    [o, lse, dq, dk, dv].concat()
}

#[test]
fn damage_stays_where_it_is_read() {
    for window in [None, Some(45)] {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 20, scale: 0.3, window };
        let operands = Operands::new(shape);
        let spec_clean = run(&Scalar, shape, &operands);
        for kernels in Kernels::available() {
            // With three threads, one of the four heads of both spans is cut into tiles.
            let be = Simd::with(kernels, 3);
            let clean = run(&be, shape, &operands);
            assert!(clean.iter().all(|x| x.is_finite()));
            for (which, bad) in
                [(0, f32::NAN), (1, f32::NAN), (2, f32::INFINITY), (3, f32::NEG_INFINITY)]
            {
                let row = 20 + 64 + 17;
                let damaged = operands.damaged(which, row, bad);
                let spec = run(&Scalar, shape, &damaged);
                let got = run(&be, shape, &damaged);
                for (i, (&got, &clean)) in got.iter().zip(&clean).enumerate() {
                    let what = format!(
                        "{}: window {window:?}, operand {which}, element {i}",
                        kernels.isa()
                    );
                    if spec[i].to_bits() == spec_clean[i].to_bits() {
                        assert_eq!(got.to_bits(), clean.to_bits(), "{what}");
                    } else if !spec[i].is_finite() {
                        assert!(!got.is_finite(), "{what}: {got} for {}", spec[i]);
                    }
                }
            }
        }
    }
}
