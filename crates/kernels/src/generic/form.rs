//! How integers lie in memory, and what multiplies them there.
//!
//! Rounded activations and gradients keep 16 bits a value, in groups of 32; how a group fills its
//! 64 bytes is its table's own. So is how many codes of weights an element of a panel holds: two of
//! 16 bits, or four of 8 where the codes of the format are that small.

use crate::simd::Simd;

/// Terms that share a scale.
pub(crate) const GROUP: usize = lowtide_quant::integers::GROUP;

/// One arrangement of integers.
pub(crate) trait Form<S: Simd> {
    /// Codes of weights in an element of 32 bits.
    const PER_ELEMENT: usize;

    /// Whether sums begin with other numbers than zero, which [`Form::starts`] tells.
    const STARTS: bool = false;

    /// Puts 32 rounded values where [`Form::dots`] looks for them.
    fn arrange(s: S, codes: &[i16; GROUP], to: &mut [i16; GROUP]);

    /// What the sums of 32 products of `V` registers of columns begin with, in any row; `load`
    /// gives register `v` of a row of codes.
    ///
    /// # Safety
    /// As for the codes of [`Form::dots`].
    #[inline(always)]
    unsafe fn starts<const V: usize>(
        s: S,
        _codes: *const f32,
        _codes_row: usize,
        _load: impl Fn(*const f32, usize) -> S::F,
    ) -> [S::I; V] {
        [s.splat_int(0); V]
    }

    /// The exact sums of 32 products each: `R` rows of arranged values by `V` registers of columns,
    /// for which `starts` is what [`Form::starts`] says. `load` gives register `v` of a row of
    /// codes.
    ///
    /// # Safety
    /// `R` arranged groups lie at `q`, `q_row` values apart, and the codes of 32 terms at `codes`,
    /// rows of elements `codes_row` apart; `load` may be called for each of these rows.
    unsafe fn dots<const R: usize, const V: usize>(
        s: S,
        starts: [S::I; V],
        q: *const i16,
        q_row: usize,
        codes: *const f32,
        codes_row: usize,
        load: impl Fn(*const f32, usize) -> S::F,
    ) -> [[S::I; V]; R];

    /// Multiplies 32 arranged values by ratios of 15 bits, rounds them to integers and arranges
    /// these.
    ///
    /// # Safety
    /// 32 values are readable at `q` and at `ratios`, and writable at `to`.
    unsafe fn scale(s: S, q: *const i16, ratios: *const i16, to: *mut i16);
}

/// 16 bits a code and a value, two neighbours in an element: what every instruction set multiplies
/// and adds in some form.
pub(crate) struct Pairs;

impl<S: Simd> Form<S> for Pairs {
    const PER_ELEMENT: usize = 2;

    #[inline(always)]
    fn arrange(_s: S, codes: &[i16; GROUP], to: &mut [i16; GROUP]) {
        *to = *codes;
    }

    #[inline(always)]
    unsafe fn dots<const R: usize, const V: usize>(
        s: S,
        starts: [S::I; V],
        q: *const i16,
        q_row: usize,
        codes: *const f32,
        codes_row: usize,
        load: impl Fn(*const f32, usize) -> S::F,
    ) -> [[S::I; V]; R] {
        let mut dots = [starts; R];
        for pair in 0..GROUP / 2 {
            // SAFETY: the caller vouches for a row of codes for every pair.
            let b = unsafe { codes.add(pair * codes_row) };
            let mut right = [s.splat_int(0); V];
            for (v, right) in right.iter_mut().enumerate() {
                *right = s.bits(load(b, v));
            }
            for (r, dots) in dots.iter_mut().enumerate() {
                // SAFETY: the caller vouches for `R` groups of 32 values.
                let left = s.splat_int(unsafe {
                    q.add(r * q_row + 2 * pair).cast::<i32>().read_unaligned()
                });
                for (dot, right) in dots.iter_mut().zip(right) {
                    *dot = s.dot_pairs(*dot, right, left);
                }
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn scale(s: S, q: *const i16, ratios: *const i16, to: *mut i16) {
        for at in (0..GROUP).step_by(2 * S::LANES) {
            // SAFETY: a group is whole registers of 16-bit lanes.
            unsafe {
                let (q, ratios) = (s.load_int(q.add(at).cast()), s.load_int(ratios.add(at).cast()));
                s.store_int(to.add(at).cast(), s.scale_short(q, ratios));
            }
        }
    }
}
