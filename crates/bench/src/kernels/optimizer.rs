//! Updates of parameters.

use lowtide_backend::{AdamHyper, LionHyper, Moments8, Momentum8};
use lowtide_quant::dynamic8;

use super::{Kernel, numbers};
use crate::Work;

const FLOAT: usize = size_of::<f32>();

/// So small a rate that no number of calls takes the parameters anywhere.
const HYPER: AdamHyper = AdamHyper {
    lr: 1e-9,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.01,
    step: 10,
    grad_scale: 1.0,
};

const LION: LionHyper =
    LionHyper { lr: 1e-9, beta1: 0.9, beta2: 0.99, weight_decay: 0.01, grad_scale: 1.0 };

/// AdamW and Lion with moments in f32 and in 8 bits.
pub(super) fn push(kernels: &mut Vec<Kernel>, len: usize) {
    kernels.push(Kernel::new(format!("adamw {len}"), Work::new(0, 7 * FLOAT * len), move || {
        let (mut p, g) = (numbers(len), numbers(len));
        let (mut m, mut v) = (vec![0.01; len], vec![0.01; len]);
        Box::new(move |backend| backend.adamw(&mut p, &g, &mut m, &mut v, &HYPER))
    }));
    let blocks = dynamic8::blocks(len);
    let bytes = 3 * FLOAT * len + 4 * (len + FLOAT * blocks);
    kernels.push(Kernel::new(format!("adamw8 {len}"), Work::new(0, bytes), move || {
        let (mut p, g) = (numbers(len), numbers(len));
        let (mut m, mut v) = (vec![140_u8; len], vec![40_u8; len]);
        let (mut m_absmax, mut v_absmax) = (vec![0.1; blocks], vec![0.1; blocks]);
        Box::new(move |backend| {
            let moments =
                Moments8 { m: &mut m, v: &mut v, m_absmax: &mut m_absmax, v_absmax: &mut v_absmax };
            backend.adamw8(&mut p, &g, moments, &HYPER);
        })
    }));
    kernels.push(Kernel::new(format!("lion {len}"), Work::new(0, 5 * FLOAT * len), move || {
        let (mut p, g, mut m) = (numbers(len), numbers(len), vec![0.01; len]);
        Box::new(move |backend| backend.lion(&mut p, &g, &mut m, &LION))
    }));
    let bytes = 3 * FLOAT * len + 2 * (len + FLOAT * blocks);
    kernels.push(Kernel::new(format!("lion8 {len}"), Work::new(0, bytes), move || {
        let (mut p, g) = (numbers(len), numbers(len));
        let (mut m, mut absmax) = (vec![140_u8; len], vec![0.1; blocks]);
        Box::new(move |backend| {
            let momentum = Momentum8 { m: &mut m, absmax: &mut absmax };
            backend.lion8(&mut p, &g, momentum, &LION);
        })
    }));
}
