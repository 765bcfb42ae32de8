//! What of a trainer is saved between updates, and comes back.

use std::io::{self, Write};

use super::{Held, Trainer};
use crate::TrainError;
use crate::ranks::Score;

/// A name, how many bytes, and what writes them.
pub(crate) type Bytes<'a> = (&'static str, u64, Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>);

impl Trainer<'_, '_> {
    /// Whether all there is to save are the parameters of the adapter, as f32: its optimizer
    /// remembers nothing.
    pub(crate) fn is_its_adapter(&self) -> bool {
        let Held { params, states, .. } = &self.held;
        states.bytes() == 0 && self.ranks.is_none() && params.are_plain()
    }

    /// All numbers that the next update depends on, as bytes by name, each with how many they are
    /// and what writes them, wherever they lie. What goes with the parameters and is not trained,
    /// `with_fixed`, is made again from the seed otherwise.
    pub(crate) fn sections(&self, with_fixed: bool) -> Vec<Bytes<'_>> {
        let fixed = if with_fixed { self.fixed() } else { &[] };
        let states = &self.held.states;
        vec![
            lying("params", self.held.params.bytes()),
            ("optimizer", states.bytes(), Box::new(|out: &mut dyn Write| states.write_to(out))),
            lying("scores", self.held.scores.get::<u8>()),
            lying("fixed", bytemuck::cast_slice(fixed)),
        ]
    }

    /// Takes all of these over from `section`, which has the bytes of each by its name; what is
    /// fixed only where there is such a section.
    ///
    /// # Errors
    /// The section that has another length than this run needs, or why it cannot be taken over.
    pub(crate) fn set_sections<'s>(
        &mut self,
        section: &mut dyn FnMut(&str) -> &'s [u8],
    ) -> Result<(), String> {
        let check = |name: &str, found: u64, need: u64| match found == need {
            true => Ok(()),
            false => Err(format!("`{name}` has {found} bytes, and this run needs {need}")),
        };
        let set = |name: &str, into: &mut [u8], from: &[u8]| {
            check(name, from.len() as u64, into.len() as u64)?;
            into.copy_from_slice(from);
            Ok::<(), String>(())
        };
        set("params", self.held.params.bytes_mut(), section("params"))?;
        let states = section("optimizer");
        check("optimizer", states.len() as u64, self.held.states.bytes())?;
        self.held.states.set(states).map_err(|error| error.to_string())?;
        set("scores", self.held.scores.get_mut(), section("scores"))?;
        let fixed = section("fixed");
        if !fixed.is_empty() {
            set("fixed", bytemuck::cast_slice_mut(self.executor.fixed_mut()), fixed)?;
        }
        self.state_changed();
        Ok(())
    }

    /// Hands out the bytes of all numbers that change from update to update, a part at a time, to
    /// be kept or set; [`Trainer::state_changed`] has to follow when they were set.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn each_state(
        &mut self,
        each: &mut dyn FnMut(&mut [u8]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        each(self.held.params.bytes_mut())?;
        self.for_each_state(&mut |words| each(bytemuck::cast_slice_mut(words)))?;
        each(self.held.scores.get_mut())?;
        if self.ranks.is_some() {
            // Where pairs are switched off, what is fixed of them is as well.
            each(bytemuck::cast_slice_mut(self.executor.fixed_mut()))?;
        }
        Ok(())
    }

    /// The parameters as they lie.
    pub(crate) fn param_bytes(&self) -> &[u8] {
        self.held.params.bytes()
    }

    /// The same, to set; [`Trainer::state_changed`] has to follow.
    pub(crate) fn param_bytes_mut(&mut self) -> &mut [u8] {
        self.held.params.bytes_mut()
    }

    /// Takes note that parameters and states are others.
    pub(crate) fn state_changed(&mut self) {
        self.executor.params_changed();
        if let Some(ranks) = &mut self.ranks {
            ranks.go_on_with(self.held.scores.get::<Score>());
        }
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
    }
}

/// Bytes that lie in memory.
fn lying<'a>(name: &'static str, bytes: &'a [u8]) -> Bytes<'a> {
    (name, bytes.len() as u64, Box::new(move |out| out.write_all(bytes)))
}
