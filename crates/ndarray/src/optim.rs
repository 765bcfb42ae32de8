//! Updates: the specification's loops, shared out by chunks of parameters. A parameter's update
//! reads nothing but its own numbers and, with 8-bit moments, its own block.

use lowtide_backend::{AdamHyper, LionHyper, Moments8, Momentum8, SgdHyper, spec};
use lowtide_lanes::{share_out, slice_split};
use lowtide_quant::dynamic8::BLOCK;

/// One AdamW update.
pub(crate) fn adamw(
    lanes: usize,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    hyper: &AdamHyper,
) {
    let (lanes, step) = slice_split(lanes, p.len(), 1);
    let values = p.chunks_mut(step).zip(g.chunks(step));
    let units = values.zip(m.chunks_mut(step).zip(v.chunks_mut(step)));
    share_out(lanes, units, |((p, g), (m, v))| spec::adamw(p, g, m, v, hyper));
}

/// One AdamW update with 8-bit moments; chunks are whole blocks.
pub(crate) fn adamw8(
    lanes: usize,
    p: &mut [f32],
    g: &[f32],
    moments: Moments8<'_>,
    hyper: &AdamHyper,
) {
    let (lanes, step) = slice_split(lanes, p.len(), BLOCK);
    let Moments8 { m, v, m_absmax, v_absmax } = moments;
    let values = p.chunks_mut(step).zip(g.chunks(step));
    let codes = m.chunks_mut(step).zip(v.chunks_mut(step));
    let absmaxes = m_absmax.chunks_mut(step / BLOCK).zip(v_absmax.chunks_mut(step / BLOCK));
    let units = values.zip(codes).zip(absmaxes);
    share_out(lanes, units, |(((p, g), (m, v)), (m_absmax, v_absmax))| {
        spec::adamw8(p, g, Moments8 { m, v, m_absmax, v_absmax }, hyper);
    });
}

/// One SGD update.
pub(crate) fn sgd(lanes: usize, p: &mut [f32], g: &[f32], hyper: &SgdHyper) {
    let (lanes, step) = slice_split(lanes, p.len(), 1);
    let units = p.chunks_mut(step).zip(g.chunks(step));
    share_out(lanes, units, |(p, g)| spec::sgd(p, g, hyper));
}

/// One SGD update with momentum.
pub(crate) fn sgd_momentum(
    lanes: usize,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    momentum: f64,
    hyper: &SgdHyper,
) {
    let (lanes, step) = slice_split(lanes, p.len(), 1);
    let units = p.chunks_mut(step).zip(g.chunks(step)).zip(m.chunks_mut(step));
    share_out(lanes, units, |((p, g), m)| spec::sgd_momentum(p, g, m, momentum, hyper));
}

/// One Lion update.
pub(crate) fn lion(lanes: usize, p: &mut [f32], g: &[f32], m: &mut [f32], hyper: &LionHyper) {
    let (lanes, step) = slice_split(lanes, p.len(), 1);
    let units = p.chunks_mut(step).zip(g.chunks(step)).zip(m.chunks_mut(step));
    share_out(lanes, units, |((p, g), m)| spec::lion(p, g, m, hyper));
}

/// One Lion update with an 8-bit momentum; chunks are whole blocks.
pub(crate) fn lion8(
    lanes: usize,
    p: &mut [f32],
    g: &[f32],
    momentum: Momentum8<'_>,
    hyper: &LionHyper,
) {
    let (lanes, step) = slice_split(lanes, p.len(), BLOCK);
    let Momentum8 { m, absmax } = momentum;
    let values = p.chunks_mut(step).zip(g.chunks(step));
    let units = values.zip(m.chunks_mut(step).zip(absmax.chunks_mut(step / BLOCK)));
    share_out(lanes, units, |((p, g), (m, absmax))| {
        spec::lion8(p, g, Momentum8 { m, absmax }, hyper);
    });
}
