//! Adapter methods beside each other: the same base, examples and number of tokens, one method
//! after the other.

use lowtide_train::{PlanReport, Settings, Summary, TrainError};

use crate::{BenchError, MethodRow};

/// A method to train with.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodTrial {
    /// How the table calls it.
    pub name: String,
    /// The run.
    pub settings: Settings,
}

/// How a method of the table is chosen: its name in the table, the method, its options, a rank of
/// its own, and the factor on the learning rate that LoRA has.
type Chosen =
    (&'static str, &'static str, &'static [(&'static str, &'static str)], Option<usize>, f64);

/// Every method with settings that suit it. Learning rates are relative to LoRA's: methods of few
/// numbers that multiply want larger ones.
const METHODS: &[Chosen] = &[
    ("lora", "lora", &[], None, 1.0),
    ("rslora", "rslora", &[], None, 0.5),
    ("lora-fa", "lora-fa", &[], None, 2.0),
    ("dora", "dora", &[], None, 1.0),
    ("vera", "vera", &[], Some(256), 10.0),
    ("qalora", "qalora", &[], None, 1.0),
    ("lora int8", "lora", &[("quantize", "int8")], None, 1.0),
    ("lora int4", "lora", &[("quantize", "int4")], None, 1.0),
    ("ia3", "ia3", &[], None, 10.0),
    ("bottleneck", "bottleneck", &[], None, 2.0),
    ("lars prompt", "lars", &[("pool", "prompt")], None, 2.0),
    ("lars learned", "lars", &[("pool", "learned")], None, 2.0),
    ("lars chunk", "lars", &[("pool", "chunk")], None, 2.0),
    ("lars gate", "lars", &[("pool", "gate")], None, 1.0),
];

/// The methods around the run that `base` describes; `names` leaves out all others, unless it is
/// empty. A name that no row has is a method's, with all its rows.
#[must_use]
pub fn method_trials(base: &Settings, names: &[String]) -> Vec<MethodTrial> {
    let is_row = |name: &String| METHODS.iter().any(|(row, ..)| row == name);
    let wanted = |(row, method, ..): &&Chosen| {
        let means = |name: &String| name == row || name == method && !is_row(name);
        names.is_empty() || names.iter().any(means)
    };
    let trial = |&(name, method, options, rank, factor): &Chosen| {
        let option = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        // What is trained in codes is saved in them.
        let codes = options.iter().find(|(name, _)| *name == "quantize");
        let settings = Settings {
            adapter_type: codes.map_or(base.adapter_type.clone(), |codes| codes.1.into()),
            method: method.into(),
            method_option: options.iter().map(option).collect(),
            rank: rank.unwrap_or(base.rank),
            lr: base.lr * factor,
            ..base.clone()
        };
        MethodTrial { name: name.into(), settings }
    };
    METHODS.iter().filter(wanted).map(trial).collect()
}

/// What makes and plans the runs.
pub struct Runner<'r> {
    /// Plans a run.
    pub plan: &'r mut dyn FnMut(&Settings) -> Result<PlanReport, TrainError>,
    /// Makes it.
    pub train: &'r mut dyn FnMut(&Settings) -> Result<Summary, TrainError>,
}

/// Makes every run and tells rows as they come; `on_start` hears what is about to run.
///
/// # Errors
/// [`BenchError::Trial`] for a run that fails, naming the method.
pub fn methods(
    trials: &[MethodTrial],
    runner: &mut Runner<'_>,
    on_start: &dyn Fn(&str),
    on_row: &dyn Fn(&MethodRow),
) -> Result<Vec<MethodRow>, BenchError> {
    let mut rows = Vec::new();
    for (done, MethodTrial { name, settings }) in trials.iter().enumerate() {
        let failed = |source| BenchError::Trial { name: name.clone(), source: Box::new(source) };
        on_start(&format!("{name} ({} of {})", done + 1, trials.len()));
        let store = Settings { checkpointing: "store".into(), ..settings.clone() };
        let lean = Settings {
            checkpointing: "auto".into(),
            checkpoint_store: "auto".into(),
            tile_rows: "auto".into(),
            ..settings.clone()
        };
        let planned = (runner.plan)(&store).map_err(failed)?.planned_peak_bytes;
        let leanest = (runner.plan)(&lean).map_err(failed)?.smallest_budget;
        let summary = (runner.train)(&store).map_err(failed)?;
        let row = MethodRow {
            name: name.clone(),
            lr: settings.lr,
            trainable_parameters: summary.trainable_parameters,
            adapter_bytes: summary.adapter_bytes,
            store_bytes: planned,
            leanest_bytes: leanest,
            loss_before: summary.eval_loss_before,
            loss_after: summary.eval_loss_after,
            tokens: summary.tokens,
            updates: summary.steps,
            seconds: summary.seconds_per_step_median,
        };
        on_row(&row);
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_rows_and_settings_hold() {
        let base = Settings { lr: 0.5, ..Settings::default() };
        let all = method_trials(&base, &[]);
        assert_eq!(all.len(), METHODS.len());
        for MethodTrial { name, settings } in &all {
            assert_eq!(settings.check(), Ok(()), "{name}");
        }
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
            let chosen = method_trials(&base, &names);
            chosen.into_iter().map(|trial| trial.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["ia3", "lora int8"]), ["lora int8", "ia3"]);
        assert_eq!(names(&["lora"]), ["lora"]);
        let lars = ["lars prompt", "lars learned", "lars chunk", "lars gate"];
        assert_eq!(names(&["lars"]), lars);
        let vera = &method_trials(&base, &["vera".into()])[0].settings;
        assert_eq!((vera.rank, vera.lr), (256, 5.0));
    }
}
