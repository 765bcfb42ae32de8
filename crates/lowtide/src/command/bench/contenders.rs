//! Who takes turns: every backend that was asked for, in every form, on every number of threads.

use std::num::NonZero;

use lowtide::backend::Backend;
use lowtide::bench::{About, Contender};
use lowtide::train::Precision;
use lowtide::{Isa, Kernels};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::flags::{BenchArgs, Instructions, once};
use crate::command::computing::{Arithmetic, BackendName, IsaName};
use crate::command::failure::Failure;
use crate::command::machine;

/// A backend, by the name that reports show, and its threads.
type Made = (String, Box<dyn Backend>, usize);

/// Backends with the pools they run in.
pub(super) struct Contenders {
    backends: Vec<Made>,
    /// One for each number of threads.
    pools: Vec<(usize, ThreadPool)>,
}

impl Contenders {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(args: &BenchArgs) -> Result<Self, Failure> {
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
        let forms = forms(args);
        if forms.iter().all(|form| form.name == BackendName::Ndarray) {
            plain(args)?;
        }
        for form in forms {
            for &threads in &counts {
                backends.push(form.contender(threads)?);
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
        let about = |(label, backend, threads): &Made| About {
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

/// Refuses what only the fast backend has, where it does not take part.
fn plain(args: &BenchArgs) -> Result<(), Failure> {
    if let Some(Instructions::Of(isa)) = args.isa.first() {
        let expected = "nothing, because --backend ndarray has no instruction sets to choose";
        return Err(Failure::flag("isa", isa, expected));
    }
    match args.precision.iter().find(|precision| **precision != Precision::Exact) {
        Some(precision) => {
            let expected = "exact, because --backend ndarray computes in f32 only";
            Err(Failure::flag("precision", precision.name(), expected))
        }
        None => Ok(()),
    }
}

/// What computes, with the name it goes by before its number of threads.
struct Form {
    label: String,
    name: BackendName,
    isa: IsaName,
    precision: Precision,
}

impl Form {
    /// # Errors
    /// None that flags allow.
    fn contender(&self, threads: usize) -> Result<Made, Failure> {
        let asked = Arithmetic { precision: self.precision.name(), compute: "auto" };
        let compute = machine::compute(self.name, asked)?;
        let backend = machine::backend(self.name, self.isa, compute, threads)?;
        Ok((format!("{}/{threads}", self.label), backend, threads))
    }
}

/// Every backend that was asked for, in every form.
fn forms(args: &BenchArgs) -> Vec<Form> {
    let named = |name: &BackendName| match name {
        BackendName::Auto => BackendName::Simd,
        name => *name,
    };
    let names: Vec<_> = args.backend.iter().map(named).collect();
    let mut forms: Vec<Form> = Vec::new();
    for name in once(&names) {
        if name == BackendName::Ndarray {
            let (label, isa, precision) = ("ndarray".into(), IsaName::Auto, Precision::Exact);
            forms.push(Form { label, name, isa, precision });
            continue;
        }
        for isa in isas(args) {
            for precision in once(&args.precision) {
                let word = match precision {
                    Precision::Exact => "",
                    Precision::Balanced => " balanced",
                    Precision::Fast => " fast",
                };
                let label = format!("simd {isa}{word}");
                forms.push(Form { label, name, isa: IsaName::Of(isa), precision });
            }
        }
    }
    forms
}

/// The instruction sets that were asked for: the quickest where nothing was said.
fn isas(args: &BenchArgs) -> Vec<Isa> {
    let mut isas = Vec::new();
    for wanted in &args.isa {
        match *wanted {
            Instructions::All => isas.extend(Kernels::available().map(Kernels::isa)),
            Instructions::Of(isa) => isas.push(isa),
        }
    }
    if isas.is_empty() {
        return vec![Kernels::best().isa()];
    }
    once(&isas)
}
