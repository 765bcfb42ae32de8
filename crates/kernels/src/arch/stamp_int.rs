//! The stamp of products in integers: their algorithms, compiled for one instruction set and one
//! form of its integers.

/// Defines a module `$name` whose `FUNCTIONS` compute with integers of the form `$form`.
///
/// `$token` implements `Simd`, `$form` implements `Form` for it; `$rows` are how many rows the
/// micro-kernels of both products have.
macro_rules! stamp_int {
    (
        $name:ident,
        $token:ty,
        $form:ty,
        rows = [$rows:literal, $rows_t:literal]
        $(, features = $features:literal)? $(,)?
    ) => {
        /// Products in integers.
        pub(crate) mod $name {
            #[allow(clippy::wildcard_imports, reason = "token and form are the file's")]
            use super::*;

            /// The functions of this form.
            pub(crate) const FUNCTIONS: crate::integers::IntFunctions =
                crate::integers::IntFunctions {
                    per_element: PER_ELEMENT,
                    decode,
                    round_rows,
                    weave_rows,
                    gemm,
                    gemm_t,
                };

            const PER_ELEMENT: usize =
                <$form as crate::generic::form::Form<$token>>::PER_ELEMENT;

            $(#[target_feature(enable = $features)])?
            fn decode(
                format: &'static dyn lowtide_quant::BlockFormat,
                bytes: &[u8],
                codes: &mut [i32],
                scales: &mut [f32],
                minima: &mut [f32],
            ) -> bool {
                use crate::generic::decode::decode_elements;
                decode_elements(PER_ELEMENT, format, bytes, codes, scales, minima)
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn round_rows(
                x: lowtide_tensor::Mat<'_, f32>,
                top: f32,
                codes: lowtide_tensor::MatMut<'_, i16>,
                scales: lowtide_tensor::MatMut<'_, f32>,
                sums: lowtide_tensor::MatMut<'_, f32>,
            ) {
                // SAFETY: whoever calls a function of this table runs on its instruction set.
                let s = unsafe { <$token>::assume() };
                crate::generic::int::round_rows::<_, $form>(s, x, top, codes, scales, sums);
            }

            $(#[target_feature(enable = $features)])?
            fn weave_rows(codes: &[i16], rows: usize, row: usize, panel: &mut [i32]) {
                crate::generic::int::weave_rows(PER_ELEMENT, codes, rows, row, panel);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn gemm(
                x: crate::Rounded<'_>,
                b: crate::IntRhs<'_>,
                add: bool,
                c: lowtide_tensor::MatMut<'_, f32>,
            ) {
                // SAFETY: whoever calls a function of this table runs on its instruction set.
                let s = unsafe { <$token>::assume() };
                // SAFETY: the caller vouches for the shapes.
                unsafe { crate::generic::int::gemm::<_, $form, $rows>(s, x, b, add, c) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn gemm_t(
                g: crate::Rounded<'_>,
                b: crate::IntRhsT<'_>,
                base: lowtide_tensor::Mat<'_, f32>,
                c: lowtide_tensor::MatMut<'_, f32>,
            ) {
                use crate::generic::{form::GROUP, int};
                const REGISTERS: usize = GROUP / <$token as crate::simd::Simd>::LANES;
                // SAFETY: whoever calls a function of this table runs on its instruction set.
                let s = unsafe { <$token>::assume() };
                // SAFETY: the caller vouches for the shapes.
                unsafe { int::gemm_t::<_, $form, $rows_t, REGISTERS>(s, g, b, base, c) }
            }
        }
    };
}

pub(crate) use stamp_int;
