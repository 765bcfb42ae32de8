//! `lowtide report`: the page of a run made anew, or several runs on one page.

use std::path::{Path, PathBuf};

use lowtide::TrainError;
use lowtide::train::report::{self, Run};
use serde::Serialize;

use super::args::ReportArgs;
use super::console::Console;
use super::failure::Failure;

/// Where several runs are compared unless another file is named.
const COMPARISON: &str = "compare.html";

/// What `--json` prints.
#[derive(Serialize)]
struct Written<'a> {
    path: &'a Path,
    runs: usize,
}

/// Runs `lowtide report`.
pub(crate) fn run(args: &ReportArgs) -> Result<(), Failure> {
    let (path, page) = made(args).map_err(|error| Failure::Files(error.into()))?;
    let written = report::write(&path, &page);
    written.map_err(|error| Failure::Files(Box::new(error.into())))?;
    let mut console = Console::new(args.voice);
    console.json(&Written { path: &path, runs: args.folders.len() });
    console.text(&format!("wrote {}\n", path.display()));
    Ok(console.finish()?)
}

fn made(args: &ReportArgs) -> Result<(PathBuf, String), TrainError> {
    let mut runs = Vec::with_capacity(args.folders.len());
    for folder in &args.folders {
        runs.push(Run::read(folder)?);
    }
    Ok(match &runs[..] {
        [run] => {
            let path = args.output.clone().unwrap_or_else(|| run.folder.join(report::FILE));
            (path, report::page(run))
        }
        runs => {
            let path = args.output.clone().unwrap_or_else(|| COMPARISON.into());
            (path, report::comparison(runs))
        }
    })
}
