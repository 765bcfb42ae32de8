//! The memory of a program that runs: reserved as a whole, or not at all.

use lowtide_memory::{ByCategory, Category, Charge, Ledger, LockError, ReserveError, Slab};

/// An arena, a slab apart from it, and what a backend's library allocates inside calls.
pub(crate) struct Reserved {
    pub(crate) arena: Slab,
    /// What outlives the operations of one pass.
    pub(crate) apart: Slab,
    library: Charge,
}

impl Reserved {
    /// Reserves `bytes`, those of category `apart` in a slab of their own.
    ///
    /// # Errors
    /// [`ReserveError`] when the ledger or the system refuses; nothing stays reserved then.
    pub(crate) fn reserve(
        ledger: &mut Ledger,
        mut bytes: ByCategory,
        apart: Category,
        library_bytes: u64,
    ) -> Result<Self, ReserveError> {
        let apart_bytes = core::mem::take(&mut bytes[apart]);
        let arena = Slab::reserve(ledger, bytes)?;
        let apart = match Slab::reserve(ledger, ByCategory::of(apart, apart_bytes)) {
            Ok(slab) => slab,
            Err(error) => {
                arena.release(ledger);
                return Err(error);
            }
        };
        match ledger.charge(ByCategory::of(Category::Scratch, library_bytes)) {
            Ok(library) => Ok(Self { arena, apart, library }),
            Err(error) => {
                arena.release(ledger);
                apart.release(ledger);
                Err(error.into())
            }
        }
    }

    /// Locks it in memory.
    pub(crate) fn lock(&self) -> Result<(), LockError> {
        self.arena.lock()?;
        self.apart.lock()
    }

    /// Gives everything back.
    pub(crate) fn release(self, ledger: &mut Ledger) {
        self.arena.release(ledger);
        self.apart.release(ledger);
        ledger.release(self.library);
    }
}
