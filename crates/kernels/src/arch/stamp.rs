//! The stamp: every algorithm of `generic`, compiled for one instruction set, as a table.

/// Defines `STAMPED` in the module it is used in.
///
/// `$token` implements `Simd` and has `unsafe fn assume() -> Self`; `$rows` is how many rows its
/// micro-kernel of products has; `$int` is what computes in integers of one digit and of two;
/// `$features` is what the functions are compiled with.
macro_rules! stamp {
    (
        $isa:expr,
        $token:ty,
        rows = $rows:literal,
        int = $int:expr
        $(, features = $features:literal)? $(,)?
    ) => {
        /// The stamped functions.
        const STAMPED: crate::Kernels = crate::table::new(
            $isa,
            <$token as crate::simd::Simd>::LANES,
            <$token as crate::simd::Simd>::WIDE * <$token as crate::simd::Simd>::LANES,
            crate::table::Functions {
                gemm,
                pack_rows,
                pack_transposed,
                decode,
                decode_integers,
                fma_peak,
                rows: ROWS,
            },
            $int,
            crate::softmax::Softmax { soften, soften_vjp, divide_rows, dot_rows, finite },
        );

        crate::arch::stamp_rows::stamp_rows!($token $(, $features)?);

        $(#[target_feature(enable = $features)])?
        unsafe fn gemm(
            alpha: f32,
            a: lowtide_tensor::Mat<'_, f32>,
            b: crate::Rhs<'_>,
            add: bool,
            c: lowtide_tensor::MatMut<'_, f32>,
        ) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::gemm::gemm::<_, $rows>(s, alpha, a, b, add, c) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn pack_rows(
            x: lowtide_tensor::Mat<'_, f32>,
            rows: usize,
            row: usize,
            group: usize,
            panel: *mut f32,
        ) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::pack::pack_rows(s, x, rows, row, group, panel) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn pack_transposed(
            x: lowtide_tensor::Mat<'_, f32>,
            total: usize,
            col: usize,
            group: usize,
            panel: *mut f32,
        ) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::pack::pack_transposed(s, x, total, col, group, panel) }
        }

        $(#[target_feature(enable = $features)])?
        fn decode(
            format: &'static dyn lowtide_quant::BlockFormat,
            bytes: &[u8],
            out: &mut [f32],
        ) -> bool {
            crate::generic::decode::decode(format, bytes, out)
        }

        $(#[target_feature(enable = $features)])?
        fn decode_integers(
            format: &'static dyn lowtide_quant::BlockFormat,
            bytes: &[u8],
            codes: &mut [i16],
            scales: &mut [f32],
            minima: &mut [f32],
        ) -> bool {
            crate::generic::decode::decode_integers(format, bytes, codes, scales, minima)
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn fma_peak(rounds: usize) -> (u64, f32) {
            /// As many registers as micro-kernels fill at most.
            const CHAINS: usize = 12 * (<$token as crate::simd::Simd>::WIDE - 1);
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            crate::generic::peak::fma::<_, CHAINS>(s, rounds)
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn soften(
            scores: *mut f32,
            columns: usize,
            seen: crate::Seen,
            maxima: &mut [f32],
            sums: &mut [f32],
            o: lowtide_tensor::MatMut<'_, f32>,
        ) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::softmax::soften(s, scores, columns, seen, maxima, sums, o) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn soften_vjp(
            scores: *mut f32,
            slopes: *mut f32,
            columns: usize,
            seen: crate::Seen,
            scale: f32,
            lse: &[f32],
            means: &[f32],
        ) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe {
                use crate::generic::softmax::soften_vjp;
                soften_vjp(s, scores, slopes, columns, seen, scale, lse, means)
            }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn divide_rows(x: lowtide_tensor::MatMut<'_, f32>, by: &[f32]) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::softmax::divide_rows(s, x, by) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn dot_rows(
            a: lowtide_tensor::Mat<'_, f32>,
            b: lowtide_tensor::Mat<'_, f32>,
            out: &mut [f32],
        ) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::softmax::dot_rows(s, a, b, out) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn finite(x: lowtide_tensor::Mat<'_, f32>) -> bool {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            crate::generic::softmax::finite(s, x)
        }
    };
}

pub(crate) use stamp;
