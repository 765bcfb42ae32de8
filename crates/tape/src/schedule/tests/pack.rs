//! Placing buffers of random sizes and lifetimes.

use alloc::vec::Vec;

use lowtide_testkit::rng::Rng;
use proptest::prelude::*;

use crate::schedule::pack::{ALIGN, Interval, aligned, pack};

const STEPS: usize = 40;

fn intervals() -> impl Strategy<Value = Vec<Interval>> {
    let interval = (0..100_usize, 0..STEPS, 0..STEPS);
    let interval =
        interval.prop_map(|(len, a, b)| Interval { len, birth: a.min(b), death: a.max(b) });
    prop::collection::vec(interval, 0..30)
}

/// The most elements alive at once: no arena can be smaller.
fn live(intervals: &[Interval]) -> usize {
    let at = |step| intervals.iter().filter(move |i| i.birth <= step && step <= i.death);
    (0..STEPS).map(|step| at(step).map(|i| aligned(i.len)).sum()).max().unwrap()
}

proptest! {
    #[test]
    fn buffers_alive_together_lie_apart(intervals in intervals()) {
        let (offsets, extent) = pack(&intervals);
        prop_assert!(extent >= live(&intervals));
        for (i, (&at, a)) in offsets.iter().zip(&intervals).enumerate() {
            prop_assert!(at.is_multiple_of(ALIGN) && at + a.len <= extent);
            for (&other, b) in offsets.iter().zip(&intervals).take(i) {
                let together = a.birth <= b.death && b.birth <= a.death;
                prop_assert!(!together || at + a.len <= other || other + b.len <= at);
            }
        }
    }
}

#[test]
fn little_room_is_lost_on_average() {
    let (mut rng, rounds) = (Rng::new(1), 500);
    let mut draw = || {
        let long = rng.below(4) == 0;
        let (birth, steps) = (rng.below(STEPS), rng.below(if long { 30 } else { 5 }));
        let len = [16, 17, 32, 64, 64, 96, 256][rng.below(7)];
        Interval { len, birth, death: (birth + steps).min(STEPS - 1) }
    };
    let mut lost = 0.0;
    for n in 0..rounds {
        let intervals: Vec<Interval> = (0..5 + n % 30).map(|_| draw()).collect();
        lost += pack(&intervals).1 as f64 / live(&intervals) as f64 - 1.0;
    }
    assert!(lost / (rounds as f64) < 0.005, "{:.2} %", 100.0 * lost / rounds as f64);
}
