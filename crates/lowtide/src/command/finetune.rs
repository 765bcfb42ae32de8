//! `lowtide finetune`: the run as it is told while it goes on.

use std::ffi::OsString;
use std::path::PathBuf;

use lowtide::data::DataFiles;
use lowtide::train::{Control, DataReport, PlanReport, SavedRun, StepReport};
use lowtide::{Event, Settings, Summary, TrainError};
use serde::Serialize;

use super::args::FinetuneArgs;
use super::config::Resolved;
use super::console::Console;
use super::failure::Failure;
use super::machine::Machine;
use super::show::summary::Next;
use super::{config, inputs, show, signals};

/// Runs `lowtide finetune`.
pub(crate) fn run(args: &FinetuneArgs) -> Result<(), Failure> {
    let resolved = config::resolve(&args.run).map_err(|error| Failure::Files(error.into()))?;
    let Resolved { settings, machine, begins } = resolved;
    // Before anything of the base is read.
    #[cfg(unix)]
    signals::end_at_cut_file(&cut(&settings)).map_err(Failure::Output)?;
    inputs::check_all(&settings, args.run.voice)?;
    let machine = Machine::start(machine, &settings)?;
    let mut console = Console::new(args.run.voice);
    if begins {
        let output = settings.output.display();
        console.text(&format!("no save in {output} yet: the run begins\n\n"));
    }
    if args.dry_run {
        dry_run(&settings, &machine, console)
    } else {
        train(&settings, &machine, console)
    }
}

fn train(settings: &Settings, machine: &Machine, console: Console) -> Result<(), Failure> {
    let mut teller = Teller::new(console, settings);
    let (stop, pause) = (signals::stop_flag(), signals::pause_number());
    let control = Control { stop: &stop, pause: &pause };
    let done = machine.run(|backend, threads| {
        let mut hear = |event: &Event| teller.hear(event);
        lowtide::finetune_until(settings, backend, threads, &mut hear, control)
    });
    teller.console.settle();
    let done = done.map_err(|error| teller.failure(error))?;
    teller.console.finish()?;
    match done.interrupted {
        true => {
            let (updates, of, output) = (done.steps, teller.steps, settings.output.clone());
            Err(Failure::Interrupted { updates, of, output })
        }
        false => Ok(()),
    }
}

/// What is said when a mapped file cannot be read any more.
#[cfg(unix)]
fn cut(settings: &Settings) -> String {
    let (model, output) = (settings.model.display(), settings.output.display());
    format!(
        "{model}: a part of it that was mapped cannot be read: it was cut, or its disk failed, \
         while in use; what was saved before in {output} is whole, and with the file as it was \
         `lowtide finetune --resume {output}` goes on"
    )
}

/// Tells events as they come.
pub(super) struct Teller<'a> {
    pub(super) console: Console,
    settings: &'a Settings,
    /// Updates the run will make.
    pub(super) steps: u64,
    pace: show::step::Pace,
    /// The update that was heard of last, and the last one that was saved.
    heard: (u64, u64),
    /// The run is a part of a larger job, which has the last word and speaks to programs itself.
    part: bool,
}

impl<'a> Teller<'a> {
    /// Tells a run of its own.
    pub(super) fn new(console: Console, settings: &'a Settings) -> Self {
        let pace = show::step::Pace::of_duty(settings.duty);
        Self { console, settings, steps: 0, pace, heard: (0, 0), part: false }
    }

    /// Tells a run that is a part of a larger job.
    pub(super) fn of_part(console: Console, settings: &'a Settings) -> Self {
        Self { part: true, ..Self::new(console, settings) }
    }

    /// Tells one event.
    pub(super) fn hear(&mut self, event: &Event) {
        // Of no use to a program, which waits without being told to.
        if !self.part && !matches!(event, Event::Progress { .. }) {
            self.console.json(event);
        }
        match event {
            Event::Data(report) => {
                let coloured = self.console.coloured();
                let text = show::data::data(report, self.settings.max_seq_len, coloured);
                self.console.text(&format!("{text}\n"));
            }
            Event::Sensitivity(report) => {
                self.console.settle();
                self.console.text(&format!("{}\n", show::sensitivity::sensitivity(report)));
            }
            Event::Plan(report) => {
                self.steps = report.steps;
                self.console.text(&format!("{}\n", show::plan::plan(report)));
            }
            Event::Resumed { step, steps, path } => {
                self.heard = (*step, *step);
                let (of, path) = (updates(*steps), path.display());
                let made = show::number::count(*step);
                self.console.text(&format!("goes on from {path}: {made} of {of} were made\n"));
            }
            Event::Progress { phase, done, total } => {
                let words = show::evaluation::progress(*phase, *done, *total);
                self.console.advance(*done as u64, *total as u64, words, String::new());
            }
            Event::Softmax(error) => {
                self.console.settle();
                self.console.text(&format!("{}\n", show::evaluation::softmax(error)));
            }
            Event::Evaluation { step, result } => {
                self.console.settle();
                self.console.text(&format!("{}\n", show::evaluation::line(*step, result)));
            }
            Event::Step(step) => self.step(step),
            Event::Spike { .. } | Event::RolledBack { .. } | Event::Untrained { .. } => {
                self.console.settle();
                self.console.text(&show::watch::watch(event));
            }
            Event::Paused { step, cause } => {
                self.console.settle();
                self.console.text(&format!("{}\n", show::step::paused(*step, cause)));
            }
            Event::Continued { seconds, .. } => {
                self.console.text(&format!("{}\n", show::step::continued(*seconds)));
            }
            Event::Saved { step, path } => {
                self.heard.1 = *step;
                // The last save is part of the summary.
                if *step == self.steps {
                    return;
                }
                let path = path.display();
                self.console.text(&format!("saved {path} after {}\n", updates(*step)));
            }
            Event::Done(_) if self.part => self.console.settle(),
            Event::Done(summary) => self.done(summary),
        }
    }

    /// Why the run failed, and what is left of it.
    fn failure(&self, error: TrainError) -> Failure {
        let (made, saved) = self.heard;
        let output = self.settings.output.clone();
        let failure = Failure::training(error, self.settings);
        // A disk may be full after the state is whole and before the adapter is.
        match SavedRun::find(&output) {
            Ok(Some(run)) if run.step() > 0 && [made, saved].contains(&run.step()) => {
                Failure::AfterSave { failure: failure.into(), updates: run.step(), output }
            }
            _ => failure,
        }
    }

    fn step(&mut self, step: &StepReport) {
        self.heard.0 = step.step;
        self.pace.count(step);
        if self.console.live() {
            let (before, behind) = (show::step::number(step), show::step::live(step, &self.pace));
            self.console.advance(step.step, step.steps, before, behind);
        } else if step.report {
            self.console.text(&format!("{}\n", show::step::plain(step, &self.pace)));
        }
    }

    fn done(&mut self, summary: &Summary) {
        self.console.settle();
        if summary.steps == 0 {
            return;
        }
        let program = std::env::args_os().next().unwrap_or_else(|| OsString::from("lowtide"));
        let held_out = held_out(self.settings);
        let next = Next { program: &program, data: &held_out };
        let text = show::summary::summary(summary, self.settings, next);
        self.console.text(&format!("\n{text}"));
    }
}

/// The file that `eval` would take were the data a folder, or else the data.
fn held_out(settings: &Settings) -> PathBuf {
    let files = DataFiles::find(&settings.data).unwrap_or_default();
    files.test.or(files.valid).unwrap_or_else(|| settings.data.clone())
}

fn updates(n: u64) -> String {
    show::number::counted(n, "update")
}

/// What `--dry-run --json` prints.
#[derive(Serialize)]
struct DryRun<'a> {
    config: &'a Settings,
    data: &'a DataReport,
    plan: &'a PlanReport,
}

/// Prints the configuration as TOML with the plan in its comments, so that what comes out can be
/// kept as a configuration file.
fn dry_run(settings: &Settings, machine: &Machine, mut console: Console) -> Result<(), Failure> {
    let planned = machine.run(|backend, threads| lowtide::plan(settings, backend, threads));
    let (data, plan) = planned.map_err(|error| Failure::training(error, settings))?;
    console.json(&DryRun { config: settings, data: &data, plan: &plan });
    let comments: Vec<_> = show::plan::plan(&plan).lines().map(commented).collect();
    console.text(&format!("{}\n{}\n", settings.to_toml(), comments.join("\n")));
    Ok(console.finish()?)
}

fn commented(line: &str) -> String {
    format!("# {line}").trim_end().to_owned()
}
