//! Trains a LoRA on one packed matrix, from parts alone: no model, no file, no trainer.
//!
//! `cargo run --release --example compose` packs a random matrix, changes it by a little of rank 2,
//! and lets an adapter of rank 4 find that change from inputs and outputs. The four crates it is
//! made of (`quant`, `backend`, `simd`, `lora`) and the contract between them (`adapter`,
//! `tensor`) can be used in a program of your own without any other part of Lowtide.
#![allow(clippy::print_stdout, reason = "a program talks to the person who runs it")]

use lowtide::adapter::{
    Adapter, Config, Cx, Forward, FrozenLinear, Init, Linear, Phase, Rows, Vjp,
};
use lowtide::backend::{Backend, DropoutKey, OpShape, Span};
use lowtide::lora::Lora;
use lowtide::quant::{BlockFormat, QMat, formats::Q4_0};
use lowtide::simd::Simd;
use lowtide::tensor::{Mat, MatMut};

const TOKENS: usize = 128;
const IN: usize = 64;
const OUT: usize = 32;
const UPDATES: usize = 200;
const LR: f32 = 0.1;

fn main() {
    let losses = losses();
    for (update, loss) in losses.iter().enumerate().step_by(UPDATES / 10) {
        println!("update {update:>3}: loss {loss:.3e}");
    }
    println!("the loss fell by a factor of {:.0}", losses[0] / losses[UPDATES - 1]);
}

/// Trains, and tells the loss before every update: half the squared error of a token.
pub(crate) fn losses() -> Vec<f32> {
    let be: &dyn Backend = &Simd::new(2);
    let mut noise = Noise(7);
    let dense = noise.values(OUT * IN, 0.2);
    let mut packed = vec![0; OUT * Q4_0.row_bytes(IN).expect("whole blocks")];
    Q4_0.encode(&dense, &mut packed);
    let weight = QMat::new(&Q4_0, OUT, IN, &packed).expect("as many bytes as the shape takes");
    let base = FrozenLinear::new(weight, None);
    let config = Config { rank: 4, alpha: 8.0, ..Config::default() };
    let lora = Lora::new(IN, OUT, &config).expect("a sound configuration");

    // Everything the step works in; the adapter owns nothing.
    let needed = lora
        .req(be, &base, TOKENS)
        .scratch
        .max(be.req(OpShape::Matmul { m: TOKENS, k: IN, n: OUT }).scratch);
    let mut scratch = vec![0.0; needed];
    let mut y = vec![0.0; TOKENS * OUT];
    let mut p = start(&lora, &mut noise);
    let mut grad = vec![0.0; p.len()];
    let inputs = noise.values(TOKENS * IN, 1.0);
    let x = Mat::new(&inputs, TOKENS, IN);
    let wanted = target(be, &base, x, &mut noise, &mut scratch);

    let spans = [Span { start: 0, prompt_end: 0, end: TOKENS }];
    let key = DropoutKey { seed: 0, step: 0, site: 0 };
    let rows = Rows { spans: &spans, row0: 0, past: 0, key, phase: Phase::Train };
    let mut losses = Vec::with_capacity(UPDATES);
    for _ in 0..UPDATES {
        let mut out = MatMut::new(&mut y, TOKENS, OUT);
        let cx = Cx { be, base: &base, p: &p, fixed: &[], rows };
        let operands = Forward { x, y: out.rb(), kept: None, state: None, scratch: &mut scratch };
        lora.apply(&cx, operands);
        // y becomes the error, and the error over the tokens is the gradient of the loss.
        be.axpby(-1.0, Mat::new(&wanted, TOKENS, OUT), 1.0, out.rb());
        losses.push(be.stats(&y).sum_squares as f32 / (2 * TOKENS) as f32);
        y.iter_mut().for_each(|error| *error /= TOKENS as f32);
        grad.fill(0.0);
        let dy = Mat::new(&y, TOKENS, OUT);
        let operands = Vjp {
            x: Some(x),
            y: None,
            kept: None,
            dy,
            dx: None,
            grad: &mut grad,
            scratch: &mut scratch,
        };
        lora.vjp(&cx, operands);
        p.iter_mut().zip(&grad).for_each(|(p, g)| *p -= LR * g);
    }
    losses
}

/// Parameters as the method wants them to start.
fn start(lora: &Lora, noise: &mut Noise) -> Vec<f32> {
    let specs = Adapter::<f32>::params(lora);
    let values = specs.iter().flat_map(|spec| match spec.init {
        Init::Uniform { bound } => noise.values(spec.len(), bound),
        _ => vec![0.0; spec.len()],
    });
    values.collect()
}

/// What the base would say if its matrix were changed by `U V`, of rank 2.
fn target(
    be: &dyn Backend,
    base: &dyn Linear,
    x: Mat<'_, f32>,
    noise: &mut Noise,
    scratch: &mut [f32],
) -> Vec<f32> {
    let (u, v) = (noise.values(OUT * 2, 0.2), noise.values(2 * IN, 1.0));
    let (u, v) = (Mat::new(&u, OUT, 2), Mat::new(&v, 2, IN));
    let mut low = vec![0.0; TOKENS * 2];
    let mut y = vec![0.0; TOKENS * OUT];
    base.apply(be, x, MatMut::new(&mut y, TOKENS, OUT), scratch);
    be.matmul(1.0, x, v.t(), 0.0, MatMut::new(&mut low, TOKENS, 2), scratch);
    let low = Mat::new(&low, TOKENS, 2);
    be.matmul(1.0, low, u.t(), 1.0, MatMut::new(&mut y, TOKENS, OUT), scratch);
    y
}

/// Numbers that look random and are the same on every machine.
struct Noise(u64);

impl Noise {
    /// `count` numbers in `±bound`.
    fn values(&mut self, count: usize, bound: f32) -> Vec<f32> {
        let next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let unit = (self.0 >> 40) as f32 / (1 << 24) as f32;
            bound * (2.0 * unit - 1.0)
        };
        std::iter::repeat_with(next).take(count).collect()
    }
}
