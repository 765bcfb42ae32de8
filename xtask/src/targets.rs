//! Targets of the compiler other than this machine.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::run;

/// Whether the target's libraries are installed, or can be installed within a minute.
pub(crate) fn is_there(target: &str) -> bool {
    let mut libraries = Command::new("rustc");
    libraries.args(["--print", "target-libdir", "--target", target]);
    let installed =
        run::output(&mut libraries).is_ok_and(|folder| Path::new(folder.trim()).is_dir());
    installed || {
        let mut add = Command::new("rustup");
        add.args(["target", "add", target]);
        run::succeeds_within(&mut add, Duration::from_secs(60))
    }
}
