//! Rotary frequencies, as transformers computes them.

use alloc::boxed::Box;
use core::f32::consts::PI;

use lowtide_tensor::Float;

use crate::{ModelError, Rope, RopeScaling};

/// `head_dim / 2` angular speeds, computed in f32 like the reference so that angles agree at far
/// positions.
pub(crate) fn inv_freq<F: Float>(rope: &Rope, head_dim: usize) -> Result<Box<[F]>, ModelError> {
    let half = head_dim / 2;
    let plain = |i: usize| {
        let exponent = (2 * i) as f32 / head_dim as f32;
        1.0 / libm::powf(rope.theta as f32, exponent)
    };
    if let RopeScaling::Factors(factors) = &rope.scaling
        && factors.len() != half
    {
        return Err(ModelError::RopeFactors { expected: half, found: factors.len() });
    }
    let scaled = |i: usize| match &rope.scaling {
        RopeScaling::Default => plain(i),
        RopeScaling::Linear { factor } => plain(i) / *factor as f32,
        RopeScaling::Factors(factors) => plain(i) / factors[i],
        RopeScaling::Llama3 { .. } => llama3(&rope.scaling, plain(i)),
    };
    Ok((0..half).map(|i| F::from_f32(scaled(i))).collect())
}

/// Llama 3's ramp between kept and divided frequencies.
fn llama3(scaling: &RopeScaling, plain: f32) -> f32 {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    } = *scaling
    else {
        return plain;
    };
    let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
    let original = original_max_position_embeddings as f32;
    let wavelength = 2.0 * PI / plain;
    if wavelength > original / low {
        plain / factor
    } else if wavelength < original / high {
        plain
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * plain / factor + smooth * plain
    }
}

#[cfg(test)]
mod tests {
    use super::inv_freq;
    use crate::{ModelError, Rope, RopeScaling};
    use lowtide_backend::Pairing;

    fn rope(theta: f64, scaling: RopeScaling) -> Rope {
        Rope { theta, scaling, pairing: Pairing::Halves }
    }

    #[test]
    fn plain_frequencies_are_a_geometric_series() {
        let freq = inv_freq::<f32>(&rope(10_000.0, RopeScaling::Default), 8).unwrap();
        for (got, want) in freq.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((got - want).abs() < 1e-7, "{got} instead of {want}");
        }
        let half =
            inv_freq::<f32>(&rope(10_000.0, RopeScaling::Linear { factor: 2.0 }), 8).unwrap();
        assert!(freq.iter().zip(&half).all(|(a, b)| *a == 2.0 * b));
    }

    #[test]
    fn factors_divide_one_by_one_and_must_be_as_many() {
        let factors = RopeScaling::Factors([1.0, 2.0, 4.0, 8.0].into());
        let freq = inv_freq::<f32>(&rope(10_000.0, factors.clone()), 8).unwrap();
        assert!((freq[3] - 0.001 / 8.0).abs() < 1e-9);
        let error = inv_freq::<f32>(&rope(10_000.0, factors), 16).unwrap_err();
        assert_eq!(error, ModelError::RopeFactors { expected: 8, found: 4 });
    }

    /// Values of Llama 3.1 8B (theta 5e5, factor 8, low 1, high 4, original 8192), worked out by
    /// hand: pair 0 turns fast and is kept, the last turns slowly and is divided, pair 29 is on the
    /// ramp.
    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let scaled = inv_freq::<f64>(&rope(500_000.0, scaling), 128).unwrap();
        let plain = inv_freq::<f64>(&rope(500_000.0, RopeScaling::Default), 128).unwrap();
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        let wavelength = 2.0 * core::f64::consts::PI / plain[29];
        let smooth = (8192.0 / wavelength - 1.0) / 3.0;
        let want = plain[29] * ((1.0 - smooth) / 8.0 + smooth);
        assert!((0.0..1.0).contains(&smooth));
        assert!((scaled[29] / want - 1.0).abs() < 1e-5, "{} instead of {want}", scaled[29]);
    }
}
