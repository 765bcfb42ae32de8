//! Bringing files from the hub into the cache.

use std::path::PathBuf;

use hf_hub::Repo;
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};

use crate::cache::{CONFIG, INDEX, SINGLE, shards, which};
use crate::id::{Pick, all_parts, has_end};
use crate::{Hub, HubError, ModelId};

/// What goes with weights, where a repository has it.
const BESIDE: [&str; 4] =
    ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
/// Bytes between two reports of one file.
const STRIDE: u64 = 1 << 20;
/// Names of files that an error lists.
const LISTED: usize = 12;

/// How a download goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The file, by its name in the repository.
    pub file: &'a str,
    /// Bytes of it that are here.
    pub done: u64,
    /// Bytes it has.
    pub total: u64,
}

impl Hub {
    /// The model in the cache, after what is missing of it has been downloaded. A model that is
    /// there as a whole costs no connection.
    ///
    /// # Errors
    /// [`HubError`], with the address that was asked and what can be done instead.
    pub fn fetch(
        &self,
        id: &ModelId,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<PathBuf, HubError> {
        match self.find(id) {
            Err(HubError::NotCached { .. }) => {}
            done => return done,
        }
        let mut fetching = Fetching { id, repo: self.repo(id)?, hub: self, tell };
        let names = fetching.names()?;
        fetching.files(&names)?;
        self.find(id)
    }

    fn repo(&self, id: &ModelId) -> Result<ApiRepo, HubError> {
        let mut builder = ApiBuilder::from_env().with_progress(false).with_retries(2);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let builder = builder
            .with_token(self.home.token())
            .with_cache_dir(self.cache.path().clone())
            .with_user_agent("lowtide", env!("CARGO_PKG_VERSION"));
        let api = builder.build().map_err(|error| HubError::Request {
            id: id.to_string(),
            url: "the hub".to_owned(),
            reason: words(&error),
        })?;
        Ok(api.repo(Repo::model(id.repo().to_owned())))
    }
}

struct Fetching<'a> {
    id: &'a ModelId,
    repo: ApiRepo,
    hub: &'a Hub,
    tell: &'a mut dyn FnMut(Event<'_>),
}

impl Fetching<'_> {
    /// All files of the repository.
    fn names(&self) -> Result<Vec<String>, HubError> {
        let info = self.repo.info().map_err(|error| self.failed("", &error))?;
        Ok(info.siblings.into_iter().map(|file| file.rfilename).collect())
    }

    /// Brings those of `names` that the model consists of.
    fn files(&mut self, names: &[String]) -> Result<(), HubError> {
        let has = |name: &str| names.iter().any(|other| other == name);
        let safe = has(CONFIG) && (has(SINGLE) || has(INDEX));
        if self.id.file().is_some() || !safe {
            return self.gguf(names);
        }
        for name in [CONFIG].into_iter().chain(BESIDE).filter(|name| has(name)) {
            self.file(name)?;
        }
        if has(SINGLE) {
            return self.file(SINGLE).map(|_| ());
        }
        let index = self.file(INDEX)?;
        shards(&index)?.iter().try_for_each(|shard| self.file(shard).map(|_| ()))
    }

    fn gguf(&mut self, names: &[String]) -> Result<(), HubError> {
        let id = self.id.to_string();
        let mut ggufs: Vec<_> =
            names.iter().map(String::as_str).filter(|name| has_end(name, ".gguf")).collect();
        match self.id.pick(&ggufs) {
            Pick::One(name) => {
                all_parts(name).iter().try_for_each(|part| self.file(part).map(|_| ()))
            }
            Pick::Several(names) => Err(which(self.id, &names)),
            Pick::None if ggufs.is_empty() => Err(HubError::NoWeights { id }),
            Pick::None => {
                let more = ggufs.len() > LISTED;
                ggufs.truncate(LISTED);
                let files = ggufs.join(", ") + if more { ", and others" } else { "" };
                Err(HubError::NoSuchFile { id, files })
            }
        }
    }

    /// One file, from the cache or from the hub.
    fn file(&mut self, name: &str) -> Result<PathBuf, HubError> {
        let cached = self.hub.cache.model(self.id.repo().to_owned()).get(name);
        if let Some(path) = cached {
            return Ok(path);
        }
        let telling = Telling { tell: &mut *self.tell, file: name, done: 0, total: 0, told: 0 };
        let path = self.repo.download_with_progress(name, telling);
        path.map_err(|error| self.failed(name, &error))
    }

    fn failed(&self, file: &str, error: &ApiError) -> HubError {
        let (id, url) = (self.id.to_string(), self.repo.url(file));
        let url = url.strip_suffix("/resolve/main/").map(str::to_owned).unwrap_or(url);
        match error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status @ (401 | 403 | 404)) => {
                    HubError::NoSuchModel { id, status, url }
                }
                _ => HubError::Request { id, url, reason: error.to_string() },
            },
            error => HubError::Request { id, url, reason: words(error) },
        }
    }
}

/// The cause where there is one: the crate's own words for it are few.
fn words(error: &ApiError) -> String {
    match error {
        ApiError::TooManyRetries(error) => words(error),
        ApiError::RequestError(error) => error.to_string(),
        ApiError::IoError(error) => error.to_string(),
        error => error.to_string(),
    }
}

struct Telling<'a> {
    tell: &'a mut dyn FnMut(Event<'_>),
    file: &'a str,
    done: u64,
    total: u64,
    told: u64,
}

impl Progress for Telling<'_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.done, self.total, self.told) = (0, size as u64, 0);
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        // The end of a body is read as no bytes.
        if bytes > 0 && (self.done >= self.told + STRIDE || self.done == self.total) {
            self.told = self.done;
            (self.tell)(Event { file: self.file, done: self.done, total: self.total });
        }
    }

    fn finish(&mut self) {}
}
