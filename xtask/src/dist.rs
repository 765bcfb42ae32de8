//! `cargo xtask dist aarch64`: the command as one static file for another machine.

mod training;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::aarch64::{CPUS, TARGET, Toolchain};
use crate::{files, run, test};

/// Profile of the root manifest: that of releases, without symbols.
const PROFILE: &str = "portable";
/// How long the program may take to start and say something.
const LIMIT: Duration = Duration::from_secs(60);

/// Builds the file, looks into it, and tries it as every processor that is known.
///
/// # Errors
/// When a tool is missing, the build fails, or the file is not what it should be.
pub(crate) fn aarch64() -> Result<()> {
    let toolchain = Toolchain::find_for_command()?;
    let mut build = toolchain.cargo("build");
    run::check(build.args(["--package", "lowtide", "--bin", "lowtide", "--profile", PROFILE]))?;
    let target = test::target_folder()?;
    let built = fs::read(target.join(TARGET).join(PROFILE).join("lowtide"))?;
    static_aarch64(&built)?;
    let dist = target.join("dist").join("lowtide-aarch64");
    files::write_atomically(&dist, &built)?;
    make_executable(&dist)?;
    for cpu in CPUS {
        try_out(&dist, &toolchain, cpu).with_context(|| format!("trying it as {cpu}"))?;
    }
    let size = built.len() as f64 / f64::from(1 << 20);
    println!("{}: {size:.1} MiB, static, tried as {}", dist.display(), CPUS.join(", "));
    Ok(())
}

fn try_out(dist: &Path, toolchain: &Toolchain, cpu: &str) -> Result<()> {
    run::check_within(toolchain.emulated(cpu, dist).arg("--version"), LIMIT)?;
    let model = training::quickstart().join("model.gguf");
    let mut inspect = toolchain.emulated(cpu, dist);
    run::check_within(inspect.args(["inspect", "--quiet"]).arg(model), LIMIT)?;
    training::check(dist, toolchain, cpu)
}

/// Checks that the file is a 64-bit little-endian AArch64 program that no loader has to complete.
fn static_aarch64(file: &[u8]) -> Result<()> {
    const AARCH64: u16 = 183;
    const PROGRAM_HEADER: usize = 56;
    const LOAD: u32 = 1;
    const DYNAMIC: u32 = 2;
    const INTERPRETER: u32 = 3;
    ensure!(file.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let short = |at: usize| bytes(file, at).map(u16::from_le_bytes);
    let machine = short(18)?;
    ensure!(machine == AARCH64, "for machine {machine}, not for AArch64 ({AARCH64})");
    let (size, count) = (usize::from(short(54)?), usize::from(short(56)?));
    ensure!(size == PROGRAM_HEADER, "program headers of {size} bytes, not of {PROGRAM_HEADER}");
    let first = usize::try_from(u64::from_le_bytes(bytes(file, 32)?))?;
    let mut loads = 0;
    for header in 0..count {
        let at = header.checked_mul(size).and_then(|offset| first.checked_add(offset));
        match u32::from_le_bytes(bytes(file, at.context("a header beyond all files")?)?) {
            LOAD => loads += 1,
            INTERPRETER => bail!("it asks for a loader, so it is not static"),
            DYNAMIC => bail!("it has a dynamic section, so it is not static"),
            _ => {}
        }
    }
    ensure!(loads > 0, "nothing to load among {count} program headers");
    Ok(())
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N).context("a place beyond all files")?;
    let found = file.get(at..end).with_context(|| format!("the file ends before byte {end}"))?;
    Ok(found.try_into().expect("as many bytes as were asked for"))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of headers only, with the given kinds of segments.
    fn elf(machine: u16, kinds: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56 * kinds.len()];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(kinds.len()).unwrap().to_le_bytes());
        for (header, kind) in file[64..].chunks_mut(56).zip(kinds) {
            header[..4].copy_from_slice(&kind.to_le_bytes());
        }
        file
    }

    fn says(file: &[u8]) -> String {
        static_aarch64(file).unwrap_err().to_string()
    }

    #[test]
    fn static_programs_pass() {
        static_aarch64(&elf(183, &[1, 1, 7])).unwrap();
    }

    #[test]
    fn others_are_told_apart() {
        assert_eq!(says(b"#!/bin/sh"), "not a 64-bit little-endian ELF file");
        assert_eq!(says(&elf(62, &[1])), "for machine 62, not for AArch64 (183)");
        assert_eq!(says(&elf(183, &[3, 1])), "it asks for a loader, so it is not static");
        assert_eq!(says(&elf(183, &[1, 2])), "it has a dynamic section, so it is not static");
        assert_eq!(says(&elf(183, &[])), "nothing to load among 0 program headers");
        assert_eq!(says(&elf(183, &[1, 1])[..120]), "the file ends before byte 124");
    }

    #[test]
    fn broken_headers_are_errors() {
        let mut file = elf(183, &[1]);
        file[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(static_aarch64(&file).is_err());
        for length in 0..file.len() {
            assert!(static_aarch64(&file[..length]).is_err());
        }
    }
}
