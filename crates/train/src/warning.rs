//! What was asked for and will not come to anything: told before a run, which goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::resume::same_folder;
use crate::{SavedRun, Settings};

/// A setting that this run cannot heed. Its words say what is done instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// The learning rate is still rising when the run ends.
    WarmupOutlastsRun {
        /// Updates over which it rises.
        warmup_steps: u64,
        /// Updates of the run.
        steps: u64,
    },
    /// A share is to be held out, and there is a file of held-out examples.
    SplitUnused {
        /// The share.
        val_split: f64,
        /// The file.
        file: PathBuf,
    },
    /// Evaluations are asked for, and nothing is held out.
    NothingHeldOut {
        /// Updates between evaluations.
        eval_every: u64,
    },
    /// The best adapter is to be kept, and nothing is held out to tell which that is.
    NoBest,
    /// There is an adapter in the output folder.
    AdapterReplaced {
        /// The folder.
        output: PathBuf,
    },
    /// There is a run in the output folder that did not come to its end.
    UnfinishedReplaced {
        /// The folder.
        output: PathBuf,
        /// Updates it made.
        step: u64,
    },
    /// LARS pools the whole sequence, of which a token should see only what comes before it.
    LaterTokens,
    /// A number of updates between evaluations or saves that the run never reaches.
    NeverReached {
        /// The setting.
        field: &'static str,
        /// Updates it waits for.
        every: u64,
        /// Updates of the run.
        steps: u64,
    },
    /// The adapter is saved in codes and not trained in them.
    RoundedAtTheEnd {
        /// The codes.
        codes: &'static str,
        /// Whether the method can be trained in them.
        has_option: bool,
    },
}

impl Warning {
    /// All of a run of `steps` updates whose method has these options; `valid_file` holds the
    /// held-out examples where a file does, and `held_out` says whether there are any.
    pub(crate) fn all(
        settings: &Settings,
        options: &BTreeMap<String, String>,
        steps: u64,
        valid_file: Option<&PathBuf>,
        held_out: bool,
    ) -> Vec<Self> {
        let mut all = Vec::new();
        let (val_split, eval_every) = (settings.val_split, settings.eval_every);
        let warmup_steps = settings.schedule(steps).map_or(0, |schedule| schedule.warmup_steps);
        if warmup_steps > 0 && warmup_steps >= steps {
            all.push(Self::WarmupOutlastsRun { warmup_steps, steps });
        }
        if let Some(file) = valid_file.filter(|_| val_split > 0.0) {
            all.push(Self::SplitUnused { val_split, file: file.clone() });
        }
        if eval_every > 0 && !held_out {
            all.push(Self::NothingHeldOut { eval_every });
        }
        if settings.keep_best && !held_out {
            all.push(Self::NoBest);
        }
        let rhythms = [("eval-every", eval_every * u64::from(held_out))];
        for (field, every) in rhythms.into_iter().chain([("save-every", settings.save_every)]) {
            if every >= steps && every > 0 {
                all.push(Self::NeverReached { field, every, steps });
            }
        }
        if settings.method == "lars" && options.get("pool").is_some_and(|pool| pool == "all") {
            all.push(Self::LaterTokens);
        }
        all.extend(Self::of_replacing(settings));
        all
    }

    /// What the first save puts an end to, unless it belongs to this run.
    fn of_replacing(settings: &Settings) -> Option<Self> {
        let output = settings.output.clone();
        if settings.resume.as_ref().is_some_and(|folder| same_folder(folder, &output)) {
            return None;
        }
        match SavedRun::find(&output) {
            Ok(Some(run)) if !run.is_finished() => {
                Some(Self::UnfinishedReplaced { output, step: run.step() })
            }
            _ => {
                let holds = output.join("adapter_config.json").exists();
                holds.then_some(Self::AdapterReplaced { output })
            }
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WarmupOutlastsRun { warmup_steps, steps } => write!(
                f,
                "`warmup-steps` is {warmup_steps} and the run has {steps}: the learning rate \
                 rises to the end and never reaches `lr`"
            ),
            Self::SplitUnused { val_split, file } => write!(
                f,
                "`val-split` is {val_split} and {} is there: the file is measured, and nothing \
                 is held out of the training data",
                file.display()
            ),
            Self::NothingHeldOut { eval_every } => write!(
                f,
                "`eval-every` is {eval_every} and there is nothing to measure: give a file of \
                 held-out examples, or `val-split`"
            ),
            Self::NoBest => write!(
                f,
                "`keep-best` is set and there is nothing to measure, so the last adapter is saved: \
                 give a file of held-out examples, or `val-split`"
            ),
            Self::AdapterReplaced { output } => {
                write!(f, "{} holds an adapter: saving replaces it", output.display())
            }
            Self::UnfinishedReplaced { output, step } => write!(
                f,
                "{} holds a run that is not finished, {step} updates in: saving replaces it; \
                 `resume` goes on with it",
                output.display()
            ),
            Self::LaterTokens => write!(
                f,
                "`pool` is all: a token sees those after it, so losses on next tokens look better \
                 than what text generation makes of them; `prompt` and `chunk` do not show any"
            ),
            Self::NeverReached { field, every, steps } => write!(
                f,
                "`{field}` is {every} and the run has {steps} updates: it happens at the end only"
            ),
            Self::RoundedAtTheEnd { codes, has_option } => {
                write!(
                    f,
                    "`adapter-type` is {codes} and the adapter is trained in floats: it is rounded \
                     once, before the last evaluation"
                )?;
                match has_option {
                    true => write!(f, "; `method-option` quantize={codes} trains what is saved"),
                    false => Ok(()),
                }
            }
        }
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(settings: &Settings, file: Option<&str>, held_out: bool) -> Vec<String> {
        let file = file.map(PathBuf::from);
        let options = &settings.method_option;
        let all = Warning::all(settings, options, 20, file.as_ref(), held_out);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_heeded_needs_no_words() {
        let settings = Settings {
            warmup_steps: Some(19),
            eval_every: 19,
            save_every: 5,
            val_split: 0.1,
            ..Settings::default()
        };
        assert_eq!(words(&settings, None, true), [""; 0]);
        assert_eq!(words(&Settings::default(), Some("valid.jsonl"), true), [""; 0]);
    }

    #[test]
    fn what_is_not_heeded_is_told() {
        let settings = Settings {
            warmup_steps: Some(20),
            eval_every: 20,
            save_every: 99,
            val_split: 0.25,
            ..Settings::default()
        };
        assert_eq!(
            words(&settings, Some("valid.jsonl"), true),
            [
                "`warmup-steps` is 20 and the run has 20: the learning rate rises to the end and \
                 never reaches `lr`",
                "`val-split` is 0.25 and valid.jsonl is there: the file is measured, and nothing \
                 is held out of the training data",
                "`eval-every` is 20 and the run has 20 updates: it happens at the end only",
                "`save-every` is 99 and the run has 20 updates: it happens at the end only",
            ]
        );
        let settings = Settings { eval_every: 2, ..Settings::default() };
        assert_eq!(
            words(&settings, None, false),
            ["`eval-every` is 2 and there is nothing to measure: give a file of held-out \
              examples, or `val-split`"]
        );
        let settings = Settings { keep_best: true, ..Settings::default() };
        assert_eq!(words(&settings, None, true), [""; 0]);
        assert_eq!(
            words(&settings, None, false),
            ["`keep-best` is set and there is nothing to measure, so the last adapter is saved: \
              give a file of held-out examples, or `val-split`"]
        );
        let pooled = |method: &str, pool: &str| {
            let method_option = [("pool".to_owned(), pool.to_owned())].into();
            words(
                &Settings { method: method.into(), method_option, ..Settings::default() },
                None,
                true,
            )
        };
        assert!(pooled("lars", "all")[0].starts_with("`pool` is all: a token sees those after it"));
        assert_eq!((pooled("lars", "chunk").len(), pooled("lora", "all").len()), (0, 0));
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().to_owned();
        std::fs::write(output.join("adapter_config.json"), "{}").unwrap();
        let settings = Settings { output: output.clone(), ..Settings::default() };
        let told = format!("{} holds an adapter: saving replaces it", output.display());
        assert_eq!(words(&settings, None, false), [told]);
        let json = serde_json::to_value(Warning::NothingHeldOut { eval_every: 2 }).unwrap();
        assert!(json.as_str().unwrap().starts_with("`eval-every` is 2"));
    }
}
