//! How adapter parameters start: counter-based, so that a site's values depend on the seed and its
//! name only, not on which other sites are trained.

use lowtide_adapter::{Init, ParamSpec};
use lowtide_model::{Site, SiteValues};

/// Fills the tensors of all `sites` as their method wants them to start. What starts from frozen
/// weights is left to [`Executor::start`](lowtide_tape::Executor::start).
///
/// # Panics
/// When there are fewer values than the sites have.
pub fn initialise<'v>(sites: &[Site], seed: u64, values: impl Into<SiteValues<'v>>) {
    let mut values = values.into();
    for site in sites {
        for (spec, tensor) in site.tensors(&mut values) {
            fill(spec, stream(seed, &site.info.name, spec.name), tensor);
        }
    }
}

fn fill(spec: &ParamSpec, stream: u64, out: &mut [f32]) {
    let uniform = |i: usize| unit(mix(stream ^ mix(i as u64)));
    for (i, value) in out.iter_mut().enumerate() {
        *value = match spec.init {
            Init::Zeros => 0.0,
            Init::Constant(value) => value,
            Init::Identity => f32::from(u8::from(i / spec.shape[1] == i % spec.shape[1])),
            Init::Uniform { bound } => (2.0 * uniform(i) - 1.0) as f32 * bound,
            Init::Normal { std } => {
                // Box-Muller; the first draw is kept from zero, whose logarithm is infinite.
                let (u, v) = (1.0 - uniform(2 * i), uniform(2 * i + 1));
                let radius = (-2.0 * u.ln()).sqrt();
                (radius * (core::f64::consts::TAU * v).cos()) as f32 * std
            }
        };
    }
}

/// A stream of numbers for one tensor, from FNV-1a of its name.
fn stream(seed: u64, site: &str, tensor: &str) -> u64 {
    let bytes = site.bytes().chain([b'.']).chain(tensor.bytes());
    let name = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(seed ^ mix(name))
}

/// The finalizer of SplitMix64: a bijection that spreads every input bit over all output bits.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The top 53 bits as a number in [0, 1).
fn unit(x: u64) -> f64 {
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::fill;
    use lowtide_adapter::{Init, ParamSpec};

    fn drawn(init: Init, stream: u64) -> Vec<f32> {
        let (shape, output_axis, rank_axis) = ([100, 200], None, None);
        let spec = ParamSpec { name: "a", shape, init, output_axis, rank_axis };
        let mut out = vec![f32::NAN; spec.len()];
        fill(&spec, stream, &mut out);
        out
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let moments = |x: &[f32]| {
            let n = x.len() as f64;
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            (mean, x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n)
        };
        let uniform = drawn(Init::Uniform { bound: 0.5 }, 1);
        assert!(uniform.iter().all(|x| x.abs() <= 0.5));
        let (mean, variance) = moments(&uniform);
        assert!(mean.abs() < 0.01 && (variance * 12.0 - 1.0).abs() < 0.03, "{mean} {variance}");
        let (mean, variance) = moments(&drawn(Init::Normal { std: 2.0 }, 1));
        assert!(mean.abs() < 0.05 && (variance / 4.0 - 1.0).abs() < 0.04, "{mean} {variance}");
    }

    #[test]
    fn streams_differ_and_repeat() {
        let init = Init::Uniform { bound: 1.0 };
        assert_eq!(drawn(init, 1), drawn(init, 1));
        assert_ne!(drawn(init, 1), drawn(init, 2));
    }
}
