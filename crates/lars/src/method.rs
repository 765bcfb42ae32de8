//! LARS by name, for a registry.

use alloc::boxed::Box;

use lowtide_adapter::{Adapter, BuildError, Config, Method, Place, SiteInfo, check_options};
use lowtide_tensor::Float;

use crate::{CHUNK, Gate, KIND, Pool, Pooled};

/// The option that chooses what is pooled.
const POOL: &str = "pool";

/// The option that says how many rows a chunk has.
const CHUNK_ROWS: &str = "chunk";

/// What is pooled unless the option says something else.
const POOL_DEFAULT: &str = "prompt";

/// [`CHUNK`] as the option has it.
const CHUNK_ROWS_DEFAULT: &str = "64";
const _: () = assert!(CHUNK == 64, "the option's default is the largest chunk");

/// Builds a [`Pooled`] for every linear, or a [`Gate`].
///
/// The option `pool` is `prompt` unless it says `all`, `chunk`, `learned` or `gate`; the option
/// `chunk` is the number of rows of a chunk, 64 unless given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LarsMethod;

/// A refusal of an option's value.
fn bad(option: &'static str, value: &str, expected: &'static str) -> BuildError {
    BuildError::BadOption { method: KIND, option, value: value.into(), expected }
}

/// What is pooled; `None` for the gate.
fn pool(config: &Config) -> Result<Option<Pool>, BuildError> {
    let rows = match config.options.get(CHUNK_ROWS) {
        None => CHUNK,
        Some(rows) => rows
            .parse()
            .ok()
            .filter(|rows| (1..=CHUNK).contains(rows))
            .ok_or_else(|| bad(CHUNK_ROWS, rows, "a whole number from 1 to 64"))?,
    };
    Ok(Some(match config.options.get(POOL).map_or(POOL_DEFAULT, |name| name) {
        "prompt" => Pool::Prompt,
        "all" => Pool::All,
        "chunk" => Pool::Chunk(rows),
        "learned" => Pool::Learned,
        "gate" => return Ok(None),
        other => return Err(bad(POOL, other, "prompt, all, chunk, learned or gate")),
    }))
}

impl<F: Float> Method<F> for LarsMethod {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[POOL, CHUNK_ROWS]
    }

    fn default_option(&self, name: &str) -> Option<&'static str> {
        match name {
            POOL => Some(POOL_DEFAULT),
            CHUNK_ROWS => Some(CHUNK_ROWS_DEFAULT),
            _ => None,
        }
    }

    fn needs_prompts(&self, config: &Config) -> bool {
        matches!(pool(config), Ok(Some(Pool::Prompt | Pool::Learned)))
    }

    fn build(
        &self,
        site: &SiteInfo,
        config: &Config,
    ) -> Result<Option<Box<dyn Adapter<F>>>, BuildError> {
        check_options::<F>(self, config)?;
        let pool = pool(config)?;
        if site.place != Place::Linear {
            return Ok(None);
        }
        let SiteInfo { in_features, out_features, .. } = *site;
        if let Some(pool) = pool {
            return Ok(Some(Box::new(Pooled::new(in_features, out_features, pool, config)?)));
        }
        let gate = Gate::new(in_features, config)?.ok_or_else(|| BuildError::BadSite {
            method: KIND,
            site: site.name.clone(),
            reason: "a gate scales blocks of 32 inputs, and its inputs are no multiple of 32",
        })?;
        Ok(Some(Box::new(gate)))
    }
}
