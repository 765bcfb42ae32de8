//! Updates against the recorded runs of torch and of bitsandbytes' rule.

use lowtide_backend::{AdamHyper, Backend, LionHyper, Moments8, Momentum8, SgdHyper};
use lowtide_quant::dynamic8::{BLOCK, SIGNED, UNSIGNED, blocks, decode_block};
use lowtide_testkit::compare::{assert_bits, assert_close};
use lowtide_testkit::golden::{Arrays, golden_dir, load_raw, load_safetensors};

use crate::support::{SPEC, normal};

/// The settings of the recorded runs, at some step.
fn recorded(step: u64) -> AdamHyper {
    let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
    AdamHyper { lr: 1e-2, beta1, beta2, eps, weight_decay: 0.01, step, grad_scale: 1.0 }
}

fn bnb() -> Arrays {
    load_safetensors(&golden_dir().join("bnb/bnb.safetensors"))
}

/// 8-bit states that own their memory.
struct States {
    codes: [Vec<u8>; 2],
    absmax: [Vec<f32>; 2],
}

impl States {
    fn new(len: usize) -> Self {
        let (codes, absmax) = (vec![0; len], vec![0.0; blocks(len)]);
        Self { codes: [codes.clone(), codes], absmax: [absmax.clone(), absmax] }
    }

    fn lend(&mut self) -> Moments8<'_> {
        let ([m, v], [m_absmax, v_absmax]) = (&mut self.codes, &mut self.absmax);
        Moments8 { m, v, m_absmax, v_absmax }
    }
}

#[test]
fn adamw_follows_torch() {
    let golden = bnb();
    let mut p = golden["adamw8_p0"].data.clone();
    let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
    let grads = golden["adamw8_grads"].data.chunks(p.len());
    for (g, step) in grads.zip(1..) {
        SPEC.adamw(&mut p, g, &mut m, &mut v, &recorded(step));
    }
    assert_close("p", &p, &golden["adamw32_p_after5"].data, 1e-7, 1e-6);
}

#[test]
fn adamw8_follows_the_nearest_rule() {
    let golden = bnb();
    let mut p = golden["adamw8_p0"].data.clone();
    let mut states = States::new(p.len());
    let grads = golden["adamw8_grads"].data.chunks(p.len());
    for (g, step) in grads.zip(1..) {
        SPEC.adamw8(&mut p, g, states.lend(), &recorded(step));
        if step == 1 {
            assert_close("p 1", &p, &golden["adamw8_nearest_p_after1"].data, 1e-7, 1e-6);
        }
    }
    assert_close("p 5", &p, &golden["adamw8_nearest_p_after5"].data, 1e-7, 1e-6);
    let path = golden_dir().join("bnb/bnb.safetensors");
    for (moment, n) in ["1", "2"].into_iter().enumerate() {
        let codes = load_raw(&path, &format!("adamw8_nearest_state{n}_after5"));
        let differing = states.codes[moment].iter().zip(&codes).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "codes of moment {n}");
        let absmax = &golden[&format!("adamw8_nearest_absmax{n}_after5")].data;
        assert_close("absmax", &states.absmax[moment], absmax, 0.0, 1e-6);
    }
}

#[test]
fn blocks_of_a_tensor_are_updated_apart() {
    let len = 2 * BLOCK + 30;
    let (p, g) = (normal::<f32>(1, len), normal::<f32>(2, len));
    let (mut whole, mut states) = (p.clone(), States::new(len));
    let (mut parts, mut part_states) = (p, States::new(len));
    for step in 1..4 {
        SPEC.adamw8(&mut whole, &g, states.lend(), &recorded(step));
        for block in 0..blocks(len) {
            let at = block * BLOCK..len.min((block + 1) * BLOCK);
            let all = part_states.lend();
            let moments = Moments8 {
                m: &mut all.m[at.clone()],
                v: &mut all.v[at.clone()],
                m_absmax: &mut all.m_absmax[block..=block],
                v_absmax: &mut all.v_absmax[block..=block],
            };
            SPEC.adamw8(&mut parts[at.clone()], &g[at], moments, &recorded(step));
        }
    }
    assert_bits("p", &parts, &whole);
    assert_eq!(part_states.codes, states.codes);
}

#[test]
fn eight_bits_decode_to_nearly_the_moments() {
    let len = 300;
    let (mut p, g) = (normal::<f32>(3, len), normal::<f32>(4, len));
    let (mut p32, mut m, mut v) = (p.clone(), vec![0.0; len], vec![0.0; len]);
    let mut states = States::new(len);
    SPEC.adamw8(&mut p, &g, states.lend(), &recorded(1));
    SPEC.adamw(&mut p32, &g, &mut m, &mut v, &recorded(1));
    assert_bits("the first update starts from exact zeros", &p, &p32);
    let mut decoded = vec![0.0; BLOCK];
    decode_block(&states.codes[0][..BLOCK], states.absmax[0][0], &SIGNED, &mut decoded);
    // Half the widest step of a map: 0.9 / 64 of the absmax with a sign, 0.9 / 128 without.
    let half_step = f64::from(states.absmax[0][0]) * 0.9 / 128.0;
    assert_close("m", &decoded, &m[..BLOCK], half_step, 1e-6);
    decode_block(&states.codes[1][..BLOCK], states.absmax[1][0], &UNSIGNED, &mut decoded);
    let half_step = f64::from(states.absmax[1][0]) * 0.9 / 256.0;
    assert_close("v", &decoded, &v[..BLOCK], half_step, 1e-6);
}

#[test]
fn gradients_of_zero_leave_only_the_decay() {
    let hyper = recorded(1);
    let (mut p, mut states) = (vec![2.0_f32; 3], States::new(3));
    SPEC.adamw8(&mut p, &[0.0; 3], states.lend(), &hyper);
    let want = 2.0 * (1.0 - 1e-4_f64) as f32;
    assert_eq!(p, [want; 3]);
    assert_eq!(states.absmax, [[0.0], [0.0]]);
}

#[test]
fn a_gradient_scale_is_a_scaled_gradient() {
    let (p, g) = (normal::<f32>(5, 50), normal::<f32>(6, 50));
    let halved: Vec<f32> = g.iter().map(|g| 0.5 * g).collect();
    let update = |g: &[f32], grad_scale: f64| {
        let (mut p, mut m, mut v) = (p.clone(), vec![0.1; 50], vec![0.2; 50]);
        SPEC.adamw(&mut p, g, &mut m, &mut v, &AdamHyper { grad_scale, ..recorded(3) });
        let sgd = SgdHyper { lr: 0.1, weight_decay: 0.01, grad_scale };
        SPEC.sgd(&mut p, g, &sgd);
        [p, m, v].concat()
    };
    assert_bits("half", &update(&g, 0.5), &update(&halved, 1.0));
}

#[test]
fn adamw_is_its_formula_in_f64() {
    let (p0, g) = (normal::<f64>(7, 20), normal::<f64>(8, 20));
    let hyper = AdamHyper { step: 1000, grad_scale: -2.0, ..recorded(1) };
    let (mut p, mut m, mut v) = (p0.clone(), vec![0.3; 20], vec![0.4; 20]);
    SPEC.adamw(&mut p, &g, &mut m, &mut v, &hyper);
    for i in 0..20 {
        let g = -2.0 * g[i];
        let (want_m, want_v) = (0.9 * 0.3 + 0.1 * g, 0.999 * 0.4 + 0.001 * g * g);
        let m_hat = want_m / (1.0 - 0.9_f64.powi(1000));
        let v_hat = want_v / (1.0 - 0.999_f64.powi(1000));
        let want = p0[i] * (1.0 - 1e-4) - 1e-2 * m_hat / (v_hat.sqrt() + 1e-8);
        assert_close("p, m, v", &[p[i], m[i], v[i]], &[want, want_m, want_v], 0.0, 1e-12);
    }
}

#[test]
fn sgd_adds_decay_to_the_gradient() {
    let mut p = [2.0_f64, -4.0];
    let hyper = SgdHyper { lr: 0.5, weight_decay: 0.25, grad_scale: 2.0 };
    SPEC.sgd(&mut p, &[1.0, 3.0], &hyper);
    assert_eq!(p, [2.0 - 0.5 * (2.0 + 0.5), -4.0 - 0.5 * (6.0 - 1.0)]);
}

#[test]
fn momentum_is_its_formula_in_f64() {
    let (p0, m0) = (normal::<f64>(9, 20), normal::<f64>(10, 20));
    let hyper = SgdHyper { lr: 0.5, weight_decay: 0.25, grad_scale: 2.0 };
    let (mut p, mut m) = (p0.clone(), m0.clone());
    let (mut want_p, mut want_m) = (p0, m0);
    for update in 0..3 {
        let g = normal::<f64>(11 + update, 20);
        SPEC.sgd_momentum(&mut p, &g, &mut m, 0.9, &hyper);
        for i in 0..20 {
            want_m[i] = 0.9 * want_m[i] + 2.0 * g[i] + 0.25 * want_p[i];
            want_p[i] -= 0.5 * want_m[i];
        }
    }
    assert_close("m", &m, &want_m, 0.0, 1e-13);
    assert_close("p", &p, &want_p, 0.0, 1e-12);
}

#[test]
fn no_momentum_is_plain_descent() {
    let (p0, g) = (normal::<f32>(12, 50), normal::<f32>(13, 50));
    let hyper = SgdHyper { lr: 0.3, weight_decay: 0.1, grad_scale: 0.7 };
    let (mut plain, mut with, mut m) = (p0.clone(), p0, vec![5.0; 50]);
    SPEC.sgd(&mut plain, &g, &hyper);
    SPEC.sgd_momentum(&mut with, &g, &mut m, 0.0, &hyper);
    assert_bits("p", &with, &plain);
}

const LION: LionHyper =
    LionHyper { lr: 1e-2, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, grad_scale: -2.0 };

#[test]
fn lion_is_its_formula_in_f64() {
    let (mut p, mut m) = (normal::<f64>(14, 40), vec![0.0; 40]);
    let (mut want_p, mut want_m) = (p.clone(), m.clone());
    for update in 0..4 {
        let g = normal::<f64>(15 + update, 40);
        SPEC.lion(&mut p, &g, &mut m, &LION);
        for i in 0..40 {
            let direction = 0.9 * want_m[i] - 0.1 * 2.0 * g[i];
            want_p[i] -= 1e-2 * (direction.signum() + 0.1 * want_p[i]);
            want_m[i] = 0.99 * want_m[i] - 0.01 * 2.0 * g[i];
        }
    }
    assert_close("m", &m, &want_m, 0.0, 1e-12);
    assert_close("p", &p, &want_p, 1e-15, 1e-12);
}

#[test]
fn lion_leaves_where_it_has_no_direction() {
    let hyper = LionHyper { weight_decay: 0.0, grad_scale: 1.0, ..LION };
    let (mut p, mut m) = ([1.0_f32, -2.0, 0.5], [0.0; 3]);
    SPEC.lion(&mut p, &[0.0, -0.0, 1e-30], &mut m, &hyper);
    assert_eq!(p, [1.0, -2.0, 0.5 - 1e-2]);
}

#[test]
fn an_8_bit_momentum_is_nearly_the_exact_one() {
    let len = BLOCK + 40;
    let hyper = LionHyper { grad_scale: 1.0, ..LION };
    let (p0, g) = (normal::<f32>(20, len), normal::<f32>(21, len));
    let (mut p, mut codes, mut absmax) = (p0.clone(), vec![127; len], vec![0.0; 2]);
    let (mut p32, mut m32) = (p0, vec![0.0; len]);
    for _ in 0..3 {
        let momentum = Momentum8 { m: &mut codes, absmax: &mut absmax };
        SPEC.lion8(&mut p, &g, momentum, &hyper);
        SPEC.lion(&mut p32, &g, &mut m32, &hyper);
    }
    assert_bits("directions of one gradient do not depend on rounding", &p, &p32);
    let mut decoded = vec![0.0; BLOCK];
    decode_block(&codes[..BLOCK], absmax[0], &SIGNED, &mut decoded);
    // Three roundings to within half the widest step of the map, 0.9 / 64 of the absmax.
    let within = 3.0 * f64::from(absmax[0]) * 0.9 / 128.0;
    assert_close("m", &decoded, &m32[..BLOCK], within, 1e-6);
}
