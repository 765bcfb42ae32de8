//! Adapters into PEFT folders.
//!
//! A base that stores the rows of q and k in another order (llama GGUF files) is trained in that
//! order; rows along a parameter's output axis are brought to Hugging Face order on the way out.
//!
//! What was trained in codes is saved as codes or as the floats that they stand for: the numbers of
//! the file are those that the model computed with.

use std::path::Path;

use lowtide_adapter::{Config, ParamSpec};
use lowtide_formats::Hyperparameters;
use lowtide_formats::peft::{self, AdapterTensor, Coded, LoraConfig, MethodConfig, TargetModules};
use lowtide_formats::safe::Values;
use lowtide_model::{Site, SitePatterns, SiteValues};
use lowtide_quant::LineCodes;
use lowtide_runtime::{codes_in_training, is_coded, lora_config, permuted_rows};

use serde_json::{Map, Value};

use crate::{AdapterType, AdaptiveRank, TrainError};

/// Writes the tensors of `sites` as a PEFT folder; `told` is how they were built. What is not
/// trained but made at random goes with what is trained.
///
/// # Errors
/// When a value is not finite or a file cannot be written; the folder is then as it was.
pub fn save_adapter(
    dir: &Path,
    base: &Path,
    hyper: &Hyperparameters,
    sites: &[Site],
    (config, patterns): (&Config, &SitePatterns),
    r#type: AdapterType,
    (params, fixed): (&[f32], &[f32]),
) -> Result<(), TrainError> {
    let kind = sites.first().map_or("lora", |site| site.kind);
    let codes = codes_in_training(kind, config).or(r#type.codes());
    let coded = |site, spec, values| {
        let codes = codes.filter(|_| is_coded(spec))?;
        Some(Coded::new(codes, values, spec.shape, permuted_rows(hyper, site, spec)))
    };
    let mut trained = Vec::new();
    for site in sites {
        let cut = cut(&site.params, &params[site.range.clone()]);
        let coded = cut.map(|(spec, values)| (spec, values, coded(site, spec, values)));
        trained.push((site, coded.collect::<Vec<_>>()));
    }
    let mut tensors = Vec::new();
    for (site, trained) in &trained {
        let mut add = |spec: &ParamSpec, values, permuted| {
            tensors.push(AdapterTensor {
                module: site.info.name.clone(),
                parameter: spec.name.into(),
                shape: peft::shape_in_file(spec.name, spec.shape),
                values,
                permuted,
            });
        };
        for (spec, values, coded) in trained {
            match coded {
                Some(coded) if r#type.codes().is_some() => add(spec, Values::Codes(coded), None),
                Some(coded) => add(spec, Values::Decoded(coded), None),
                None => add(spec, r#type.values(values), permuted_rows(hyper, site, spec)),
            }
        }
        let fixed = if site.frozen.is_empty() { &[] } else { &fixed[site.fixed.clone()] };
        for (spec, values) in cut(&site.frozen, fixed) {
            add(spec, r#type.values(values), permuted_rows(hyper, site, spec));
        }
    }
    let document = document(base, hyper, sites, (config, patterns));
    Ok(peft::write(dir, &document, &tensors)?)
}

/// What the settings of the folder say.
fn document(
    base: &Path,
    hyper: &Hyperparameters,
    sites: &[Site],
    (config, patterns): (&Config, &SitePatterns),
) -> Map<String, Value> {
    let kind = sites.first().map_or("lora", |site| site.kind);
    let base = Some(base.display().to_string());
    let targets = Some(TargetModules::List(target_modules(hyper, sites)));
    let (ranks, alphas) = patterns_in_file(sites, config, patterns);
    if let Some(said) = lora_config(kind, config) {
        let lora = LoraConfig {
            base_model_name_or_path: base,
            target_modules: targets,
            rank_pattern: ranks,
            alpha_pattern: alphas,
            ..said
        };
        lora.to_document()
    } else {
        let method = MethodConfig {
            peft_type: kind.to_ascii_uppercase(),
            base_model_name_or_path: base,
            r: config.rank,
            alpha: config.alpha,
            dropout: config.dropout,
            rank_pattern: ranks,
            alpha_pattern: alphas,
            target_modules: targets,
            options: config.options.clone(),
        };
        method.to_document()
    }
}

/// Each tensor with its piece of the values, which lie one behind the other.
fn cut<'s>(
    specs: &'s [ParamSpec],
    mut rest: &'s [f32],
) -> impl Iterator<Item = (&'s ParamSpec, &'s [f32])> {
    specs.iter().map(move |spec| {
        let (piece, after) = rest.split_at(spec.len());
        rest = after;
        (spec, piece)
    })
}

/// Makes every number of `sites` what reading it from the file would give.
pub(crate) fn settle(
    hyper: &Hyperparameters,
    sites: &[Site],
    codes: Option<LineCodes>,
    r#type: AdapterType,
    values: &mut SiteValues<'_>,
) {
    let codes = codes.or(r#type.codes());
    for site in sites {
        let mut start = site.range.start;
        for spec in &site.params {
            let own = &mut values.params[start..start + spec.len()];
            start += spec.len();
            match codes.filter(|_| is_coded(spec)) {
                Some(codes) => {
                    let permuted = permuted_rows(hyper, site, spec);
                    peft::round_to_codes(codes, own, spec.shape, permuted);
                }
                None => r#type.round(own),
            }
        }
        let frozen: usize = site.frozen.iter().map(ParamSpec::len).sum();
        if frozen > 0 {
            r#type.round(&mut values.fixed[site.fixed.start..site.fixed.start + frozen]);
        }
    }
}

/// The tensors of a site that are saved, and whether each can be coded: what is not trained is not.
pub(crate) fn saved(site: &Site) -> impl Iterator<Item = (&ParamSpec, bool)> {
    let trained = site.params.iter().map(|spec| (spec, is_coded(spec)));
    trained.chain(site.frozen.iter().map(|spec| (spec, false)))
}

/// Bytes of the file of weights that [`save_adapter`] writes of `sites`.
pub(crate) fn adapter_bytes(sites: &[Site], r#type: AdapterType) -> u64 {
    let parameters = sites.iter().flat_map(|site| {
        saved(site).map(|(spec, coded)| {
            let shape = peft::shape_in_file(spec.name, spec.shape);
            (site.info.name.as_str(), spec.name, shape, coded)
        })
    });
    r#type.file_bytes(parameters)
}

/// The most bytes that this file can have when so many pairs of low rank are left of all `sites`.
fn adapter_bytes_of_pairs(sites: &[Site], left: usize, r#type: AdapterType) -> u64 {
    let pairs = |site: &Site| {
        let (mut rank, mut bytes) = (0, 0);
        for (spec, coded) in saved(site) {
            if let Some(axis) = spec.rank_axis {
                let mut one = spec.shape;
                (rank, one[axis]) = (spec.shape[axis], 1);
                bytes += r#type.data_bytes(one, coded);
            }
        }
        std::iter::repeat_n(bytes, rank)
    };
    let mut each: Vec<u64> = sites.iter().flat_map(pairs).collect();
    each.sort_unstable();
    let gone = each.len().saturating_sub(left);
    adapter_bytes(sites, r#type) - each[..gone].iter().sum::<u64>()
}

/// The most bytes of this file after a run that trains so many pairs, where their number changes.
pub(crate) fn saved_bytes(
    sites: &[Site],
    adaptive_rank: Option<AdaptiveRank>,
    r#type: AdapterType,
) -> u64 {
    match adaptive_rank {
        Some(course) => adapter_bytes_of_pairs(sites, course.target, r#type),
        None => adapter_bytes(sites, r#type),
    }
}

/// Entries of a pattern in a file.
type Pattern<T> = Vec<(String, T)>;

/// Entries of `rank_pattern` and of `alpha_pattern`. Those with a rank of 0 are of sites without an
/// adapter, which PEFT is told by the list of modules.
///
/// The first entry that matches counts, and files have their keys sorted, by PEFT's hand as well.
/// So where order decides, each site has an entry of its own.
fn patterns_in_file(
    sites: &[Site],
    config: &Config,
    patterns: &SitePatterns,
) -> (Pattern<usize>, Pattern<f64>) {
    let mut ranks: Vec<_> = patterns.ranks().filter(|(_, rank)| *rank > 0).collect();
    let mut alphas: Vec<_> = patterns.alphas().collect();
    ranks.sort_by_key(|(key, _)| *key);
    alphas.sort_by_key(|(key, _)| *key);
    let of = |patterns: &SitePatterns, site: &Site| {
        let own = patterns.config_of(&site.info.name, config);
        own.map_or((config.rank, config.alpha), |own| (own.rank, own.alpha))
    };
    let sorted = SitePatterns::new(ranks.iter().copied(), alphas.iter().copied());
    let same =
        |sorted: &SitePatterns| sites.iter().all(|site| of(sorted, site) == of(patterns, site));
    if sorted.is_ok_and(|sorted| same(&sorted)) {
        let owned = |key: &str| key.to_owned();
        let ranks = ranks.into_iter().map(|(key, rank)| (owned(key), rank)).collect();
        return (ranks, alphas.into_iter().map(|(key, alpha)| (owned(key), alpha)).collect());
    }
    let each = |site: &Site| (site.info.name.clone(), of(patterns, site));
    let all: Vec<(String, (usize, f64))> = sites.iter().map(each).collect();
    let ranks = all.iter().filter(|(_, own)| own.0 != config.rank);
    let alphas = all.iter().filter(|(_, own)| own.1.to_bits() != config.alpha.to_bits());
    (
        ranks.map(|(name, own)| (name.clone(), own.0)).collect(),
        alphas.map(|(name, own)| (name.clone(), own.1)).collect(),
    )
}

/// The last part of a site's name.
fn last_part(site: &Site) -> &str {
    site.info.name.rsplit('.').next().unwrap_or_default()
}

/// The shortest list of names that selects exactly `sites` in PEFT: last parts of module names
/// where every layer has them, whole names otherwise.
fn target_modules(hyper: &Hyperparameters, sites: &[Site]) -> Vec<String> {
    let mut names: Vec<String> = sites.iter().map(|site| last_part(site).to_owned()).collect();
    names.sort();
    names.dedup();
    if sites.len() == names.len() * hyper.num_hidden_layers {
        return names;
    }
    sites.iter().map(|site| site.info.name.clone()).collect()
}
