//! Memory reserved once, charged, and owned by nobody else.

use bytemuck::Pod;

use crate::{ByCategory, Charge, Ledger, OverBudget};

/// Memory that could not be reserved. Nothing is charged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The ledger refused.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The ledger agreed, the system did not.
    #[error("the system has not {asked} bytes of memory for us; give a smaller memory budget")]
    NoMemory {
        /// Bytes asked of the system.
        asked: u64,
    },
}

/// Memory that the system does not keep from being swapped out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// The system refused.
    #[error(
        "the system refused to lock {bytes} bytes in memory (error {code}): what a process may \
         lock is limited by RLIMIT_MEMLOCK; raise it, for instance with `ulimit -l`"
    )]
    Refused {
        /// Bytes asked of the system.
        bytes: u64,
        /// The system's number of the error.
        code: i32,
    },
    /// Only mapped memory on Unix can be locked.
    #[error("memory cannot be locked on this system")]
    Unsupported,
}

/// A zeroed block of memory, charged to a ledger for as long as it lives.
///
/// With the `std` feature it is a mapping of its own: pages count once they are touched, and are
/// back with the system when the slab is released. Without, it is one heap block.
#[derive(Debug)]
pub struct Slab {
    memory: Memory,
    bytes: usize,
    charge: Charge,
}

impl Slab {
    /// Charges `bytes` and maps their sum.
    ///
    /// # Errors
    /// [`ReserveError`] when the ledger refuses or the system does; nothing is held then.
    pub fn reserve(ledger: &mut Ledger, bytes: ByCategory) -> Result<Self, ReserveError> {
        let charge = ledger.charge(bytes)?;
        let asked = bytes.held();
        match usize::try_from(asked).ok().and_then(Memory::zeroed) {
            Some(memory) => Ok(Self { memory, bytes: asked as usize, charge }),
            None => {
                ledger.release(charge);
                Err(ReserveError::NoMemory { asked })
            }
        }
    }

    /// Gives the memory back to the system and the charge back to the ledger.
    pub fn release(self, ledger: &mut Ledger) {
        drop(self.memory);
        ledger.release(self.charge);
    }

    /// Locks the memory: all of it becomes resident now, and the system never swaps it out. It is
    /// unlocked when the slab is released.
    ///
    /// # Errors
    /// [`LockError`] when the system refuses, as it does beyond `RLIMIT_MEMLOCK`, or cannot.
    pub fn lock(&self) -> Result<(), LockError> {
        self.memory.lock()
    }

    /// What it is charged as.
    #[must_use]
    pub fn charged(&self) -> ByCategory {
        self.charge.bytes()
    }

    /// The memory as elements of a plain type.
    ///
    /// # Panics
    /// When the slab's size is not a multiple of the element's.
    #[must_use]
    pub fn get<T: Pod>(&self) -> &[T] {
        // The empty slice has no address to be aligned at.
        if self.bytes == 0 { &[] } else { bytemuck::cast_slice(&self.memory.bytes()[..self.bytes]) }
    }

    /// The memory as mutable elements of a plain type.
    ///
    /// # Panics
    /// When the slab's size is not a multiple of the element's.
    #[must_use]
    pub fn get_mut<T: Pod>(&mut self) -> &mut [T] {
        let len = self.bytes;
        if len == 0 {
            &mut []
        } else {
            bytemuck::cast_slice_mut(&mut self.memory.bytes_mut()[..len])
        }
    }
}

#[cfg(feature = "std")]
#[derive(Debug)]
struct Memory(Option<memmap2::MmapMut>);

#[cfg(feature = "std")]
impl Memory {
    fn zeroed(bytes: usize) -> Option<Self> {
        // A mapping of length zero is refused by the system; an empty slab maps nothing.
        if bytes == 0 {
            return Some(Self(None));
        }
        memmap2::MmapMut::map_anon(bytes).ok().map(|mapping| Self(Some(mapping)))
    }

    #[cfg(unix)]
    fn lock(&self) -> Result<(), LockError> {
        let Some(mapping) = &self.0 else { return Ok(()) };
        mapping.lock().map_err(|error| {
            let (bytes, code) = (mapping.len() as u64, error.raw_os_error().unwrap_or(0));
            LockError::Refused { bytes, code }
        })
    }

    #[cfg(not(unix))]
    fn lock(&self) -> Result<(), LockError> {
        Err(LockError::Unsupported)
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or(&mut [])
    }
}

#[cfg(not(feature = "std"))]
#[derive(Debug)]
struct Memory(alloc::vec::Vec<u128>);

#[cfg(not(feature = "std"))]
impl Memory {
    fn zeroed(bytes: usize) -> Option<Self> {
        let words = bytes.div_ceil(size_of::<u128>());
        let mut memory = alloc::vec::Vec::new();
        memory.try_reserve_exact(words).ok()?;
        memory.resize(words, 0);
        Some(Self(memory))
    }

    #[expect(clippy::unused_self, reason = "the mapped form looks at its mapping")]
    fn lock(&self) -> Result<(), LockError> {
        Err(LockError::Unsupported)
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{LockError, ReserveError, Slab};
    use crate::{Budget, ByCategory, Category, Ledger};

    #[test]
    fn a_slab_is_zeroed_charged_and_released() {
        let mut ledger = Ledger::new(Budget::of(64));
        let bytes = ByCategory::of(Category::Adapter, 24).with(Category::Optimizer, 40);
        let mut slab = Slab::reserve(&mut ledger, bytes).unwrap();
        assert_eq!(slab.get::<f32>(), [0.0; 16]);
        slab.get_mut::<f64>()[7] = 1.0;
        assert_eq!(slab.get::<u64>()[7], 1.0_f64.to_bits());
        assert!(Slab::reserve(&mut ledger, ByCategory::of(Category::Head, 1)).is_err());
        slab.release(&mut ledger);
        assert_eq!((ledger.live().held(), ledger.peak()), (0, 64));
        let empty = Slab::reserve(&mut ledger, ByCategory::new()).unwrap();
        assert_eq!(empty.get::<f32>().len(), 0);
        empty.release(&mut ledger);
    }

    #[test]
    fn a_slab_is_locked_or_the_limit_is_named() {
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let slab = Slab::reserve(&mut ledger, ByCategory::of(Category::Adapter, 64)).unwrap();
        match slab.lock() {
            Ok(()) | Err(LockError::Unsupported) => {}
            Err(error @ LockError::Refused { bytes, .. }) => {
                assert_eq!(bytes, 64);
                assert!(std::format!("{error}").contains("RLIMIT_MEMLOCK"), "{error}");
            }
        }
        slab.release(&mut ledger);
    }

    #[test]
    fn memory_the_system_has_not_is_an_error_and_leaves_no_charge() {
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let asked = 1 << 60;
        let refused = Slab::reserve(&mut ledger, ByCategory::of(Category::Adapter, asked));
        assert_eq!(refused.map(|_| ()).unwrap_err(), ReserveError::NoMemory { asked });
        assert_eq!(ledger.live().held(), 0);
    }
}
