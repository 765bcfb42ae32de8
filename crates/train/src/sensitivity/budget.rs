//! Ranks that fit a saved adapter into a number of bytes.

use lowtide_formats::peft;
use serde::Serialize;

use super::SiteSensitivity;
use super::measure::Saved;
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
    let mut bytes = r#type.head_bytes();
    // Costs are a little too high: what they leave over is spent as well.
    loop {
        let (mut left, mut more) = (budget.saturating_sub(bytes), ranks.clone());
        while let Some((site, rank, cost)) = best(sites, &more, left, r#type) {
            more[site] = rank;
            left -= cost;
        }
        let spent = file_bytes(sites, &more, r#type);
        if more == ranks || spent > budget {
            break;
        }
        (ranks, bytes) = (more, spent);
    }
    if ranks.iter().all(|rank| *rank == 0) {
        let cost = |site: &SiteSensitivity| bytes + cost(site, 0, 1, r#type);
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
    // Type, shape, offsets, quotes and braces of a tensor's entry in the header, and as much as
    // digits can come to in the entries of others.
    const ENTRY: usize = 88;
    const DIGITS: u64 = 8;
    let entry = |saved: &Saved| ENTRY + peft::tensor_name(&site.name, saved.name).len();
    let data = |rank: usize| -> u64 {
        let bytes = |saved: &Saved| r#type.data_bytes(saved.shape_at(rank), saved.coded);
        if rank == 0 { 0 } else { site.tensors.iter().map(bytes).sum() }
    };
    let header: usize = if from == 0 { site.tensors.iter().map(entry).sum() } else { 0 };
    header as u64 + DIGITS + data(to) - data(from)
}

/// Bytes of the file of weights with these ranks.
fn file_bytes(sites: &[SiteSensitivity], ranks: &[usize], r#type: AdapterType) -> u64 {
    let adapted = sites.iter().zip(ranks).filter(|(_, rank)| **rank > 0);
    r#type.file_bytes(adapted.flat_map(|(site, rank)| {
        site.tensors.iter().map(|saved| {
            let shape = peft::shape_in_file(saved.name, saved.shape_at(*rank));
            (site.name.as_str(), saved.name, shape, saved.coded)
        })
    }))
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
                saved("lora_A.weight", [rank, 12], Some(0)),
                saved("lora_B.weight", [8, rank], Some(1)),
            ],
        }
    }

    fn saved(name: &'static str, shape: [usize; 2], axis: Option<usize>) -> Saved {
        Saved { name, shape, axis, coded: true }
    }

    #[test]
    fn a_site_without_ranks_has_its_adapter_or_none() {
        let whole = |layer, share| SiteSensitivity {
            each: 0,
            besides: 200,
            trained: (0, 200),
            tensors: vec![saved("lars_A.weight", [10, 20], None)],
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
