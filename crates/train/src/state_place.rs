//! Where an optimizer's states are.

use crate::{Settings, SettingsError};

/// A place for the states of an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatePlace {
    /// In memory.
    Ram,
    /// In a file, those of one block in memory.
    File,
}

/// Names in configurations of where an optimizer's states are; `auto` is the first of the others
/// that any plan fits with.
pub const STATE_PLACES: [&str; 3] = ["auto", "ram", "file"];

impl Settings {
    /// The places that the planner tries, quickest first.
    pub(crate) fn state_places(&self) -> Result<Vec<StatePlace>, SettingsError> {
        match self.optimizer_states.as_str() {
            "auto" => Ok(vec![StatePlace::Ram, StatePlace::File]),
            "ram" => Ok(vec![StatePlace::Ram]),
            "file" => Ok(vec![StatePlace::File]),
            other => Err(SettingsError::BadValue {
                field: "optimizer-states",
                found: other.into(),
                expected: "auto, ram or file",
            }),
        }
    }
}
