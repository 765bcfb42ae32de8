//! Bottleneck adapters by name, for a registry.

use alloc::boxed::Box;

use lowtide_adapter::{Adapter, BuildError, Config, Method, SiteInfo, check_options};
use lowtide_tensor::Float;

use crate::{Bottleneck, NonLinearity};

/// The option that chooses the non-linearity.
const NON_LINEARITY: &str = "non_linearity";

/// The non-linearity unless the option says another.
const NON_LINEARITY_DEFAULT: &str = "gelu";

/// Builds a [`Bottleneck`] for every branch or linear that is targeted, the two branches of a block
/// unless others are named.
///
/// The inner width is [`Config::rank`](lowtide_adapter::Config::rank); the option `non_linearity`
/// is `gelu` unless it says `silu` or `relu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BottleneckMethod;

impl<F: Float> Method<F> for BottleneckMethod {
    fn kind(&self) -> &'static str {
        Bottleneck::KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[NON_LINEARITY]
    }

    fn default_option(&self, name: &str) -> Option<&'static str> {
        (name == NON_LINEARITY).then_some(NON_LINEARITY_DEFAULT)
    }

    fn default_targets(&self) -> &'static str {
        "self_attn,mlp"
    }

    fn build(
        &self,
        site: &SiteInfo,
        config: &Config,
    ) -> Result<Option<Box<dyn Adapter<F>>>, BuildError> {
        check_options::<F>(self, config)?;
        let name = config.options.get(NON_LINEARITY).map_or(NON_LINEARITY_DEFAULT, |name| name);
        let act = NonLinearity::from_name(name).ok_or_else(|| BuildError::BadOption {
            method: Bottleneck::KIND,
            option: NON_LINEARITY,
            value: name.into(),
            expected: "gelu, silu or relu",
        })?;
        let adapter = Bottleneck::new(site.out_features, site.place, act, config)?;
        Ok(Some(Box::new(adapter)))
    }
}
