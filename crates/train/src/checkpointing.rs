//! Which policies and stores a run may choose among.

use std::num::NonZeroUsize;

use lowtide_tape::{Checkpointing, Policy, Store};
use lowtide_tensor::QUANTUM;

use crate::{Precision, Settings, SettingsError};

/// The largest groups of blocks worth planning: with larger ones, `sqrt` keeps less.
const EVERY_MAX: usize = 3;

/// Tiles that are worth planning. Smaller ones are slower: weights are decoded once for each tile.
pub(crate) const TILES: [usize; 3] = [256, 128, 64];

impl Settings {
    /// What the planner tries, fastest first. A file comes last: it costs disk traffic, and wears
    /// what it is written to.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when policy or store is none.
    pub(crate) fn candidates(&self) -> Result<Vec<Checkpointing>, SettingsError> {
        if self.gradient == "mezo" {
            let nothing = |tile| Checkpointing { tile, ..Policy::Block.into() };
            return Ok(self.tiles()?.into_iter().map(nothing).collect());
        }
        let policies = match self.checkpointing.as_str() {
            "auto" if self.gradient == "partial" => vec![Policy::Block],
            "auto" => policies(),
            name => vec![Policy::named(name).ok_or_else(|| SettingsError::BadValue {
                field: "checkpointing",
                found: name.into(),
                expected: "auto, store, selective, block, every:N (such as every:2) or sqrt",
            })?],
        };
        let (stores, auto) = match self.checkpoint_store.as_str() {
            "auto" => (in_memory(self.precision()?), true),
            name => {
                let store = Store::named(name).ok_or_else(|| SettingsError::BadValue {
                    field: "checkpoint-store",
                    found: name.into(),
                    expected: "auto, f32, bf16, int8 or file",
                })?;
                (vec![store], false)
            }
        };
        let tiles = self.tiles()?;
        if let ("store" | "selective", [Some(rows)]) = (self.checkpointing.as_str(), &tiles[..]) {
            return Err(SettingsError::BadValue {
                field: "tile-rows",
                found: rows.to_string(),
                expected: "auto or all, because `store` and `selective` keep values of all rows",
            });
        }
        let mut candidates = Vec::new();
        let mut with_tiles = |policy: Policy, store| {
            let all = Checkpointing::new(policy, store);
            // Intermediates are kept for all rows at once.
            let whole = matches!(policy, Policy::Store | Policy::Selective { .. });
            let tiles = if whole { &[None][..] } else { &tiles[..] };
            candidates.extend(tiles.iter().map(|&tile| Checkpointing { tile, ..all }));
        };
        for policy in &policies {
            // Beside all that these keep, what they keep segment inputs in makes no difference.
            let much = matches!(policy, Policy::Store | Policy::Selective { .. });
            let stores = if much { &stores[..1] } else { &stores[..] };
            stores.iter().for_each(|&store| with_tiles(*policy, store));
        }
        let leanest = if policies.len() == 1 { policies[0] } else { Policy::Block };
        if auto && leanest != Policy::Store {
            with_tiles(leanest, Store::File);
        }
        Ok(candidates)
    }

    /// Tiles of rows that are worth planning, the largest first; none for all rows.
    fn tiles(&self) -> Result<Vec<Option<NonZeroUsize>>, SettingsError> {
        let rows = |rows: usize| NonZeroUsize::new(rows).filter(|n| n.get() % QUANTUM == 0);
        match self.tile_rows.as_str() {
            "auto" => Ok([None].into_iter().chain(TILES.map(rows)).collect()),
            "all" => Ok(vec![None]),
            name => match name.parse().ok().and_then(rows) {
                Some(rows) => Ok(vec![Some(rows)]),
                None => Err(SettingsError::BadValue {
                    field: "tile-rows",
                    found: name.into(),
                    expected: "auto, all or a multiple of 64",
                }),
            },
        }
    }
}

/// Every policy worth planning, fastest first.
fn policies() -> Vec<Policy> {
    let groups = (2..=EVERY_MAX).filter_map(NonZeroUsize::new).map(Policy::Every);
    let intermediates = [Policy::Store, Policy::Selective { bytes: u64::MAX }, Policy::Block];
    intermediates.into_iter().chain(groups).chain([Policy::Sqrt]).collect()
}

/// Stores that round no more than a precision allows, the most exact first.
fn in_memory(precision: Precision) -> Vec<Store> {
    match precision {
        Precision::Exact => vec![Store::F32],
        Precision::Balanced => vec![Store::F32, Store::Bf16],
        Precision::Fast => vec![Store::F32, Store::Bf16, Store::Int8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(checkpointing: &str, store: &str, precision: &str) -> Vec<String> {
        let settings = Settings {
            checkpointing: checkpointing.into(),
            checkpoint_store: store.into(),
            precision: precision.into(),
            tile_rows: "all".into(),
            ..Settings::default()
        };
        let name = |c: Checkpointing| format!("{} {}", c.policy, c.store.name());
        settings.candidates().unwrap().into_iter().map(name).collect()
    }

    #[test]
    fn candidates_stay_within_the_precision_and_what_was_asked_for() {
        let exact = names("auto", "auto", "exact");
        let kept = ["store f32", "selective f32"];
        let inputs = ["block f32", "every:2 f32", "every:3 f32", "sqrt f32", "block file"];
        assert_eq!(exact, [&kept[..], &inputs].concat());
        let balanced = names("auto", "auto", "balanced");
        assert_eq!(balanced[..4], [&kept[..], &["block f32", "block bf16"]].concat());
        assert!(balanced.iter().all(|name| !name.ends_with("int8")));
        assert!(names("auto", "auto", "fast").contains(&"sqrt int8".to_owned()));
        assert_eq!(names("selective", "auto", "exact"), ["selective f32", "selective file"]);
        assert_eq!(names("every:5", "auto", "exact"), ["every:5 f32", "every:5 file"]);
        assert_eq!(names("store", "auto", "fast"), ["store f32"]);
        assert_eq!(names("block", "int8", "exact"), ["block int8"]);
        assert_eq!(names("auto", "file", "exact")[0], "store file");
    }

    #[test]
    fn tiles_are_tried_from_all_rows_down() {
        let tiles = |checkpointing: &str, rows: &str| -> Vec<Option<usize>> {
            let (checkpointing, tile_rows) = (checkpointing.into(), rows.into());
            let settings = Settings { checkpointing, tile_rows, ..Settings::default() };
            let all = settings.candidates().unwrap();
            all.iter().map(|c| c.tile.map(NonZeroUsize::get)).collect()
        };
        let auto = [None, Some(256), Some(128), Some(64)];
        assert_eq!(tiles("block", "auto"), [auto, auto].concat(), "in memory, then in the file");
        assert_eq!(tiles("store", "auto"), [None]);
        assert_eq!(tiles("block", "all"), [None; 2]);
        assert_eq!(tiles("sqrt", "192"), [Some(192); 2]);
    }

    #[test]
    fn approximate_gradients_leave_little_to_choose() {
        let of = |gradient: &str| {
            let settings = Settings { gradient: gradient.into(), ..Settings::default() };
            settings.candidates().unwrap()
        };
        assert_eq!(of("mezo").len(), 4, "tiles");
        let partial = of("partial");
        assert!(partial.iter().all(|way| way.policy == Policy::Block) && partial.len() == 8);
    }

    #[test]
    fn what_is_none_is_named() {
        let refused = |settings: Settings| settings.candidates().unwrap_err().to_string();
        for name in ["some", "every:", "every:0", "every:-1", "Block", "every:2x"] {
            let error = refused(Settings { checkpointing: name.into(), ..Settings::default() });
            assert!(error.contains("checkpointing") && error.contains(name), "{error}");
        }
        let (checkpointing, tile_rows) = ("selective".into(), "64".into());
        let error = refused(Settings { checkpointing, tile_rows, ..Settings::default() });
        assert!(error.contains("tile-rows") && error.contains("auto or all"), "{error}");
        for rows in ["0", "65", "many", "-64"] {
            let error = refused(Settings { tile_rows: rows.into(), ..Settings::default() });
            assert!(error.contains("tile-rows") && error.contains(rows), "{error}");
        }
        let error = refused(Settings { checkpoint_store: "f16".into(), ..Settings::default() });
        assert!(error.contains("checkpoint-store") && error.contains("f32, bf16, int8"), "{error}");
    }
}
