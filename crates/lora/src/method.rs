//! The methods by name, for a registry.

use alloc::boxed::Box;

use lowtide_adapter::{Adapter, BadValue, BuildError, Config, Method, Place, SiteInfo};
use lowtide_tensor::Float;

use crate::{Dora, Lora, LoraFa};

/// Builds a [`Lora`] for every site; rsLoRA is the same method with
/// [`Config::use_rslora`](lowtide_adapter::Config::use_rslora).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoraMethod;

/// Builds a [`Lora`] of the scale of rsLoRA for every site, under the name `rslora`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RsLoraMethod;

/// Builds a [`LoraFa`] for every site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoraFaMethod;

/// Builds a [`Dora`] for every site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoraMethod;

impl<F: Float> Method<F> for LoraMethod {
    fn kind(&self) -> &'static str {
        Lora::KIND
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(site, config, Lora::new)
    }
}

impl<F: Float> Method<F> for RsLoraMethod {
    fn kind(&self) -> &'static str {
        Lora::KIND_RANK_STABILIZED
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(site, config, Lora::rank_stabilized)
    }
}

impl<F: Float> Method<F> for LoraFaMethod {
    fn kind(&self) -> &'static str {
        LoraFa::KIND
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(site, config, LoraFa::new)
    }
}

impl<F: Float> Method<F> for DoraMethod {
    fn kind(&self) -> &'static str {
        Dora::KIND
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(site, config, Dora::new)
    }
}

/// What a method makes of a site.
type Built<F> = Result<Option<Box<dyn Adapter<F>>>, BuildError>;

/// The adapter of a linear; other sites are left alone.
fn on_linear<F: Float, A: Adapter<F> + 'static>(
    site: &SiteInfo,
    config: &Config,
    new: impl Fn(usize, usize, &Config) -> Result<A, BadValue>,
) -> Built<F> {
    if site.place != Place::Linear {
        return Ok(None);
    }
    Ok(Some(Box::new(new(site.in_features, site.out_features, config)?)))
}
