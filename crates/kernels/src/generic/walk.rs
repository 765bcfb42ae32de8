//! Walks over slices, a register at a time: the only place where element-wise algorithms touch
//! memory.
//!
//! The elements behind the last whole register go through the same arithmetic, in a register whose
//! other lanes are zero, so an element's bits do not depend on where it stands.

use crate::simd::Simd;

/// Replaces `outputs` by what `f` makes of `inputs` and of what `outputs` held.
///
/// # Panics
/// When lengths differ.
#[inline(always)]
pub(crate) fn each<S: Simd, const I: usize, const O: usize>(
    s: S,
    inputs: [&[f32]; I],
    mut outputs: [&mut [f32]; O],
    f: impl Fn([S::F; I], [S::F; O]) -> [S::F; O],
) {
    let n = outputs.iter().map(|y| y.len()).max().unwrap_or(0);
    let level = inputs.iter().all(|x| x.len() == n) && outputs.iter().all(|y| y.len() == n);
    assert!(level, "slices of different lengths");
    let mut at = 0;
    while at < n {
        let lanes = S::LANES.min(n - at);
        let (mut xs, mut ys) = ([s.splat(0.0); I], [s.splat(0.0); O]);
        for (x, from) in xs.iter_mut().zip(&inputs) {
            // SAFETY: all slices have `n` elements, of which `lanes` are left from `at` on.
            *x = unsafe { load(s, from.as_ptr().add(at), lanes) };
        }
        for (y, from) in ys.iter_mut().zip(&outputs) {
            // SAFETY: as above.
            *y = unsafe { load(s, from.as_ptr().add(at), lanes) };
        }
        // One call, so that the compiler has every reason to inline it.
        let ys = f(xs, ys);
        for (y, to) in ys.into_iter().zip(&mut outputs) {
            // SAFETY: as above.
            unsafe {
                let to = to.as_mut_ptr().add(at);
                if lanes == S::LANES { s.store(to, y) } else { s.store_part(to, y, lanes) }
            }
        }
        at += lanes;
    }
}

/// The sum of lanes of what `f` adds to a register for each register of `inputs`: four chains,
/// joined pairwise. `f` must add nothing for zeros.
///
/// # Panics
/// When lengths differ.
#[inline(always)]
pub(crate) fn fold<S: Simd, const I: usize>(
    s: S,
    inputs: [&[f32]; I],
    f: impl Fn(S::F, [S::F; I]) -> S::F,
) -> f32 {
    let n = inputs.iter().map(|x| x.len()).max().unwrap_or(0);
    assert!(inputs.iter().all(|x| x.len() == n), "slices of different lengths");
    let mut chains = [s.splat(0.0); 4];
    let mut at = 0;
    while at < n {
        for chain in &mut chains {
            if at < n {
                let lanes = S::LANES.min(n - at);
                let mut xs = [s.splat(0.0); I];
                for (x, from) in xs.iter_mut().zip(&inputs) {
                    // SAFETY: all slices have `n` elements, of which `lanes` are left.
                    *x = unsafe { load(s, from.as_ptr().add(at), lanes) };
                }
                *chain = f(*chain, xs);
                at += lanes;
            }
        }
    }
    let [a, b, c, d] = chains;
    s.sum(s.add(s.add(a, c), s.add(b, d)))
}

/// A register, or the first `lanes` lanes of one.
///
/// # Safety
/// `from` is readable for `lanes` elements, at most `LANES`.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, from: *const f32, lanes: usize) -> S::F {
    // SAFETY: the caller vouches for as many elements.
    unsafe { if lanes == S::LANES { s.load(from) } else { s.load_part(from, lanes) } }
}
