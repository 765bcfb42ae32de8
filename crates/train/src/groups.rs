//! Groups of trained tensors: which rate and which decay each has.

use lowtide_model::{Site, TensorPatterns};

use crate::{Settings, SettingsError, TrainError};

/// Name of the tensors that LoRA+ lets learn faster: the second factors, which start at zero
/// (Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024).
const FASTER: &str = "lora_B.weight";

/// What a trained tensor has of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Group {
    /// Factor on the learning rate.
    pub(crate) rate: f64,
    /// Weight decay, where it is not the run's.
    pub(crate) decay: Option<f64>,
}

impl Default for Group {
    fn default() -> Self {
        Self { rate: 1.0, decay: None }
    }
}

/// The groups of LoRA+ alone; `None` where no tensor is a second factor.
pub(crate) fn lora_plus(sites: &[Site], ratio: f64) -> Option<Vec<Group>> {
    let specs = || sites.iter().flat_map(|site| &site.params);
    let rate = |faster| if faster { ratio } else { 1.0 };
    let group = |faster| Group { rate: rate(faster), decay: None };
    let found = specs().any(|spec| spec.name == FASTER);
    found.then(|| specs().map(|spec| group(spec.name == FASTER)).collect())
}

impl Settings {
    /// The group of each trained tensor of these sites: LoRA+, and what patterns say on top.
    ///
    /// # Errors
    /// When a pattern is none or matches no tensor, or LoRA+ is asked for and there is nothing that
    /// it would speed up.
    pub(crate) fn groups(&self, sites: &[Site]) -> Result<Vec<Group>, TrainError> {
        let tensors = sites.iter().map(|site| site.params.len()).sum();
        let ratio = self.lora_plus_ratio;
        let mut groups = match lora_plus(sites, ratio) {
            Some(groups) => groups,
            None if ratio == 1.0 => vec![Group::default(); tensors],
            None => {
                let expected = "1 with a method that trains no `lora_B.weight`";
                let (field, found) = ("lora-plus-ratio", ratio.to_string());
                return Err(SettingsError::BadValue { field, found, expected }.into());
            }
        };
        let field = "lr pattern";
        let rates = TensorPatterns::new(field, self.lr_pattern.iter())?.of(field, sites)?;
        let field = "weight decay pattern";
        let decays = TensorPatterns::new(field, self.weight_decay_pattern.iter())?;
        for ((group, rate), decay) in groups.iter_mut().zip(rates).zip(decays.of(field, sites)?) {
            group.rate *= rate.unwrap_or(1.0);
            group.decay = decay.filter(|decay| *decay != self.weight_decay);
        }
        Ok(groups)
    }
}
