//! What the quickstart showed: its answers before and after, told to people and to programs.

use std::ffi::OsStr;
use std::path::Path;

use lowtide::Summary;
use serde::{Deserialize, Serialize};

use super::super::show::Facts;
use super::super::show::number::{bytes, count, percent, time};
use super::super::show::summary::{change, quoted};

/// A held-out prompt, and what was made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) prompt: String,
    #[serde(rename(deserialize = "completion"))]
    pub(super) expected: String,
    #[serde(default)]
    pub(super) before: String,
    #[serde(default)]
    pub(super) after: String,
}

impl Answer {
    fn given(&self, trained: bool) -> &str {
        if trained { &self.after } else { &self.before }
    }
}

/// The object that `--json` prints: what was asked, and the run's summary.
#[derive(Debug, Serialize)]
pub(super) struct Outcome<'a> {
    exact_match_before: f64,
    exact_match_after: f64,
    seconds: f64,
    model: &'a Path,
    data: &'a Path,
    adapter: &'a Path,
    #[serde(flatten)]
    summary: &'a Summary,
    answers: &'a [Answer],
}

impl<'a> Outcome<'a> {
    pub(super) fn new(
        model: &'a Path,
        data: &'a Path,
        adapter: &'a Path,
        seconds: f64,
        summary: &'a Summary,
        answers: &'a [Answer],
    ) -> Self {
        let share = |trained| right(answers, trained) as f64 / answers.len() as f64;
        let (exact_match_before, exact_match_after) = (share(false), share(true));
        Self {
            exact_match_before,
            exact_match_after,
            seconds,
            model,
            data,
            adapter,
            summary,
            answers,
        }
    }
}

/// How many answers are right to the letter.
fn right(answers: &[Answer], trained: bool) -> usize {
    answers.iter().filter(|answer| answer.given(trained) == answer.expected).count()
}

/// What is about to happen.
pub(super) fn opening(model: &Path, prompts: usize) -> String {
    let folder = model.parent().unwrap_or(model).display();
    format!(
        "A tiny model that turns household commands into intents is about to learn the names\n\
         of one home. Model and examples are in {folder}.\n\n\
         {prompts} held-out prompts are asked first: their wording is in no training data, and\n\
         neither is their action with their device.\n"
    )
}

/// How many prompts were answered exactly.
pub(super) fn score(answers: &[Answer], trained: bool) -> String {
    let (right, of) = (right(answers, trained), answers.len());
    let who = if trained { "With its adapter it" } else { "The bare base" };
    let share = percent(right as f64, of as f64);
    let end = if trained { "" } else { "\n" };
    format!("{who} answers {right} of {of} exactly ({share}).\n{end}")
}

/// Prompts shown in full.
const SHOWN: usize = 5;

/// Some prompts with their answers, the run in short, and what to do next.
pub(super) fn report(outcome: &Outcome<'_>, program: &OsStr) -> String {
    let (samples, facts) = (samples(outcome.answers), facts(outcome));
    format!("\n{samples}\n{facts}\n{}", next(outcome, program))
}

/// Prompts evenly over all of them, so that the same ones are shown whatever was answered.
fn samples(answers: &[Answer]) -> String {
    let mut text = "Held-out prompts\n".to_owned();
    for answer in answers.iter().step_by(answers.len().div_ceil(SHOWN).max(1)) {
        text.push_str(&format!("  {}\n", answer.prompt));
        let after = if answer.after == answer.expected { "after, right" } else { "after" };
        let mut said = vec![("before", &answer.before), (after, &answer.after)];
        if answer.after != answer.expected {
            said.push(("expected", &answer.expected));
        }
        for (when, said) in said {
            text.push_str(&format!("    {when:<14}{said}\n"));
        }
    }
    text
}

fn facts(outcome: &Outcome<'_>) -> String {
    let summary = outcome.summary;
    let share = |part: f64| percent(part, 1.0);
    let (before, after) = (share(outcome.exact_match_before), share(outcome.exact_match_after));
    let when = "before and after training";
    let mut facts = Facts::default();
    facts.add("exact match", format!("{before} → {after} ({when})"));
    facts.add("held-out loss", change(summary.eval_loss_before, summary.eval_loss_after, when));
    facts.add("loss", change(summary.loss_first, summary.loss_last, "first and last update"));
    facts.add("planned peak", exact_bytes(summary.planned_peak_bytes));
    facts.add("real peak", format!("{} charged", exact_bytes(summary.peak_bytes)));
    if let Some(anonymous) = summary.rss_anon_peak_bytes {
        facts.add("process", format!("{} resident, files left out", bytes(anonymous)));
    }
    facts.add("time", time(outcome.seconds));
    facts.add("adapter", outcome.adapter.display().to_string());
    facts.under("Done")
}

fn exact_bytes(n: u64) -> String {
    format!("{} ({} bytes)", bytes(n), count(n))
}

fn next(outcome: &Outcome<'_>, program: &OsStr) -> String {
    let (program, model) = (quoted(Path::new(program)), quoted(outcome.model));
    let adapter = quoted(outcome.adapter);
    format!(
        "Next, give it orders of your own\n  \
         {program} chat --model {model} --adapter {adapter}\n\
         or fine-tune a model of yours on data of yours\n  \
         {program} finetune --model model.gguf --data examples.jsonl --output my-adapter\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Answer> {
        let answer = |n: usize, after: &str| Answer {
            prompt: format!("order {n}"),
            expected: "right".into(),
            before: if n == 0 { "right" } else { "wrong" }.into(),
            after: after.into(),
        };
        vec![answer(0, "right"), answer(1, "wrong"), answer(2, "right"), answer(3, "right")]
    }

    #[test]
    fn scores_count_answers_that_are_right_to_the_letter() {
        let answers = answers();
        assert_eq!(score(&answers, false), "The bare base answers 1 of 4 exactly (25.0 %).\n\n");
        assert_eq!(score(&answers, true), "With its adapter it answers 3 of 4 exactly (75.0 %).\n");
    }

    #[test]
    fn the_report_shows_answers_memory_and_what_to_do_next() {
        let summary = Summary {
            eval_loss_before: Some(2.5),
            eval_loss_after: Some(0.25),
            loss_first: Some(3.0),
            loss_last: Some(0.125),
            planned_peak_bytes: 3 << 20,
            peak_bytes: 3 << 20,
            rss_anon_peak_bytes: Some(2 << 20),
            ..Summary::default()
        };
        let path = |name| Path::new(name);
        let (answers, adapter) = (answers(), path("a b/adapter"));
        let outcome = Outcome::new(path("m.gguf"), path("d"), adapter, 12.4, &summary, &answers);
        let text = report(&outcome, OsStr::new("lowtide"));
        for part in [
            "  order 0\n    before        right\n    after, right  right\n",
            "  order 1\n    before        wrong\n    after         wrong\n",
            "    after         wrong\n    expected      right\n",
            "  exact match   25.0 % → 75.0 % (before and after training)\n",
            "  held-out loss 2.5000 → 0.2500 (before and after training)\n",
            "  planned peak  3.00 MiB (3,145,728 bytes)\n",
            "  real peak     3.00 MiB (3,145,728 bytes) charged\n",
            "  process       2.00 MiB resident, files left out\n",
            "  lowtide chat --model m.gguf --adapter 'a b/adapter'\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!((&json["exact_match_after"], &json["steps"]), (&0.75.into(), &0.into()));
        assert_eq!(json["answers"][1]["expected"], "right");
    }
}
