//! The cache that tools of the hub share: `models--org--name/snapshots/COMMIT/..`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};
use serde_json::Value;

use crate::id::{Pick, all_parts, has_end};
use crate::{HubError, ModelId};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Largest list of weights that is read; those of the largest public models have 10 MB.
const INDEX_BYTES_MAX: u64 = 16 << 20;

/// The hub as this machine sees it: a cache and, with the feature `download`, a server.
#[derive(Clone, Debug)]
pub struct Hub {
    pub(crate) cache: Cache,
    /// Where the user's token lies beside, which stays when the cache is moved.
    #[cfg(feature = "download")]
    pub(crate) home: Cache,
    /// Instead of the one that users' settings name.
    #[cfg(feature = "download")]
    pub(crate) endpoint: Option<String>,
}

impl Hub {
    /// The hub as the settings of the user say: the cache that `HF_HUB_CACHE` names, else `hub` in
    /// the folder that `HF_HOME` names, else the one in the home folder.
    ///
    /// # Errors
    /// [`HubError::NoHome`] if the user has no home folder for the cache to be in.
    #[allow(clippy::disallowed_methods, reason = "a variable says where files lie, and no number")]
    pub fn of_user() -> Result<Self, HubError> {
        std::env::home_dir().ok_or(HubError::NoHome)?;
        // The `hf-hub` crate knows `HF_HOME` only.
        let moved = std::env::var_os("HF_HUB_CACHE").filter(|path| !path.is_empty());
        let cache = moved.map_or_else(Cache::from_env, |path| Cache::new(path.into()));
        Ok(Self {
            #[cfg(feature = "download")]
            home: Cache::from_env(),
            ..Self::with_cache(cache)
        })
    }

    /// A hub with another cache: the folder that holds `models--org--name`.
    pub fn at(cache: &Path) -> Self {
        Self::with_cache(Cache::new(cache.to_path_buf()))
    }

    /// The same, asking another server.
    #[cfg(feature = "download")]
    #[must_use]
    pub fn with_endpoint(self, endpoint: &str) -> Self {
        Self { endpoint: Some(endpoint.to_owned()), ..self }
    }

    fn with_cache(cache: Cache) -> Self {
        Self {
            #[cfg(feature = "download")]
            home: cache.clone(),
            #[cfg(feature = "download")]
            endpoint: None,
            cache,
        }
    }

    /// The model in the cache: the folder of its snapshot, or its GGUF file.
    ///
    /// # Errors
    /// [`HubError::NotCached`] unless all its files are there; [`HubError::WhichFile`] if the
    /// snapshot holds several GGUF files and the id does not say which.
    pub fn find(&self, id: &ModelId) -> Result<PathBuf, HubError> {
        let missing = |file: &str| HubError::NotCached {
            id: id.to_string(),
            missing: file.to_owned(),
            cache: self.cache.path().clone(),
        };
        let dir = self.snapshot(id).ok_or_else(|| missing("any file"))?;
        if id.file().is_none() && dir.join(CONFIG).is_file() {
            return match missing_weights(&dir)? {
                None => Ok(dir),
                // A repository of GGUF files may have a config, too.
                Some(file) => gguf_in(id, &dir)?.ok_or_else(|| missing(&file)),
            };
        }
        gguf_in(id, &dir)?.ok_or_else(|| missing(id.file().unwrap_or(CONFIG)))
    }

    /// The folder of the model's snapshot, if there is one.
    fn snapshot(&self, id: &ModelId) -> Option<PathBuf> {
        let repo = Repo::model(id.repo().to_owned());
        let folder = self.cache.path().join(repo.folder_name());
        let commit = fs::read_to_string(folder.join("refs").join(repo.revision())).ok()?;
        let commit = commit.trim();
        let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
        let dir = folder.join("snapshots").join(commit);
        Some(dir).filter(|dir| plain && dir.is_dir())
    }
}

/// The GGUF file that the id means, if it lies in `dir` with all its parts.
fn gguf_in(id: &ModelId, dir: &Path) -> Result<Option<PathBuf>, HubError> {
    let below = id.file().and_then(|file| file.rsplit_once('/')).map(|(folder, _)| folder);
    let entries = fs::read_dir(dir.join(below.unwrap_or_default())).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names
        .filter(|name| has_end(name, ".gguf"))
        .map(|name| below.map_or_else(|| name.clone(), |below| format!("{below}/{name}")))
        .collect();
    names.sort();
    match id.pick(&names.iter().map(String::as_str).collect::<Vec<_>>()) {
        Pick::One(name) => {
            let whole = all_parts(name).iter().all(|part| dir.join(part).is_file());
            Ok(Some(dir.join(name)).filter(|_| whole))
        }
        Pick::Several(names) => Err(which(id, &names)),
        Pick::None => Ok(None),
    }
}

pub(crate) fn which(id: &ModelId, names: &[&str]) -> HubError {
    HubError::WhichFile {
        id: id.to_string(),
        repo: id.repo().to_owned(),
        files: names.join(", "),
        example: names[0].to_owned(),
    }
}

/// The first file of the weights of a folder that is not there.
fn missing_weights(dir: &Path) -> Result<Option<String>, HubError> {
    if dir.join(SINGLE).is_file() {
        return Ok(None);
    }
    if !dir.join(INDEX).is_file() {
        return Ok(Some(SINGLE.to_owned()));
    }
    let shards = shards(&dir.join(INDEX))?;
    Ok(shards.into_iter().find(|shard| !dir.join(shard).is_file()))
}

/// The files that an index names.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let bad = |reason: String| HubError::Index { path: index.to_path_buf(), reason };
    let mut text = Vec::new();
    let file = File::open(index).map_err(|e| bad(format!("cannot open: {e}")))?;
    let read = file.take(INDEX_BYTES_MAX + 1).read_to_end(&mut text);
    read.map_err(|e| bad(format!("cannot read: {e}")))?;
    if text.len() as u64 > INDEX_BYTES_MAX {
        return Err(bad(format!("longer than {INDEX_BYTES_MAX} bytes")));
    }
    let json: Value = serde_json::from_slice(&text).map_err(|e| bad(format!("not JSON: {e}")))?;
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| bad("`weight_map` is missing; expected an object".into()))?;
    map.values()
        .map(|value| match value.as_str().filter(|name| is_plain(name)) {
            Some(name) => Ok(name.to_owned()),
            None => Err(bad(format!("`weight_map` names {value}; expected a file beside it"))),
        })
        .collect()
}

/// Whether `name` names a file in a folder and nothing outside it.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0', ':'])
}
