//! Where a file will lie, and whether a temporary one can lie there.

use std::io;
use std::path::Path;

use lowtide_formats::{Error, ScratchFile};

use crate::TrainError;

/// The folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A folder, or of those that it is in the nearest that is there already.
pub(crate) fn nearest(folder: &Path) -> &Path {
    let there = folder.ancestors().find(|path| path.exists());
    there.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Takes space for a temporary file in `folder`, for `purpose`.
///
/// # Errors
/// [`TrainError::Scratch`] with both, when the system has none.
pub(crate) fn reserve(
    folder: &Path,
    bytes: u64,
    purpose: &'static str,
) -> Result<ScratchFile, TrainError> {
    ScratchFile::reserve(folder, bytes).map_err(|error| {
        let reason = match error {
            Error::Io { message, .. } => message,
            other => other.to_string(),
        };
        TrainError::Scratch { folder: folder.to_owned(), purpose, reason }
    })
}

/// What a temporary file in `folder` for `purpose` failed with.
pub(crate) fn refused(folder: &Path, purpose: &'static str, error: &io::Error) -> TrainError {
    let reason = error.to_string();
    TrainError::Scratch { folder: folder.to_owned(), purpose, reason }
}
