//! The model with the adapters that the settings ask for, and what can be judged by it alone.

use lowtide_model::{Adaptation, Model};
use lowtide_runtime::{LoadedAdapter, OpenBase};

use crate::{AdaptiveRank, Settings, TrainError, sensitivity};

/// What a model with adapters is built of.
pub(super) struct Adapted<'j> {
    pub(super) settings: &'j Settings,
    pub(super) base: &'j OpenBase,
    pub(super) init_adapter: Option<&'j LoadedAdapter>,
    pub(super) adaptation: Adaptation<'j, f32>,
}

impl<'j> Adapted<'j> {
    /// Builds the model with its adapters, which can be saved as the settings say.
    pub(super) fn build(self) -> Result<Model<'j, f32>, TrainError> {
        let blame = |error| match self.init_adapter {
            // Its modules are the targets then.
            Some(adapter) if self.settings.target_modules == "auto" => adapter.blame(error),
            _ => error,
        };
        let model = self.base.build(Some(self.adaptation)).map_err(blame)?;
        self.settings.adapter_type()?.check_sites(&model.sites)?;
        Ok(model)
    }

    /// Refuses what the base, the method and its sites cannot do, which takes no data: to read that
    /// may take long. The model is let go again, and what it holds.
    pub(super) fn check(self) -> Result<(), TrainError> {
        let settings = self.settings;
        let model = self.build()?;
        // Without a number of updates it depends on the data whether there are enough.
        AdaptiveRank::of(settings, &model.sites, settings.max_steps.unwrap_or(u64::MAX))?;
        settings.groups(&model.sites)?;
        let trained = model.tensors_per_segment().iter().filter(|&&tensors| tensors > 0).count();
        settings.gradient_for(trained)?;
        if settings.adapter_bytes()?.is_some() {
            sensitivity::check_ranks(&model.sites)?;
        }
        Ok(())
    }
}
