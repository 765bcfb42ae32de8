//! How a method is chosen by name and built for a site.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use lowtide_tensor::Float;

use crate::{Adapter, BadValue, Config};

/// A frozen linear that can be adapted.
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
}

/// Why an adapter cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// A value outside what the method accepts.
    #[error(transparent)]
    BadValue(#[from] BadValue),
    /// No method of this name is registered.
    #[error("unknown method `{name}`, known: {}", known.join(", "))]
    UnknownMethod {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<&'static str>,
    },
}

/// A family of adapters, built per site.
pub trait Method<F: Float = f32>: Send + Sync {
    /// Name in configurations: `lora`.
    fn kind(&self) -> &'static str;

    /// The adapter for one site, or `None` when the method leaves this site alone.
    ///
    /// # Errors
    /// [`BuildError`] when the configuration makes no sense for the method.
    fn build(
        &self,
        site: &SiteInfo,
        config: &Config,
    ) -> Result<Option<Box<dyn Adapter<F>>>, BuildError>;
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
