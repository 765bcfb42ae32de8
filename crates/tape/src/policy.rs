//! What is kept between forward and backward, and in which form.

use core::fmt;
use core::num::NonZeroUsize;

/// What is kept from forward to backward. Under every policy the gradients are the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything that backward reads: fastest, largest.
    Store,
    /// The input of every segment, and of what else backward reads as much as fits into so many
    /// bytes: that first which saves the most work for its room. Backward computes the rest again.
    Selective {
        /// Room for what is kept besides inputs.
        bytes: u64,
    },
    /// The input of every segment: backward computes each segment's forward again.
    Block,
    /// The input of every `n`-th segment: backward first computes the inputs of the others again, a
    /// group of `n` at a time.
    Every(NonZeroUsize),
    /// The fewest inputs that still let backward compute each of the others only once more: about
    /// the square root of twice the number of segments.
    ///
    /// What a group of segments has given up serves the groups below it, so these can be the larger
    /// the lower they lie. With `m` values in all, groups of 1, 2, … m segments do, from the top
    /// down.
    Sqrt,
}

impl Policy {
    /// One policy of each kind, fastest first.
    pub const ALL: [Self; 5] = [
        Self::Store,
        Self::Selective { bytes: 1 << 14 },
        Self::Block,
        Self::Every(TWO),
        Self::Sqrt,
    ];

    /// The policy that is displayed as `name`; `selective` without a bound.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "store" => Some(Self::Store),
            "selective" => Some(Self::Selective { bytes: u64::MAX }),
            "block" => Some(Self::Block),
            "sqrt" => Some(Self::Sqrt),
            _ => name.strip_prefix("every:")?.parse().ok().map(Self::Every),
        }
    }
}

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.pad("store"),
            Self::Selective { .. } => f.pad("selective"),
            Self::Block => f.pad("block"),
            Self::Sqrt => f.pad("sqrt"),
            Self::Every(n) => f.pad(&alloc::format!("every:{n}")),
        }
    }
}

/// How segment inputs are kept until backward needs them. What backward reads besides them, under
/// [`Policy::Store`], is always kept as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 16 bits: half the memory. Backward then starts from rounded inputs, so gradients
    /// are off by about one part in 500.
    Bf16,
    /// Rounded to 8 bits, 64 neighbours to a scale: about a quarter of the memory, and gradients
    /// that are off by about one part in 100.
    Int8,
    /// As they are, in a file: see [`CheckpointFile`](crate::CheckpointFile).
    File,
}

impl Store {
    /// Every store.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Int8, Self::File];

    /// Name in configurations and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::File => "file",
        }
    }

    /// The store of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|store| store.name() == name)
    }

    /// Whether what is read is what was written.
    #[must_use]
    pub fn is_lossless(self) -> bool {
        matches!(self, Self::F32 | Self::File)
    }
}

/// What is kept, and how, and how much a segment works on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointing {
    /// What is kept.
    pub policy: Policy,
    /// How segment inputs are kept.
    pub store: Store,
    /// Rows that a segment works on at a time, a multiple of the quantum; `None` for all. A tile's
    /// intermediate values take a tile's room. What backward reads is kept for all rows under
    /// [`Policy::Store`], and an operation that needs whole sequences sees whole batches: there,
    /// training works on all rows. Under every tile the gradients are the same bits.
    pub tile: Option<NonZeroUsize>,
}

impl Checkpointing {
    /// All rows at a time, kept in this way.
    #[must_use]
    pub const fn new(policy: Policy, store: Store) -> Self {
        Self { policy, store, tile: None }
    }

    /// The same with tiles of so many rows.
    #[must_use]
    pub const fn tiled(self, rows: NonZeroUsize) -> Self {
        Self { tile: Some(rows), ..self }
    }
}

impl From<Policy> for Checkpointing {
    /// The policy with inputs kept as they are.
    fn from(policy: Policy) -> Self {
        Self::new(policy, Store::F32)
    }
}
