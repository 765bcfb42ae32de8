//! What builds programs for AArch64 on another machine, and runs them there.
//!
//! Programs are linked statically against musl: one file that runs on any AArch64 Linux, whatever
//! its C library, Android included. What is tested is linked like what is shipped. The compiler's
//! own linker does it. A C compiler is needed for the cryptography behind downloads, so for the
//! command and not for the tests.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{run, targets};

/// AArch64 Linux, statically linked.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-musl";

const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const ARCHIVER: &str = "aarch64-linux-gnu-ar";
/// The emulator as Debian names it, and as others do.
const EMULATORS: [&str; 2] = ["qemu-aarch64-static", "qemu-aarch64"];

/// A machine that can build for AArch64 and run the result.
#[derive(Debug)]
pub(crate) struct Toolchain {
    emulator: &'static str,
}

impl Toolchain {
    /// Looks for what builds tests and runs them; installs nothing but the target's standard
    /// library, through `rustup`.
    ///
    /// # Errors
    /// When something is missing; the message says what, and how to get it.
    pub(crate) fn find() -> Result<Self> {
        Self::find_beside(Vec::new())
    }

    /// Like [`Toolchain::find`], and what builds the command, too.
    ///
    /// # Errors
    /// When something is missing; the message says what, and how to get it.
    pub(crate) fn find_for_command() -> Result<Self> {
        let packages = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross";
        let lacks = format!("{C_COMPILER}: on Debian and Ubuntu, `apt-get install {packages}`");
        Self::find_beside(if starts(C_COMPILER) { Vec::new() } else { vec![lacks] })
    }

    fn find_beside(mut missing: Vec<String>) -> Result<Self> {
        let emulator = EMULATORS.into_iter().find(|name| starts(name));
        if !targets::is_there(TARGET) {
            missing.push(format!("the target's standard library: `rustup target add {TARGET}`"));
        }
        match emulator {
            Some(emulator) if missing.is_empty() => return Ok(Self { emulator }),
            Some(_) => {}
            None => missing.push(format!(
                "{}: on Debian and Ubuntu, `apt-get install qemu-user-static`",
                EMULATORS[0]
            )),
        }
        bail!("AArch64 cannot be built and run here; missing are\n  {}", missing.join("\n  "))
    }

    /// With an emulator that nothing was asked of.
    #[cfg(test)]
    pub(crate) fn of(emulator: &'static str) -> Self {
        Self { emulator }
    }

    /// `cargo <subcommand>` for the target.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = run::cargo();
        cargo.args([subcommand, "--target", TARGET]);
        let upper = TARGET.to_uppercase().replace('-', "_");
        let lower = TARGET.replace('-', "_");
        cargo
            .env(format!("CARGO_TARGET_{upper}_LINKER"), "rust-lld")
            .env(format!("CC_{lower}"), C_COMPILER)
            .env(format!("AR_{lower}"), ARCHIVER);
        cargo
    }

    /// The program, run by the emulator as the named processor would.
    pub(crate) fn emulated(&self, cpu: &str, program: &Path) -> Command {
        let mut command = Command::new(self.emulator);
        command.args(["-cpu", cpu]).arg(program);
        command
    }
}

fn starts(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
