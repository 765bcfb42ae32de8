//! The stamp: every algorithm of `generic`, compiled for one instruction set, as a table.

/// Defines `TABLE` in the module it is used in.
///
/// `$token` implements `Simd` and has `unsafe fn assume() -> Self`; `$rows` is how many rows its
/// micro-kernel of products has; `$features` is what the functions are compiled with, `$with` what
/// the table has beyond the stamped functions.
macro_rules! stamp {
    ($isa:expr, $token:ty, rows = $rows:literal $(, features = $features:literal)?) => {
        /// The functions of this instruction set.
        pub(crate) const TABLE: crate::Kernels = crate::table::new(
            $isa,
            <$token as crate::simd::Simd>::LANES,
            crate::table::Functions { gemm, pack_rows, pack_transposed, decode, rows: ROWS },
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
    };
}

pub(crate) use stamp;
