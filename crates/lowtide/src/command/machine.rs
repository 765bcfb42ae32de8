//! What computes: a backend, and the threads it shares its work over.

use std::num::NonZero;

use lowtide::backend::Backend;
use lowtide::train::Precision;
use lowtide::{Compute, Kernels, NdArray, Simd};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::computing::{Arithmetic, BackendName, IsaName, MachineFlags};
use super::failure::Failure;

/// Bytes of a worker's stack. Workers run inner loops only, and pages of a stack that were touched
/// stay resident, so there is no reason to let them be many.
const WORKER_STACK: usize = 512 << 10;

/// A backend with its thread pool.
pub(crate) struct Machine {
    backend: Box<dyn Backend>,
    pool: ThreadPool,
    threads: usize,
}

impl Machine {
    /// Starts the threads. The calling thread is one of them: parsing and planning happen on its
    /// large stack, and no thread sits idle beside the workers. Once a process.
    ///
    /// # Errors
    /// Flags that contradict each other or ask for what this processor lacks; a system that refuses
    /// a thread.
    pub(crate) fn start<'a>(
        flags: MachineFlags,
        arithmetic: impl Into<Arithmetic<'a>>,
    ) -> Result<Self, Failure> {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = flags.threads.map_or_else(cores, usize::from);
        let (name, isa) = (flags.backend.unwrap_or_default(), flags.isa.unwrap_or_default());
        let compute = compute(name, arithmetic.into())?;
        let backend = backend(name, isa, compute, threads)?;
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(WORKER_STACK)
            .thread_name(|index| format!("lowtide-{index}"))
            .use_current_thread()
            .build()?;
        Ok(Self { backend, pool, threads })
    }

    /// Runs a job on the backend, inside the pool.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce(&dyn Backend, usize) -> T + Send) -> T {
        self.pool.install(|| job(&*self.backend, self.threads))
    }
}

/// The backend that goes by a name.
///
/// # Errors
/// An instruction set that this processor lacks, with those it has; what the plain backend cannot
/// do.
pub(crate) fn backend(
    name: BackendName,
    isa: IsaName,
    compute: Compute,
    threads: usize,
) -> Result<Box<dyn Backend>, Failure> {
    match name {
        BackendName::Auto | BackendName::Simd => {
            Ok(Box::new(Simd::with(kernels(isa)?, threads).computing(compute)))
        }
        BackendName::Ndarray => match (isa, compute) {
            (IsaName::Of(isa), _) => {
                let expected = "auto, because --backend ndarray has no instruction sets to choose";
                Err(Failure::flag("isa", isa, expected))
            }
            (_, Compute::F32) => Ok(Box::new(NdArray::new(threads))),
            (_, other) => Err(Failure::flag("compute", other.name(), NDARRAY_COMPUTES)),
        },
    }
}

const NDARRAY_COMPUTES: &str = "auto or f32, because --backend ndarray computes in f32 only";

fn kernels(isa: IsaName) -> Result<&'static Kernels, Failure> {
    let IsaName::Of(isa) = isa else { return Ok(Kernels::best()) };
    Kernels::of(isa).ok_or_else(|| {
        let there: Vec<_> = Kernels::available().map(|kernels| kernels.isa().name()).collect();
        let expected = format!("auto or what this processor has: {}", there.join(", "));
        Failure::flag("isa", isa, &expected)
    })
}

/// The arithmetic that was asked for; `auto` is the quickest that the precision allows and the
/// backend has.
///
/// # Errors
/// Arithmetic that the precision or the backend excludes.
pub(crate) fn compute(name: BackendName, asked: Arithmetic<'_>) -> Result<Compute, Failure> {
    let precision = Precision::by_name(asked.precision).ok_or_else(|| {
        Failure::flag("precision", asked.precision, &Precision::ALL.map(Precision::name).join(", "))
    })?;
    precision.check(asked.compute)?;
    let named = |name: &str| Compute::ALL.into_iter().find(|compute| compute.name() == name);
    let quickest = || precision.allows().iter().rev().find_map(|name| named(name));
    let compute = match (asked.compute, name) {
        ("auto", BackendName::Ndarray) => None,
        ("auto", BackendName::Auto | BackendName::Simd) => quickest(),
        (asked, _) => named(asked),
    };
    Ok(compute.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use lowtide::Isa;

    use super::*;

    fn asked<'a>(precision: &'a str, compute: &'a str) -> Arithmetic<'a> {
        Arithmetic { precision, compute }
    }

    #[test]
    fn a_job_runs_where_it_was_called_inside_a_pool_of_the_size_asked_for() {
        let flags = MachineFlags { threads: Some(3), ..MachineFlags::default() };
        let machine = Machine::start(flags, asked("exact", "auto")).unwrap();
        let caller = std::thread::current().id();
        let (name, threads, pool, here) = machine.run(|backend, threads| {
            let here = std::thread::current().id();
            (backend.name(), threads, rayon::current_num_threads(), here)
        });
        assert_eq!((name, threads, pool, here), ("simd", 3, 3, caller));
    }

    #[test]
    fn arithmetic_follows_the_precision_as_far_as_the_backend_has_it() {
        for (name, precision, asks, gets) in [
            (BackendName::Auto, "exact", "auto", Compute::F32),
            (BackendName::Auto, "balanced", "auto", Compute::Int8x2),
            (BackendName::Simd, "fast", "auto", Compute::Int8),
            (BackendName::Simd, "fast", "int8x2", Compute::Int8x2),
            (BackendName::Simd, "balanced", "f32", Compute::F32),
            (BackendName::Ndarray, "fast", "auto", Compute::F32),
        ] {
            assert_eq!(compute(name, asked(precision, asks)).unwrap(), gets, "{precision} {asks}");
        }
        let error = compute(BackendName::Auto, asked("exact", "int8")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_backend_is_what_was_asked_for_or_refused() {
        for kernels in Kernels::available() {
            let isa = IsaName::Of(kernels.isa());
            let backend = backend(BackendName::Auto, isa, Compute::Int8x2, 2).unwrap();
            let caps = backend.caps();
            assert_eq!((caps.isa, caps.compute, caps.threads), (kernels.isa().name(), "int8x2", 2));
        }
        let lacking = Isa::ALL.into_iter().filter(|isa| Kernels::of(*isa).is_none());
        for isa in lacking {
            let error = backend(BackendName::Simd, IsaName::Of(isa), Compute::F32, 1).err();
            let error = error.unwrap();
            let says = format!("--isa is {isa}, expected auto or what this processor has: scalar");
            assert!(error.to_string().starts_with(&says), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        let plain = backend(BackendName::Ndarray, IsaName::Auto, Compute::F32, 2).unwrap();
        assert_eq!(plain.name(), "ndarray");
    }
}
