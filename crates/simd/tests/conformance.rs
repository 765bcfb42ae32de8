//! The backend passes the suite that every backend passes, on every instruction set there is here.

use lowtide_adapter::Config;
use lowtide_backend::{Backend, Checked, Scalar};
use lowtide_conformance::adapter::adapter_on;
use lowtide_conformance::{AtInit, backend, packed_weights, threads};
use lowtide_kernels::{Isa, Kernels};
use lowtide_lora::{DoraMethod, LoraMethod};
use lowtide_simd::{Compute, Simd};

/// Tests of one instruction set, which pass where the processor lacks it. They are apart so that
/// one of them can be run alone, as emulators need.
macro_rules! conforms {
    ($($name:ident: $isa:expr,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn one_thread() {
                if let Some(kernels) = Kernels::of($isa) {
                    backend(&Simd::with(kernels, 1));
                }
            }

            #[test]
            fn several_threads() {
                if let Some(kernels) = Kernels::of($isa) {
                    backend(&Checked::new(Simd::with(kernels, 3)));
                }
            }

            /// What packed weights have no part in is the same as above.
            #[test]
            fn in_integers() {
                if let Some(kernels) = Kernels::of($isa) {
                    let be = |threads| Simd::with(kernels, threads);
                    packed_weights(&be(1).computing(Compute::Int8x2));
                    packed_weights(&Checked::new(be(3).computing(Compute::Int8)));
                }
            }

            #[test]
            fn adapters_on_it() {
                if let Some(kernels) = Kernels::of($isa) {
                    for dropout in [0.0, 0.3] {
                        let config = Config { rank: 5, dropout, ..Config::default() };
                        let be = Checked::new(Simd::with(kernels, 3));
                        adapter_on(&be, &Scalar, &LoraMethod, &config, AtInit::EqualsBase);
                    }
                    // Decodes rows and multiplies by the base a tile at a time.
                    let (be, config) = (Simd::with(kernels, 2), Config::default());
                    let be = Checked::new(be);
                    adapter_on(&be, &Scalar, &DoraMethod, &config, AtInit::EqualsBase);
                }
            }

            #[test]
            fn any_number_of_threads() {
                if let Some(kernels) = Kernels::of($isa) {
                    threads(&|count| Box::new(Simd::with(kernels, count)), &[1, 2, 4]);
                }
            }
        }
    )*};
}

conforms! {
    scalar: Isa::Scalar,
    avx2: Isa::Avx2,
    avx512: Isa::Avx512,
    avx512vnni: Isa::Avx512Vnni,
    neon: Isa::Neon,
    neon_dotprod: Isa::NeonDotprod,
    neon_i8mm: Isa::NeonI8mm,
}

#[test]
fn more_lanes_than_threads_give_the_same() {
    threads(&|count| Box::new(Simd::new(5 - count)), &[1, 2, 4]);
}

#[test]
fn the_fastest_table_is_taken() {
    assert_eq!(Simd::new(0).threads(), 1);
    assert_eq!(Simd::new(4).caps().isa, Kernels::best().isa().name());
}
