//! Whether a run streams its weights, and how many of them stay in memory.

use lowtide_runtime::{WeightParts, WeightStream};

use crate::room::Room;
use crate::{SettingsError, Trainer};

/// When weights are streamed: read ahead block by block, used, let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamWeights {
    /// Where they do not fit into memory beside what the plan holds.
    #[default]
    Auto,
    /// Always, with no more than two blocks in memory at a time.
    On,
    /// Never: the system caches what it likes.
    Off,
}

impl StreamWeights {
    /// By the name it has in settings.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when it is none.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        match name {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            other => Err(SettingsError::BadValue {
                field: "stream-weights",
                found: other.into(),
                expected: "auto, on or off",
            }),
        }
    }

    /// Bytes of weights that stay in memory; `None` when they are not streamed.
    pub(crate) fn room_for(self, parts: &WeightParts, room: &Room, planned: u64) -> Option<u64> {
        let least = 2 * parts.largest_block();
        match self {
            Self::Off => None,
            Self::On => Some(least),
            Self::Auto => {
                let left = room.bytes()?.saturating_sub(planned);
                // What the system counts as left is an estimate, and others want some of it too.
                (parts.bytes() > left).then(|| least.max(left - left / 4))
            }
        }
    }
}

impl Trainer<'_, '_> {
    /// Streams weights, with `room` bytes of them in memory. A system that has no thread to spare
    /// goes on without; answers whether they are streamed.
    pub(crate) fn stream_weights(&mut self, parts: WeightParts, room: u64) -> bool {
        match WeightStream::start(parts, room) {
            Ok(stream) => {
                self.executor_mut().set_keeper(Box::new(stream));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "weights are not streamed: no thread for it");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lowtide_runtime::OpenBase;
    use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

    use super::*;
    use crate::room::GroupLimit;

    #[test]
    fn auto_streams_what_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        tiny_llama_folder(dir.path(), &TinyLlama::default());
        let parts = WeightParts::of(&OpenBase::open(dir.path()).unwrap());
        let (all, block, planned) = (parts.bytes(), parts.largest_block(), 1000);
        let room = |limit| {
            let group = Some(GroupLimit { limit, held: 100 });
            StreamWeights::Auto.room_for(&parts, &Room { available: None, group }, planned)
        };
        assert_eq!(room(all + planned + 100), None);
        let left = all - 1;
        assert_eq!(room(left + planned + 100), Some((left - left / 4).max(2 * block)));
        assert_eq!(room(0), Some(2 * block));
        let nothing_known = Room::default();
        assert_eq!(StreamWeights::Auto.room_for(&parts, &nothing_known, 0), None);
        assert_eq!(StreamWeights::On.room_for(&parts, &nothing_known, 0), Some(2 * block));
        assert_eq!(StreamWeights::Off.room_for(&parts, &Room::now(), u64::MAX), None);
    }

    #[test]
    fn names_are_read_and_others_refused() {
        assert_eq!(StreamWeights::named("auto"), Ok(StreamWeights::Auto));
        let error = StreamWeights::named("yes").unwrap_err().to_string();
        assert_eq!(error, "`stream-weights` is yes, expected auto, on or off");
    }
}
