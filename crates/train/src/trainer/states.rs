//! The optimizer's states: in memory, or in a file of which one block's states are in memory.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use lowtide_formats::ScratchFile;
use lowtide_memory::{ByCategory, Category, Ledger, LockError, ReserveError, Slab};

use crate::{RunPlan, TrainError, place};

/// Bytes of a word of state.
const WORD: u64 = size_of::<f32>() as u64;

/// Bytes copied at a time where all states are, on the stack.
const PIECE: usize = 4096;

/// States of all tensors, one after another, as words of f32 that may hold any bits.
pub(super) struct States {
    /// All of them, or those of the block whose turn it is.
    room: Slab,
    /// Words in the file, where they are there and not in memory.
    filed: usize,
    /// The file, once there is one.
    file: Option<ScratchFile>,
}

impl States {
    /// Memory as planned; a file comes with [`States::open`].
    pub(super) fn reserve(plan: &RunPlan, ledger: &mut Ledger) -> Result<Self, ReserveError> {
        let bytes = plan.state_words as u64 * WORD;
        let room = Slab::reserve(ledger, ByCategory::of(Category::Optimizer, bytes))?;
        Ok(Self { room, filed: plan.state_words_filed, file: None })
    }

    /// Takes the file's space in `folder`, if the plan has one.
    pub(super) fn open(&mut self, folder: &Path) -> Result<(), TrainError> {
        if self.filed > 0 {
            let bytes = self.filed as u64 * WORD;
            self.file = Some(place::reserve(folder, bytes, "the optimizer's states")?);
        }
        Ok(())
    }

    /// Whether the states are in reach: all are, or will be once there is the file that they need.
    pub(super) fn are_open(&self) -> bool {
        self.filed == 0 || self.file.is_some()
    }

    /// Lends the words of `range` to `change`, and keeps what it made of them. They are the states
    /// of one block or of a part of it.
    ///
    /// # Errors
    /// When the file cannot be read, and then `change` is not called; or written.
    ///
    /// # Panics
    /// When the file was not opened, or the range is longer than a block's.
    pub(super) fn with<R>(
        &mut self,
        range: Range<usize>,
        change: impl FnOnce(&mut [f32]) -> R,
    ) -> Result<R, TrainError> {
        if self.filed == 0 {
            return Ok(change(&mut self.room.get_mut()[range]));
        }
        let (at, bytes) = (range.start as u64 * WORD, range.len() * size_of::<f32>());
        let file = self.file.as_ref().expect("states in a file have one before the first update");
        file.read(at, &mut self.room.get_mut::<u8>()[..bytes])?;
        let result = change(&mut self.room.get_mut()[..range.len()]);
        file.write(at, &self.room.get::<u8>()[..bytes])?;
        Ok(result)
    }

    /// How many bytes they are, wherever they are.
    pub(super) fn bytes(&self) -> u64 {
        match self.filed {
            0 => self.room.get::<u8>().len() as u64,
            words => words as u64 * WORD,
        }
    }

    /// Writes all of them.
    pub(super) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(file) = &self.file else { return out.write_all(self.room.get::<u8>()) };
        let (mut piece, mut at, end) = ([0; PIECE], 0, self.bytes());
        while at < end {
            let piece = &mut piece[..(end - at).min(PIECE as u64) as usize];
            file.read(at, piece).map_err(io::Error::other)?;
            out.write_all(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Takes all of them over.
    ///
    /// # Errors
    /// When the file cannot be written.
    ///
    /// # Panics
    /// When they are more or fewer bytes.
    pub(super) fn set(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        assert!(bytes.len() as u64 == self.bytes(), "{} bytes of states", bytes.len());
        match &self.file {
            Some(file) => file.write(0, bytes)?,
            None => self.room.get_mut::<u8>().copy_from_slice(bytes),
        }
        Ok(())
    }

    /// Locks what is in memory.
    pub(super) fn lock(&self) -> Result<(), LockError> {
        self.room.lock()
    }

    pub(super) fn release(self, ledger: &mut Ledger) {
        self.room.release(ledger);
    }
}
