//! Memory against held-out loss, lever by lever: the same short run again and again, with one
//! choice changed each time.

use std::path::PathBuf;

use lowtide_train::{Settings, Summary, TrainError};

use crate::{BenchError, TradeoffRow};

/// A run to make: what is changed, and to what.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// What is changed.
    pub lever: &'static str,
    /// What it is changed to.
    pub choice: String,
    /// The run.
    pub settings: Settings,
}

/// The levers around the run that `base` describes: as it is, then one changed at a time. `types`
/// are the same weights in other types, by name, and `layers` the blocks of the model. `quick`
/// leaves out all but one or two choices of each.
#[must_use]
pub fn trials(
    base: &Settings,
    types: &[(String, PathBuf)],
    layers: usize,
    quick: bool,
) -> Vec<Trial> {
    let mut all = vec![Trial { lever: "base", choice: "as it is".into(), settings: base.clone() }];
    let mut add = |lever, choice: &str, change: &dyn Fn(&mut Settings)| {
        let mut settings = base.clone();
        change(&mut settings);
        all.push(Trial { lever, choice: choice.to_owned(), settings });
    };
    for (name, path) in types {
        add("weights", name, &|s| s.model.clone_from(path));
    }
    for policy in some(&["sqrt", "store"], quick) {
        add("policy", policy, &|s| s.checkpointing = policy.into());
    }
    add("policy", "sqrt, 64 rows", &|s| {
        s.checkpointing = "sqrt".into();
        s.tile_rows = "64".into();
    });
    for store in some(&["int8", "bf16", "file"], quick) {
        add("store", store, &|s| s.checkpoint_store = store.into());
    }
    for precision in some(&["fast", "balanced"], quick) {
        add("precision", precision, &|s| s.precision = precision.into());
    }
    for softmax in some(&["union:100", "union:1000"], quick) {
        add("softmax", softmax, &|s| s.softmax = softmax.into());
    }
    for rank in some(&[2, 32], quick) {
        add("rank", &rank.to_string(), &|s| {
            s.alpha *= rank as f64 / s.rank as f64;
            s.rank = rank;
        });
    }
    for part in some(&[2, 4], quick) {
        let last = format!("last:{}", (layers / part).max(1));
        add("layers", &last, &|s| s.layers.clone_from(&last));
    }
    add("modules", "q_proj,v_proj", &|s| s.target_modules = "q_proj,v_proj".into());
    for window in some(&[32, 128], quick) {
        add("window", &window.to_string(), &|s| s.sliding_window = Some(window));
    }
    add("clipping", "off", &|s| s.max_grad_norm = 0.0);
    all
}

fn some<T: Copy>(choices: &[T], quick: bool) -> impl Iterator<Item = T> {
    choices.iter().copied().take(if quick { 1 } else { choices.len() })
}

/// Makes every run with `train` and tells rows as they come; `on_start` hears what is about to run.
///
/// # Errors
/// [`BenchError::Trial`] for a run that fails, naming what was changed.
pub fn tradeoff(
    trials: &[Trial],
    train: &mut dyn FnMut(&Settings) -> Result<Summary, TrainError>,
    on_start: &dyn Fn(&str),
    on_row: &dyn Fn(&TradeoffRow),
) -> Result<Vec<TradeoffRow>, BenchError> {
    let mut rows = Vec::new();
    for (done, trial) in trials.iter().enumerate() {
        let name = format!("{} {}", trial.lever, trial.choice);
        on_start(&format!("{name} ({} of {})", done + 1, trials.len()));
        let summary = train(&trial.settings)
            .map_err(|source| BenchError::Trial { name, source: Box::new(source) })?;
        let row = TradeoffRow::of(trial, &summary);
        on_row(&row);
        rows.push(row);
    }
    Ok(rows)
}

impl TradeoffRow {
    fn of(trial: &Trial, summary: &Summary) -> Self {
        let tile = summary.tile_rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
        Self {
            lever: trial.lever.to_owned(),
            choice: trial.choice.clone(),
            plan: format!("{}, {}{tile}", summary.policy, summary.store),
            planned_bytes: summary.planned_peak_bytes,
            charged_bytes: summary.peak_bytes,
            mapped_bytes: summary.mapped_bytes,
            loss_before: summary.eval_loss_before,
            loss_after: summary.eval_loss_after,
            updates: summary.steps,
            seconds: summary.seconds_per_step_median,
            gradient_cosine: summary.softmax_error.map(|error| error.gradient_cosine),
        }
    }

    /// Whether what is trained is not what the exact run trains.
    #[must_use]
    pub fn approximate(&self) -> bool {
        match self.lever.as_str() {
            "precision" | "softmax" => true,
            "store" => self.choice != "file",
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use lowtide_train::SettingsError;

    use super::*;

    #[test]
    fn every_lever_changes_one_thing_and_settings_that_hold() {
        let base = Settings { checkpointing: "block".into(), ..Settings::default() };
        let types = [("q4_0".to_owned(), PathBuf::from("x.gguf"))];
        let all = trials(&base, &types, 30, false);
        assert_eq!(all[0].settings, base);
        let names: Vec<_> = all.iter().map(|t| format!("{} {}", t.lever, t.choice)).collect();
        for name in ["weights q4_0", "store int8", "precision balanced", "softmax union:1000"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        for trial in &all {
            assert_eq!(trial.settings.check(), Ok(()), "{} {}", trial.lever, trial.choice);
            assert_eq!(trial.settings != base, trial.lever != "base", "{trial:?}");
        }
        let rank = all.iter().find(|t| t.choice == "32").unwrap();
        assert_eq!((rank.settings.rank, rank.settings.alpha), (32, 64.0));
        let quick = trials(&base, &types, 1, true);
        assert!(quick.len() < all.len() && quick.iter().any(|t| t.choice == "last:1"));
    }

    #[test]
    fn rows_are_what_runs_came_to_and_a_failed_one_is_named() {
        let base = Settings::default();
        let trials = trials(&base, &[], 4, true);
        let mut rank = 0;
        let mut train = |settings: &Settings| {
            rank = settings.rank;
            Ok(Summary {
                planned_peak_bytes: 7,
                peak_bytes: 7,
                eval_loss_after: Some(1.5),
                policy: "sqrt".into(),
                store: "f32".into(),
                tile_rows: Some(64),
                ..Summary::default()
            })
        };
        let rows = tradeoff(&trials, &mut train, &|_| (), &|_| ()).unwrap();
        assert_eq!(rows.len(), trials.len());
        assert_eq!(rows[0].plan, "sqrt, f32, 64 rows");
        assert_eq!((rows[0].planned_bytes, rows[0].loss_after), (7, Some(1.5)));
        let approximate: Vec<_> =
            rows.iter().filter(|row| row.approximate()).map(|row| row.lever.as_str()).collect();
        assert_eq!(approximate, ["store", "precision", "softmax"]);
        let mut fail = |_: &Settings| {
            let expected = "another";
            Err(SettingsError::BadValue { field: "x", found: "1".into(), expected }.into())
        };
        let error = tradeoff(&trials, &mut fail, &|_| (), &|_| ()).unwrap_err().to_string();
        assert_eq!(error, "base as it is: `x` is 1, expected another");
    }
}
