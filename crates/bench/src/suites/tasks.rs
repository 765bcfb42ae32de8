//! Small tasks that tell methods apart: one that a bias for a whole sequence can solve, two that it
//! cannot, and one over a long context. Examples are token ids, so that any base can be asked.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use lowtide_train::{Evaluation, Settings, Summary, TrainError};

use super::MethodTrial;
use crate::{BenchError, TaskRow};

/// A task. Its examples are drawn from so many symbols, which are tokens of the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A first token of four says which symbol the answer repeats; the rest of the prompt has no
    /// say.
    Style,
    /// The answer repeats the prompt's symbols in order.
    Copy,
    /// The answer says for each symbol of the prompt whether it is the same as the one before.
    Tag,
    /// Somewhere in a long prompt a mark is followed by a symbol; the answer is that symbol.
    Needle,
}

/// Symbols of the alphabet.
const SYMBOLS: u32 = 16;
/// Styles, each with a mark of its own.
const STYLES: u32 = 4;
/// Symbols of a short prompt.
const LENGTH: usize = 6;
/// Tokens of a long one.
const HAY: usize = 200;

impl Task {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Style, Self::Copy, Self::Tag, Self::Needle];

    /// Name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Style => "style",
            Self::Copy => "copy",
            Self::Tag => "tag",
            Self::Needle => "needle",
        }
    }

    /// An example: the prompt, and the answer. Tokens count from 0; [`TOKENS`](Self::TOKENS) tells
    /// how many there are.
    #[must_use]
    pub fn example(self, draw: &mut Draw) -> (Vec<u32>, Vec<u32>) {
        let symbols =
            |draw: &mut Draw, n| -> Vec<u32> { (0..n).map(|_| draw.below(SYMBOLS)).collect() };
        match self {
            Self::Style => {
                let style = draw.below(STYLES);
                let text = symbols(draw, LENGTH);
                let answer = vec![style; LENGTH];
                ([&[Self::MARKS + style][..], &text, &[Self::END]].concat(), answer)
            }
            Self::Copy => {
                let text = symbols(draw, LENGTH);
                ([&text[..], &[Self::END]].concat(), text)
            }
            Self::Tag => {
                let mut text = symbols(draw, LENGTH);
                for i in 1..text.len() {
                    if draw.below(2) == 0 {
                        text[i] = text[i - 1];
                    }
                }
                let same = |i: usize| i > 0 && text[i] == text[i - 1];
                let answer = (0..LENGTH).map(|i| Self::MARKS + u32::from(same(i))).collect();
                ([&text[..], &[Self::END]].concat(), answer)
            }
            Self::Needle => {
                let mut text = symbols(draw, HAY);
                let at = draw.below(HAY as u32 - 2) as usize;
                text[at] = Self::MARKS;
                let found = text[at + 1];
                ([&text[..], &[Self::END]].concat(), vec![found])
            }
        }
    }

    /// The first of the tokens that are not symbols.
    const MARKS: u32 = SYMBOLS;
    /// The token that ends a prompt.
    const END: u32 = SYMBOLS + STYLES;
    /// Different tokens.
    pub const TOKENS: u32 = SYMBOLS + STYLES + 1;

    /// Writes examples to learn from and others to be asked, in a folder of its own; `first` is the
    /// token of the base that stands for 0.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(
        self,
        folder: &Path,
        first: u32,
        (learn, asked): (usize, usize),
    ) -> io::Result<PathBuf> {
        let folder = folder.join(self.name());
        fs::create_dir_all(&folder)?;
        let mut draw = Draw(1);
        for (name, count) in [("train.jsonl", learn), ("valid.jsonl", asked)] {
            let mut out = BufWriter::new(File::create(folder.join(name))?);
            for _ in 0..count {
                let (prompt, answer) = self.example(&mut draw);
                let ids: Vec<u32> = prompt.iter().chain(&answer).map(|t| first + t).collect();
                let hidden = prompt.iter().map(|_| -100_i64);
                let shown = answer.iter().map(|t| i64::from(first + t));
                let labels: Vec<i64> = hidden.chain(shown).collect();
                writeln!(out, "{{\"input_ids\":{ids:?},\"labels\":{labels:?}}}")?;
            }
            out.flush()?;
        }
        Ok(folder)
    }
}

/// Draws that repeat: SplitMix64.
#[derive(Clone, Copy, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `n`, each about as likely.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u64::from((x >> 32) as u32) * u64::from(n)) >> 32) as u32
    }
}

/// What makes the runs and asks afterwards.
pub struct Asker<'r> {
    /// Trains.
    pub train: &'r mut dyn FnMut(&Settings) -> Result<Summary, TrainError>,
    /// Measures the adapter of a run on the examples that it did not learn from.
    pub ask: &'r mut dyn FnMut(&Settings) -> Result<Evaluation, TrainError>,
}

/// Trains every method on every task and asks it; `of` gives a run the examples of a task.
///
/// # Errors
/// [`BenchError::Trial`] for a run that fails, naming task and method.
pub fn tasks(
    trials: &[MethodTrial],
    of: &dyn Fn(&Settings, Task) -> Settings,
    asker: &mut Asker<'_>,
    on_start: &dyn Fn(&str),
    on_row: &dyn Fn(&TaskRow),
) -> Result<Vec<TaskRow>, BenchError> {
    let mut rows = Vec::new();
    for task in Task::ALL {
        for MethodTrial { name, settings } in trials {
            let title = format!("{} {name}", task.name());
            on_start(&title);
            let failed =
                |source| BenchError::Trial { name: title.clone(), source: Box::new(source) };
            let settings = of(settings, task);
            let summary = (asker.train)(&settings).map_err(failed)?;
            let asked = (asker.ask)(&settings).map_err(failed)?;
            let row = TaskRow {
                task: task.name().into(),
                method: name.clone(),
                updates: summary.steps,
                accuracy: asked.accuracy,
                loss: asked.loss,
            };
            on_row(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_from_prompts() {
        let mut draw = Draw(3);
        for _ in 0..200 {
            let (prompt, answer) = Task::Style.example(&mut draw);
            assert_eq!((answer, prompt[7]), (vec![prompt[0] - 16; 6], 20));
            let (prompt, answer) = Task::Copy.example(&mut draw);
            assert_eq!(prompt[..6], answer[..]);
            let (prompt, answer) = Task::Tag.example(&mut draw);
            let want: Vec<u32> =
                (0..6).map(|i| 16 + u32::from(i > 0 && prompt[i] == prompt[i - 1])).collect();
            assert_eq!(answer, want);
            let (prompt, answer) = Task::Needle.example(&mut draw);
            let at = prompt.iter().position(|t| *t == 16).unwrap();
            assert_eq!((prompt.len(), answer), (201, vec![prompt[at + 1]]));
            assert!(prompt.iter().all(|t| *t < Task::TOKENS));
        }
    }

    #[test]
    fn both_answers_of_tags_are_about_as_likely() {
        let mut draw = Draw(3);
        let same: usize = (0..1000)
            .map(|_| Task::Tag.example(&mut draw).1.iter().filter(|t| **t == 17).count())
            .sum();
        assert!((2400..2900).contains(&same), "{same} of 6000");
    }

    #[test]
    fn files_are_examples_with_hidden_prompts() {
        let place = tempfile::tempdir().unwrap();
        let folder = Task::Copy.write(place.path(), 100, (3, 2)).unwrap();
        let text = fs::read_to_string(folder.join("valid.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let (ids, labels) = (&line["input_ids"], &line["labels"]);
        assert_eq!(ids.as_array().unwrap().len(), 13);
        assert_eq!((&labels[6], &labels[7]), (&serde_json::json!(-100), &ids[0]));
        assert_eq!(ids[6], 120);
    }
}
