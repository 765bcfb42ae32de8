//! The stamp: every algorithm of `generic`, compiled for one instruction set, as a table.

/// Defines `TABLE` in the module it is used in.
///
/// `$token` implements `Simd` and has `unsafe fn assume() -> Self`; `$rows` is how many rows its
/// micro-kernel of products has; `$features` is what the functions are compiled with, `$with` what
/// the table has beyond the stamped functions.
macro_rules! stamp {
    (
        $isa:expr,
        $token:ty,
        rows = $rows:literal,
        int_rows = [$int_rows:literal, $int_rows_t:literal]
        $(, features = $features:literal)? $(,)?
    ) => {
        /// The functions of this instruction set.
        pub(crate) const TABLE: crate::Kernels = crate::table::new(
            $isa,
            <$token as crate::simd::Simd>::LANES,
            <$token as crate::simd::Simd>::WIDE * <$token as crate::simd::Simd>::LANES,
            crate::table::Functions {
                gemm,
                pack_rows,
                pack_transposed,
                decode,
                decode_integers,
                round_rows,
                pair_rows,
                int_gemm,
                int_gemm_t,
            },
            crate::softmax::Softmax { soften, soften_vjp, divide_rows, dot_rows, finite },
        );

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
        fn round_rows(
            x: lowtide_tensor::Mat<'_, f32>,
            top: f32,
            codes: lowtide_tensor::MatMut<'_, i16>,
            scales: lowtide_tensor::MatMut<'_, f32>,
            sums: lowtide_tensor::MatMut<'_, f32>,
        ) {
            crate::generic::int::round_rows(x, top, codes, scales, sums);
        }

        $(#[target_feature(enable = $features)])?
        fn pair_rows(a: &[i16], b: &[i16], rows: usize, row: usize, panel: &mut [i32]) {
            crate::generic::int::pair_rows(a, b, rows, row, panel);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn int_gemm(
            x: crate::Rounded<'_>,
            b: crate::IntRhs<'_>,
            add: bool,
            c: lowtide_tensor::MatMut<'_, f32>,
        ) {
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::int::gemm::<_, $int_rows>(s, x, b, add, c) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn int_gemm_t(
            g: crate::Rounded<'_>,
            b: crate::IntRhsT<'_>,
            base: lowtide_tensor::Mat<'_, f32>,
            c: lowtide_tensor::MatMut<'_, f32>,
        ) {
            const REGISTERS: usize =
                lowtide_quant::integers::GROUP / <$token as crate::simd::Simd>::LANES;
            // SAFETY: whoever calls a function of this table runs on its instruction set.
            let s = unsafe { <$token>::assume() };
            // SAFETY: the caller vouches for the shapes.
            unsafe { crate::generic::int::gemm_t::<_, $int_rows_t, REGISTERS>(s, g, b, base, c) }
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
