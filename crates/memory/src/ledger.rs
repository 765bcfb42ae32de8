//! The accountant: charges by category against a budget, with the peak and what was alive at it.

use crate::{ByCategory, Category};

/// The most bytes that may be held, all categories but `mapped` together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    bytes: u64,
}

impl Budget {
    /// No limit.
    pub const UNLIMITED: Self = Self { bytes: u64::MAX };

    /// At most `bytes`.
    #[must_use]
    pub const fn of(bytes: u64) -> Self {
        Self { bytes }
    }

    /// The limit, `None` when there is none.
    #[must_use]
    pub fn limit(self) -> Option<u64> {
        (self.bytes != u64::MAX).then_some(self.bytes)
    }

    /// Whether `bytes` may be held at once.
    #[must_use]
    pub fn allows(self, bytes: u64) -> bool {
        bytes <= self.bytes
    }
}

/// A charge would have exceeded the budget. Nothing was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} bytes of {category} on top of {live} held exceed the budget of {budget} bytes")]
pub struct OverBudget {
    /// What the bytes were for.
    pub category: Category,
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes held at that moment.
    pub live: u64,
    /// Bytes that may be held.
    pub budget: u64,
}

/// Proof that bytes were charged; give it back to [`Ledger::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped charge can never be released"]
pub struct Charge {
    bytes: ByCategory,
}

impl Charge {
    /// What was charged.
    #[must_use]
    pub fn bytes(&self) -> ByCategory {
        self.bytes
    }
}

/// Who holds how many bytes now, and at the worst moment so far.
#[derive(Clone, Debug)]
pub struct Ledger {
    budget: Budget,
    live: ByCategory,
    at_peak: ByCategory,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self { budget, live: ByCategory::new(), at_peak: ByCategory::new() }
    }

    /// Charges bytes of several categories at once, all or nothing.
    ///
    /// # Errors
    /// [`OverBudget`] naming the largest category asked for; the ledger is unchanged.
    pub fn charge(&mut self, bytes: ByCategory) -> Result<Charge, OverBudget> {
        let (live, asked) = (self.live.held(), bytes.held());
        if !live.checked_add(asked).is_some_and(|total| self.budget.allows(total)) {
            let largest = bytes.iter().filter(|(category, _)| *category != Category::Mapped);
            let category = largest.max_by_key(|(_, n)| *n).map_or(Category::Workspace, |c| c.0);
            return Err(OverBudget { category, asked, live, budget: self.budget.bytes });
        }
        self.live += bytes;
        if self.live.held() > self.at_peak.held() {
            self.at_peak = self.live;
        }
        self.at_peak[Category::Mapped] =
            self.at_peak[Category::Mapped].max(self.live[Category::Mapped]);
        Ok(Charge { bytes })
    }

    /// Takes a charge back.
    ///
    /// # Panics
    /// When more is released than is held: the charge came from another ledger.
    #[expect(clippy::needless_pass_by_value, reason = "taking the charge is what spends it")]
    pub fn release(&mut self, charge: Charge) {
        for (category, bytes) in charge.bytes.iter() {
            let live = &mut self.live[category];
            assert!(*live >= bytes, "releasing {bytes} bytes of {category}, {live} are held");
            *live -= bytes;
        }
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Bytes held now.
    #[must_use]
    pub fn live(&self) -> ByCategory {
        self.live
    }

    /// The most bytes held at once, `mapped` not counted.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.at_peak.held()
    }

    /// What was held at the peak.
    #[must_use]
    pub fn at_peak(&self) -> ByCategory {
        self.at_peak
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Ledger, OverBudget};
    use crate::{ByCategory, Category};
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn a_charge_over_budget_changes_nothing() {
        let mut ledger = Ledger::new(Budget::of(100));
        let kept = ledger.charge(ByCategory::of(Category::Adapter, 60)).unwrap();
        let error = ledger.charge(ByCategory::of(Category::Head, 41)).unwrap_err();
        let want = OverBudget { category: Category::Head, asked: 41, live: 60, budget: 100 };
        assert_eq!(error, want);
        assert_eq!(ledger.live(), ByCategory::of(Category::Adapter, 60));
        let more = ledger.charge(ByCategory::of(Category::Head, 40)).unwrap();
        ledger.release(kept);
        ledger.release(more);
        assert_eq!((ledger.live().held(), ledger.peak()), (0, 100));
        assert_eq!(ledger.at_peak()[Category::Head], 40);
    }

    #[test]
    fn mapped_bytes_do_not_count_against_the_budget() {
        let mut ledger = Ledger::new(Budget::of(1));
        let mapped = ledger.charge(ByCategory::of(Category::Mapped, u64::MAX)).unwrap();
        assert_eq!((ledger.peak(), ledger.live().held()), (0, 0));
        ledger.release(mapped);
    }

    proptest! {
        #[test]
        fn the_peak_is_the_largest_sum_ever_held(
            steps in proptest::collection::vec((0_usize..10, 0_u64..1000, any::<bool>()), 0..60),
        ) {
            let mut ledger = Ledger::new(Budget::UNLIMITED);
            let mut held = Vec::new();
            let (mut live, mut peak) = (0, 0);
            for (category, bytes, release) in steps {
                if release {
                    if let Some(charge) = held.pop() {
                        let charge: super::Charge = charge;
                        live -= charge.bytes().held();
                        ledger.release(charge);
                    }
                } else {
                    let bytes = ByCategory::of(Category::ALL[category], bytes);
                    live += bytes.held();
                    peak = peak.max(live);
                    held.push(ledger.charge(bytes).unwrap());
                }
                prop_assert_eq!((ledger.live().held(), ledger.peak()), (live, peak));
            }
        }
    }
}
