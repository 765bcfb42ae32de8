//! What the operating system says the process holds.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Resident memory of this process; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Anonymous pages: heap, stacks, slabs.
    pub anon_bytes: Option<u64>,
    /// Pages of mapped files, evictable.
    pub file_bytes: Option<u64>,
    /// Highest resident size since the process started.
    pub peak_bytes: Option<u64>,
}

/// Reads what the system knows now. Allocates nothing.
#[must_use]
pub fn memory_now() -> Memory {
    let mut buffer = [0; STATUS_BYTES];
    let status = read_status(&mut buffer).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 =
            line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Memory {
        anon_bytes: field("RssAnon"),
        file_bytes: field("RssFile"),
        peak_bytes: field("VmHWM"),
    }
}

/// Bytes that this process has had read from storage so far; `None` where the system does not say.
pub(crate) fn storage_read() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("read_bytes:")?.trim().parse().ok())
}

/// The sizes stand in the first kilobyte; what follows depends on the number of processors.
const STATUS_BYTES: usize = 4096;

/// The head of the system's report on this process, up to its last whole character.
fn read_status(buffer: &mut [u8]) -> Option<&str> {
    let mut file = File::open("/proc/self/status").ok()?;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).ok()? {
            0 => break,
            n => filled += n,
        }
    }
    buffer[..filled].utf8_chunks().next().map(|chunk| chunk.valid())
}

/// Follows anonymous resident memory from a thread of its own.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    peak: AtomicU64,
    stop: AtomicBool,
    doze: AtomicBool,
}

/// Time between two readings.
const EVERY: Duration = Duration::from_millis(10);
/// The same while nothing happens.
const DOZING: Duration = Duration::from_secs(1);
/// The watching thread reads one small file; it needs next to no stack.
const STACK_BYTES: usize = 64 << 10;

impl Watch {
    /// Starts to watch.
    #[must_use]
    pub fn start() -> Self {
        let (peak, off) = (AtomicU64::new(0), || AtomicBool::new(false));
        let shared = Arc::new(Shared { peak, stop: off(), doze: off() });
        let watched = Arc::clone(&shared);
        let look = move || {
            while !watched.stop.load(Ordering::Relaxed) {
                watched.look();
                let doze = watched.doze.load(Ordering::Relaxed);
                std::thread::park_timeout(if doze { DOZING } else { EVERY });
            }
        };
        // A system that has no thread to spare still gets readings at step boundaries.
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(look).ok();
        Self { shared, thread }
    }

    /// Takes a reading now, at a step boundary.
    pub fn look(&self) {
        self.shared.look();
    }

    /// Says whether nothing will happen for a while, in which it would only keep the processor
    /// awake.
    pub(crate) fn doze(&self, doze: bool) {
        self.shared.doze.store(doze, Ordering::Relaxed);
        if let (false, Some(thread)) = (doze, &self.thread) {
            thread.thread().unpark();
        }
    }

    /// The highest reading so far.
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        Some(self.shared.peak.load(Ordering::Relaxed)).filter(|peak| *peak > 0)
    }
}

impl Shared {
    fn look(&self) {
        if let Some(bytes) = memory_now().anon_bytes {
            self.peak.fetch_max(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the watching thread is no reason to lose the run.
            let _ = thread.join();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{Watch, memory_now};

    #[test]
    fn the_watch_sees_memory_that_was_touched() {
        let before = memory_now().anon_bytes.unwrap();
        let watch = Watch::start();
        let block = vec![1_u8; 8 << 20];
        watch.look();
        assert!(watch.peak().unwrap() >= before + (7 << 20));
        assert_eq!(block[5], 1);
    }
}
