//! What the quickstart brings along, and the folder it is written to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lowtide::formats::Error;
use lowtide::formats::atomic::write_dir_files;

const MODEL: &[u8] = include_bytes!("../../../assets/quickstart/model.gguf");
const EXAMPLES: &str = include_str!("../../../assets/quickstart/home.jsonl");
/// The prompts that are asked, with the answers that are expected.
pub(super) const HELD_OUT: &str = include_str!("../../../assets/quickstart/home.valid.jsonl");

/// The files by name. The model comes last: its presence says that all are there.
const FILES: [(&str, &[u8]); 3] = [
    ("home.jsonl", EXAMPLES.as_bytes()),
    ("home.valid.jsonl", HELD_OUT.as_bytes()),
    ("model.gguf", MODEL),
];

/// The quickstart's folder on disk.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Writes the files, unless they are there already. What somebody else put under one of their
    /// names stays as it is, and so does an `adapter` without the quickstart's files beside it.
    ///
    /// # Errors
    /// [`NoFolder::Taken`] for a path that is not the quickstart's to write, and
    /// [`NoFolder::Unwritten`] where the system refuses.
    pub(super) fn prepare(path: &Path) -> Result<Self, NoFolder> {
        let folder = Self(path.to_owned());
        let mut there = 0;
        for (name, content) in FILES {
            let file = path.join(name);
            match fs::read(&file) {
                Ok(found) if found == content => there += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => return Err(NoFolder::Taken(file)),
            }
        }
        if there == FILES.len() {
            return Ok(folder);
        }
        if there == 0 && folder.adapter().exists() {
            return Err(NoFolder::Taken(folder.adapter()));
        }
        write_dir_files(path, &FILES).map_err(NoFolder::Unwritten)?;
        Ok(folder)
    }

    /// The base.
    pub(super) fn model(&self) -> PathBuf {
        self.0.join("model.gguf")
    }

    /// The home's examples; `home.valid.jsonl` beside it holds the prompts that are asked.
    pub(super) fn data(&self) -> PathBuf {
        self.0.join("home.jsonl")
    }

    /// Where the adapter goes.
    pub(super) fn adapter(&self) -> PathBuf {
        self.0.join("adapter")
    }
}

/// Why the files cannot be written.
#[derive(Debug)]
pub(super) enum NoFolder {
    /// Something else is in a place of the quickstart's.
    Taken(PathBuf),
    /// The system refused.
    Unwritten(Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_once_and_never_over_others() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/folder");
        let folder = Folder::prepare(&path).unwrap();
        for (name, content) in FILES {
            assert_eq!(fs::read(path.join(name)).unwrap(), content, "{name}");
        }
        // Again, with an adapter from the first time, and with a file missing.
        fs::create_dir(folder.adapter()).unwrap();
        Folder::prepare(&path).unwrap();
        fs::remove_file(folder.data()).unwrap();
        Folder::prepare(&path).unwrap();
        assert_eq!(fs::read_to_string(folder.data()).unwrap(), EXAMPLES);

        fs::write(folder.model(), "mine").unwrap();
        fs::remove_file(folder.data()).unwrap();
        let taken = Folder::prepare(&path).unwrap_err();
        assert!(matches!(&taken, NoFolder::Taken(file) if *file == folder.model()), "{taken:?}");
        assert_eq!(fs::read(folder.model()).unwrap(), b"mine");
        assert!(!folder.data().exists());
    }

    #[test]
    fn somebody_elses_adapter_and_a_file_for_a_folder_are_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let adapter = place.path().join("adapter");
        fs::create_dir(&adapter).unwrap();
        let taken = Folder::prepare(place.path()).unwrap_err();
        assert!(matches!(&taken, NoFolder::Taken(path) if *path == adapter), "{taken:?}");
        let file = place.path().join("file");
        fs::write(&file, "mine").unwrap();
        assert!(Folder::prepare(&file).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"mine");
    }

    #[test]
    fn the_embedded_model_stays_small() {
        assert!(MODEL.len() <= 4_000_000, "{} bytes", MODEL.len());
        assert!(MODEL.starts_with(b"GGUF"));
    }
}
