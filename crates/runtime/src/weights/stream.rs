//! The thread that has weights read ahead and lets go of them.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use lowtide_tape::{Part, WeightKeeper};

use crate::WeightParts;

/// Bytes asked for at a time: between two pieces the thread looks whether something else is more
/// urgent.
const PIECE: u64 = 1 << 20;
/// The thread asks the system for things; it needs next to no stack.
const STACK_BYTES: usize = 64 << 10;

/// Reads ahead what a program says it reads next, and lets go of what it read longest ago.
///
/// It holds no memory of any size, and takes none while it works. All it does is advice to the
/// system: results never depend on it, and a system that takes none goes on as without.
#[derive(Debug)]
pub struct WeightStream {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    memory: Memory,
}

/// Which parts are in memory.
#[derive(Debug)]
struct Memory {
    /// Bytes of each part.
    sizes: Vec<u64>,
    /// Bytes they may take together.
    room: u64,
    /// Those that are there, the one read longest ago first.
    there: Vec<usize>,
}

impl Memory {
    fn new(sizes: Vec<u64>, room: u64) -> Self {
        let there = Vec::with_capacity(sizes.len());
        Self { sizes, room, there }
    }

    /// Has `now` and `next` there, and tells `let_go` of those that have to leave for it. These two
    /// stay, even where they alone take more than there is room for.
    ///
    /// What was read longest ago is needed last: a step goes up through the blocks and down again,
    /// and the next begins at the bottom.
    fn enter(&mut self, now: usize, next: usize, mut let_go: impl FnMut(usize)) {
        self.there.retain(|part| *part != now && *part != next);
        let needed = self.sizes[now] + if next == now { 0 } else { self.sizes[next] };
        let mut taken: u64 = needed + self.there.iter().map(|part| self.sizes[*part]).sum::<u64>();
        let mut leaving = 0;
        while taken > self.room && leaving < self.there.len() {
            taken -= self.sizes[self.there[leaving]];
            let_go(self.there[leaving]);
            leaving += 1;
        }
        self.there.drain(..leaving);
        // `now` was read when `next` will be: it is the older one.
        self.there.push(now);
        if next != now {
            self.there.push(next);
        }
    }
}

#[derive(Debug)]
struct Shared {
    parts: WeightParts,
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

/// What the thread is to do.
#[derive(Debug, Default)]
struct Wanted {
    /// The parts to read, the most urgent first, and how many bytes of each to ask for.
    ahead: [Option<(usize, u64)>; 2],
    /// Of each part, how many bytes were asked for since it was last let go.
    asked: Vec<u64>,
    /// Which parts to let go.
    leaving: Vec<bool>,
    stop: bool,
}

/// One thing for the thread to do.
enum Job {
    LetGo(usize),
    Read { part: usize, from: u64, to: u64 },
}

impl Wanted {
    /// What is most urgent: making room, then what is read already, then what comes after it.
    fn next(&mut self) -> Option<Job> {
        if let Some(part) = self.leaving.iter().position(|leaving| *leaving) {
            self.leaving[part] = false;
            self.asked[part] = 0;
            return Some(Job::LetGo(part));
        }
        let open = |&(part, bytes): &(usize, u64)| self.asked[part] < bytes;
        let (part, bytes) = self.ahead.iter().flatten().copied().find(open)?;
        let from = self.asked[part];
        let to = bytes.min(from + PIECE);
        self.asked[part] = to;
        Some(Job::Read { part, from, to })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        // A thread that panicked between two assignments left nothing half done that matters here.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut wanted = self.lock();
        while !wanted.stop {
            let Some(job) = wanted.next() else {
                wanted = self.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(wanted);
            match job {
                Job::LetGo(part) => self.parts.let_go(part),
                Job::Read { part, from, to } => self.parts.will_need(part, from, to),
            }
            wanted = self.lock();
        }
    }
}

impl WeightStream {
    /// Starts the thread. `room` bytes of weights stay in memory, or what a block and the next take
    /// if that is more.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(parts: WeightParts, room: u64) -> io::Result<Self> {
        let sizes: Vec<u64> = (0..parts.len()).map(|part| parts.bytes_of(part)).collect();
        let count = sizes.len();
        // The embedding is let go, too, and never asked for.
        let (asked, leaving) = (vec![0; count + 1], vec![false; count + 1]);
        let wanted = Wanted { asked, leaving, ..Wanted::default() };
        let (wanted, changed) = (Mutex::new(wanted), Condvar::new());
        let shared = Arc::new(Shared { parts, wanted, changed });
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new().name("lowtide-weights".into()).stack_size(STACK_BYTES);
        let thread = Some(thread.spawn(move || worker.work())?);
        Ok(Self { shared, thread, memory: Memory::new(sizes, room) })
    }
}

impl WeightKeeper for WeightStream {
    fn enter(&mut self, part: Part, next: Part) {
        let (now, next) = (self.shared.parts.index(part), self.shared.parts.index(next));
        let mut wanted = self.shared.lock();
        self.memory.enter(now, next, |part| wanted.leaving[part] = true);
        let (sizes, room) = (&self.memory.sizes, self.memory.room);
        // Asking for more than fits would drive out what was asked for before.
        let this = sizes[now].min(room);
        let after = if next == now { 0 } else { sizes[next].min(room - this) };
        wanted.ahead = [Some((now, this)), Some((next, after))];
        for part in [now, next] {
            wanted.leaving[part] = false;
        }
        // Before the lowest block come the rows of tokens, and what the system read around them.
        let parts = &self.shared.parts;
        let stays = parts.tied() && self.memory.there.contains(&parts.index(Part::Head));
        if now == 0 && !stays {
            wanted.leaving[parts.embedding()] = true;
        }
        drop(wanted);
        self.shared.changed.notify_one();
    }
}

impl Drop for WeightStream {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is no reason to lose the run.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts that a step reads: all blocks upwards, the head, and down again.
    fn step(blocks: usize) -> Vec<usize> {
        (0..=blocks).chain((0..blocks).rev()).collect()
    }

    /// Plays steps and counts how often each part is brought in.
    fn brought(sizes: &[u64], room: u64, steps: usize) -> Vec<usize> {
        let mut memory = Memory::new(sizes.to_vec(), room);
        let order: Vec<usize> = (0..steps).flat_map(|_| step(sizes.len() - 1)).collect();
        let mut count = vec![0; sizes.len()];
        for (i, &now) in order.iter().enumerate() {
            let next = order.get(i + 1).copied().unwrap_or(0);
            let before = memory.there.clone();
            let mut gone = Vec::new();
            memory.enter(now, next, |part| gone.push(part));
            assert!(gone.iter().all(|part| before.contains(part) && ![now, next].contains(part)));
            for part in &memory.there {
                count[*part] += usize::from(!before.contains(part));
            }
            let taken: u64 = memory.there.iter().map(|part| sizes[*part]).sum();
            let least = sizes[now] + if now == next { 0 } else { sizes[next] };
            assert!(taken <= room.max(least), "{taken} bytes in room for {room}");
        }
        count
    }

    #[test]
    fn what_fits_is_brought_in_once() {
        assert_eq!(brought(&[10, 10, 10, 10, 25], 65, 5), [1; 5]);
    }

    #[test]
    fn without_room_each_block_is_read_twice_a_step_but_for_those_at_the_turns() {
        // The two at the bottom stay from one step to the next, the top one beside the head.
        assert_eq!(brought(&[10, 10, 10, 10, 10], 20, 3), [4, 4, 6, 3, 3]);
        assert_eq!(brought(&[10, 10, 10, 10, 30], 20, 3), [4, 4, 6, 3, 3]);
        // With more room, more of those near the turns stay as well.
        assert_eq!(brought(&[10, 10, 10, 10, 10], 40, 3), [4, 1, 1, 1, 3]);
    }

    #[test]
    fn the_thread_makes_room_first_and_reads_the_most_urgent_next() {
        let mut wanted = Wanted {
            ahead: [Some((1, PIECE + 5)), Some((2, 3))],
            asked: vec![9; 4],
            leaving: vec![false, false, false, true],
            stop: false,
        };
        wanted.asked[2] = 0;
        let mut done = Vec::new();
        while let Some(job) = wanted.next() {
            done.push(match job {
                Job::LetGo(part) => (part, 0, 0),
                Job::Read { part, from, to } => (part, from, to),
            });
        }
        let expected = [(3, 0, 0), (1, 9, PIECE + 5), (2, 0, 3)];
        assert_eq!(done, expected);
        assert_eq!(wanted.asked, [9, PIECE + 5, 3, 0]);
    }
}
