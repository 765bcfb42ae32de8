//! A global allocator over the system's with three states: *free* (it passes requests through),
//! *counting*, and *forbidden* (a request at or above a size ends the process with a backtrace).
//!
//! A test binary installs it:
//!
//! ```
//! use lowtide_testkit::alloc::TestAlloc;
//!
//! #[global_allocator]
//! static ALLOC: TestAlloc = TestAlloc::new();
//!
//! let (block, counts) = ALLOC.counting(4096, || vec![1_u8; 10_000]);
//! assert_eq!((block.len(), counts.large), (10_000, 1));
//! assert_eq!(counts.largest().next().unwrap().size, 10_000);
//! ```
//!
//! Counts are of the whole process, other threads included, because that is the claim under test.
//! So put such a test alone in its binary, and without the harness of tests (`harness = false`),
//! whose own thread allocates beside it; or let every test of the binary hold the same state
//! through [`TestAlloc::counting`] and [`TestAlloc::forbidding`], which take turns, and bear with
//! a few requests of the harness.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::UnsafeCell;
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many of the largest requests are remembered.
pub const REMEMBERED: usize = 16;

/// The strictest alignment of a type that is not made for vector instructions.
const SCALAR_ALIGN: usize = align_of::<u128>();

const FREE: u8 = 0;
const COUNTING: u8 = 1;
const FORBIDDEN: u8 = 2;

/// The allocator; a `static` with `#[global_allocator]`.
#[derive(Debug)]
pub struct TestAlloc {
    state: AtomicU8,
    large_from: AtomicUsize,
    requests: AtomicU64,
    large: AtomicU64,
    over_aligned: AtomicU64,
    large_over_aligned: AtomicU64,
    bytes: AtomicU64,
    live: AtomicI64,
    live_peak: AtomicI64,
    largest: Largest,
    turn: Mutex<()>,
}

/// One request to the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Bytes asked for.
    pub size: usize,
    /// Alignment asked for.
    pub align: usize,
}

/// What happened while counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Requests for new or larger blocks.
    pub requests: u64,
    /// Those of at least the size that was given as large.
    pub large: u64,
    /// Requests aligned beyond what any scalar type needs: buffers for vector instructions.
    pub over_aligned: u64,
    /// Those of them that are large.
    pub large_over_aligned: u64,
    /// Sum of the sizes of all requests; a growing block counts with its new size.
    pub bytes: u64,
    /// How far the bytes held rose above their value when counting began.
    pub live_peak: u64,
    largest: [Request; REMEMBERED],
}

impl Counts {
    /// The largest requests, largest first, at most [`REMEMBERED`].
    pub fn largest(&self) -> impl Iterator<Item = Request> + '_ {
        self.largest.iter().copied().filter(|request| request.size > 0)
    }
}

impl TestAlloc {
    /// In the free state.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            large_from: AtomicUsize::new(usize::MAX),
            requests: AtomicU64::new(0),
            large: AtomicU64::new(0),
            over_aligned: AtomicU64::new(0),
            large_over_aligned: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            live: AtomicI64::new(0),
            live_peak: AtomicI64::new(0),
            largest: Largest::new(),
            turn: Mutex::new(()),
        }
    }

    /// Runs `work` in the counting state; requests of `large_from` bytes and more are large.
    /// Waits for its turn when another test is counting or forbidding; must not be nested.
    pub fn counting<R>(&self, large_from: usize, work: impl FnOnce() -> R) -> (R, Counts) {
        let turn = self.enter(COUNTING, large_from);
        let result = work();
        let counts = turn.counts();
        drop(turn);
        (result, counts)
    }

    /// Runs `work` in the forbidden state: the first request of `large_from` bytes and more prints
    /// its size, alignment and backtrace and aborts the process. Smaller ones are counted.
    /// Waits for its turn as [`TestAlloc::counting`] does.
    pub fn forbidding<R>(&self, large_from: usize, work: impl FnOnce() -> R) -> (R, Counts) {
        let turn = self.enter(FORBIDDEN, large_from);
        let result = work();
        let counts = turn.counts();
        drop(turn);
        (result, counts)
    }

    /// Starts counting until the returned turn is dropped, for tests that read the counts more than
    /// once, e.g. after every step.
    #[must_use = "counting ends when the turn is dropped"]
    pub fn count(&self, large_from: usize) -> Turn<'_> {
        self.enter(COUNTING, large_from)
    }

    fn enter(&self, state: u8, large_from: usize) -> Turn<'_> {
        // A test that failed in its turn left nothing behind that the next one does not reset.
        let guard = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.reset();
        self.large_from.store(large_from, Relaxed);
        self.state.store(state, Release);
        Turn { alloc: self, _guard: guard }
    }

    fn reset(&self) {
        let aligned = [&self.over_aligned, &self.large_over_aligned];
        for counter in [&self.requests, &self.large, &self.bytes].into_iter().chain(aligned) {
            counter.store(0, Relaxed);
        }
        self.live.store(0, Relaxed);
        self.live_peak.store(0, Relaxed);
        self.largest.clear();
    }

    fn on_request(&self, size: usize, align: usize, held_before: usize) {
        let state = self.state.load(Acquire);
        if state == FREE {
            return;
        }
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(size as u64, Relaxed);
        self.move_live(size as i64 - held_before as i64);
        self.largest.offer(Request { size, align });
        let over_aligned = u64::from(align > SCALAR_ALIGN);
        self.over_aligned.fetch_add(over_aligned, Relaxed);
        if size >= self.large_from.load(Relaxed) {
            self.large.fetch_add(1, Relaxed);
            self.large_over_aligned.fetch_add(over_aligned, Relaxed);
            if state == FORBIDDEN {
                self.refuse(size, align);
            }
        }
    }

    fn on_release(&self, size: usize) {
        if self.state.load(Acquire) != FREE {
            self.move_live(-(size as i64));
        }
    }

    fn move_live(&self, by: i64) {
        let now = self.live.fetch_add(by, Relaxed) + by;
        self.live_peak.fetch_max(now, Relaxed);
    }

    /// An allocator must not unwind, so a forbidden request ends the process, with the place of the
    /// request on stderr. Going back to the free state first lets the backtrace allocate.
    #[cold]
    fn refuse(&self, size: usize, align: usize) -> ! {
        self.state.store(FREE, Release);
        let mut stderr = std::io::stderr();
        // The process ends either way; a closed stderr only makes it end silently.
        let _ = writeln!(
            stderr,
            "forbidden allocation of {size} bytes (alignment {align}; forbidden from {} on)\n{}",
            self.large_from.load(Relaxed),
            Backtrace::force_capture(),
        );
        std::process::abort();
    }
}

impl Default for TestAlloc {
    fn default() -> Self {
        Self::new()
    }
}

/// The time during which a [`TestAlloc`] counts; it returns to the free state on drop.
#[derive(Debug)]
pub struct Turn<'a> {
    alloc: &'a TestAlloc,
    _guard: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// What happened since the turn began or was last restarted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let alloc = self.alloc;
        Counts {
            requests: alloc.requests.load(Relaxed),
            large: alloc.large.load(Relaxed),
            over_aligned: alloc.over_aligned.load(Relaxed),
            large_over_aligned: alloc.large_over_aligned.load(Relaxed),
            bytes: alloc.bytes.load(Relaxed),
            live_peak: alloc.live_peak.load(Relaxed).max(0) as u64,
            largest: alloc.largest.snapshot(),
        }
    }

    /// Starts again from zero and returns what happened until now.
    pub fn restart(&self) -> Counts {
        let counts = self.counts();
        self.alloc.reset();
        counts
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.alloc.state.store(FREE, Release);
    }
}

// SAFETY: every block comes from `System` and goes back to it with the layout it was asked for;
// the bookkeeping around that neither allocates, nor unwinds, nor touches the block.
unsafe impl GlobalAlloc for TestAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.on_request(layout.size(), layout.align(), 0);
        // SAFETY: the caller's promise (a layout of non-zero size) is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.on_request(layout.size(), layout.align(), 0);
        // SAFETY: the caller's promise (a layout of non-zero size) is passed on unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.on_release(layout.size());
        // SAFETY: `block` came from `System` through this allocator with this very layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            self.on_request(size, layout.align(), layout.size());
        } else {
            self.on_release(layout.size() - size);
        }
        // SAFETY: `block` came from `System` with this layout, and the caller promises a non-zero
        // size that does not overflow when rounded up to the alignment.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// A small table of the largest requests behind a spin lock: it is written from inside the
/// allocator, where a lock that may allocate or park is out of the question.
#[derive(Debug)]
struct Largest {
    busy: AtomicBool,
    /// Size of the smallest entry: requests not above it skip the lock.
    floor: AtomicUsize,
    table: UnsafeCell<[Request; REMEMBERED]>,
}

// SAFETY: `table` is only reached through `locked`, which admits one thread at a time.
unsafe impl Sync for Largest {}

impl Largest {
    const fn new() -> Self {
        let none = Request { size: 0, align: 0 };
        Self {
            busy: AtomicBool::new(false),
            floor: AtomicUsize::new(0),
            table: UnsafeCell::new([none; REMEMBERED]),
        }
    }

    fn offer(&self, request: Request) {
        if request.size <= self.floor.load(Relaxed) {
            return;
        }
        let floor = self.locked(|table| {
            let place = table.partition_point(|held| held.size >= request.size);
            if place < REMEMBERED {
                table.copy_within(place..REMEMBERED - 1, place + 1);
                table[place] = request;
            }
            table[REMEMBERED - 1].size
        });
        self.floor.store(floor, Relaxed);
    }

    fn clear(&self) {
        self.locked(|table| *table = [Request::default(); REMEMBERED]);
        self.floor.store(0, Relaxed);
    }

    fn snapshot(&self) -> [Request; REMEMBERED] {
        self.locked(|table| *table)
    }

    /// `work` must neither allocate nor panic: it runs inside the allocator with the lock held.
    fn locked<R>(&self, work: impl FnOnce(&mut [Request; REMEMBERED]) -> R) -> R {
        while self.busy.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            std::hint::spin_loop();
        }
        // SAFETY: `busy` was false and is now true by this thread alone until it is stored back,
        // so no other reference to the table exists.
        let result = work(unsafe { &mut *self.table.get() });
        self.busy.store(false, Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_largest_in_order() {
        let largest = Largest::new();
        (1..=40).for_each(|size| largest.offer(Request { size: size * 7 % 41, align: 8 }));
        let sizes: Vec<usize> = largest.snapshot().iter().map(|request| request.size).collect();
        assert_eq!(sizes, (25..=40).rev().collect::<Vec<_>>());
        assert_eq!(largest.floor.load(Relaxed), 25);
        largest.clear();
        assert_eq!(largest.snapshot(), [Request::default(); REMEMBERED]);
    }

    #[test]
    fn counts_growth_as_a_request_and_shrinking_as_a_release() {
        let alloc = TestAlloc::new();
        let turn = alloc.count(100);
        alloc.on_request(64, 8, 0);
        alloc.on_request(128, 8, 64);
        alloc.on_release(28);
        alloc.on_request(10, 1, 0);
        alloc.on_request(32, 32, 0);
        alloc.on_request(256, 64, 0);
        alloc.on_release(288);
        let counts = turn.counts();
        assert_eq!((counts.requests, counts.large), (5, 2));
        assert_eq!((counts.over_aligned, counts.large_over_aligned), (2, 1));
        assert_eq!((counts.bytes, counts.live_peak), (490, 398));
        let sizes: Vec<usize> = counts.largest().map(|request| request.size).collect();
        assert_eq!(sizes, [256, 128, 64, 32, 10]);
        drop(turn);
        alloc.on_request(1 << 20, 8, 0);
        assert_eq!(alloc.count(1).counts().requests, 0);
    }
}
