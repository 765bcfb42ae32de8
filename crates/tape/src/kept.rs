//! Segment inputs kept in another form than they flow in.

use alloc::boxed::Box;

use lowtide_memory::{Ledger, LockError};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{BF16, Q8_0};
use lowtide_tensor::Float;

use crate::Store;

/// A file that a step writes segment inputs to and reads them from, in the opposite order.
///
/// An implementation may write behind and read ahead; what it holds in memory for that is its own
/// to charge. A value that cannot be written or read, or that was not read whole, is an error.
pub trait CheckpointFile<F>: Send {
    /// Takes a value to be kept as number `index`, in place of the one kept so before.
    ///
    /// # Errors
    /// [`CheckpointError`] when it, or one before it, cannot be written.
    fn put(&mut self, index: usize, value: &[F]) -> Result<(), CheckpointError>;

    /// Says that number `index` will be asked for next, `len` elements of it.
    fn expect(&mut self, index: usize, len: usize);

    /// Gives the value kept as number `index`.
    ///
    /// # Errors
    /// [`CheckpointError`] when it cannot be read, or an earlier one could not be written.
    fn get(&mut self, index: usize, value: &mut [F]) -> Result<(), CheckpointError>;

    /// Locks what it charged in memory; nothing, unless it says so.
    ///
    /// # Errors
    /// [`LockError`] when the system refuses or cannot.
    fn lock(&self) -> Result<(), LockError> {
        Ok(())
    }

    /// Gives back what it charged to `ledger`; nothing, unless it says so.
    fn release(self: Box<Self>, _ledger: &mut Ledger) {}
}

/// A segment's input that could not be kept or was lost.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CheckpointError(pub Box<dyn core::error::Error + Send + Sync>);

/// Values converted at a time: whole blocks of every format here.
const CHUNK: usize = 256;

/// The block format of a store, where it is one that rounds.
pub(crate) fn format(store: Store) -> Option<&'static dyn BlockFormat> {
    match store {
        Store::F32 | Store::File => None,
        Store::Bf16 => Some(&BF16),
        Store::Int8 => Some(&Q8_0),
    }
}

/// Bytes that `len` values take.
pub(crate) fn bytes(format: &dyn BlockFormat, len: usize) -> usize {
    len.div_ceil(format.block_len()) * format.block_bytes()
}

/// Rounds values into the bytes they take; the last block is filled up with zeros.
pub(crate) fn write<F: Float>(format: &'static dyn BlockFormat, value: &[F], to: &mut [u8]) {
    let mut room = [0.0; CHUNK];
    let chunks = to.chunks_mut(bytes(format, CHUNK));
    for (from, to) in value.chunks(CHUNK).zip(chunks) {
        let whole = from.len().next_multiple_of(format.block_len());
        room[from.len()..whole].fill(0.0);
        room.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
        format.encode(&room[..whole], &mut to[..bytes(format, whole)]);
    }
}

/// Undoes [`write`], but for the rounding.
pub(crate) fn read<F: Float>(format: &'static dyn BlockFormat, from: &[u8], value: &mut [F]) {
    let mut room = [0.0; CHUNK];
    let chunks = from.chunks(bytes(format, CHUNK));
    for (to, from) in value.chunks_mut(CHUNK).zip(chunks) {
        let whole = to.len().next_multiple_of(format.block_len());
        format.decode(&from[..bytes(format, whole)], &mut room[..whole]);
        to.iter_mut().zip(room).for_each(|(to, from)| *to = F::from_f32(from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowtide_testkit::compare::assert_close;

    #[test]
    fn values_come_back_rounded() {
        for (store, tolerance) in [(Store::Bf16, 1.0 / 256.0), (Store::Int8, 1.0 / 200.0)] {
            let format = format(store).unwrap();
            for len in [0, 1, 31, 32, 33, 255, 256, 257, 700] {
                let value: std::vec::Vec<f32> = (0..len).map(|i| (i as f32).cos()).collect();
                let mut kept = std::vec![0xAA; bytes(format, len)];
                write(format, &value, &mut kept);
                let mut again = std::vec![f32::NAN; len];
                read(format, &kept, &mut again);
                assert_close("kept values", &again, &value, tolerance, 0.0);
            }
        }
    }
}
