//! Requirements.

use lowtide_backend::{AttentionShape, Backend, OpShape};

/// Row counts around the sizes at which tiles change.
const ROWS: [usize; 14] = [0, 1, 2, 15, 16, 17, 63, 64, 65, 128, 511, 512, 1000, 4096];

/// Requirements never shrink when rows are added, and a call without rows does not overflow.
pub(super) fn check_family(be: &dyn Backend) {
    let shape =
        AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: Some(100) };
    let (out_features, in_features) = (1536, 576);
    let (vocab_size, hidden_size) = (3000, 576);
    let ops: [(&str, &dyn Fn(usize) -> OpShape); 13] = [
        ("qmatmul", &|rows| OpShape::Qmatmul { rows, out_features, in_features }),
        ("qmatmul_t", &|rows| OpShape::QmatmulT { rows, out_features, in_features }),
        ("matmul over rows", &|m| OpShape::Matmul { m, k: in_features, n: 8 }),
        ("matmul over columns", &|n| OpShape::Matmul { m: 8, k: in_features, n }),
        ("matmul over the contraction", &|k| OpShape::Matmul { m: 576, k, n: 8 }),
        ("attention", &|rows| OpShape::Attention { queries: rows, keys: rows, shape }),
        ("attention over a cache", &|keys| OpShape::Attention { queries: 1, keys, shape }),
        ("attention_vjp", &|rows| OpShape::AttentionVjp { queries: rows, keys: rows, shape }),
        ("attention_vjp over queries", &|queries| OpShape::AttentionVjp {
            queries,
            keys: ROWS[ROWS.len() - 1],
            shape,
        }),
        ("attention_vjp over keys", &|keys| OpShape::AttentionVjp { queries: 0, keys, shape }),
        ("xent_head", &|rows| OpShape::XentHead { rows, vocab_size, hidden_size }),
        ("xent_head_vjp", &|rows| OpShape::XentHeadVjp { rows, vocab_size, hidden_size }),
        ("xent_head_grad", &|rows| OpShape::XentHeadGrad { rows, vocab_size, hidden_size }),
    ];
    for (op, of) in ops {
        for pair in ROWS.windows(2) {
            let (few, many) = (be.req(of(pair[0])), be.req(of(pair[1])));
            assert!(
                few.scratch <= many.scratch && few.library_bytes <= many.library_bytes,
                "{}: req of {op}: {few:?} for {} rows, {many:?} for {}",
                be.name(),
                pair[0],
                pair[1]
            );
        }
    }
}
