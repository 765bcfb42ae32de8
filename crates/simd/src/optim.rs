//! Updates, by chunks of parameters. A parameter's update reads nothing but its own numbers.

use lowtide_backend::{AdamHyper, LionHyper, Moments8, Momentum8, SgdHyper, contract, spec};
use lowtide_kernels::{AdamW, Lion};
use lowtide_lanes::{share_out, slice_split};
use lowtide_quant::dynamic8::{BLOCK, SIGNED, UNSIGNED, decode_block, encode_block};

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

/// One AdamW update with 8-bit moments; chunks are whole blocks. A block's moments are floats on
/// the stack while it is updated.
pub(crate) fn adamw8(
    be: &Simd,
    p: &mut [f32],
    g: &[f32],
    moments: Moments8<'_>,
    hyper: &AdamHyper,
) {
    contract::adamw8(p, g, &moments, hyper);
    let (lanes, step) = slice_split(be.threads(), p.len(), BLOCK);
    let factors = factors(hyper);
    let Moments8 { m, v, m_absmax, v_absmax } = moments;
    let values = p.chunks_mut(step).zip(g.chunks(step));
    let codes = m.chunks_mut(step).zip(v.chunks_mut(step));
    let absmaxes = m_absmax.chunks_mut(step / BLOCK).zip(v_absmax.chunks_mut(step / BLOCK));
    share_out(lanes, values.zip(codes).zip(absmaxes), |((values, codes), absmaxes)| {
        let values = values.0.chunks_mut(BLOCK).zip(values.1.chunks(BLOCK));
        let codes = codes.0.chunks_mut(BLOCK).zip(codes.1.chunks_mut(BLOCK));
        let absmaxes = absmaxes.0.iter_mut().zip(absmaxes.1);
        for (((p, g), (m8, v8)), (m_absmax, v_absmax)) in values.zip(codes).zip(absmaxes) {
            let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
            let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
            decode_block(m8, *m_absmax, &SIGNED, m);
            decode_block(v8, *v_absmax, &UNSIGNED, v);
            be.kernels().adamw(&factors, p, g, m, v);
            *m_absmax = encode_block(m, &SIGNED, m8);
            *v_absmax = encode_block(v, &UNSIGNED, v8);
        }
    });
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

/// One SGD update with momentum.
pub(crate) fn sgd_momentum(
    be: &Simd,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    momentum: f64,
    hyper: &SgdHyper,
) {
    contract::sgd_momentum(p, g, m);
    let (lanes, step) = slice_split(be.threads(), p.len(), 1);
    let f = [hyper.lr, hyper.grad_scale, hyper.weight_decay, momentum].map(|f| f as f32);
    let units = p.chunks_mut(step).zip(g.chunks(step)).zip(m.chunks_mut(step));
    share_out(lanes, units, |((p, g), m)| be.kernels().sgd_momentum(f, p, g, m));
}

/// One Lion update.
pub(crate) fn lion(be: &Simd, p: &mut [f32], g: &[f32], m: &mut [f32], hyper: &LionHyper) {
    contract::lion(p, g, m);
    let (lanes, step) = slice_split(be.threads(), p.len(), 1);
    let factors = lion_factors(hyper);
    let units = p.chunks_mut(step).zip(g.chunks(step)).zip(m.chunks_mut(step));
    share_out(lanes, units, |((p, g), m)| be.kernels().lion(&factors, p, g, m));
}

/// One Lion update with an 8-bit momentum; chunks are whole blocks, as in [`adamw8`].
pub(crate) fn lion8(
    be: &Simd,
    p: &mut [f32],
    g: &[f32],
    momentum: Momentum8<'_>,
    hyper: &LionHyper,
) {
    contract::lion8(p, g, &momentum);
    let (lanes, step) = slice_split(be.threads(), p.len(), BLOCK);
    let factors = lion_factors(hyper);
    let Momentum8 { m, absmax } = momentum;
    let values = p.chunks_mut(step).zip(g.chunks(step));
    let stored = m.chunks_mut(step).zip(absmax.chunks_mut(step / BLOCK));
    share_out(lanes, values.zip(stored), |((p, g), (m8, absmax))| {
        let values = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
        for ((p, g), (m8, absmax)) in values.zip(m8.chunks_mut(BLOCK).zip(absmax)) {
            let mut m = [0.0; BLOCK];
            let m = &mut m[..p.len()];
            decode_block(m8, *absmax, &SIGNED, m);
            be.kernels().lion(&factors, p, g, m);
            *absmax = encode_block(m, &SIGNED, m8);
        }
    });
}

fn lion_factors(hyper: &LionHyper) -> Lion {
    let f = spec::LionFactors::<f32>::new(hyper);
    Lion {
        grad_scale: f.grad_scale,
        shrink: f.shrink,
        beta1: f.beta1,
        fresh1: f.fresh1,
        beta2: f.beta2,
        fresh2: f.fresh2,
        lr: f.lr,
    }
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
