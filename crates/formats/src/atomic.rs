//! Files that appear whole or not at all.
//!
//! Everything is written under temporary names in the folder it belongs to, synced, and only then
//! renamed. A failure on the way leaves what was there before and removes the temporary files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// Bytes buffered between a writer and the system.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes one file: `fill` writes the content, then the file takes its place in one step.
///
/// # Errors
/// [`Error::Io`], naming the file; then the old file, if there was one, is untouched.
pub fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let staged = Staged::write(path, fill)?;
    staged.publish()?;
    sync_dir(parent(path))
}

/// Writes several small files into `dir` as a [`FileSet`]; the last of them is the marker.
///
/// # Errors
/// [`Error::Io`], naming the file.
pub fn write_dir_files(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), Error> {
    let mut set = FileSet::new(dir)?;
    for (name, content) in files {
        set.add(name, |out| out.write_all(content))?;
    }
    set.commit()
}

/// Several files of one folder that belong together.
///
/// Files are complete and synced, under temporary names, before the first of them is renamed. The
/// file added last is the marker: readers look for it first. It is taken away before the others
/// are replaced and put in place after them, so a power cut in between leaves a folder without its
/// marker, which nobody reads, and never new files beside old ones. Files that do not belong to the
/// set, see [`remove`](Self::remove), go while the marker is away. Where the marker stays what it
/// is and one other file is new, that one takes its place in one step and the marker is never away.
///
/// Dropped without [`commit`](Self::commit), a set removes its temporary files and changes nothing.
#[derive(Debug)]
pub struct FileSet {
    dir: PathBuf,
    made_dir: bool,
    staged: Vec<Staged>,
    stale: Vec<PathBuf>,
}

impl FileSet {
    /// A set for `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] if `dir` cannot be made or is not a folder.
    pub fn new(dir: &Path) -> Result<Self, Error> {
        let made_dir = !dir.exists();
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create the folder", &e))?;
        Ok(Self { dir: dir.to_path_buf(), made_dir, staged: Vec::new(), stale: Vec::new() })
    }

    /// Writes and syncs one file under a temporary name.
    ///
    /// # Errors
    /// [`Error::Io`], naming the file.
    ///
    /// # Panics
    /// If `name` is not a plain file name.
    pub fn add(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        assert!(is_plain_name(name), "{name:?} is not a plain file name");
        self.staged.push(Staged::write(&self.dir.join(name), fill)?);
        Ok(())
    }

    /// Has a file of an earlier set removed when this one takes its place; there need be none.
    ///
    /// # Panics
    /// If `name` is not a plain file name.
    pub fn remove(&mut self, name: &str) {
        assert!(is_plain_name(name), "{name:?} is not a plain file name");
        self.stale.push(self.dir.join(name));
    }

    /// Puts all files in place.
    ///
    /// # Errors
    /// [`Error::Io`], naming the file.
    pub fn commit(mut self) -> Result<(), Error> {
        // A folder cannot be removed as a file; nothing is touched before that is known.
        if let Some(path) = self.stale.iter().find(|path| path.is_dir() && !path.is_symlink()) {
            return Err(Error::io(path, "remove", &io::ErrorKind::IsADirectory.into()));
        }
        let mut staged = std::mem::take(&mut self.staged);
        let mut marker = staged.pop();
        let stale = self.stale.iter().any(|path| path.exists());
        if staged.len() == 1 && !stale && marker.as_ref().is_some_and(Staged::is_there_already) {
            marker = None;
        }
        let others = !staged.is_empty() || !self.stale.is_empty();
        if let Some(marker) = marker.as_ref().filter(|_| others) {
            remove_if_there(&marker.path, "replace")?;
            sync_dir(&self.dir)?;
        }
        for path in &self.stale {
            remove_if_there(path, "remove")?;
        }
        for file in staged {
            file.publish()?;
        }
        if others {
            sync_dir(&self.dir)?;
        }
        if let Some(marker) = marker {
            marker.publish()?;
        }
        sync_dir(&self.dir)?;
        if std::mem::take(&mut self.made_dir) {
            sync_dir(parent(&self.dir))?;
        }
        Ok(())
    }
}

/// Removes a file, if there is one.
fn remove_if_there(path: &Path, action: &'static str) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, action, &e)),
        _ => Ok(()),
    }
}

impl Drop for FileSet {
    fn drop(&mut self) {
        self.staged.clear();
        if self.made_dir {
            // Fails if somebody else put something there meanwhile, and then it should stay.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Whether `name` names a file in a folder and nothing outside it.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}

/// A complete file under a temporary name; removed on drop unless published.
#[derive(Debug)]
struct Staged {
    temporary: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Staged {
    fn write(
        path: &Path,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Self, Error> {
        let failed = |e: io::Error| Error::io(path, "write", &e);
        let (temporary, file) = create_beside(path).map_err(failed)?;
        let staged = Self { temporary, path: path.to_path_buf(), published: false };
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        fill(&mut out).map_err(failed)?;
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(staged)
    }

    /// Whether the file that it would replace has the same bytes. Markers are small.
    fn is_there_already(&self) -> bool {
        let read = |path| fs::read(path).ok();
        read(&self.temporary).is_some_and(|new| read(&self.path).is_some_and(|old| old == new))
    }

    fn publish(mut self) -> Result<(), Error> {
        fs::rename(&self.temporary, &self.path)
            .map_err(|e| Error::io(&self.path, "replace", &e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the caller already has the error that matters.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Creates a new file next to `path`, hidden and with a name nobody else uses.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
        .to_string_lossy()
        .into_owned();
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = parent(path).join(format!(".{name}.{}-{count}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes temporary files that writers left in `dir` when they were killed, to be called before
/// this process writes there. Those of other processes that are still there stay, and where the
/// system does not tell, those younger than a day.
pub fn remove_leftovers(dir: &Path) {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
    // Best effort: they are in nobody's way but for the room they take.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(writer_of) else { continue };
        let gone = if Path::new("/proc/self").exists() {
            // In a container, a process before this one may have had its number.
            process == std::process::id() || !Path::new(&format!("/proc/{process}")).exists()
        } else {
            let written = entry.metadata().and_then(|facts| facts.modified()).ok();
            written.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > DAY)
        };
        if gone {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The process that wrote a file of this name, if it is one of [`create_beside`].
fn writer_of(name: &str) -> Option<u32> {
    let stem = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (_, numbers) = stem.rsplit_once('.')?;
    let (process, count) = numbers.split_once('-')?;
    count.parse::<u64>().ok()?;
    process.parse().ok()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// Makes renames in `dir` survive a power cut.
fn sync_dir(dir: &Path) -> Result<(), Error> {
    // Folders can be opened for syncing on Unix only; elsewhere a rename is all one can ask for.
    if cfg!(unix) {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| Error::io(dir, "sync the folder", &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_file(&path, |out| out.write_all(b"old")).unwrap();
        write_file(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_file(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_file(&path, |out| {
            out.write_all(b"half of it")?;
            Err(io::Error::other("disk gone"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("{}: cannot write: disk gone", path.display()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_set_appears_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("adapter");
        let mut set = FileSet::new(&new).unwrap();
        set.add("weights", |out| out.write_all(b"w1")).unwrap();
        set.add("config", |out| out.write_all(b"c1")).unwrap();
        assert!(names(&new).iter().all(|n| n.ends_with(".tmp")), "nothing is in place yet");
        set.commit().unwrap();
        write_dir_files(&new, &[("weights", b"w2"), ("config", b"c2")]).unwrap();
        assert_eq!(names(&new), ["config", "weights"]);
        assert_eq!(fs::read(new.join("weights")).unwrap(), b"w2");
        assert_eq!(fs::read(new.join("config")).unwrap(), b"c2");
    }

    #[test]
    fn a_stale_file_goes_while_the_marker_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        write_dir_files(dir.path(), &[("old", b"w1"), ("config", b"c1")]).unwrap();
        let second = || {
            let mut set = FileSet::new(dir.path()).unwrap();
            set.add("new", |out| out.write_all(b"w2")).unwrap();
            set.add("config", |out| out.write_all(b"c2")).unwrap();
            set.remove("old");
            set
        };
        // What stops it before the marker is back leaves no marker, and no old file.
        fs::create_dir(path("new")).unwrap();
        second().commit().unwrap_err();
        assert_eq!(names(dir.path()), ["new"]);
        fs::remove_dir(path("new")).unwrap();
        // There need be nothing to remove.
        second().commit().unwrap();
        assert_eq!(names(dir.path()), ["config", "new"]);
        // What cannot be removed is told of, and all stays as it was.
        fs::create_dir(path("old")).unwrap();
        fs::write(path("new"), "kept").unwrap();
        let error = second().commit().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: cannot remove", path("old").display())), "{error}");
        assert_eq!(names(dir.path()), ["config", "new", "old"]);
        assert_eq!(fs::read(path("new")).unwrap(), b"kept");
    }

    #[test]
    fn a_marker_that_stays_is_never_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let marker = || fs::metadata(path("config")).unwrap().modified().unwrap();
        write_dir_files(dir.path(), &[("weights", b"w1"), ("config", b"c1")]).unwrap();
        let before = marker();
        write_dir_files(dir.path(), &[("weights", b"w2"), ("config", b"c1")]).unwrap();
        assert_eq!((fs::read(path("weights")).unwrap(), marker()), (b"w2".to_vec(), before));
        assert_eq!(names(dir.path()), ["config", "weights"]);
        // Two other files cannot be replaced in one step.
        let two: [(&str, &[u8]); 3] = [("a", b"1"), ("weights", b"w3"), ("config", b"c1")];
        write_dir_files(dir.path(), &two).unwrap();
        assert_ne!(marker(), before);
        // What stops the replacement leaves the old file and its marker.
        fs::remove_file(path("weights")).unwrap();
        fs::create_dir(path("weights")).unwrap();
        write_dir_files(dir.path(), &[("weights", b"w4"), ("config", b"c1")]).unwrap_err();
        assert_eq!(names(dir.path()), ["a", "config", "weights"]);
    }

    #[test]
    fn leftovers_of_the_dead_are_told_from_all_else() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(dir.path().join(name), "").unwrap();
        // Higher than any number that a system gives.
        let dead = format!(".a.txt.{}-3.tmp", u32::MAX);
        let alive = ".a.txt.1-3.tmp".to_owned();
        let others = ["a.txt", ".a.txt.1-x.tmp", ".tmp", ".a.tmp", "b.txt.4294967295-3.tmp"];
        others.iter().copied().chain([dead.as_str(), alive.as_str()]).for_each(write);
        remove_leftovers(dir.path());
        let left = names(dir.path());
        assert!(!cfg!(target_os = "linux") || !left.contains(&dead), "{left:?}");
        assert!(left.contains(&alive) && others.iter().all(|name| left.contains(&(*name).into())));
        remove_leftovers(&dir.path().join("nothing there"));
    }

    #[test]
    fn an_abandoned_set_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("adapter");
        let mut set = FileSet::new(&new).unwrap();
        set.add("weights", |out| out.write_all(b"w")).unwrap();
        set.add("config", |_| Err(io::Error::other("disk gone"))).unwrap_err();
        drop(set);
        assert!(!new.exists());
    }
}
