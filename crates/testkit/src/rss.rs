//! What the operating system says this process holds, from `/proc/self/status`.
//!
//! `RssAnon` is memory that only swap could take back: heap, stacks, private mappings. `RssFile` is
//! mapped files, which the system may evict. Linux updates both per thread in small batches, so a
//! reading can lag by a few hundred KiB. On systems without the file every reading is `None`.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// One reading, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rss {
    /// Resident anonymous memory now.
    pub anon: u64,
    /// Resident mapped files now.
    pub file: u64,
    /// The process's high-water mark of all resident memory.
    pub high_water: u64,
}

/// Reads the numbers of this process; `None` where the system does not offer them. Allocates
/// nothing, so it may run next to a counting allocator.
#[must_use]
pub fn read() -> Option<Rss> {
    let mut buffer = [0; 8192];
    let mut file = File::open("/proc/self/status").ok()?;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).ok()? {
            0 => break,
            n => filled += n,
        }
    }
    parse(std::str::from_utf8(&buffer[..filled]).ok()?)
}

/// A thread that reads every few milliseconds and keeps the highest values it saw.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`Sampler`] saw between its start and the moment it was asked, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// Anonymous memory when sampling began.
    pub anon_start: u64,
    /// The most anonymous memory seen.
    pub anon_peak: u64,
    /// The most resident mapped files seen.
    pub file_peak: u64,
    /// How many readings this rests on.
    pub samples: u64,
}

impl Peak {
    /// How far anonymous memory rose above its value at the start.
    #[must_use]
    pub fn anon_growth(&self) -> u64 {
        self.anon_peak - self.anon_start
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    anon_start: AtomicU64,
    anon_peak: AtomicU64,
    file_peak: AtomicU64,
    samples: AtomicU64,
}

impl Sampler {
    /// Takes one reading, then goes on every `period` until stopped or dropped; `None` where the
    /// system does not offer the numbers.
    ///
    /// # Panics
    /// When the system cannot start a thread.
    #[must_use]
    pub fn start(period: Duration) -> Option<Self> {
        read()?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        // The thread's own stack is part of what is measured, so it exists before the start value.
        let thread = std::thread::Builder::new()
            .name("rss-sampler".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                while !seen.stop.load(Relaxed) {
                    seen.sample();
                    std::thread::sleep(period);
                }
            })
            .expect("the system starts a thread");
        let sampler = Self { shared: Arc::clone(&shared), thread: Some(thread) };
        shared.anon_start.store(read()?.anon, Relaxed);
        shared.sample();
        Some(sampler)
    }

    /// The highest values so far, this moment included. Call it at the boundaries of interest:
    /// a peak shorter than the period can be missed otherwise.
    #[must_use]
    pub fn peak(&self) -> Peak {
        self.shared.sample();
        self.shared.peak()
    }

    /// Ends sampling and returns the highest values.
    #[must_use]
    pub fn stop(self) -> Peak {
        self.peak()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread has no way to panic that would not have been seen as a failed reading.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn sample(&self) {
        if let Some(rss) = read() {
            self.anon_peak.fetch_max(rss.anon, Relaxed);
            self.file_peak.fetch_max(rss.file, Relaxed);
            self.samples.fetch_add(1, Relaxed);
        }
    }

    fn peak(&self) -> Peak {
        let anon_start = self.anon_start.load(Relaxed);
        Peak {
            anon_start,
            anon_peak: self.anon_peak.load(Relaxed).max(anon_start),
            file_peak: self.file_peak.load(Relaxed),
            samples: self.samples.load(Relaxed),
        }
    }
}

fn parse(status: &str) -> Option<Rss> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Rss { anon: field("RssAnon")?, file: field("RssFile")?, high_water: field("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_three_fields() {
        let status =
            "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nRssAnon:\t 40 kB\nRssFile:\t5 kB\n";
        let want = Rss { anon: 40 << 10, file: 5 << 10, high_water: 300 << 10 };
        assert_eq!(parse(status), Some(want));
        assert_eq!(parse("Name:\tx\nRssAnon:\t 40 kB\n"), None);
        assert_eq!(parse("VmHWM:\t1 kB\nRssAnon:\tx kB\nRssFile:\t1 kB\n"), None);
    }

    #[test]
    fn a_sampler_sees_memory_that_came_and_went() {
        const BLOCK: usize = 64 << 20;
        let Some(sampler) = Sampler::start(Duration::from_millis(2)) else { return };
        let block = vec![1_u8; BLOCK];
        assert_eq!(block.iter().map(|&b| usize::from(b)).sum::<usize>(), BLOCK);
        let held = sampler.peak();
        drop(block);
        let peak = sampler.stop();
        assert!(peak.anon_growth() as usize >= BLOCK - (1 << 20), "{peak:?}");
        assert!(peak.anon_peak >= held.anon_peak);
        assert!(peak.samples >= 2);
        assert!(read().unwrap().high_water >= peak.anon_peak - (1 << 20));
    }
}
