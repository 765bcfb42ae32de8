//! Single operations at the shapes of real models.
//!
//! [`all`] lists them for two models, with 512 rows as in training and with one row as in decoding.
//! The same list feeds `lowtide bench` and the criterion suites.

mod attention;
mod head;
mod linear;
mod operands;
mod optimizer;
mod pointwise;

use std::fmt;

use lowtide_backend::{AttentionShape, Backend};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{Q4_1, Q4_K, Q8_0};

pub(crate) use operands::{Packed, numbers};

use crate::Work;

/// Does an operation once. What it needs it holds by itself.
pub type Call = Box<dyn FnMut(&dyn Backend) + Send>;

/// An operation with its shapes; operands are made when it is about to run.
pub struct Kernel {
    name: String,
    work: Work,
    make: Box<dyn Fn() -> Call>,
}

impl Kernel {
    fn new(name: String, work: Work, make: impl Fn() -> Call + 'static) -> Self {
        Self { name, work, make: Box::new(make) }
    }

    /// What it is called: operation, format and shape.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What one call does.
    #[must_use]
    pub fn work(&self) -> Work {
        self.work
    }

    /// Makes the operands.
    #[must_use]
    pub fn prepare(&self) -> Call {
        (self.make)()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({}, {:?})", self.name, self.work)
    }
}

/// A model as far as its operations depend on it.
#[derive(Clone, Copy, Debug)]
struct Shape {
    hidden: usize,
    feed_forward: usize,
    vocab: usize,
    heads: AttentionShape,
    /// Stands in for `hidden` where that is not whole blocks of 256.
    hidden_256: usize,
}

const SMOLLM2: Shape = Shape {
    hidden: 576,
    feed_forward: 1536,
    vocab: 49_152,
    heads: AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None },
    hidden_256: 512,
};

const QWEN2: Shape = Shape {
    hidden: 896,
    feed_forward: 4864,
    vocab: 151_936,
    heads: AttentionShape { heads: 14, kv_heads: 2, head_dim: 64, scale: 0.125, window: None },
    hidden_256: 1024,
};

/// Rows in training.
const ROWS: usize = 512;
/// Inner width of the adapters.
const RANK: usize = 8;

/// Which operations there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// All of them, at the shapes of SmolLM2-135M and Qwen2.5-0.5B.
    #[default]
    Full,
    /// A few rows of the smaller model: a glance.
    Quick,
}

/// Every operation, in the order in which a step comes to them.
#[must_use]
pub fn all(extent: Extent) -> Vec<Kernel> {
    let (shapes, rows): (&[Shape], usize) = match extent {
        Extent::Full => (&[SMOLLM2, QWEN2], ROWS),
        Extent::Quick => (&[SMOLLM2], 32),
    };
    let mut kernels = Vec::new();
    for shape in shapes {
        linears(&mut kernels, shape, rows, extent);
        adapters(&mut kernels, shape, rows);
        attention::push(&mut kernels, shape.heads, rows);
        pointwise::push(&mut kernels, shape, rows);
        head::push(&mut kernels, shape, rows);
    }
    optimizer::push(&mut kernels, if extent == Extent::Full { 1 << 20 } else { 1 << 14 });
    // Both models have some shapes in common.
    let mut known = std::collections::BTreeSet::new();
    kernels.retain(|kernel| known.insert(kernel.name.clone()));
    kernels
}

/// The linears of a block, `(inputs, outputs)`.
fn widths(shape: &Shape, hidden: usize) -> [(usize, usize); 4] {
    let narrow = shape.heads.kv_heads * shape.heads.head_dim;
    let inner = shape.feed_forward;
    [(hidden, inner), (inner, hidden), (hidden, hidden), (hidden, narrow)]
}

fn linears(kernels: &mut Vec<Kernel>, shape: &Shape, rows: usize, extent: Extent) {
    let formats: [&'static dyn BlockFormat; 3] = [&Q4_1, &Q8_0, &Q4_K];
    let copied = if extent == Extent::Full { 128 << 20 } else { 4 << 20 };
    for format in formats {
        let hidden = match shape.hidden.is_multiple_of(format.block_len()) {
            true => shape.hidden,
            false => shape.hidden_256,
        };
        for (inputs, outputs) in widths(shape, hidden) {
            kernels.push(linear::qmatmul(format, rows, inputs, outputs, 0));
            kernels.push(linear::qmatmul_t(format, rows, inputs, outputs));
            kernels.push(linear::qmatmul(format, 1, inputs, outputs, copied));
        }
    }
}

/// The products of an adapter forward and backward, and one dense product of the usual kind.
fn adapters(kernels: &mut Vec<Kernel>, shape: &Shape, rows: usize) {
    let hidden = shape.hidden;
    for (m, k, n) in [(rows, hidden, RANK), (rows, RANK, hidden), (RANK, rows, hidden)] {
        kernels.push(linear::matmul(m, k, n));
    }
    kernels.push(linear::matmul(rows, hidden, shape.feed_forward));
}

#[cfg(test)]
mod tests {
    use lowtide_backend::{Checked, Scalar};

    use super::*;

    #[test]
    fn every_operation_runs_twice_and_keeps_its_contract() {
        let backend = Checked::new(Scalar);
        let kernels = all(Extent::Quick);
        let names: Vec<_> = kernels.iter().map(Kernel::name).collect();
        for part in ["qmatmul Q4_1 32x576x1536", "qmatmul_t Q8_0 32x1536x576", "matmul 8x32x576"] {
            assert!(names.contains(&part), "{part}: {names:?}");
        }
        for kernel in kernels.iter().filter(|kernel| kernel.work().flops < 1 << 27) {
            let mut call = kernel.prepare();
            call(&backend);
            call(&backend);
        }
    }

    #[test]
    fn names_are_unique_and_figures_those_of_the_shapes() {
        let kernels = all(Extent::Full);
        let find = |name: &str| kernels.iter().find(|kernel| kernel.name() == name);
        let work = find("qmatmul Q4_1 512x576x1536").expect("it is there").work();
        let bytes = 4 * 512 * (576 + 1536) + 1536 * (576 / 32) * 20;
        assert_eq!(work, Work::new(2 * 512 * 576 * 1536, bytes));
        let one = find("qmatmul Q4_1 1x576x1536").expect("it is there").work();
        assert!(one.span >= 128 << 20, "{one:?}");
        // 576 and 896 are no multiples of 256.
        assert!(find("qmatmul Q4_K 512x576x1536").is_none());
        assert!(find("qmatmul Q4_K 512x512x1536").is_some());
        assert!(find("qmatmul_t Q4_K 512x896x4864").is_none());
        assert!(find("xent_head_vjp Q8_0 512x896x151936").is_some());
        let mut names: Vec<_> = kernels.iter().map(Kernel::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
