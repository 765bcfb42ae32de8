//! AdamW against the reference runs in `testdata/golden/bnb`, through the trait.

use std::vec;
use std::vec::Vec;

use lowtide_backend::Scalar;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::golden::{Arrays, golden_dir, load_raw, load_safetensors};

use super::*;

/// Largest difference from the reference that the order of f32 operations explains: an update is
/// at most about 1e-2, and a few roundings move it by some 1e-7 of itself.
const ATOL: f64 = 1e-8;
const RTOL: f64 = 2e-6;

fn golden() -> Arrays {
    load_safetensors(&golden_dir().join("bnb/bnb.safetensors"))
}

fn raw(name: &str) -> Vec<u8> {
    load_raw(&golden_dir().join("bnb/bnb.safetensors"), name)
}

/// Five updates with the reference's gradients; `seen` looks at parameters and state after each.
fn run(optimizer: &dyn Optimizer, mut seen: impl FnMut(u64, &[f32], &[f32])) {
    let golden = golden();
    let mut p = golden["adamw8_p0"].data.clone();
    let tensors = [p.len()];
    let mut state = vec![f32::NAN; optimizer.state_words(&tensors)];
    optimizer.init(&tensors, &mut state);
    for (step, g) in (1..).zip(golden["adamw8_grads"].data.chunks(p.len())) {
        let hyper = StepHyper { lr: 1e-2, step, grad_scale: 1.0 };
        optimizer.update(&Scalar, &tensors, &mut p, g, &mut state, &hyper);
        seen(step, &p, &state);
    }
}

fn reference() -> AdamW {
    AdamW { weight_decay: 0.01, ..AdamW::default() }
}

#[test]
fn adamw_matches_the_reference() {
    let golden = golden();
    run(&reference(), |step, p, _| {
        if step == 5 {
            assert_close("p", p, &golden["adamw32_p_after5"].data, ATOL, RTOL);
        }
    });
}

#[test]
fn adamw8_matches_the_reference_in_parameters_codes_and_absmax() {
    let golden = golden();
    run(&AdamW8(reference()), |step, p, state| {
        if step == 1 {
            assert_close("p 1", p, &golden["adamw8_nearest_p_after1"].data, ATOL, RTOL);
        }
        if step < 5 {
            return;
        }
        assert_close("p 5", p, &golden["adamw8_nearest_p_after5"].data, ATOL, RTOL);
        let mut state = state.to_vec();
        let Moments8 { m, v, m_absmax, v_absmax } = moments8(p.len(), &mut state);
        assert_eq!(m, raw("adamw8_nearest_state1_after5"));
        assert_eq!(v, raw("adamw8_nearest_state2_after5"));
        let absmax = |name| &golden[name].data[..];
        assert_close("absmax 1", m_absmax, absmax("adamw8_nearest_absmax1_after5"), 0.0, 1e-6);
        assert_close("absmax 2", v_absmax, absmax("adamw8_nearest_absmax2_after5"), 0.0, 1e-6);
    });
}

#[test]
fn states_take_the_bytes_that_are_documented() {
    let bytes = |optimizer: &dyn Optimizer, tensors: &[usize]| 4 * optimizer.state_words(tensors);
    let (adamw, adamw8) = (AdamW::default(), AdamW8::default());
    assert_eq!(bytes(&adamw, &[1000, 24]), 8 * 1024);
    // Codes, blocks, and two bytes that fill the last word of an odd tensor.
    assert_eq!(bytes(&adamw8, &[]), 0);
    assert_eq!(bytes(&adamw8, &[1]), 2 + 2 + 8);
    assert_eq!(bytes(&adamw8, &[256]), 512 + 8);
    assert_eq!(bytes(&adamw8, &[257]), 514 + 2 + 2 * 8);
    assert_eq!(bytes(&adamw8, &[1000]), 2000 + 4 * 8);
    assert_eq!(bytes(&adamw8, &[256, 1, 1000]), 520 + 12 + 2032);
}

#[test]
fn the_parts_of_an_8_bit_state_follow_each_other() {
    let mut state = [0.0; 7];
    let parts = moments8(5, &mut state[..words8(5)]);
    parts.m.fill(0x11);
    parts.v.fill(0x22);
    parts.m_absmax.fill(3.0);
    parts.v_absmax.fill(4.0);
    let bytes: &[u8] = bytemuck::cast_slice(&state);
    assert_eq!(bytes[..12], [17, 17, 17, 17, 17, 34, 34, 34, 34, 34, 0, 0]);
    assert_eq!(state[3..], [3.0, 4.0, 0.0, 0.0]);
}

#[test]
#[should_panic(expected = "a state slab of 5 words for tensors that take 6")]
fn a_state_of_another_length_is_refused() {
    let step = StepHyper { lr: 0.1, step: 1, grad_scale: 1.0 };
    let (mut p, mut state) = ([0.0; 3], [0.0; 5]);
    AdamW::default().update(&Scalar, &[1, 2], &mut p, &[0.0; 3], &mut state, &step);
}
