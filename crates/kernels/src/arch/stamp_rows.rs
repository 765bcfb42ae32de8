//! The stamp of what works on rows: each algorithm of `generic` compiled for one instruction set.

/// Defines `ROWS` in the module it is used in, for token and features as `stamp!` takes them. In
/// the list, `$feature` is the attribute, in its brackets, that every function is compiled with.
macro_rules! stamp_rows {
    ($token:ty) => {
        crate::arch::stamp_rows::stamp_rows!(@with $token, [inline]);
    };
    ($token:ty, $features:literal) => {
        crate::arch::stamp_rows::stamp_rows!(@with $token, [target_feature(enable = $features)]);
    };
    (@with $token:ty, $feature:tt) => {
        crate::arch::stamp_rows::stamp_rows! {
            @list $token, $feature;
            reduce::max(x: &[f32]) -> f32;
            reduce::exp_one(x: f32) -> f32;
            reduce::exp_sum(x: &mut [f32], shift: f32) -> f32;
            reduce::exp_scaled(x: &mut [f32], shift: f32, scale: f32) -> ();
            reduce::sum(x: &[f32]) -> f32;
            reduce::dot(a: &[f32], b: &[f32]) -> f32;
            elementwise::axpby(alpha: f32, x: &[f32], beta: f32, y: &mut [f32]) -> ();
            elementwise::add(x: &[f32], y: &mut [f32]) -> ();
            elementwise::mul(x: &[f32], y: &mut [f32]) -> ();
            elementwise::sum_rows(x: lowtide_tensor::Mat<'_, f32>, dsum: &mut [f32]) -> ();
            elementwise::dropout(
                draws: crate::Draws, keep: f32, x: &[f32], y: &mut [f32],
            ) -> ();
            gate::glu(act: crate::Gate, gate: &[f32], up: &[f32], y: &mut [f32]) -> ();
            gate::glu_in_place(act: crate::Gate, gate: &mut [f32], up: &[f32]) -> ();
            gate::glu_vjp(act: crate::Gate, dy: &[f32], gate: &mut [f32], up: &mut [f32]) -> ();
            norm::rmsnorm(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32;
            norm::rmsnorm_vjp(
                x: &[f32], w: &[f32], rstd: f32, dy: &[f32], dx: &mut [f32],
            ) -> ();
            rope::turns(pos: f32, inv_freq: &[f32], cos: &mut [f32], sin: &mut [f32]) -> ();
            rope::rotate_halves(
                first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32],
            ) -> ();
            rope::rotate_adjacent(pairs: &mut [f32], cos: &[f32], sin: &[f32]) -> ();
            stats::stats(x: &[f32]) -> crate::Summary;
            optim::adamw(
                f: &crate::AdamW, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32],
            ) -> ();
            optim::sgd(f: [f32; 3], p: &mut [f32], g: &[f32]) -> ();
            optim::sgd_momentum(f: [f32; 4], p: &mut [f32], g: &[f32], m: &mut [f32]) -> ();
            optim::lion(f: &crate::Lion, p: &mut [f32], g: &[f32], m: &mut [f32]) -> ();
        }
    };
    (
        @list $token:ty, $feature:tt;
        $($family:ident::$name:ident($($arg:ident: $ty:ty),* $(,)?) -> $out:ty;)*
    ) => {
        /// What works on rows.
        const ROWS: crate::rows::Rows = crate::rows::Rows { $($name),* };

        $(
            # $feature
            unsafe fn $name($($arg: $ty),*) -> $out {
                // SAFETY: whoever calls a function of this table runs on its instruction set.
                let s = unsafe { <$token>::assume() };
                crate::generic::$family::$name(s, $($arg),*)
            }
        )*
    };
}

pub(crate) use stamp_rows;
