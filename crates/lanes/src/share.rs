//! Sharing work over the threads of the caller's rayon pool without allocating.
//!
//! An operation describes itself as an iterator of *units*, each owning the part of the output that
//! it writes. Up to `lanes` workers, each with a part of the scratch, take units from the iterator
//! until none is left: fast workers take more, and which worker computes a unit changes no bit.
//! Workers are started by [`rayon::join`], whose bookkeeping lives on the stack.

use std::sync::{Mutex, PoisonError};

/// Runs `work` on every unit, on at most `lanes` threads at once, each with `scratch_each` elements
/// of `scratch`.
///
/// # Panics
/// When `scratch` is shorter than `lanes * scratch_each`.
pub fn share<I>(
    lanes: usize,
    scratch: &mut [f32],
    scratch_each: usize,
    units: I,
    work: impl Fn(I::Item, &mut [f32]) + Sync,
) where
    I: Iterator + Send,
{
    let lanes = lanes.max(1);
    assert!(
        scratch.len() >= lanes * scratch_each,
        "scratch of {} elements for {lanes} lanes of {scratch_each}",
        scratch.len()
    );
    if lanes == 1 {
        let own = &mut scratch[..scratch_each];
        units.for_each(|unit| work(unit, own));
    } else {
        spread(lanes, scratch, scratch_each, &Mutex::new(units), &work);
    }
}

/// [`share`] for work that needs no scratch.
pub fn share_out<I>(lanes: usize, units: I, work: impl Fn(I::Item) + Sync)
where
    I: Iterator + Send,
{
    share(lanes, &mut [], 0, units, |unit, _| work(unit));
}

fn spread<I>(
    lanes: usize,
    scratch: &mut [f32],
    scratch_each: usize,
    units: &Mutex<I>,
    work: &(impl Fn(I::Item, &mut [f32]) + Sync),
) where
    I: Iterator + Send,
{
    if lanes > 1 {
        let half = lanes / 2;
        let (a, b) = scratch.split_at_mut(half * scratch_each);
        rayon::join(
            || spread(half, a, scratch_each, units, work),
            || spread(lanes - half, b, scratch_each, units, work),
        );
        return;
    }
    let own = &mut scratch[..scratch_each];
    while let Some(unit) = next(units) {
        work(unit, own);
    }
}

/// Takes a unit. The lock is released before the unit is worked on; it can only be poisoned by a
/// panic inside the iterator itself, after which stopping with that panic is all there is to do.
fn next<I: Iterator>(units: &Mutex<I>) -> Option<I::Item> {
    units.lock().unwrap_or_else(PoisonError::into_inner).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_unit_is_worked_on_once() {
        for lanes in 1..6 {
            let mut out = vec![0; 100];
            share_out(lanes, out.iter_mut().enumerate(), |(i, slot)| *slot += i + 1);
            assert_eq!(out, (1..=100).collect::<Vec<_>>(), "{lanes} lanes");
        }
    }

    #[test]
    fn lanes_never_share_scratch() {
        let mut scratch = vec![0.0; 4 * 3];
        let done = AtomicUsize::new(0);
        share(4, &mut scratch, 3, 0..64, |unit, own| {
            own.fill(unit as f32);
            std::thread::yield_now();
            assert!(own.iter().all(|&v| v == unit as f32));
            done.fetch_add(own.len(), Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 64 * 3);
    }

    #[test]
    #[should_panic(expected = "scratch of 5 elements for 2 lanes of 3")]
    fn short_scratch_is_refused() {
        share(2, &mut [0.0; 5], 3, 0..1, |_, _| ());
    }
}
