//! Adapters without the pairs that are switched off, in the place where they are: nothing is
//! copied to be saved.

use lowtide_adapter::{Config, ParamSpec};
use lowtide_model::{Site, SitePatterns, SiteValues};

use super::{grouped, up};

/// Moves what is kept of each site to the front of its values, and returns the sites that this
/// makes of them; those that lost all pairs are not among them. `is_on` says of a site, by its
/// number, which of its pairs are kept.
pub(crate) fn compact(
    sites: &[Site],
    values: &mut SiteValues<'_>,
    is_on: &dyn Fn(usize, usize) -> bool,
) -> Vec<Site> {
    let mut compacted = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        let on = |pair| is_on(number, pair);
        let kept = smaller(site, &on);
        if up(&kept).and_then(|(_, spec)| spec.rank()) == Some(0) {
            continue;
        }
        squeeze(&site.params, &on, &mut values.params[site.range.clone()]);
        if !site.frozen.is_empty() {
            squeeze(&site.frozen, &on, &mut values.fixed[site.fixed.clone()]);
        }
        compacted.push(kept);
    }
    compacted
}

/// The way back: what was kept is where it was, and all else of the pairs zero.
pub(crate) fn restore(
    sites: &[Site],
    values: &mut SiteValues<'_>,
    is_on: &dyn Fn(usize, usize) -> bool,
) {
    for (number, site) in sites.iter().enumerate() {
        let on = |pair| is_on(number, pair);
        if up(&smaller(site, &on)).and_then(|(_, spec)| spec.rank()) == Some(0) {
            continue;
        }
        spread(&site.params, &on, &mut values.params[site.range.clone()]);
        if !site.frozen.is_empty() {
            spread(&site.frozen, &on, &mut values.fixed[site.fixed.clone()]);
        }
    }
}

/// Ranks and alphas of compacted `sites`, at the scales that they were trained with, of which
/// `config` and `trained` tell.
pub(crate) fn patterns(
    sites: &[Site],
    (config, trained): (&Config, &SitePatterns),
) -> SitePatterns {
    let own = |site: &Site| {
        let config = trained.config_of(&site.info.name, config).expect("a site that was built");
        let left = up(site).and_then(|(_, spec)| spec.rank()).unwrap_or(config.rank);
        let (rank, stable) = (config.rank as f64, config.use_rslora || site.kind == "rslora");
        let alpha = match stable {
            true => config.alpha * (left as f64 / rank).sqrt(),
            false => config.alpha * left as f64 / rank,
        };
        (left, alpha.to_bits())
    };
    let all = grouped(sites.iter().map(|site| (&*site.info.name, site.info.layer, own(site))));
    let ranks = all.iter().map(|(key, (rank, _))| (key.as_str(), *rank));
    let alphas = all.iter().map(|(key, (_, alpha))| (key.as_str(), f64::from_bits(*alpha)));
    let other_rank = ranks.filter(|(_, rank)| *rank != config.rank);
    let other_alpha = alphas.filter(|(_, alpha)| alpha.to_bits() != config.alpha.to_bits());
    SitePatterns::new(other_rank, other_alpha).expect("names are patterns")
}

/// The site with those pairs only.
fn smaller(site: &Site, on: &dyn Fn(usize) -> bool) -> Site {
    let fewer = |spec: &ParamSpec| {
        let mut spec = *spec;
        if let (Some(axis), Some(rank)) = (spec.rank_axis, spec.rank()) {
            spec.shape[axis] = (0..rank).filter(|pair| on(*pair)).count();
        }
        spec
    };
    let params: Vec<_> = site.params.iter().map(fewer).collect();
    let frozen: Vec<_> = site.frozen.iter().map(fewer).collect();
    let len = |specs: &[ParamSpec]| specs.iter().map(ParamSpec::len).sum::<usize>();
    let range = site.range.start..site.range.start + len(&params);
    let fixed = site.fixed.start..site.fixed.start + len(&frozen);
    Site { params, range, frozen, fixed, ..site.clone() }
}

/// Moves the kept elements of tensors, which lie one after another, to the front.
fn squeeze(specs: &[ParamSpec], on: &dyn Fn(usize) -> bool, values: &mut [f32]) {
    let (mut from, mut to) = (0, 0);
    for spec in specs {
        for element in 0..spec.len() {
            if spec.pair_of(element).is_none_or(on) {
                values[to] = values[from];
                to += 1;
            }
            from += 1;
        }
    }
}

/// The way back, from the last element to the first.
fn spread(specs: &[ParamSpec], on: &dyn Fn(usize) -> bool, values: &mut [f32]) {
    let kept = |spec: &ParamSpec, element| spec.pair_of(element).is_none_or(on);
    let count = |spec: &ParamSpec| (0..spec.len()).filter(|at| kept(spec, *at)).count();
    let mut from: usize = specs.iter().map(count).sum();
    let mut to: usize = specs.iter().map(ParamSpec::len).sum();
    for spec in specs.iter().rev() {
        for element in (0..spec.len()).rev() {
            to -= 1;
            values[to] = match kept(spec, element) {
                true => {
                    from -= 1;
                    values[from]
                }
                false => 0.0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use lowtide_adapter::{Facts, Init, Place, SiteInfo};

    use super::*;

    const NAME: &str = "model.layers.3.mlp.up_proj";

    /// `A [rank, 3]`, `B [2, rank]` and a vector `[2]`.
    fn site(layer: usize, rank: usize) -> Site {
        let spec = |name, shape, output_axis, rank_axis| ParamSpec {
            name,
            shape,
            init: Init::Zeros,
            output_axis,
            rank_axis,
        };
        let params = vec![
            spec("lora_A.weight", [rank, 3], None, Some(0)),
            spec("lora_B.weight", [2, rank], Some(0), Some(1)),
            spec("m", [2, 1], Some(0), None),
        ];
        let name = NAME.replace('3', &layer.to_string());
        let (in_features, out_features, place) = (3, 2, Place::Linear);
        let info = SiteInfo { name, layer, in_features, out_features, place };
        let facts = Facts { reads_x: true, reads_y: false, whole_sequence: false, mergeable: true };
        let (frozen, kind, range) = (Vec::new(), "lora", 0..5 * rank + 2);
        Site { info, kind, facts, params, range, frozen, fixed: 0..0, state: 0 }
    }

    #[test]
    fn what_is_kept_comes_to_the_front_and_back_again() {
        let sites = [site(3, 4)];
        let is_on = |_: usize, pair: usize| pair % 2 == 1;
        let trained: Vec<f32> = (0..22).map(|i| i as f32).collect();
        let mut params = trained.clone();
        let mut values = SiteValues::from(&mut params[..]);
        let small = compact(&sites, &mut values, &is_on);
        let front = [3., 4., 5., 9., 10., 11., 13., 15., 17., 19., 20., 21.];
        assert_eq!((small[0].range.clone(), &values.params[..12]), (0..12, &front[..]));
        let shapes: Vec<_> = small[0].params.iter().map(|spec| spec.shape).collect();
        assert_eq!(shapes, [[2, 3], [2, 2], [2, 1]]);
        restore(&sites, &mut values, &is_on);
        let zero = [0, 1, 2, 6, 7, 8, 12, 14, 16, 18];
        for (i, value) in params.iter().enumerate() {
            assert_eq!(*value, if zero.contains(&i) { 0.0 } else { trained[i] }, "{i}");
        }
        let mut values = SiteValues::from(&mut params[..]);
        assert!(compact(&sites, &mut values, &|_, _| false).is_empty());
    }

    #[test]
    fn alphas_keep_the_scale_of_training() {
        let config = Config { rank: 4, alpha: 8.0, ..Config::default() };
        let own = SitePatterns::new([("layers.1.*", 2)], []).unwrap();
        let sites = [site(0, 1), site(1, 1), site(2, 4), site(3, 1)];
        let scale = |use_rslora: bool| {
            let config = Config { use_rslora, ..config.clone() };
            let saved = patterns(&sites, (&config, &own));
            let told = |site: &Site| {
                let Config { rank, alpha, .. } = saved.config_of(&site.info.name, &config).unwrap();
                (rank, if use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 })
            };
            sites.each_ref().map(told)
        };
        assert_eq!(scale(false), [(1, 2.0), (1, 4.0), (4, 2.0), (1, 2.0)]);
        let root = 8.0 / 2.0_f64.sqrt();
        let stable = [(1, 4.0), (1, root), (4, 4.0), (1, 4.0)];
        for ((rank, scale), (wanted_rank, wanted)) in scale(true).into_iter().zip(stable) {
            assert!(rank == wanted_rank && (scale - wanted).abs() < 1e-14, "{rank}: {scale}");
        }
        let saved = patterns(&sites, (&config, &own));
        let keys: Vec<_> = saved.ranks().collect();
        let key = r"layers\.(?:0|3)\.mlp\.up_proj";
        assert_eq!(keys, [(key, 1), ("layers.1.mlp.up_proj", 1)]);
    }
}
