//! Segment inputs in a scratch file, written behind and read ahead by a thread of their own.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use lowtide_formats::{Error, ScratchFile};
use lowtide_memory::{ByCategory, Category, Ledger, LockError, Slab};
use lowtide_tape::{CheckpointError, CheckpointFile};

use crate::{TrainError, place};

/// Values on their way to or from the file at once.
pub(crate) const BUFFERS: usize = 2;

/// The file, its thread and its buffers.
pub(crate) struct ScratchCheckpoints {
    /// Dropped before the thread is waited for, which ends it.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Job>,
    thread: Option<JoinHandle<()>>,
    free: Vec<Slab>,
    /// Buffers that the thread has.
    away: usize,
    /// What was read ahead, or is being read.
    ahead: Ahead,
    failed: Option<Error>,
}

enum Ahead {
    Nothing,
    Asked(usize),
    Here(usize, Slab),
}

/// A buffer with what is to be done, or was done, with it.
struct Job {
    write: bool,
    index: usize,
    /// Elements of it that count.
    len: usize,
    buffer: Slab,
    result: Result<(), Error>,
}

impl ScratchCheckpoints {
    /// Takes room in `folder` for `count` values of at most `elements`, and memory for
    /// [`BUFFERS`] of them.
    ///
    /// # Errors
    /// When the folder, the ledger or the system refuses; nothing stays reserved then.
    pub(crate) fn reserve(
        folder: &Path,
        count: usize,
        elements: usize,
        ledger: &mut Ledger,
    ) -> Result<Self, TrainError> {
        let bytes = (elements * size_of::<f32>()) as u64;
        let file = place::reserve(folder, bytes * count as u64, "what backward needs")?;
        let mut free = Vec::with_capacity(BUFFERS);
        for _ in 0..BUFFERS {
            match Slab::reserve(ledger, ByCategory::of(Category::Checkpoint, bytes)) {
                Ok(slab) => free.push(slab),
                Err(error) => {
                    free.into_iter().for_each(|slab| slab.release(ledger));
                    return Err(error.into());
                }
            }
        }
        let (jobs, todo) = sync_channel::<Job>(BUFFERS);
        let (tell, done) = sync_channel(BUFFERS);
        let work = move || {
            for mut job in todo {
                job.run(&file, bytes);
                if tell.send(job).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("lowtide-checkpoints".into()).spawn(work);
        let thread = match thread {
            Ok(thread) => thread,
            Err(source) => {
                free.into_iter().for_each(|slab| slab.release(ledger));
                return Err(TrainError::Output { path: folder.into(), source });
            }
        };
        Ok(Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
            free,
            away: 0,
            ahead: Ahead::Nothing,
            failed: None,
        })
    }

    /// Waits for the thread to be done with a buffer.
    fn wait(&mut self) {
        let job = self.done.recv().expect("the thread ends after its jobs");
        self.away -= 1;
        match (&job.result, &self.ahead) {
            (Err(error), _) => {
                self.failed.get_or_insert_with(|| error.clone());
                if !job.write {
                    self.ahead = Ahead::Nothing;
                }
                self.free.push(job.buffer);
            }
            (Ok(()), Ahead::Asked(index)) if !job.write && *index == job.index => {
                self.ahead = Ahead::Here(job.index, job.buffer);
            }
            (Ok(()), _) => self.free.push(job.buffer),
        }
    }

    fn forget_ahead(&mut self) {
        if let Ahead::Here(_, buffer) = std::mem::replace(&mut self.ahead, Ahead::Nothing) {
            self.free.push(buffer);
        }
    }

    fn buffer(&mut self) -> Slab {
        loop {
            if let Some(buffer) = self.free.pop() {
                return buffer;
            }
            self.wait();
        }
    }

    fn send(&mut self, write: bool, index: usize, len: usize, buffer: Slab) {
        let job = Job { write, index, len, buffer, result: Ok(()) };
        let jobs = self.jobs.as_ref().expect("the channel is open until it is dropped");
        assert!(jobs.send(job).is_ok(), "the thread ends after its jobs");
        self.away += 1;
    }

    fn check(&mut self) -> Result<(), CheckpointError> {
        self.failed.take().map_or(Ok(()), |error| Err(CheckpointError(error.into())))
    }
}

impl Job {
    fn run(&mut self, file: &ScratchFile, bytes: u64) {
        let at = self.index as u64 * bytes;
        let len = self.len * size_of::<f32>();
        self.result = match self.write {
            true => file.write(at, &self.buffer.get::<u8>()[..len]),
            false => file.read(at, &mut self.buffer.get_mut::<u8>()[..len]),
        };
    }
}

impl CheckpointFile<f32> for ScratchCheckpoints {
    fn put(&mut self, index: usize, value: &[f32]) -> Result<(), CheckpointError> {
        self.forget_ahead();
        let mut buffer = self.buffer();
        buffer.get_mut()[..value.len()].copy_from_slice(value);
        self.send(true, index, value.len(), buffer);
        self.check()
    }

    fn expect(&mut self, index: usize, len: usize) {
        self.forget_ahead();
        let buffer = self.buffer();
        self.ahead = Ahead::Asked(index);
        self.send(false, index, len, buffer);
    }

    fn get(&mut self, index: usize, value: &mut [f32]) -> Result<(), CheckpointError> {
        if !matches!(self.ahead, Ahead::Asked(i) | Ahead::Here(i, _) if i == index) {
            self.expect(index, value.len());
        }
        while self.away > 0 {
            self.wait();
        }
        self.check()?;
        let Ahead::Here(_, buffer) = std::mem::replace(&mut self.ahead, Ahead::Nothing) else {
            unreachable!("what was asked for and did not fail is here")
        };
        value.copy_from_slice(&buffer.get::<f32>()[..value.len()]);
        self.free.push(buffer);
        Ok(())
    }

    fn lock(&self) -> Result<(), LockError> {
        // Before the first step all buffers are here.
        self.free.iter().try_for_each(Slab::lock)
    }

    fn release(mut self: Box<Self>, ledger: &mut Ledger) {
        while self.away > 0 {
            self.wait();
        }
        self.forget_ahead();
        self.free.drain(..).for_each(|slab| slab.release(ledger));
    }
}

impl Drop for ScratchCheckpoints {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use lowtide_memory::Budget;

    use super::*;

    const LEN: usize = 1000;

    fn value(index: usize, step: usize) -> Vec<f32> {
        (0..LEN - index).map(|i| (i * 31 + index * 7 + step) as f32).collect()
    }

    #[test]
    fn values_come_back_whole_with_and_without_being_announced() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let mut file = ScratchCheckpoints::reserve(folder.path(), 9, LEN, &mut ledger).unwrap();
        assert_eq!(ledger.live()[Category::Checkpoint], (BUFFERS * LEN * 4) as u64);
        for step in 0..3 {
            (0..9).for_each(|i| file.put(i, &value(i, step)).unwrap());
            for i in (0..9).rev() {
                if step != 1 {
                    file.expect(i, LEN - i);
                }
                let mut read = vec![f32::NAN; LEN - i];
                file.get(i, &mut read).unwrap();
                assert_eq!(read, value(i, step));
            }
            // A step that was given up leaves something announced.
            file.expect(3, LEN - 3);
        }
        Box::new(file).release(&mut ledger);
        assert_eq!(ledger.live().held(), 0);
    }

    #[test]
    fn what_was_written_last_is_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let mut file = ScratchCheckpoints::reserve(folder.path(), 1, LEN, &mut ledger).unwrap();
        let mut read = vec![0.0; LEN];
        for step in 0..20 {
            file.put(0, &value(0, step)).unwrap();
        }
        file.get(0, &mut read).unwrap();
        assert_eq!(read, value(0, 19));
        Box::new(file).release(&mut ledger);
    }

    #[test]
    fn what_is_refused_leaves_no_charge() {
        let folder = tempfile::tempdir().unwrap();
        let one = (LEN * 4) as u64;
        for budget in [0, one, 2 * one - 1] {
            let mut ledger = Ledger::new(Budget::of(budget));
            assert!(ScratchCheckpoints::reserve(folder.path(), 3, LEN, &mut ledger).is_err());
            assert_eq!(ledger.live().held(), 0);
        }
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let gone = folder.path().join("gone");
        let error = ScratchCheckpoints::reserve(&gone, 3, LEN, &mut ledger).map(drop).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
        assert_eq!(ledger.live().held(), 0);
    }
}
