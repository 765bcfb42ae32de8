//! Single operations on every backend there is, with one thread and with all.

use std::thread::available_parallelism;

use criterion::Criterion;
use lowtide_benches::ops::{Subject, ops};
use lowtide_ndarray::NdArray;
use rayon::{ThreadPool, ThreadPoolBuilder};

fn main() {
    let mut counts = vec![1, available_parallelism().map_or(1, usize::from)];
    counts.dedup();
    let setups: Vec<(NdArray, ThreadPool)> =
        counts.iter().map(|&threads| (NdArray::new(threads), pool(threads))).collect();
    let subject = |(backend, pool)| {
        let threads = NdArray::threads(backend);
        Subject { label: format!("ndarray/{threads}"), backend, pool }
    };
    let subjects: Vec<Subject<'_>> =
        setups.iter().map(|(backend, pool)| subject((backend, pool))).collect();
    let mut criterion = Criterion::default().configure_from_args();
    ops(&mut criterion, &subjects);
    criterion.final_summary();
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads")
}
