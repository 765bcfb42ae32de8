//! Which files belong to the project, and how a file is written whole or not at all.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use crate::run;

/// Paths of the tracked files, relative to the root, with `/` between the parts, sorted. In a copy
/// without its git folder: every file outside the folders that hold no sources.
pub(crate) fn tracked() -> Result<Vec<String>> {
    let root = run::root();
    let mut git = Command::new("git");
    git.current_dir(&root).args(["-c", "safe.directory=*", "ls-files", "-z"]);
    let mut paths = match run::output(&mut git) {
        Ok(listing) => listing.split_terminator('\0').map(str::to_owned).collect(),
        Err(error) => {
            println!("no list of tracked files, taking all: {error:#}");
            let mut paths = Vec::new();
            walk(&root, "", &mut paths)?;
            paths
        }
    };
    paths.retain(|path| root.join(path).is_file());
    paths.sort();
    Ok(paths)
}

/// Reads a file as text; `None` when it is not UTF-8.
pub(crate) fn text(path: &str) -> Result<Option<String>> {
    let bytes = fs::read(run::root().join(path)).with_context(|| path.to_owned())?;
    Ok(String::from_utf8(bytes).ok())
}

/// Writes a whole file under a temporary name next to its place, syncs it and renames it.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    let write = || -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn walk(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
    const WITHOUT_SOURCES: [&str; 7] =
        [".git", "target", "models", "examples", "corpus", "artifacts", "__pycache__"];
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if !entry.file_type()?.is_dir() {
            paths.push(path);
        } else if !WITHOUT_SOURCES.contains(&name.as_str()) {
            walk(&entry.path(), &format!("{path}/"), paths)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracked_files_are_relative_and_sorted() {
        let paths = tracked().unwrap();
        assert!(paths.contains(&"Cargo.toml".to_owned()));
        assert!(paths.is_sorted());
        assert!(paths.iter().all(|path| !path.starts_with('/')));
        assert!(text("Cargo.toml").unwrap().unwrap().contains("[workspace]"));
    }

    #[test]
    fn a_walk_skips_folders_without_sources() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a/b.rs", "target/x.rs", "a/target/y.rs", "c.md"] {
            write_atomically(&dir.path().join(file), b"x").unwrap();
        }
        let mut paths = Vec::new();
        walk(dir.path(), "", &mut paths).unwrap();
        paths.sort();
        assert_eq!(paths, ["a/b.rs", "c.md"]);
    }

    #[test]
    fn writing_replaces_the_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.txt");
        write_atomically(&path, b"first").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
