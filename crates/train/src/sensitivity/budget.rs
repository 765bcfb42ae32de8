//! Ranks that fit a saved adapter into a number of bytes.

use lowtide_formats::peft;
use serde::Serialize;

use super::SiteSensitivity;
use crate::ranks::grouped;
use crate::{AdapterType, TrainError};

/// What a budget of an adapter's bytes was spent on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetReport {
    /// Bytes allowed.
    pub budget: u64,
    /// Bytes of the file of weights, its header included.
    pub bytes: u64,
    /// Sites that have an adapter.
    pub sites: usize,
    /// Sites that were asked for and have none.
    pub frozen: usize,
    /// Trainable numbers.
    pub parameters: usize,
    /// Share of what all sites promise that the chosen ranks do.
    pub share: f64,
    /// The ranks, as patterns: in `config.toml` and in what is saved.
    pub rank_pattern: Vec<(String, usize)>,
}

/// Ranks for every site, and what to tell of them.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) report: BudgetReport,
    pub(crate) patterns: Vec<(String, usize)>,
}

/// Spends `budget` bytes of a saved adapter on the ranks that promise most for their bytes: always
/// the next few ranks of the site where they promise most for each byte, until nothing more fits.
/// Where the method has no ranks, a site has its adapter, of the run's `rank`, or none.
///
/// # Errors
/// [`TrainError::AdapterBudget`] when no site fits with rank 1.
pub(crate) fn within(
    sites: &[SiteSensitivity],
    budget: u64,
    r#type: AdapterType,
    rank: usize,
) -> Result<Chosen, TrainError> {
    let mut ranks = vec![0; sites.len()];
    // The header is longer than what its entries add up to by no more than this.
    const HEAD: u64 = 64;
    let mut left = budget.saturating_sub(HEAD);
    while let Some((site, rank, cost)) = best(sites, &ranks, left, r#type) {
        ranks[site] = rank;
        left -= cost;
    }
    let bytes = file_bytes(sites, &ranks, r#type);
    if ranks.iter().all(|rank| *rank == 0) {
        let cost = |site: &SiteSensitivity| HEAD + cost(site, 0, 1, r#type);
        let smallest = sites.iter().map(cost).min().unwrap_or(0);
        return Err(TrainError::AdapterBudget { budget, smallest });
    }
    assert!(bytes <= budget, "an adapter of {bytes} bytes for a budget of {budget}");
    let numbers = |(site, &rank): (&SiteSensitivity, &usize)| match rank {
        0 => 0,
        rank => site.trained.1 + rank * site.trained.0,
    };
    let share =
        |(site, &rank): (&SiteSensitivity, &usize)| -> f64 { site.shares[..rank].iter().sum() };
    let adapted = ranks.iter().filter(|rank| **rank > 0).count();
    let told = |(site, &chosen): (&SiteSensitivity, &usize)| match chosen {
        1 if !site.has_ranks() => rank,
        chosen => chosen,
    };
    let told: Vec<usize> = sites.iter().zip(&ranks).map(told).collect();
    let sites_told = sites.iter().zip(&told);
    let patterns = grouped(sites_told.map(|(site, rank)| (&*site.name, site.layer, *rank)));
    let report = BudgetReport {
        budget,
        bytes,
        sites: adapted,
        frozen: sites.len() - adapted,
        parameters: sites.iter().zip(&ranks).map(numbers).sum(),
        share: sites.iter().zip(&ranks).map(share).sum(),
        rank_pattern: patterns.clone(),
    };
    Ok(Chosen { report, patterns })
}

/// The site, its next rank and its cost that promise most for each byte of those that fit.
fn best(
    sites: &[SiteSensitivity],
    ranks: &[usize],
    left: u64,
    r#type: AdapterType,
) -> Option<(usize, usize, u64)> {
    let mut best: Option<(f64, (usize, usize, u64))> = None;
    for (i, site) in sites.iter().enumerate() {
        let (now, mut gain) = (ranks[i], 0.0);
        for rank in now + 1..=site.shares.len() {
            gain += site.shares[rank - 1];
            let cost = cost(site, now, rank, r#type);
            let worth = gain / cost as f64;
            let better = best.is_none_or(|(most, _)| worth > most);
            if cost <= left && gain > 0.0 && better {
                best = Some((worth, (i, rank, cost)));
            }
        }
    }
    best.map(|(_, step)| step)
}

/// Bytes that a site adds to the file when its rank grows from `from` to `to`, at most.
fn cost(site: &SiteSensitivity, from: usize, to: usize, r#type: AdapterType) -> u64 {
    // Type, shape, offsets, quotes and braces of a tensor's entry in the header.
    const ENTRY: usize = 120;
    let entry = |(name, ..): &(&str, [usize; 2], Option<usize>)| {
        ENTRY + peft::tensor_name(&site.name, name).len()
    };
    let once = || {
        let header: usize = site.tensors.iter().map(entry).sum();
        header as u64 + r#type.bytes(site.besides)
    };
    let first = if from == 0 { once() } else { 0 };
    first + r#type.bytes((to - from) * site.each)
}

/// Bytes of the file of weights with these ranks.
fn file_bytes(sites: &[SiteSensitivity], ranks: &[usize], r#type: AdapterType) -> u64 {
    let tensors =
        sites.iter().zip(ranks).filter(|(_, rank)| **rank > 0).flat_map(|(site, rank)| {
            site.tensors.iter().map(|(name, shape, axis)| {
                let mut shape = shape.to_vec();
                if let Some(axis) = axis {
                    shape[*axis] = *rank;
                }
                (site.name.as_str(), *name, shape)
            })
        });
    peft::weights_bytes(tensors, r#type.half())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(layer: usize, kind: &str, shares: &[f64]) -> SiteSensitivity {
        let rank = shares.len();
        SiteSensitivity {
            name: format!("model.layers.{layer}.{kind}"),
            layer,
            parameters: 20 * rank,
            share: shares.iter().sum(),
            shares: shares.to_vec(),
            each: 20,
            besides: 0,
            trained: (20, 0),
            tensors: vec![
                ("lora_A.weight", [rank, 12], Some(0)),
                ("lora_B.weight", [8, rank], Some(1)),
            ],
        }
    }

    #[test]
    fn a_site_without_ranks_has_its_adapter_or_none() {
        let whole = |layer, share| SiteSensitivity {
            each: 0,
            besides: 200,
            trained: (0, 200),
            tensors: vec![("lars_A.weight", [10, 20], None)],
            ..site(layer, "mlp.up_proj", &[share])
        };
        let sites = [whole(0, 0.25), whole(1, 0.75)];
        let chosen = within(&sites, 1200, AdapterType::F32, 16).unwrap();
        assert_eq!((chosen.report.sites, chosen.report.parameters), (1, 200));
        let patterns = [("layers.0.mlp.up_proj".into(), 0), ("layers.1.mlp.up_proj".into(), 16)];
        assert_eq!(chosen.patterns, patterns);
    }

    #[test]
    fn bytes_go_where_they_promise_most() {
        let sites = [
            site(0, "mlp.up_proj", &[0.01, 0.01]),
            site(1, "mlp.up_proj", &[0.4, 0.2]),
            site(0, "self_attn.q_proj", &[0.2, 0.0]),
            site(1, "self_attn.q_proj", &[0.1, 0.05]),
        ];
        let ranks = |budget| {
            let chosen = within(&sites, budget, AdapterType::F32, 2).unwrap();
            assert!(chosen.report.bytes <= budget, "{chosen:?}");
            chosen.report.rank_pattern
        };
        let one = |key: &str, rank| (key.to_owned(), rank);
        let up = [one("layers.0.mlp.up_proj", 0), one("layers.1.mlp.up_proj", 2)];
        let none = [up[0].clone(), up[1].clone(), one("self_attn.q_proj", 0)];
        assert_eq!(ranks(600), none);
        let q = [one("layers.1.self_attn.q_proj", 0), one("layers.0.self_attn.q_proj", 1)];
        assert_eq!(ranks(1100), [&up[..], &q[..]].concat());
        // Of what promises nothing, nothing is bought.
        let rich = ranks(1 << 20);
        let all = [one("mlp.up_proj", 2), q[1].clone(), one("layers.1.self_attn.q_proj", 2)];
        assert_eq!(rich, all);
        let error = within(&sites, 100, AdapterType::F32, 2).unwrap_err();
        assert!(matches!(error, TrainError::AdapterBudget { budget: 100, .. }), "{error}");
        let half = AdapterType::named("bf16").unwrap();
        assert!(within(&sites, 1000, half, 2).unwrap().report.share > 0.75);
    }
}
