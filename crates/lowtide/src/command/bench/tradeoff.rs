//! The suite of levers: the base in other types, and short runs.

use std::cell::RefCell;

use lowtide::Settings;
use lowtide::bench::TradeoffRow;
use lowtide::bench::suites::{self, Trial};
use lowtide::convert;

use super::ground::Ground;
use crate::command::console::Console;
use crate::command::failure::Failure;
use crate::command::show;

/// Makes all runs and tells rows as they come.
///
/// # Errors
/// When a run fails.
pub(super) fn run(
    ground: &Ground,
    console: &RefCell<Console>,
) -> Result<Vec<TradeoffRow>, Failure> {
    let Ground { place, base, layers, types, quick, pool, .. } = ground;
    let start = |words: &str| {
        console.borrow_mut().advance(0, 1, words.to_owned(), String::new());
    };
    let mut converted = Vec::new();
    for kind in *types {
        start(&format!("converting to {}", kind.name()));
        let output = place.path().join(format!("{}.gguf", kind.name()));
        let conversion = convert::Settings {
            source: base.model.clone(),
            output: output.clone(),
            kind: Some(*kind),
            ..convert::Settings::default()
        };
        let convert = || convert::convert(&conversion, &mut |_| ()).map(drop).map_err(Box::new);
        pool.install(convert).map_err(Failure::Conversion)?;
        converted.push((kind.name().to_owned(), output));
    }
    let trials: Vec<Trial> = suites::trials(base, &converted, *layers, *quick);
    // One that cannot start should say so before minutes of others.
    for trial in &trials {
        trial.settings.check()?;
    }
    let refused = RefCell::new(None);
    let mut train = |settings: &Settings| {
        ground.compute(settings, &refused, |be, threads| {
            lowtide::finetune(settings, be, threads, &mut |_| ())
        })
    };
    console.borrow_mut().settle();
    console.borrow_mut().text(&show::tradeoff::head());
    let tell = |row: &TradeoffRow| {
        let mut console = console.borrow_mut();
        console.settle();
        console.text(&show::tradeoff::row(row));
    };
    let rows = suites::tradeoff(&trials, &mut train, &start, &tell);
    match refused.into_inner() {
        Some(failure) => Err(failure),
        None => Ok(rows?),
    }
}
