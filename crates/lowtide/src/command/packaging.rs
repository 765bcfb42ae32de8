//! What packages carry beside the program: shell completions and man pages, made from the flags.

use std::io::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use lowtide::formats::atomic;

use super::args::{Cli, CompletionsArgs, ManArgs, Voice};
use super::console::Console;
use super::failure::Failure;

/// Runs `lowtide completions`.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut cli = Cli::command();
    clap_complete::generate(args.shell, &mut cli, "lowtide", &mut script);
    let mut console = Console::new(Voice::default());
    console.text(&String::from_utf8_lossy(&script));
    Ok(console.finish()?)
}

/// Runs `lowtide man`.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let unwritable = |source| Failure::Path { path: args.folder.clone(), reason: source };
    std::fs::create_dir_all(&args.folder)
        .map_err(|error| unwritable(format!("cannot create the folder: {error}")))?;
    let mut cli = Cli::command();
    cli.build();
    pages(&cli, &args.folder).map_err(|error| Failure::Files(Box::new(error.into())))
}

/// A page for the command, and one for each sub-command that help lists.
fn pages(cli: &Command, folder: &Path) -> Result<(), lowtide::formats::Error> {
    let listed = cli.get_subcommands().filter(|sub| !sub.is_hide_set());
    for command in listed.filter(|sub| sub.get_name() != "help").chain([cli]) {
        let man = Man::new(command.clone());
        let path = folder.join(man.get_filename());
        atomic::write_file(&path, |out: &mut dyn Write| {
            let mut page = Vec::new();
            man.render(&mut page)?;
            out.write_all(&page)
        })?;
    }
    Ok(())
}
