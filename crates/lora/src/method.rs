//! LoRA by name, for a registry.

use alloc::boxed::Box;

use lowtide_adapter::{Adapter, BuildError, Config, Method, Place, SiteInfo};
use lowtide_tensor::Float;

use crate::Lora;

/// Builds a [`Lora`] for every site; rsLoRA is the same method with
/// [`Config::use_rslora`](lowtide_adapter::Config::use_rslora).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoraMethod;

impl<F: Float> Method<F> for LoraMethod {
    fn kind(&self) -> &'static str {
        Lora::KIND
    }

    fn build(
        &self,
        site: &SiteInfo,
        config: &Config,
    ) -> Result<Option<Box<dyn Adapter<F>>>, BuildError> {
        if site.place != Place::Linear {
            return Ok(None);
        }
        let lora = Lora::new(site.in_features, site.out_features, config)?;
        Ok(Some(Box::new(lora)))
    }
}
