//! The check that results do not depend on threads.

use lowtide_backend::{Activation, AttentionShape, Backend, Direction, Pairing};
use lowtide_quant::formats::{Q4_1, Q8_0};
use rayon::ThreadPoolBuilder;

use super::attention::{Attention, AttentionVjp};
use super::case::{Case, Cx};
use super::elementwise::Axpby;
use super::glu::{Gate, GluInPlace, GluVjp};
use super::head::{Head, Loss, LossGrad, LossVjp};
use super::matmul::Product;
use super::optim::{AdamW, Lion, Packed8, SgdMomentum};
use super::qmatmul::{Backward, Forward, Gather, Linear};
use super::rmsnorm::{Rmsnorm, RmsnormVjp};
use super::rope::Rope;
use crate::close::assert_bits;

/// Every operation, on shapes large enough to be shared out, gives the same bits for each number of
/// threads: `make` builds a backend for that many, which runs inside a rayon pool of that many.
///
/// ```no_run
/// use lowtide_backend::Scalar;
/// lowtide_conformance::threads(&|_threads| Box::new(Scalar), &[1, 2]);
/// ```
///
/// # Panics
/// At the first difference, naming operation and shape; when a pool cannot be started.
pub fn threads(make: &dyn Fn(usize) -> Box<dyn Backend>, counts: &[usize]) {
    let mut first: Option<(usize, Vec<Outcome>)> = None;
    for &count in counts {
        let pool = ThreadPoolBuilder::new().num_threads(count).build();
        let pool = pool.unwrap_or_else(|error| panic!("a pool of {count} threads: {error}"));
        let backend = make(count);
        let got = pool.install(|| results(&*backend));
        let Some((reference, want)) = &first else {
            first = Some((count, got));
            continue;
        };
        for (got, want) in got.iter().zip(want) {
            let (name, label) = (backend.name(), &got.label);
            let what = format!("{name}: {label}: {count} threads for {reference}");
            assert_bits(&what, &got.values, &want.values);
        }
    }
}

/// What one operation gave.
struct Outcome {
    label: String,
    values: Vec<f32>,
}

/// The results of all operations.
fn results(be: &dyn Backend) -> Vec<Outcome> {
    let linear = Linear::new(&Q4_1, 150, 416, 288);
    let product = |m, k, n| Product { m, k, n, alpha: 0.7, beta: 1.0, turned: [false; 3] };
    let gate = Gate { act: Activation::Silu, rows: 120, cols: 300, bound: 4.0 };
    let (rows, cols) = (150, 288);
    let attention = Attention {
        shape: AttentionShape { heads: 9, kv_heads: 3, head_dim: 16, scale: 0.25, window: None },
        lengths: vec![150, 70, 90],
    };
    let head = Head::new(&Q8_0, 90, 2200, 64);
    let rope = Rope {
        rows,
        heads: 9,
        head_dim: 32,
        turned: 32,
        pairing: Pairing::Halves,
        direction: Direction::Forward,
    };
    let adamw8 = Outcome {
        label: "adamw8 of 40000 parameters".to_owned(),
        values: Packed8::run(be, 40_000, 0).numbers(),
    };
    vec![
        result(be, &Forward(linear.clone())),
        result(be, &Backward(linear.clone())),
        result(be, &Gather(linear)),
        result(be, &product(300, 288, 8)),
        result(be, &product(8, 300, 600)),
        result(be, &Axpby { rows, cols, alpha: 0.3, beta: 1.0 }),
        result(be, &GluInPlace(gate)),
        result(be, &GluVjp(gate)),
        result(be, &Rmsnorm { rows, cols }),
        result(be, &RmsnormVjp { rows, cols }),
        result(be, &rope),
        result(be, &AttentionVjp(attention.clone())),
        result(be, &attention),
        result(be, &Loss(head.clone())),
        result(be, &LossVjp(head.clone())),
        result(be, &LossGrad(head)),
        result(be, &AdamW { len: 40_000 }),
        result(be, &SgdMomentum { len: 40_000 }),
        result(be, &Lion { len: 40_000 }),
        adamw8,
    ]
}

fn result(be: &dyn Backend, case: &impl Case) -> Outcome {
    Outcome { label: case.label(), values: case.run(&Cx::new(be), 0..case.rows()) }
}
