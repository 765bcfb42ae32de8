//! `lowtide finetune`: the run as it is told while it goes on.

use lowtide::train::{DataReport, PlanReport, StepReport};
use lowtide::{Event, Settings};
use serde::Serialize;

use super::args::FinetuneArgs;
use super::console::Console;
use super::failure::Failure;
use super::machine::Machine;
use super::{config, show};

/// Runs `lowtide finetune`.
pub(crate) fn run(args: &FinetuneArgs) -> Result<(), Failure> {
    let (settings, machine) = config::resolve(&args.run)?;
    let machine = Machine::start(machine)?;
    let console = Console::new(args.run.voice);
    if args.dry_run {
        dry_run(&settings, &machine, console)
    } else {
        train(&settings, &machine, console)
    }
}

fn train(settings: &Settings, machine: &Machine, console: Console) -> Result<(), Failure> {
    let mut teller = Teller { console, settings, steps: 0, pace: show::step::Pace::default() };
    let done = machine.run(|backend, threads| {
        lowtide::finetune(settings, backend, threads, &mut |event| teller.hear(event))
    });
    teller.console.settle();
    done?;
    Ok(teller.console.finish()?)
}

/// Tells events as they come.
struct Teller<'a> {
    console: Console,
    settings: &'a Settings,
    /// Updates the run will make.
    steps: u64,
    pace: show::step::Pace,
}

impl Teller<'_> {
    fn hear(&mut self, event: &Event) {
        self.console.json(event);
        match event {
            Event::Data(report) => {
                let coloured = self.console.coloured();
                let text = show::data::data(report, self.settings.max_seq_len, coloured);
                self.console.text(&format!("{text}\n"));
            }
            Event::Plan(report) => {
                self.steps = report.steps;
                self.console.text(&format!("{}\n", show::plan::plan(report)));
            }
            Event::Evaluation { step, result } => {
                self.console.text(&format!("{}\n", show::evaluation::line(*step, result)));
            }
            Event::Step(step) => self.step(step),
            // The last save is part of the summary.
            Event::Saved { step, .. } if *step == self.steps => {}
            Event::Saved { step, path } => {
                let path = path.display();
                self.console.text(&format!("saved {path} after {}\n", updates(*step)));
            }
            Event::Done(summary) => {
                self.console.settle();
                let text = show::summary::summary(summary, self.settings);
                self.console.text(&format!("\n{text}"));
            }
        }
    }

    fn step(&mut self, step: &StepReport) {
        self.pace.count(step);
        if self.console.live() {
            self.console.advance(step.step, step.steps, show::step::live(step, &self.pace));
        } else if step.report {
            self.console.text(&format!("{}\n", show::step::plain(step, &self.pace)));
        }
    }
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
    let (data, plan) = machine.run(|backend, threads| lowtide::plan(settings, backend, threads))?;
    console.json(&DryRun { config: settings, data: &data, plan: &plan });
    let comments: Vec<_> = show::plan::plan(&plan).lines().map(commented).collect();
    console.text(&format!("{}\n{}\n", settings.to_toml(), comments.join("\n")));
    Ok(console.finish()?)
}

fn commented(line: &str) -> String {
    format!("# {line}").trim_end().to_owned()
}
