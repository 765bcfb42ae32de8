//! The optimizer suite passes a rule that keeps the contract and catches ones that do not.

use lowtide_backend::Backend;
use lowtide_conformance::{optimizer, optimizer_at_rest};
use lowtide_optim::{Optimizer, StepHyper};

/// What is wrong with gradient descent that remembers its last gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    Nothing,
    OneStateForAll,
    LooksAround,
    KeepsOldState,
    IgnoresScale,
    IgnoresRate,
    Climbs,
    Remembers,
}

use Flaw::*;

struct Memory(Flaw);

impl Optimizer for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn state_words(&self, tensors: &[usize]) -> usize {
        tensors.iter().sum::<usize>() + usize::from(self.0 == OneStateForAll)
    }

    fn init(&self, _tensors: &[usize], state: &mut [f32]) {
        if self.0 != KeepsOldState {
            state.fill(0.0);
        }
    }

    fn update(
        &self,
        _be: &dyn Backend<f32>,
        _tensors: &[usize],
        p: &mut [f32],
        g: &[f32],
        state: &mut [f32],
        step: &StepHyper,
    ) {
        let scale = if self.0 == IgnoresScale { 1.0 } else { step.grad_scale as f32 };
        let rate = match self.0 {
            IgnoresRate => 0.1,
            Climbs => -step.lr as f32,
            _ => step.lr as f32,
        };
        let around = if self.0 == LooksAround { g.iter().sum::<f32>() } else { 0.0 };
        for ((p, g), last) in p.iter_mut().zip(g).zip(state) {
            let g = scale * (g + around);
            *p -= rate * (g + 0.5 * *last);
            *last = g;
        }
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        if self.0 != Remembers {
            (0..n).filter(|&i| which(i)).for_each(|i| state[i] = 0.0);
        }
    }
}

#[test]
fn a_sound_rule_passes() {
    optimizer(&Memory(Nothing));
    optimizer_at_rest(&Memory(Nothing));
}

#[test]
#[should_panic(expected = "memory: a state without tensors")]
fn a_state_that_is_not_additive_is_caught() {
    optimizer(&Memory(OneStateForAll));
}

#[test]
#[should_panic(expected = "memory: parameters, updated in two segments: element 0")]
fn a_rule_that_looks_at_other_tensors_is_caught() {
    optimizer(&Memory(LooksAround));
}

#[test]
#[should_panic(expected = "memory: parameters at rest: element 0 is NaN")]
fn an_uninitialised_state_is_caught() {
    optimizer_at_rest(&Memory(KeepsOldState));
}

#[test]
#[should_panic(expected = "memory: parameters after updates with a scaled gradient: element 0")]
fn an_ignored_scale_is_caught() {
    optimizer(&Memory(IgnoresScale));
}

#[test]
#[should_panic(expected = "memory: parameters at learning rate 0: element 0")]
fn an_ignored_rate_is_caught() {
    optimizer(&Memory(IgnoresRate));
}

#[test]
#[should_panic(expected = "memory: element 0 of 1 is")]
fn a_rule_that_cannot_forget_is_caught() {
    optimizer(&Memory(Remembers));
}

#[test]
#[should_panic(expected = "along the gradient")]
fn a_rule_that_climbs_is_caught() {
    optimizer(&Memory(Climbs));
}
