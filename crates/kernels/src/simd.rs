//! A register of f32 lanes, as algorithms see it.

/// A token for an instruction set, and what its registers can do.
///
/// Every function is safe to call for whoever holds a token, because tokens are made only where
/// the instruction set is known to be there. Functions that take pointers are unsafe for the
/// pointers' sake.
///
/// All of them must be inlined into a function that was compiled for the instruction set; the
/// stamps in `arch` see to that, and everything in `generic` is `#[inline(always)]`.
pub(crate) trait Simd: Copy {
    /// Lanes of a register.
    const LANES: usize;

    /// Registers in a row of a product's micro-kernel, 2 or 3: as many as leave room for the rows.
    const WIDE: usize;

    /// A register of f32 lanes.
    type F: Copy;

    /// What a comparison gives: a yes or no for each lane.
    type Mask: Copy;

    /// A register of 32-bit integers, or of twice as many of 16 bits.
    type I: Copy;

    /// A token for registers of half the width, where that is as quick for as many lanes; otherwise
    /// itself.
    type Narrow: Simd;

    /// That token: whoever has the wide registers has the narrow ones.
    fn narrow(self) -> Self::Narrow;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;

    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a * b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a` where it is larger than `b`, else `b`: so `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a` where it is smaller than `b`, else `b`: so `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;

    /// Where `a` is smaller than `b`; nowhere where either is NaN.
    fn less(self, a: Self::F, b: Self::F) -> Self::Mask;

    /// `yes` where the mask says so, else `no`.
    fn select(self, mask: Self::Mask, yes: Self::F, no: Self::F) -> Self::F;

    /// `2^n`, where the last nine bits of `x` are those of the integer `n`, from -126 to 127.
    fn power(self, x: Self::F) -> Self::F;

    /// The sum of all lanes: halves are added to each other until one is left.
    fn sum(self, x: Self::F) -> f32;

    /// The largest lane, by [`Simd::max`] of halves.
    fn largest(self, x: Self::F) -> f32;

    /// The first lane.
    fn first(self, x: Self::F) -> f32;

    /// Loads all lanes.
    ///
    /// # Safety
    /// `from` is readable for `LANES` elements; no alignment is needed.
    unsafe fn load(self, from: *const f32) -> Self::F;

    /// Stores all lanes.
    ///
    /// # Safety
    /// `to` is writable for `LANES` elements; no alignment is needed.
    unsafe fn store(self, to: *mut f32, x: Self::F);

    /// Loads the first `lanes` lanes; the others are zero.
    ///
    /// # Safety
    /// `from` is readable for `lanes` elements, at most `LANES`.
    unsafe fn load_part(self, from: *const f32, lanes: usize) -> Self::F;

    /// Stores the first `lanes` lanes.
    ///
    /// # Safety
    /// `to` is writable for `lanes` elements, at most `LANES`.
    unsafe fn store_part(self, to: *mut f32, x: Self::F, lanes: usize);

    /// The square root, rounded once.
    fn sqrt(self, x: Self::F) -> Self::F;

    /// Transposes `LANES` by `LANES` elements whose rows are `from_stride` and `to_stride` apart.
    ///
    /// # Safety
    /// All rows of `from` are readable, all of `to` writable, and they do not overlap.
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// `x` in every lane.
    fn splat_int(self, x: i32) -> Self::I;

    /// The bits of floats as integers.
    fn bits(self, x: Self::F) -> Self::I;

    /// Integers as floats, rounded to nearest.
    fn floats(self, x: Self::I) -> Self::F;

    /// In each 32-bit lane, `sum + a0 b0 + a1 b1` of the two 16-bit halves.
    fn dot_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// In each 16-bit lane, `a b / 2^15` rounded to nearest, halves up.
    fn scale_short(self, a: Self::I, b: Self::I) -> Self::I;

    /// Loads all lanes.
    ///
    /// # Safety
    /// `from` is readable for `LANES` elements; no alignment is needed.
    unsafe fn load_int(self, from: *const i32) -> Self::I;

    /// Stores all lanes.
    ///
    /// # Safety
    /// `to` is writable for `LANES` elements; no alignment is needed.
    unsafe fn store_int(self, to: *mut i32, x: Self::I);
}
