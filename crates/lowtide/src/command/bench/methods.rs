//! The suites of adapter methods: on examples, and on small tasks.

use std::cell::RefCell;

use lowtide::Settings;
use lowtide::bench::suites::{self, Asker, MethodTrial, Runner, Task};
use lowtide::bench::{MethodRow, TaskRow};
use lowtide::train::{self, EvalSettings, StreamWeights};

use super::ground::Ground;
use crate::command::console::Console;
use crate::command::failure::Failure;
use crate::command::show;

/// Methods that tasks are given to, unless others are asked for: what changes every token, what
/// scales, what adds one vector to a sequence.
const TASK_METHODS: [&str; 4] = ["lora", "ia3", "lars prompt", "lars learned"];

/// Trains with every method on the ground's examples.
///
/// # Errors
/// When a run fails.
pub(super) fn run(
    ground: &Ground,
    names: &[String],
    console: &RefCell<Console>,
) -> Result<Vec<MethodRow>, Failure> {
    let trials = trials(ground, names)?;
    let refused = RefCell::new(None);
    let mut plan = |settings: &Settings| {
        ground.compute(settings, &refused, |be, threads| {
            train::plan(settings, be, threads).map(|(_, plan)| plan)
        })
    };
    let mut train = |settings: &Settings| {
        ground.compute(settings, &refused, |be, threads| {
            lowtide::finetune(settings, be, threads, &mut |_| ())
        })
    };
    console.borrow_mut().text(&show::methods::head());
    let tell = |row: &MethodRow| tell(console, &show::methods::row(row));
    let mut runner = Runner { plan: &mut plan, train: &mut train };
    let rows = suites::methods(&trials, &mut runner, &start(console), &tell);
    refused.into_inner().map_or_else(|| Ok(rows?), Err)
}

/// Trains some methods on small tasks and asks them.
///
/// # Errors
/// When a run fails or the examples cannot be written.
pub(super) fn tasks(
    ground: &Ground,
    names: &[String],
    console: &RefCell<Console>,
) -> Result<Vec<TaskRow>, Failure> {
    let few = TASK_METHODS.map(str::to_owned);
    let trials = trials(ground, if names.is_empty() { &few } else { names })?;
    // Tokens with the smallest numbers are controls, then bytes; those after them are words.
    let first = (ground.vocab_size as u32 / 2).min(300);
    let examples = if ground.quick { (160, 40) } else { (2000, 100) };
    for task in Task::ALL {
        let written = task.write(ground.place.path(), first, examples);
        written.map_err(|error| Failure::Input {
            flag: "suite",
            path: ground.place.path().to_owned(),
            reason: error.to_string(),
        })?;
    }
    let of = |settings: &Settings, task: Task| Settings {
        data: ground.place.path().join(task.name()),
        max_seq_len: 256,
        batch_size: if task == Task::Needle { 2 } else { 8 },
        checkpointing: "store".into(),
        ..settings.clone()
    };
    let refused = RefCell::new(None);
    let mut train = |settings: &Settings| {
        ground.compute(settings, &refused, |be, threads| {
            lowtide::finetune(settings, be, threads, &mut |_| ())
        })
    };
    let mut ask = |settings: &Settings| {
        let asked = EvalSettings {
            model: settings.model.clone(),
            data: settings.data.join("valid.jsonl"),
            adapter: Some(settings.output.clone()),
            max_seq_len: settings.max_seq_len,
            batch_size: settings.batch_size,
            packing: false,
            mask_prompt: true,
            sliding_window: None,
            memory_budget: None,
            stream_weights: StreamWeights::Off,
        };
        ground.compute(settings, &refused, |be, _| train::evaluate(&asked, be))
    };
    console.borrow_mut().text(&show::methods::tasks_head());
    let tell = |row: &TaskRow| tell(console, &show::methods::task(row));
    let mut asker = Asker { train: &mut train, ask: &mut ask };
    let rows = suites::tasks(&trials, &of, &mut asker, &start(console), &tell);
    refused.into_inner().map_or_else(|| Ok(rows?), Err)
}

/// The methods asked for, each with settings that hold.
fn trials(ground: &Ground, names: &[String]) -> Result<Vec<MethodTrial>, Failure> {
    let trials = suites::method_trials(&ground.base, names);
    if trials.is_empty() {
        let known = suites::method_trials(&ground.base, &[]);
        let known: Vec<_> = known.into_iter().map(|trial| trial.name).collect();
        return Err(Failure::flag(
            "methods",
            names.join(","),
            &format!("some of {}", known.join(", ")),
        ));
    }
    for trial in &trials {
        trial.settings.check()?;
    }
    Ok(trials)
}

fn start(console: &RefCell<Console>) -> impl Fn(&str) {
    |words| console.borrow_mut().advance(0, 1, words.to_owned(), String::new())
}

fn tell(console: &RefCell<Console>, line: &str) {
    let mut console = console.borrow_mut();
    console.settle();
    console.text(line);
}
