//! Why a model of the hub cannot be had.

use std::path::PathBuf;

/// What to do when a download cannot work.
const OTHERWISE: &str = "download the repository by other means and give the folder as the model";

/// Why a model of the hub cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// Nobody knows where the cache is.
    #[error("there is no home folder, so the hub's cache has no place; {OTHERWISE}")]
    NoHome,
    /// Not all files of the model are in the cache.
    #[error(
        "{id}: no file or folder of this name, and {missing} of the model is not in the hub's \
         cache {}; {OTHERWISE}",
        cache.display()
    )]
    NotCached {
        /// The id.
        id: String,
        /// The first file that is missing.
        missing: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub gives no such model to us.
    #[error(
        "{id}: no file or folder of this name, and the hub has no such model, or shows it only to \
         those who are logged in (status {status} for {url})"
    )]
    NoSuchModel {
        /// The id.
        id: String,
        /// The status of the answer.
        status: u16,
        /// What was asked for.
        url: String,
    },
    /// A request that failed.
    #[error("{id}: no file or folder of this name, and {url} cannot be had: {reason}; {OTHERWISE}")]
    Request {
        /// The id.
        id: String,
        /// What was asked for.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A repository without weights that are read.
    #[error("{id}: the repository holds neither safetensors with a config.json nor GGUF files")]
    NoWeights {
        /// The id.
        id: String,
    },
    /// The id names no GGUF file of the repository.
    #[error("{id}: no GGUF file of the repository is called so; there are {files}")]
    NoSuchFile {
        /// The id.
        id: String,
        /// The files that are there.
        files: String,
    },
    /// Several GGUF files, and the id does not say which.
    #[error("{id}: several GGUF files fit ({files}); name one as in {repo}:{example}")]
    WhichFile {
        /// The id.
        id: String,
        /// The repository.
        repo: String,
        /// The files that fit.
        files: String,
        /// One of them.
        example: String,
    },
    /// A list of weights that cannot be read.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
