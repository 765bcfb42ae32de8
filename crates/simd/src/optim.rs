//! Updates, by chunks of parameters. A parameter's update reads nothing but its own numbers.

use lowtide_backend::{AdamHyper, SgdHyper, contract, spec};
use lowtide_kernels::AdamW;
use lowtide_lanes::{share_out, slice_split};

use crate::Simd;

/// One AdamW update.
pub(crate) fn adamw(
    be: &Simd,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    hyper: &AdamHyper,
) {
    contract::adamw(p, g, m, v, hyper);
    let (lanes, step) = slice_split(be.threads(), p.len(), 1);
    let factors = factors(hyper);
    let values = p.chunks_mut(step).zip(g.chunks(step));
    let units = values.zip(m.chunks_mut(step).zip(v.chunks_mut(step)));
    share_out(lanes, units, |((p, g), (m, v))| be.kernels().adamw(&factors, p, g, m, v));
}

/// One SGD update.
pub(crate) fn sgd(be: &Simd, p: &mut [f32], g: &[f32], hyper: &SgdHyper) {
    contract::sgd(p, g);
    let (lanes, step) = slice_split(be.threads(), p.len(), 1);
    let (lr, decay) = (hyper.lr as f32, hyper.weight_decay as f32);
    let scale = hyper.grad_scale as f32;
    let units = p.chunks_mut(step).zip(g.chunks(step));
    share_out(lanes, units, |(p, g)| be.kernels().sgd(lr, scale, decay, p, g));
}

fn factors(hyper: &AdamHyper) -> AdamW {
    let f = spec::AdamFactors::<f32>::new(hyper);
    AdamW {
        grad_scale: f.grad_scale,
        shrink: f.shrink,
        beta1: f.beta1,
        fresh1: f.fresh1,
        beta2: f.beta2,
        fresh2: f.fresh2,
        root_correction2: f.root_correction2,
        eps: f.eps,
        step_size: f.step_size,
    }
}
