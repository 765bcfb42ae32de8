//! How a method is chosen by name and built for a site.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use lowtide_tensor::Float;

use crate::{Adapter, BadValue, Config, Place};

/// A place of a model that can be adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteInfo {
    /// Module path in the model, as Hugging Face names it: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Block it belongs to.
    pub layer: usize,
    /// Width in.
    pub in_features: usize,
    /// Width out.
    pub out_features: usize,
    /// What is adapted.
    pub place: Place,
}

/// Why an adapter cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// A value outside what the method accepts.
    #[error(transparent)]
    BadValue(#[from] BadValue),
    /// An option that the method does not know.
    #[error("{method} has no option `{option}`, it has: {}", names(known))]
    UnknownOption {
        /// The method.
        method: &'static str,
        /// The option that was given.
        option: String,
        /// Those that it reads.
        known: &'static [&'static str],
    },
    /// An option with a value that the method does not accept.
    #[error("{method}: option `{option}` is `{value}`, expected {expected}")]
    BadOption {
        /// The method.
        method: &'static str,
        /// The option.
        option: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// What sites share is larger than may be held; nothing of it was made.
    #[error(
        "{method} needs {bytes} bytes for what its sites share, and {most} may be held: a lower \
         rank takes less"
    )]
    TooLarge {
        /// The method.
        method: &'static str,
        /// What it takes.
        bytes: u64,
        /// What there is.
        most: u64,
    },
    /// A site that the method cannot adapt.
    #[error("{method} cannot adapt `{site}`: {reason}")]
    BadSite {
        /// The method.
        method: &'static str,
        /// Name of the site.
        site: String,
        /// Why not.
        reason: &'static str,
    },
    /// No method of this name is registered.
    #[error("unknown method `{name}`, known: {}", known.join(", "))]
    UnknownMethod {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<&'static str>,
    },
}

/// Names in a row, for an error.
fn names(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// An adapter, where a method makes one.
pub type Built<F = f32> = Option<Box<dyn Adapter<F>>>;

/// A family of adapters, built per site.
pub trait Method<F: Float = f32>: Send + Sync {
    /// Name in configurations: `lora`.
    fn kind(&self) -> &'static str;

    /// The names of [`Config::options`] that it reads.
    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value that means the same as leaving the option `name` out, if there is one.
    fn default_option(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// Which sites it adapts when nobody says: a list of last parts of their names, or
    /// `all-linear`.
    fn default_targets(&self) -> &'static str {
        "all-linear"
    }

    /// The rank that a command gives it when nobody says; methods that have none read past it.
    fn default_rank(&self) -> usize {
        8
    }

    /// Whether what it adds is made from the prompt of each sequence, so that data without prompts
    /// teaches nothing.
    fn needs_prompts(&self, _config: &Config) -> bool {
        false
    }

    /// The adapter for one site, or `None` when the method leaves this site alone.
    ///
    /// # Errors
    /// [`BuildError`] when the configuration makes no sense for the method.
    fn build(&self, site: &SiteInfo, config: &Config) -> Result<Built<F>, BuildError>;

    /// The adapters for all sites that are to be adapted, in their order; each has its own
    /// configuration. For methods whose sites have something in common.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn build_all(&self, sites: &[(&SiteInfo, &Config)]) -> Result<Vec<Built<F>>, BuildError> {
        sites.iter().map(|(site, config)| self.build(site, config)).collect()
    }
}

/// Refuses options that a method does not read.
///
/// # Errors
/// [`BuildError::UnknownOption`], which names those that it reads.
pub fn check_options<F: Float>(method: &dyn Method<F>, config: &Config) -> Result<(), BuildError> {
    let known = method.options();
    match config.options.keys().find(|name| !known.contains(&name.as_str())) {
        Some(option) => {
            Err(BuildError::UnknownOption { method: method.kind(), option: option.clone(), known })
        }
        None => Ok(()),
    }
}

/// The methods that a program knows: a value, made by whoever composes the program.
pub struct Registry<F: Float = f32> {
    methods: Vec<Box<dyn Method<F>>>,
}

impl<F: Float> Default for Registry<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Float> core::fmt::Debug for Registry<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}

impl<F: Float> Registry<F> {
    /// A registry without methods.
    #[must_use]
    pub fn new() -> Self {
        Self { methods: Vec::new() }
    }

    /// Adds a method; one of the same name is replaced.
    #[must_use]
    pub fn with(mut self, method: impl Method<F> + 'static) -> Self {
        self.methods.retain(|m| m.kind() != method.kind());
        self.methods.push(Box::new(method));
        self
    }

    /// The method of this name.
    ///
    /// # Errors
    /// [`BuildError::UnknownMethod`], which lists the known names.
    pub fn get(&self, kind: &str) -> Result<&dyn Method<F>, BuildError> {
        self.methods.iter().find(|m| m.kind() == kind).map(|m| &**m).ok_or_else(|| {
            BuildError::UnknownMethod { name: kind.into(), known: self.kinds().collect() }
        })
    }

    /// Names of the known methods, in order of registration.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.methods.iter().map(|m| m.kind())
    }
}
