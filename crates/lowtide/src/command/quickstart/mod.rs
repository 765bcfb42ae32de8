//! `lowtide quickstart`: the main job on files that the command brings along.
//!
//! A tiny base turns household commands into intents, for homes in general. The run teaches it the
//! names of one home, and asks the same held-out prompts before and after.

mod ask;
mod files;
mod outcome;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lowtide::{Event, Settings, Summary};

use super::args::QuickstartArgs;
use super::console::Console;
use super::failure::Failure;
use super::finetune::Teller;
use super::machine::Machine;
use super::signals;
use files::{Folder, NoFolder};
use outcome::{Answer, Outcome};

/// Runs `lowtide quickstart`.
pub(crate) fn run(args: &QuickstartArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let folder = Folder::prepare(&args.output).map_err(|reason| refused(&args.output, reason))?;
    let settings = settings(args, &folder);
    let machine = Machine::start(args.machine, &settings)?;
    // What cannot run should say so before anything is asked.
    let planned = machine.run(|backend, threads| lowtide::plan(&settings, backend, threads));
    planned.map_err(|error| Failure::training(error, &settings))?;
    let teller = Teller::of_part(Console::new(args.voice), &settings);
    let mut lesson = Lesson { machine, teller, settings: &settings, stop: signals::stop_flag() };

    let mut answers = ask::held_out(files::HELD_OUT);
    lesson.say(&outcome::opening(&settings.model, answers.len()));
    lesson.ask(&mut answers, None)?;
    let summary = lesson.train()?;
    lesson.ask(&mut answers, Some(&settings.output))?;

    let (model, data, adapter) = (&settings.model, &settings.data, &settings.output);
    let seconds = began.elapsed().as_secs_f64();
    let outcome = Outcome::new(model, data, adapter, seconds, &summary, &answers);
    let mut console = lesson.teller.console;
    console.json(&outcome);
    let program = std::env::args_os().next().unwrap_or_else(|| OsString::from("lowtide"));
    console.text(&outcome::report(&outcome, &program));
    Ok(console.finish()?)
}

/// Writes the base and the examples into a folder; gives where they are.
pub(crate) fn written(folder: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let files = Folder::prepare(folder).map_err(|reason| refused(folder, reason))?;
    Ok((files.model(), files.data()))
}

/// Settings that teach one home in seconds: a high learning rate, as small adapters of small models
/// take it, and every example twice.
fn settings(args: &QuickstartArgs, folder: &Folder) -> Settings {
    Settings {
        model: folder.model(),
        data: folder.data(),
        output: folder.adapter(),
        batch_size: 8,
        epochs: 2,
        lr: 4e-3,
        seed: args.seed,
        memory_budget: args.memory_budget.clone(),
        report_every: 40,
        ..Settings::default()
    }
}

fn refused(output: &Path, reason: NoFolder) -> Failure {
    let reason = match reason {
        NoFolder::Taken(path) => format!(
            "{} is not the quickstart's to replace; name another folder, or remove it",
            path.display()
        ),
        NoFolder::Unwritten(error) => error.to_string(),
    };
    Failure::Input { flag: "output", path: output.to_owned(), reason }
}

/// What asking and training share.
struct Lesson<'a> {
    machine: Machine,
    teller: Teller<'a>,
    settings: &'a Settings,
    stop: Arc<AtomicBool>,
}

impl Lesson<'_> {
    fn say(&mut self, text: &str) {
        self.teller.console.text(text);
    }

    /// Lets the base, or the base with an adapter, answer every prompt, and tells its score.
    fn ask(&mut self, answers: &mut [Answer], adapter: Option<&Path>) -> Result<(), Failure> {
        let (console, stop) = (&mut self.teller.console, &self.stop);
        let total = answers.len() as u64;
        let mut go_on = |done: usize| {
            let words = format!("asking {done}/{total}");
            console.advance(done as u64, total, words, String::new());
            !stop.load(Ordering::Relaxed)
        };
        let prompts: Vec<&str> = answers.iter().map(|answer| answer.prompt.as_str()).collect();
        let model = &self.settings.model;
        let texts = self
            .machine
            .run(|backend, _| ask::answers(model, adapter, &prompts, backend, &mut go_on))?;
        self.teller.console.settle();
        let Some(texts) = texts else { return Err(self.interrupted(adapter.is_some())) };
        for (answer, text) in answers.iter_mut().zip(texts) {
            *(if adapter.is_some() { &mut answer.after } else { &mut answer.before }) = text;
        }
        let score = outcome::score(answers, adapter.is_some());
        self.say(&score);
        Ok(())
    }

    /// Trains, told as `lowtide finetune` tells it.
    fn train(&mut self) -> Result<Summary, Failure> {
        let Self { machine, teller, settings, stop } = self;
        let done = machine.run(|backend, threads| {
            let mut hear = |event: &Event| teller.hear(event);
            lowtide::finetune_until(settings, backend, threads, &mut hear, &*stop)
        });
        self.teller.console.settle();
        let done = done.map_err(|error| Failure::training(error, self.settings))?;
        match done.interrupted {
            true => {
                let (updates, of) = (done.steps, self.teller.steps);
                Err(Failure::Interrupted { updates, of, output: self.settings.output.clone() })
            }
            false => Ok(done),
        }
    }

    /// Stopped while asking, before or after all of the training.
    fn interrupted(&self, trained: bool) -> Failure {
        let of = self.teller.steps;
        let updates = if trained { of } else { 0 };
        Failure::Interrupted { updates, of, output: self.settings.output.clone() }
    }
}
