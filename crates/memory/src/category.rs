//! What held bytes are for.

use core::ops::{Add, AddAssign, Index, IndexMut};

/// The purposes memory is held for. `Mapped` counts read-only file pages, which the system can
/// evict; they are reported apart and never charged against a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Weights mapped from files.
    Mapped,
    /// Adapter parameters and what is derived from them.
    Adapter,
    /// Gradients of adapter parameters.
    Gradient,
    /// Optimizer states.
    Optimizer,
    /// Segment inputs and intermediates kept from forward to backward.
    Checkpoint,
    /// Activations and their gradients inside the running segment.
    Workspace,
    /// What a backend needs during one operation.
    Scratch,
    /// The loss head's working set.
    Head,
    /// Keys and values kept while generating.
    KvCache,
    /// Token ids, positions and targets of the current batch.
    Data,
}

impl Category {
    /// Every category, in the order in which reports list them.
    pub const ALL: [Self; 10] = [
        Self::Mapped,
        Self::Adapter,
        Self::Gradient,
        Self::Optimizer,
        Self::Checkpoint,
        Self::Workspace,
        Self::Scratch,
        Self::Head,
        Self::KvCache,
        Self::Data,
    ];

    /// Name in files and reports: `kv_cache`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Adapter => "adapter",
            Self::Gradient => "gradient",
            Self::Optimizer => "optimizer",
            Self::Checkpoint => "checkpoint",
            Self::Workspace => "workspace",
            Self::Scratch => "scratch",
            Self::Head => "head",
            Self::KvCache => "kv_cache",
            Self::Data => "data",
        }
    }
}

impl core::fmt::Display for Category {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// A byte count for each category.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByCategory([u64; Category::ALL.len()]);

impl ByCategory {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; Category::ALL.len()])
    }

    /// One category's bytes, all others zero.
    #[must_use]
    pub fn of(category: Category, bytes: u64) -> Self {
        let mut all = Self::new();
        all[category] = bytes;
        all
    }

    /// The same with `bytes` more in one category.
    #[must_use]
    pub fn with(mut self, category: Category, bytes: u64) -> Self {
        self[category] += bytes;
        self
    }

    /// Sum over the categories that count against a budget: all but `Mapped`.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.iter().filter(|(category, _)| *category != Category::Mapped).map(|(_, n)| n).sum()
    }

    /// Categories with their bytes, in report order.
    pub fn iter(&self) -> impl Iterator<Item = (Category, u64)> + '_ {
        Category::ALL.into_iter().zip(self.0.iter().copied())
    }
}

impl Index<Category> for ByCategory {
    type Output = u64;
    fn index(&self, category: Category) -> &u64 {
        &self.0[category as usize]
    }
}

impl IndexMut<Category> for ByCategory {
    fn index_mut(&mut self, category: Category) -> &mut u64 {
        &mut self.0[category as usize]
    }
}

impl Add for ByCategory {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for ByCategory {
    fn add_assign(&mut self, other: Self) {
        for (into, from) in self.0.iter_mut().zip(other.0) {
            *into += from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ByCategory, Category};

    #[test]
    fn categories_index_their_own_slot() {
        let mut all = ByCategory::new();
        for (i, category) in Category::ALL.into_iter().enumerate() {
            assert_eq!(category as usize, i);
            all[category] = 1 << i;
        }
        assert_eq!(all.held(), (1 << Category::ALL.len()) - 2, "mapped bytes are not held");
        assert!(all.iter().all(|(category, n)| n == 1 << (category as usize)));
    }
}
