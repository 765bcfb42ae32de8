//! How much memory there is for a run: what the system has, and what the control group leaves.

mod groups;

use std::fs;

use lowtide_runtime::WeightParts;
use serde::Serialize;

pub use groups::GroupLimit;

/// The least that is kept for what the system caches, where a budget is derived from a limit.
const CACHE_BYTES_MIN: u64 = 64 << 20;

/// Memory that a run may still take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// What the system says could be had without harm; `None` where it does not say.
    pub(crate) available: Option<u64>,
    /// The control group that leaves least, if one limits memory.
    pub(crate) group: Option<GroupLimit>,
}

impl Room {
    /// What there is now.
    pub(crate) fn now() -> Self {
        let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let [total, available] = ["MemTotal", "MemAvailable"].map(|name| meminfo(&info, name));
        // A limit that the machine cannot reach is none.
        let group = groups::tightest().filter(|group| total.is_none_or(|all| group.limit < all));
        Self { available, group }
    }

    /// Bytes left for heap and cached weights together.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let group = self.group.map(|group| group.left());
        self.available.into_iter().chain(group).min()
    }
}

/// A field of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What is kept for cached weights: the block in use and the next twice over, so that the system
/// need not evict the one to read the other.
pub(crate) fn cache_bytes(parts: &WeightParts) -> u64 {
    (4 * parts.largest_block()).max(CACHE_BYTES_MIN)
}

/// Where a memory budget comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum BudgetSource {
    /// There is none: nothing was asked for and nothing limits the process.
    #[default]
    None,
    /// It was asked for.
    Asked,
    /// A control group limits the process.
    Group {
        /// Bytes that the group may take.
        limit: u64,
        /// Bytes its processes held when the run was planned.
        held: u64,
        /// Bytes kept for what the system caches of the weights.
        cache: u64,
    },
}

/// Heap that a run may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) bytes: Option<u64>,
    pub(crate) source: BudgetSource,
}

impl Allowed {
    /// The budget asked for; else what the control group leaves, if there is one.
    pub(crate) fn of(asked: Option<u64>, room: &Room, cache: u64) -> Self {
        match (asked, room.group) {
            (Some(bytes), _) => Self { bytes: Some(bytes), source: BudgetSource::Asked },
            (None, None) => Self::default(),
            (None, Some(group)) => {
                let GroupLimit { limit, held } = group;
                let source = BudgetSource::Group { limit, held, cache };
                Self { bytes: Some(group.left().saturating_sub(cache)), source }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_budget_is_what_was_asked_for_or_what_the_group_leaves() {
        let group = Some(GroupLimit { limit: 512 * MIB, held: 12 * MIB });
        let room = Room { available: Some(9000 * MIB), group };
        let asked = Allowed::of(Some(7), &room, 100 * MIB);
        assert_eq!((asked.bytes, asked.source), (Some(7), BudgetSource::Asked));
        let left = Allowed::of(None, &room, 100 * MIB);
        assert_eq!(left.bytes, Some(400 * MIB));
        let source = BudgetSource::Group { limit: 512 * MIB, held: 12 * MIB, cache: 100 * MIB };
        assert_eq!(left.source, source);
        assert_eq!(Allowed::of(None, &room, 600 * MIB).bytes, Some(0));
        let free = Room { group: None, ..room };
        assert_eq!(Allowed::of(None, &free, 100 * MIB), Allowed::default());
    }

    #[test]
    fn the_scarcer_of_system_and_group_is_the_room() {
        let group = Some(GroupLimit { limit: 500, held: 100 });
        assert_eq!(Room { available: Some(300), group }.bytes(), Some(300));
        assert_eq!(Room { available: Some(900), group }.bytes(), Some(400));
        assert_eq!(Room { available: None, group: None }.bytes(), None);
    }

    #[test]
    fn meminfo_is_read_by_whole_names() {
        let text = "MemTotal:       24683520 kB\nMemFree:  1 kB\nMemAvailable:   10 kB\nHuge: 3\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(10 << 10));
        assert_eq!(meminfo(text, "MemTotal"), Some(24_683_520 << 10));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(meminfo(text, "Huge"), None);
    }
}
