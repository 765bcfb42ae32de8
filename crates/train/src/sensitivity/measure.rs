//! What a site's gradients promise, from two means of them that share no example.

use lowtide_adapter::{Config, ParamSpec};
use lowtide_model::Site;

use super::eigen::eigenvalues;
use crate::SettingsError;
use crate::adapter_io::saved;
use crate::ranks::up;

/// What each further rank of a site promises, most first; one number where a site has no ranks.
///
/// Let `G` be the gradient of the loss by the weights of a linear `[O, I]`. Where LoRA starts, the
/// gradient of its `B` is `s G Aᵀ`: `G` seen through a few random directions. Two means `M` and `N`
/// over different examples estimate it without the noise that one would have: the eigenvalues of
/// `(Mᵀ N + Nᵀ M) / 2` are those of the squared signal, and noise averages out instead of adding
/// up. As rows of `A` are uniform with a squared length of 1/3, an eigenvalue stands for a singular
/// value `σ² = 3 I λ / (s² r)` of `G`.
///
/// An optimizer that normalises gradients moves every element of a pair by about the same amount,
/// so a pair of rank one moves the weights by about `sqrt(O I)`, and to first order the loss falls
/// by that times `σ`. Without ranks, the same argument gives `sqrt(n) |g|` for `n` numbers.
pub(super) fn gains(site: &Site, config: &Config, first: &[f32], second: &[f32]) -> Vec<f64> {
    let Some((start, spec)) = up(site) else {
        let common: f64 =
            first.iter().zip(second).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        return vec![(first.len() as f64 * common.max(0.0)).sqrt()];
    };
    let [outputs, rank] = spec.shape;
    let part = start..start + spec.len();
    let moment = common_moment(&first[part.clone()], &second[part], rank);
    let root = if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
    let scale = config.alpha / root;
    if scale == 0.0 {
        return vec![0.0; rank];
    }
    let inputs = site.info.in_features as f64;
    let gain = |lambda: f64| {
        let sigma = (3.0 * inputs * lambda.max(0.0) / (scale * scale * rank as f64)).sqrt();
        (outputs as f64 * inputs).sqrt() * sigma
    };
    eigenvalues(moment, rank).into_iter().map(gain).collect()
}

/// The largest rank that is probed. A site takes time with its cube, and 128 is half a minute for a
/// model of two hundred linears.
const RANK_MAX: usize = 128;

/// Refuses ranks whose eigenvalues would take too long.
///
/// # Errors
/// [`SettingsError::BadValue`] when a site's rank is too large.
pub(crate) fn check_ranks(sites: &[Site]) -> Result<(), SettingsError> {
    let ranks = sites.iter().filter_map(|site| up(site).map(|(_, spec)| spec.shape[1]));
    match ranks.max().filter(|rank| *rank > RANK_MAX) {
        None => Ok(()),
        Some(rank) => Err(SettingsError::BadValue {
            field: "rank",
            found: rank.to_string(),
            expected: "at most 128 where ranks are chosen or profiled before training",
        }),
    }
}

/// Numbers that tensors have for each rank, and those they have besides; all are besides where
/// there are no ranks.
pub(super) fn numbers(tensors: &[Saved]) -> (usize, usize) {
    let (mut each, mut besides) = (0, 0);
    for &Saved { shape: [rows, cols], axis, .. } in tensors {
        match axis {
            Some(0) => each += cols,
            Some(_) => each += rows,
            None => besides += rows * cols,
        }
    }
    (each, besides)
}

/// `(Mᵀ N + Nᵀ M) / 2 [rank, rank]`.
fn common_moment(first: &[f32], second: &[f32], rank: usize) -> Vec<f64> {
    let mut moment = vec![0.0; rank * rank];
    for (m, n) in first.chunks_exact(rank).zip(second.chunks_exact(rank)) {
        for i in 0..rank {
            for j in 0..rank {
                let product = |a: usize, b: usize| f64::from(m[a]) * f64::from(n[b]);
                moment[i * rank + j] += 0.5 * (product(i, j) + product(j, i));
            }
        }
    }
    moment
}

/// A tensor in the file of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) name: &'static str,
    pub(crate) shape: [usize; 2],
    /// Which axis is the rank, if one is.
    pub(crate) axis: Option<usize>,
    /// Whether it can be coded.
    pub(crate) coded: bool,
}

impl Saved {
    /// Its shape at another rank.
    pub(crate) fn shape_at(&self, rank: usize) -> [usize; 2] {
        let mut shape = self.shape;
        if let Some(axis) = self.axis {
            shape[axis] = rank;
        }
        shape
    }
}

/// What is saved of a site, trained or not.
pub(super) fn tensors(site: &Site) -> Vec<Saved> {
    let of = |(spec, coded): (&ParamSpec, bool)| Saved {
        name: spec.name,
        shape: spec.shape,
        axis: spec.rank_axis,
        coded,
    };
    saved(site).map(of).collect()
}
