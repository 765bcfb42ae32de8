//! What of a trainer is saved between updates, and comes back.

use super::Trainer;
use crate::ranks::Score;

impl Trainer<'_, '_> {
    /// Whether all there is to save are the parameters of the adapter: its optimizer remembers
    /// nothing.
    pub(crate) fn is_its_adapter(&self) -> bool {
        self.held.state.get::<f32>().is_empty() && self.ranks.is_none()
    }

    /// All numbers that the next update depends on, as bytes by name. What goes with the parameters
    /// and is not trained, `with_fixed`, is made again from the seed otherwise.
    pub(crate) fn sections(&self, with_fixed: bool) -> Vec<(&'static str, &[u8])> {
        let fixed = if with_fixed { self.fixed() } else { &[] };
        vec![
            ("params", self.held.params.get::<u8>()),
            ("optimizer", self.held.state.get::<u8>()),
            ("scores", self.held.scores.get::<u8>()),
            ("fixed", bytemuck::cast_slice(fixed)),
        ]
    }

    /// Takes all of these over from `section`, which has the bytes of each by its name; what is
    /// fixed only where there is such a section.
    ///
    /// # Errors
    /// The section that has another length than this run needs.
    pub(crate) fn set_sections<'s>(
        &mut self,
        section: &mut dyn FnMut(&str) -> &'s [u8],
    ) -> Result<(), String> {
        let set = |name: &str, into: &mut [u8], from: &[u8]| {
            let (found, need) = (from.len(), into.len());
            if found != need {
                return Err(format!("`{name}` has {found} bytes, and this run needs {need}"));
            }
            into.copy_from_slice(from);
            Ok(())
        };
        set("params", self.held.params.get_mut(), section("params"))?;
        set("optimizer", self.held.state.get_mut(), section("optimizer"))?;
        set("scores", self.held.scores.get_mut(), section("scores"))?;
        let fixed = section("fixed");
        if !fixed.is_empty() {
            set("fixed", bytemuck::cast_slice_mut(self.executor.fixed_mut()), fixed)?;
        }
        self.executor.params_changed();
        Ok(())
    }

    /// Micro-batches computed, which dropout counts.
    pub(crate) fn micro_batches(&self) -> u64 {
        self.micro_batches
    }

    /// Brings what follows from the number of updates to where it was after `step` of them.
    pub(crate) fn go_on_after(&mut self, step: u64, micro_batches: u64) {
        self.micro_batches = micro_batches;
        if let Some(drawn) = &mut self.drawn {
            (1..=step).for_each(|update| drawn.draw(update, &self.ranges));
        }
        if let Some(ranks) = &mut self.ranks {
            ranks.go_on_with(self.held.scores.get::<Score>());
        }
    }
}
