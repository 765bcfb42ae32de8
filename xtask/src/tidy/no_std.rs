//! The crates that run without an operating system are built for a machine that has none.

use anyhow::Result;

use crate::{run, targets};

/// An Arm Cortex-M4 with a floating-point unit: no operating system, no standard library.
const TARGET: &str = "thumbv7em-none-eabihf";

/// Crates that need no allocator; built without their optional features.
const WITHOUT_ALLOCATOR: [&str; 11] = [
    "lowtide-memory",
    "lowtide-tensor",
    "lowtide-quant",
    "lowtide-backend",
    "lowtide-adapter",
    "lowtide-lora",
    "lowtide-ia3",
    "lowtide-lars",
    "lowtide-bottleneck",
    "lowtide-optim",
    "lowtide-kernels",
];

/// Crates that need an allocator. They are built on their own: together with the others they would
/// turn on the features that these are to do without.
const WITH_ALLOCATOR: [&str; 2] = ["lowtide-tape", "lowtide-model"];

/// Builds them, or says loudly that it cannot.
pub(super) fn build() -> Result<()> {
    if !targets::is_there(TARGET) {
        println!("SKIPPED: the bare-metal build; `rustup target add {TARGET}` did not work here");
        return Ok(());
    }
    for crates in [&WITHOUT_ALLOCATOR[..], &WITH_ALLOCATOR[..]] {
        let mut build = run::cargo();
        build.args(["build", "--target", TARGET, "--no-default-features"]);
        crates.iter().for_each(|name| {
            build.args(["--package", name]);
        });
        run::check(&mut build)?;
        println!("{} build for {TARGET}", crates.join(", "));
    }
    Ok(())
}
