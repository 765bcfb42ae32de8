//! IA3 by name, for a registry.

use alloc::boxed::Box;

use lowtide_adapter::{
    Adapter, BadValue, BuildError, Config, Method, Place, SiteInfo, check_options,
};
use lowtide_tensor::Float;

use crate::{Ia3, Scales};

/// The option that lists the feed-forward linears.
const FEEDFORWARD: &str = "feedforward_modules";

/// The feed-forward linears unless the option lists others.
const FEEDFORWARD_DEFAULT: &str = "down_proj";

/// Builds an [`Ia3`] for every linear.
///
/// The option `feedforward_modules` lists the linears whose inputs are scaled, by the last parts of
/// their names, with commas between; it is `down_proj` unless given. All others have their outputs
/// scaled. The default targets are PEFT's for Llama and Mistral; PEFT takes `q_proj` instead of
/// `k_proj` for Gemma and Qwen, which is one list of targets away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ia3Method;

impl<F: Float> Method<F> for Ia3Method {
    fn kind(&self) -> &'static str {
        Ia3::KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[FEEDFORWARD]
    }

    fn default_option(&self, name: &str) -> Option<&'static str> {
        (name == FEEDFORWARD).then_some(FEEDFORWARD_DEFAULT)
    }

    fn default_targets(&self) -> &'static str {
        "k_proj,v_proj,down_proj"
    }

    fn build(
        &self,
        site: &SiteInfo,
        config: &Config,
    ) -> Result<Option<Box<dyn Adapter<F>>>, BuildError> {
        check_options::<F>(self, config)?;
        if config.dropout != 0.0 {
            let (field, value) = ("dropout", config.dropout);
            let expected = "0: this method drops nothing";
            return Err(BadValue { method: Ia3::KIND, field, value, expected }.into());
        }
        let feedforward =
            config.options.get(FEEDFORWARD).map_or(FEEDFORWARD_DEFAULT, |names| names);
        let mut names = feedforward.split(',').map(str::trim);
        if names.clone().any(str::is_empty) {
            return Err(BuildError::BadOption {
                method: Ia3::KIND,
                option: FEEDFORWARD,
                value: feedforward.into(),
                expected: "last parts of names of linears, with commas between",
            });
        }
        if site.place != Place::Linear {
            return Ok(None);
        }
        let ends = |name: &str| {
            site.name.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let inputs = names.any(ends);
        let scales = if inputs { Scales::Inputs } else { Scales::Outputs };
        Ok(Some(Box::new(Ia3::new(site.in_features, site.out_features, scales))))
    }
}
