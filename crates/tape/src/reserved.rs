//! The memory of a program that runs: reserved as a whole, or not at all.

use alloc::vec::Vec;
use core::ops::Range;

use lowtide_backend::Backend;
use lowtide_memory::{ByCategory, Category, Charge, Ledger, LockError, ReserveError, Slab};
use lowtide_tensor::Float;

use crate::Program;
use crate::segment::Values;

/// An arena, a slab apart from it, and what a backend's library allocates inside calls.
pub(crate) struct Reserved {
    pub(crate) arena: Slab,
    /// What outlives the operations of one pass.
    pub(crate) apart: Slab,
    library: Charge,
}

/// What goes with the parameters of a program and is not trained: set once, or derived from them
/// when they have changed.
pub(crate) struct Fixed {
    slab: Slab,
    ranges: Vec<Range<usize>>,
    /// Parameters changed since values were derived from them.
    stale: bool,
}

impl Fixed {
    /// Reserves `bytes` for the values of a program.
    ///
    /// # Errors
    /// [`ReserveError`] when the ledger or the system refuses.
    pub(crate) fn reserve<F: Float>(
        program: &Program<'_, F>,
        bytes: u64,
        ledger: &mut Ledger,
    ) -> Result<Self, ReserveError> {
        let slab = Slab::reserve(ledger, ByCategory::of(Category::Adapter, bytes))?;
        Ok(Self { slab, ranges: program.fixed_ranges(), stale: true })
    }

    /// All values, as the program's ranges divide them.
    pub(crate) fn all<F: Float>(&self) -> &[F] {
        self.slab.get()
    }

    /// The same, to set.
    pub(crate) fn all_mut<F: Float>(&mut self) -> &mut [F] {
        self.stale = true;
        self.slab.get_mut()
    }

    /// Those of a segment, with its parameters.
    pub(crate) fn with<'a, F: Float>(&'a self, segment: usize, params: &'a [F]) -> Values<'a, F> {
        Values { params, fixed: &self.slab.get::<F>()[self.ranges[segment].clone()] }
    }

    /// Takes note that parameters have changed.
    pub(crate) fn changed(&mut self) {
        self.stale = true;
    }

    /// Whether parameters have changed since values were last derived from all of them, as from now
    /// on they have not: whoever asks derives them again, segment by segment.
    pub(crate) fn take_stale(&mut self) -> bool {
        core::mem::take(&mut self.stale)
    }

    /// Sets what starts from the frozen weights of one segment, whose parameters these are.
    pub(crate) fn start<F: Float>(
        &mut self,
        program: &Program<'_, F>,
        segment: usize,
        be: &dyn Backend<F>,
        params: &mut [F],
        scratch: &mut [F],
    ) {
        self.stale = true;
        let fixed = &mut self.slab.get_mut::<F>()[self.ranges[segment].clone()];
        program.segments[segment].start(be, params, fixed, scratch);
    }

    /// Derives what follows from these parameters of one segment.
    pub(crate) fn prepare<F: Float>(
        &mut self,
        program: &Program<'_, F>,
        segment: usize,
        be: &dyn Backend<F>,
        params: &[F],
        scratch: &mut [F],
    ) {
        let run = &program.segments[segment];
        if run.derives() {
            let fixed = &mut self.slab.get_mut::<F>()[self.ranges[segment].clone()];
            run.prepare(be, params, fixed, scratch);
        }
    }

    /// Locks it in memory.
    pub(crate) fn lock(&self) -> Result<(), LockError> {
        self.slab.lock()
    }

    /// Gives everything back.
    pub(crate) fn release(self, ledger: &mut Ledger) {
        self.slab.release(ledger);
    }
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
