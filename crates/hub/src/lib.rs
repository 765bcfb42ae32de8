//! Models by the ids of the Hugging Face hub, such as `org/name`.
//!
//! - [`ModelId`] is an id as it is written: `org/name`, or `org/name:Q4_K_M` and
//!   `org/name:file.gguf` where a repository holds GGUF files.
//! - [`locate`] says where a model lies on this machine: a local path of that name wins, else the
//!   cache that all tools of the hub share. It never opens a connection.
//! - With the feature `download`, [`Hub::fetch`] brings what is missing into that cache: configs,
//!   tokenizer and weights, nothing else of a repository.
//!
//! Where the cache is, and which server is asked, is the `hf-hub` crate's to know, but for
//! `HF_HUB_CACHE`, which is read here: these are variables that users of the hub set. None of them
//! changes a number.
//!
//! The crate knows names and sizes, never what is in a file: checking is for those who open them.
#![forbid(unsafe_code)]

mod cache;
mod error;
mod id;

#[cfg(feature = "download")]
mod download;

use std::path::{Path, PathBuf};

pub use cache::Hub;
#[cfg(feature = "download")]
pub use download::Event;
pub use error::HubError;
pub use id::ModelId;

/// Where the model that is called `model` lies on this machine.
///
/// A file or folder of that name wins. Else, if `model` reads as a hub id, the answer is the
/// snapshot in the cache. Anything else is given back as it is, for its opening to fail with the
/// path.
///
/// # Errors
/// [`HubError::NotCached`] if it is an id whose files are not all in the cache.
pub fn locate(model: &Path) -> Result<PathBuf, HubError> {
    match ModelId::of_missing(model) {
        None => Ok(model.to_path_buf()),
        Some(id) => Hub::of_user()?.find(&id),
    }
}
