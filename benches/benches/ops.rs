//! Single operations on every backend there is, with one thread and with all.

use std::thread::available_parallelism;

use criterion::Criterion;
use lowtide_backend::Backend;
use lowtide_bench::Contender;
use lowtide_benches::ops;
use lowtide_ndarray::NdArray;
use lowtide_simd::Simd;
use rayon::{ThreadPool, ThreadPoolBuilder};

fn main() {
    let mut counts = vec![1, available_parallelism().map_or(1, usize::from)];
    counts.dedup();
    let mut criterion = Criterion::default().configure_from_args();
    let setups: Vec<_> = counts.iter().flat_map(|&threads| setups(threads)).collect();
    let runs: Vec<_> =
        setups.iter().map(|setup| |job: Job<'_, '_>| setup.pool.install(job)).collect();
    let contenders: Vec<_> = setups
        .iter()
        .zip(&runs)
        .map(|(setup, run)| Contender {
            label: &setup.label,
            backend: &*setup.backend,
            threads: setup.threads,
            run,
        })
        .collect();
    ops(&mut criterion, &contenders);
    criterion.final_summary();
}

/// What a contender is lent.
struct Setup {
    label: String,
    backend: Box<dyn Backend>,
    threads: usize,
    pool: ThreadPool,
}

type Job<'a, 'b> = &'a mut (dyn FnMut() + Send + 'b);

fn setups(threads: usize) -> [Setup; 2] {
    let backends: [Box<dyn Backend>; 2] =
        [Box::new(NdArray::new(threads)), Box::new(Simd::new(threads))];
    backends.map(|backend| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.expect("a pool of threads");
        Setup { label: format!("{}/{threads}", backend.name()), backend, threads, pool }
    })
}
