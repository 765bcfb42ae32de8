//! What computes: a backend, and the threads it shares its work over.

use std::num::NonZero;

use lowtide::NdArray;
use lowtide::backend::Backend;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::args::{BackendName, MachineFlags};

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
    /// When the system refuses a thread.
    pub(crate) fn start(flags: MachineFlags) -> Result<Self, ThreadPoolBuildError> {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = flags.threads.map_or_else(cores, usize::from);
        let backend = match flags.backend.unwrap_or_default() {
            BackendName::Auto | BackendName::Ndarray => Box::new(NdArray::new(threads)),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_runs_where_it_was_called_inside_a_pool_of_the_size_asked_for() {
        let flags = MachineFlags { threads: Some(3), ..MachineFlags::default() };
        let machine = Machine::start(flags).unwrap();
        let caller = std::thread::current().id();
        let (name, threads, pool, here) = machine.run(|backend, threads| {
            let here = std::thread::current().id();
            (backend.name(), threads, rayon::current_num_threads(), here)
        });
        assert_eq!((name, threads, pool, here), ("ndarray", 3, 3, caller));
    }
}
