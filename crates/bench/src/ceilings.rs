//! What the machine can do at best, measured in the same run as everything else.
//!
//! Peaks of arithmetic need instructions of which this crate knows nothing; they come as
//! [`Probes`]. How fast memory is read is measured here, by adding up buffers of several sizes.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Works for a number of rounds in registers alone and gives the operations done. Called from
/// several threads at once.
pub type Probe<'a> = &'a (dyn Fn(u64) -> u64 + Sync);

/// What finds the peaks of arithmetic, where there is something.
#[derive(Clone, Copy, Default)]
pub struct Probes<'a> {
    /// Fused multiply-adds in f32, counted as two operations each.
    pub fma: Option<Probe<'a>>,
    /// Products of bytes added up in 32 bits, counted as two operations each.
    pub int8: Option<Probe<'a>>,
}

/// What a number of threads can do together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// The threads.
    pub threads: usize,
    /// Floating-point operations a second in f32, if that could be measured.
    pub f32_flops: Option<f64>,
    /// Integer operations a second on bytes, if that could be measured.
    pub int8_ops: Option<f64>,
    /// Reading memory, by the size of what is read again and again; ascending.
    pub reads: Vec<Read>,
}

/// How fast a buffer is read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Size of the buffer, of which each thread reads its part.
    pub bytes: u64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// The limit that binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The f32 peak.
    Compute,
    /// Reading memory.
    Memory,
}

/// What one call does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Floating-point operations of the plain algorithm: a multiply-add is two.
    pub flops: u64,
    /// Bytes of all operands, each read or written once.
    pub bytes: u64,
    /// Bytes that calls in a row go through: more than `bytes` where they take turns with copies.
    pub span: u64,
}

impl Work {
    /// Work whose operands are the same at every call.
    #[must_use]
    pub fn new(flops: usize, bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self { flops: flops as u64, bytes, span: bytes }
    }
}

impl Ceiling {
    /// Bytes a second with which `span` bytes are read again and again: what was measured at the
    /// next larger size.
    #[must_use]
    pub fn read(&self, span: u64) -> Option<f64> {
        let large = self.reads.iter().find(|read| read.bytes >= span);
        large.or(self.reads.last()).map(|read| read.bytes_per_second)
    }

    /// The least time that `work` takes at these ceilings, and the one that makes it so. Nothing
    /// where arithmetic may well be the limit and its ceiling is not known.
    #[must_use]
    pub fn bound(&self, work: Work) -> Option<(f64, Limit)> {
        if self.f32_flops.is_none() && work.flops > INTENSE * work.bytes {
            return None;
        }
        let compute = self.f32_flops.map(|peak| (work.flops as f64 / peak, Limit::Compute));
        let memory = self.read(work.span).map(|rate| (work.bytes as f64 / rate, Limit::Memory));
        let bounds = [compute, memory].into_iter().flatten().filter(|(seconds, _)| *seconds > 0.0);
        bounds.max_by(|a, b| a.0.total_cmp(&b.0))
    }
}

/// Operations a byte of operands from which on arithmetic is the limit on most processors.
const INTENSE: u64 = 8;

/// How thoroughly ceilings are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Sizes of the buffers that are read, ascending.
    pub sizes: Vec<usize>,
    /// What one measurement takes at least.
    pub turn: Duration,
    /// Measurements of which the best counts.
    pub rounds: usize,
}

impl Default for Effort {
    /// Buffers from 512 KiB to 256 MiB, 20 ms, the best of 7.
    fn default() -> Self {
        let sizes = vec![512 << 10, 4 << 20, 32 << 20, 256 << 20];
        Self { sizes, turn: Duration::from_millis(20), rounds: 7 }
    }
}

impl Effort {
    /// Little of everything: a glance.
    #[must_use]
    pub fn quick() -> Self {
        let sizes = vec![512 << 10, 4 << 20, 32 << 20];
        Self { sizes, turn: Duration::from_millis(2), rounds: 3 }
    }
}

/// Measures the ceilings of each number of threads.
#[must_use]
pub fn measure(threads: &[usize], probes: Probes<'_>, effort: &Effort) -> Vec<Ceiling> {
    let buffer = vec![1_u64; effort.sizes.iter().max().map_or(0, |bytes| bytes / 8)];
    let ceiling = |&threads: &usize| {
        let of = |probe: Probe<'_>| peak(threads, effort, &|_, rounds| probe(rounds));
        let reads = effort.sizes.iter().map(|&bytes| {
            let part = bytes / 8 / threads;
            let sum = |thread: usize, rounds: u64| {
                let own = &buffer[thread * part..][..part];
                (0..rounds).map(|_| black_box(sum(black_box(own)))).fold(0, u64::wrapping_add);
                rounds * 8 * part as u64
            };
            Read { bytes: bytes as u64, bytes_per_second: peak(threads, effort, &sum) }
        });
        Ceiling {
            threads,
            f32_flops: probes.fma.map(of),
            int8_ops: probes.int8.map(of),
            reads: reads.collect(),
        }
    };
    threads.iter().map(ceiling).collect()
}

/// Operations a second of `threads` that do `work(thread, rounds)` at once: the best of several
/// measurements, because a ceiling is what is possible.
fn peak(threads: usize, effort: &Effort, work: &(dyn Fn(usize, u64) -> u64 + Sync)) -> f64 {
    let mut rounds = 1;
    let mut best = 0.0_f64;
    let mut measured = 0;
    while measured < effort.rounds {
        let (operations, seconds) = together(threads, rounds, work);
        if seconds < effort.turn.as_secs_f64() / 2.0 && rounds < 1 << 40 {
            rounds *= 2;
            continue;
        }
        best = best.max(operations as f64 / seconds);
        measured += 1;
    }
    best
}

/// What all threads did, and the seconds from the first one's start until the last was done: where
/// there are more threads than cores they run one after the other, each as fast as one alone.
fn together(threads: usize, rounds: u64, work: &(dyn Fn(usize, u64) -> u64 + Sync)) -> (u64, f64) {
    let barrier = Barrier::new(threads);
    let one = |thread: usize| {
        barrier.wait();
        let start = Instant::now();
        let done = work(thread, rounds);
        (done, start, Instant::now())
    };
    let (done, start, end) = std::thread::scope(|scope| {
        let one = &one;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        let own = one(0);
        let others = others.into_iter().map(|other| other.join().expect("a probe does not panic"));
        others.fold(own, |(done, start, end), (more, began, ended)| {
            (done + more, start.min(began), end.max(ended))
        })
    });
    (done, (end - start).as_secs_f64())
}

/// The sum of a buffer, in lanes enough for a compiler to keep several loads under way.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; 32];
    let (chunks, rest) = words.as_chunks::<32>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn ceiling() -> Ceiling {
        let read = |bytes, bytes_per_second| Read { bytes, bytes_per_second };
        Ceiling {
            threads: 2,
            f32_flops: Some(1000.0),
            int8_ops: None,
            reads: vec![read(64, 400.0), read(1024, 100.0)],
        }
    }

    #[test]
    fn the_limit_that_binds_is_the_one_that_takes_longer() {
        let bound = |flops, bytes| ceiling().bound(Work::new(flops, bytes));
        assert_eq!(bound(5000, 100), Some((5.0, Limit::Compute)));
        assert_eq!(bound(100, 500), Some((5.0, Limit::Memory)));
        // Small enough for the faster reading.
        assert_eq!(bound(100, 64), Some((0.16, Limit::Memory)));
        assert_eq!(bound(0, 0), None);
        let rotated = Work { span: 4096, ..Work::new(0, 50) };
        assert_eq!(ceiling().bound(rotated), Some((0.5, Limit::Memory)));
        let unknown = Ceiling { f32_flops: None, ..ceiling() };
        assert_eq!(unknown.bound(Work::new(5000, 100)), None);
        assert_eq!(unknown.bound(Work::new(800, 100)), Some((1.0, Limit::Memory)));
        let nothing = Ceiling { reads: Vec::new(), ..unknown };
        assert_eq!(nothing.bound(Work::new(800, 100)), None);
    }

    #[test]
    fn every_thread_reads_its_part_and_every_probe_is_asked() {
        let asked = AtomicU64::new(0);
        let probe = |rounds: u64| {
            asked.fetch_add(1, Ordering::Relaxed);
            black_box((0..rounds * 100).fold(0, |a, b| a ^ black_box(b)));
            rounds * 100
        };
        let probes = Probes { fma: Some(&probe), int8: None };
        let effort = Effort { sizes: vec![1 << 16], turn: Duration::from_micros(5), rounds: 2 };
        let ceilings = measure(&[1, 3], probes, &effort);
        assert_eq!(ceilings.iter().map(|c| c.threads).collect::<Vec<_>>(), [1, 3]);
        assert!(asked.load(Ordering::Relaxed) >= 8);
        for ceiling in &ceilings {
            assert!(ceiling.f32_flops.is_some_and(|peak| peak > 0.0), "{ceiling:?}");
            assert_eq!(ceiling.int8_ops, None);
            assert!(ceiling.read(1).is_some_and(|rate| rate > 0.0), "{ceiling:?}");
        }
    }

    #[test]
    fn sums_miss_no_word() {
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!(sum(&words), 499_500);
        assert_eq!(sum(&words[..7]), 21);
    }
}
