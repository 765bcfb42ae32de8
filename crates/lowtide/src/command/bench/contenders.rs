//! Who takes turns: every backend that was asked for, in every form, on every number of threads.

use std::num::NonZero;

use lowtide::NdArray;
use lowtide::backend::Backend;
use lowtide::bench::{About, Contender};
use lowtide_kernels::Kernels;
use lowtide_simd::{Compute, Simd};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::flags::{BenchArgs, Instructions, Name, Precision, once};

/// Backends with the pools they run in.
pub(super) struct Contenders {
    backends: Vec<(String, Box<dyn Backend>, usize)>,
    /// One for each number of threads.
    pools: Vec<(usize, ThreadPool)>,
}

impl Contenders {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(args: &BenchArgs) -> Result<Self, ThreadPoolBuildError> {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut counts: Vec<_> = args.threads.iter().map(|&count| usize::from(count)).collect();
        if counts.is_empty() {
            counts.push(cores());
        }
        let counts = once(&counts);
        let pool = |&threads: &usize| {
            let builder = ThreadPoolBuilder::new().num_threads(threads);
            let pool = builder.thread_name(|index| format!("lowtide-{index}")).build()?;
            Ok((threads, pool))
        };
        let pools = counts.iter().map(pool).collect::<Result<_, ThreadPoolBuildError>>()?;
        let mut backends = Vec::new();
        for name in once(&args.backend) {
            for form in forms(name, args) {
                backends.extend(counts.iter().map(|&threads| form(threads)));
            }
        }
        Ok(Self { backends, pools })
    }

    /// The numbers of threads.
    pub(super) fn threads(&self) -> Vec<usize> {
        self.pools.iter().map(|(threads, _)| *threads).collect()
    }

    /// As reports tell them.
    pub(super) fn about(&self) -> Vec<About> {
        let about = |(label, backend, threads): &(String, Box<dyn Backend>, usize)| About {
            label: label.clone(),
            backend: backend.name().into(),
            isa: backend.caps().isa.into(),
            threads: *threads,
        };
        self.backends.iter().map(about).collect()
    }

    /// Lends them out.
    pub(super) fn with<T>(&self, work: impl FnOnce(&[Contender<'_>]) -> T) -> T {
        let runs: Vec<_> = self.backends.iter().map(|(.., threads)| self.run(*threads)).collect();
        let lent = self.backends.iter().zip(&runs);
        let contenders: Vec<_> = lent
            .map(|((label, backend, threads), run)| Contender {
                label,
                backend: &**backend,
                threads: *threads,
                run,
            })
            .collect();
        work(&contenders)
    }

    fn run(&self, threads: usize) -> impl Fn(&mut (dyn FnMut() + Send)) + Sync {
        let pool = self.pools.iter().find(|(size, _)| *size == threads);
        let (_, pool) = pool.expect("there is a pool for every number of threads");
        |job| pool.install(job)
    }
}

/// Makes a contender for a number of threads.
type Form = Box<dyn Fn(usize) -> (String, Box<dyn Backend>, usize)>;

fn forms(name: Name, args: &BenchArgs) -> Vec<Form> {
    match name {
        Name::Ndarray => vec![Box::new(|threads| {
            (label("ndarray", threads), Box::new(NdArray::new(threads)), threads)
        })],
        Name::Simd => {
            let mut forms: Vec<Form> = Vec::new();
            for kernels in tables(args) {
                for precision in once(&args.precision) {
                    forms.push(Box::new(move |threads| simd(kernels, precision, threads)));
                }
            }
            forms
        }
    }
}

/// The tables that were asked for: the quickest where nothing was said.
fn tables(args: &BenchArgs) -> Vec<&'static Kernels> {
    let mut isas = Vec::new();
    for wanted in &args.isa {
        match *wanted {
            Instructions::All => isas.extend(Kernels::available().map(Kernels::isa)),
            Instructions::Of(isa) => isas.push(isa),
        }
    }
    if isas.is_empty() {
        return vec![Kernels::best()];
    }
    once(&isas).into_iter().filter_map(Kernels::of).collect()
}

fn simd(
    kernels: &'static Kernels,
    precision: Precision,
    threads: usize,
) -> (String, Box<dyn Backend>, usize) {
    let (compute, word) = match precision {
        Precision::Exact => (Compute::F32, ""),
        Precision::Balanced => (Compute::Int8x2, " balanced"),
        Precision::Fast => (Compute::Int8, " fast"),
    };
    let name = format!("simd {}{word}", kernels.isa().name());
    let backend = Simd::with(kernels, threads).computing(compute);
    (label(&name, threads), Box::new(backend), threads)
}

fn label(name: &str, threads: usize) -> String {
    format!("{name}/{threads}")
}
