//! Updates, fused over the states of one tensor.

use lowtide_quant::dynamic8::{BLOCK, SIGNED, UNSIGNED, decode_block, encode_block};
use lowtide_tensor::Float;

use crate::contract;
use crate::shapes::{AdamHyper, LionHyper, Moments8, Momentum8, SgdHyper};

/// One AdamW update of one tensor, in place.
pub fn adamw<F: Float>(p: &mut [F], g: &[F], m: &mut [F], v: &mut [F], hyper: &AdamHyper) {
    contract::adamw(p, g, m, v, hyper);
    let factors = AdamFactors::new(hyper);
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        factors.update(p, g, m, v);
    }
}

/// One AdamW update of one tensor with 8-bit moments, in place: a block is decoded on the stack,
/// updated as [`adamw`] does, and encoded again with its new absmax.
pub fn adamw8<F: Float>(p: &mut [F], g: &[F], moments: Moments8<'_>, hyper: &AdamHyper) {
    contract::adamw8(p, g, &moments, hyper);
    let factors = AdamFactors::new(hyper);
    let Moments8 { m, v, m_absmax, v_absmax } = moments;
    let values = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
    let codes = m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK));
    let absmaxes = m_absmax.iter_mut().zip(v_absmax);
    for (((p, g), (m_codes, v_codes)), (m_absmax, v_absmax)) in values.zip(codes).zip(absmaxes) {
        let (mut m, mut v) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
        let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
        decode_block(m_codes, *m_absmax, &SIGNED, m);
        decode_block(v_codes, *v_absmax, &UNSIGNED, v);
        for (((p, &g), m32), v32) in p.iter_mut().zip(g).zip(&mut *m).zip(&mut *v) {
            let (mut m, mut v) = (F::from_f32(*m32), F::from_f32(*v32));
            factors.update(p, g, &mut m, &mut v);
            (*m32, *v32) = (m.to_f32(), v.to_f32());
        }
        *m_absmax = encode_block(m, &SIGNED, m_codes);
        *v_absmax = encode_block(v, &UNSIGNED, v_codes);
    }
}

/// One SGD update of one tensor, in place.
pub fn sgd<F: Float>(p: &mut [F], g: &[F], hyper: &SgdHyper) {
    contract::sgd(p, g);
    let (lr, decay) = (F::from_f64(hyper.lr), F::from_f64(hyper.weight_decay));
    let scale = F::from_f64(hyper.grad_scale);
    for (p, &g) in p.iter_mut().zip(g) {
        *p -= lr * (scale * g + decay * *p);
    }
}

/// One SGD update of one tensor with momentum, in place.
pub fn sgd_momentum<F: Float>(p: &mut [F], g: &[F], m: &mut [F], momentum: f64, hyper: &SgdHyper) {
    contract::sgd_momentum(p, g, m);
    let (lr, decay) = (F::from_f64(hyper.lr), F::from_f64(hyper.weight_decay));
    let (scale, momentum) = (F::from_f64(hyper.grad_scale), F::from_f64(momentum));
    for ((p, &g), m) in p.iter_mut().zip(g).zip(m) {
        *m = momentum * *m + (scale * g + decay * *p);
        *p -= lr * *m;
    }
}

/// One Lion update of one tensor, in place.
pub fn lion<F: Float>(p: &mut [F], g: &[F], m: &mut [F], hyper: &LionHyper) {
    contract::lion(p, g, m);
    let factors = LionFactors::new(hyper);
    for ((p, &g), m) in p.iter_mut().zip(g).zip(m) {
        factors.update(p, g, m);
    }
}

/// One Lion update of one tensor with an 8-bit momentum, in place: a block is decoded on the stack,
/// updated as [`lion`] does, and encoded again with its new absmax.
pub fn lion8<F: Float>(p: &mut [F], g: &[F], momentum: Momentum8<'_>, hyper: &LionHyper) {
    contract::lion8(p, g, &momentum);
    let factors = LionFactors::new(hyper);
    let values = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
    let stored = momentum.m.chunks_mut(BLOCK).zip(momentum.absmax);
    for ((p, g), (codes, absmax)) in values.zip(stored) {
        let mut m = [0.0_f32; BLOCK];
        let m = &mut m[..p.len()];
        decode_block(codes, *absmax, &SIGNED, m);
        for ((p, &g), m32) in p.iter_mut().zip(g).zip(&mut *m) {
            let mut m = F::from_f32(*m32);
            factors.update(p, g, &mut m);
            *m32 = m.to_f32();
        }
        *absmax = encode_block(m, &SIGNED, codes);
    }
}

/// The scalars of one Lion update: reckoned in f64, rounded once.
#[derive(Clone, Copy, Debug)]
pub struct LionFactors<F> {
    /// Factor on the gradient.
    pub grad_scale: F,
    /// Factor on the parameter: what decay leaves of it.
    pub shrink: F,
    /// Factors on the momentum and on the gradient in what the direction is taken of.
    pub beta1: F,
    /// The second of them, `1 - beta1`.
    pub fresh1: F,
    /// Factors on the momentum and on the gradient that enters it.
    pub beta2: F,
    /// The second of them, `1 - beta2`.
    pub fresh2: F,
    /// How far a parameter moves.
    pub lr: F,
}

impl<F: Float> LionFactors<F> {
    /// The scalars of an update.
    #[must_use]
    pub fn new(hyper: &LionHyper) -> Self {
        Self {
            grad_scale: F::from_f64(hyper.grad_scale),
            shrink: F::from_f64(1.0 - hyper.lr * hyper.weight_decay),
            beta1: F::from_f64(hyper.beta1),
            fresh1: F::from_f64(1.0 - hyper.beta1),
            beta2: F::from_f64(hyper.beta2),
            fresh2: F::from_f64(1.0 - hyper.beta2),
            lr: F::from_f64(hyper.lr),
        }
    }

    fn update(&self, p: &mut F, g: F, m: &mut F) {
        let g = self.grad_scale * g;
        let direction = self.beta1 * *m + self.fresh1 * g;
        let step = match direction {
            up if up > F::ZERO => self.lr,
            down if down < F::ZERO => -self.lr,
            _ => F::ZERO,
        };
        *p = *p * self.shrink - step;
        *m = self.beta2 * *m + self.fresh2 * g;
    }
}

/// The scalars of one AdamW update: reckoned in f64, rounded once.
#[derive(Clone, Copy, Debug)]
pub struct AdamFactors<F> {
    /// Factor on the gradient.
    pub grad_scale: F,
    /// Factor on the parameter: what decay leaves of it.
    pub shrink: F,
    /// Factors on the first moment and on the gradient that enters it.
    pub beta1: F,
    /// The second of them, `1 - beta1`.
    pub fresh1: F,
    /// Factors on the second moment and on the squared gradient that enters it.
    pub beta2: F,
    /// The second of them, `1 - beta2`.
    pub fresh2: F,
    /// `sqrt(1 - beta2^t)`, which divides the root of the second moment.
    pub root_correction2: F,
    /// Added to the denominator.
    pub eps: F,
    /// `lr / (1 - beta1^t)`.
    pub step_size: F,
}

impl<F: Float> AdamFactors<F> {
    /// The scalars of update `hyper.step`.
    #[must_use]
    pub fn new(hyper: &AdamHyper) -> Self {
        let correction1 = 1.0 - power(hyper.beta1, hyper.step);
        let correction2 = 1.0 - power(hyper.beta2, hyper.step);
        Self {
            grad_scale: F::from_f64(hyper.grad_scale),
            shrink: F::from_f64(1.0 - hyper.lr * hyper.weight_decay),
            beta1: F::from_f64(hyper.beta1),
            fresh1: F::from_f64(1.0 - hyper.beta1),
            beta2: F::from_f64(hyper.beta2),
            fresh2: F::from_f64(1.0 - hyper.beta2),
            root_correction2: F::from_f64(Float::sqrt(correction2)),
            eps: F::from_f64(hyper.eps),
            step_size: F::from_f64(hyper.lr / correction1),
        }
    }

    fn update(&self, p: &mut F, g: F, m: &mut F, v: &mut F) {
        let g = self.grad_scale * g;
        *p *= self.shrink;
        *m = self.beta1 * *m + self.fresh1 * g;
        *v = self.beta2 * *v + self.fresh2 * g * g;
        let denominator = v.sqrt() / self.root_correction2 + self.eps;
        *p -= self.step_size * *m / denominator;
    }
}

/// `base` to a whole power, by squaring: the same bits on every platform.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}
