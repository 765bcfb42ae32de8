//! Where things of a run are, seen from wherever it goes on.

use std::path::PathBuf;

use super::Settings;

/// The folder of event files, in the output folder, where none is named.
const BOARD: &str = "runs";

impl Settings {
    /// The folder of event files where none is named.
    #[must_use]
    pub fn usual_board(&self) -> PathBuf {
        self.output.join(BOARD)
    }

    /// Lets the run go into another folder, and with it what lies there where nothing else is said.
    #[must_use]
    pub fn into_folder(self, output: PathBuf) -> Self {
        let usual = self.tensorboard == Some(self.usual_board());
        let moved = Self { output, ..self };
        let tensorboard = if usual { Some(moved.usual_board()) } else { moved.tensorboard.clone() };
        Self { tensorboard, ..moved }
    }

    /// The same with paths that do not hang on the folder the process is in. A base that is not
    /// there is the name of one.
    pub(crate) fn with_whole_paths(&self) -> Self {
        let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let there = |path: &PathBuf| if path.exists() { whole(path) } else { path.clone() };
        let named = |path: &Option<PathBuf>| path.as_ref().map(whole);
        Self {
            model: there(&self.model),
            data: there(&self.data),
            output: whole(&self.output),
            init_adapter: named(&self.init_adapter),
            scratch_dir: named(&self.scratch_dir),
            pause_file: named(&self.pause_file),
            tensorboard: named(&self.tensorboard),
            trace: named(&self.trace),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn whole_paths_mean_the_same_elsewhere() {
        let settings = Settings {
            model: "src".into(),
            data: "no such file".into(),
            scratch_dir: Some("s".into()),
            ..Settings::default()
        };
        let here = std::env::current_dir().unwrap();
        let whole = settings.with_whole_paths();
        assert_eq!((&whole.model, &whole.output), (&here.join("src"), &here.join("adapter")));
        assert_eq!((whole.data.as_path(), whole.tensorboard), (Path::new("no such file"), None));
        assert_eq!(whole.scratch_dir, Some(here.join("s")));
    }

    #[test]
    fn event_files_follow_the_output_unless_they_have_a_place() {
        let of = |tensorboard: &str| {
            let tensorboard = Some(tensorboard.into());
            let settings = Settings { tensorboard, ..Settings::default() };
            settings.into_folder("other".into()).tensorboard.unwrap()
        };
        assert_eq!(of("adapter/runs"), Path::new("other/runs"));
        assert_eq!(of("elsewhere/runs"), Path::new("elsewhere/runs"));
    }
}
