//! What is compared: a backend, where it runs, and what it is called.

use std::fmt;
use std::time::{Duration, Instant};

use lowtide_backend::Backend;

use crate::kernels::Call;

/// Runs a job where a contender computes, which is inside a thread pool of its size.
pub type Run<'a> = dyn Fn(&mut (dyn FnMut() + Send)) + Sync + 'a;

/// One of those that take turns.
#[derive(Clone, Copy)]
pub struct Contender<'a> {
    /// What it is called, such as `ndarray, 2 threads`.
    pub label: &'a str,
    /// What is timed.
    pub backend: &'a dyn Backend,
    /// Threads it shares work over.
    pub threads: usize,
    /// Where it runs.
    pub run: &'a Run<'a>,
}

impl Contender<'_> {
    /// What `calls` calls of an operation take where this contender computes.
    pub fn timed(&self, calls: u64, call: &mut Call) -> Duration {
        let start = Instant::now();
        self.within(|| (0..calls).for_each(|_| call(self.backend)));
        start.elapsed()
    }

    /// Runs `job` where this contender computes and gives what it comes to.
    pub(crate) fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let (mut job, mut result) = (Some(job), None);
        (self.run)(&mut || result = job.take().map(|job| job()));
        result.expect("the job was run")
    }
}

impl fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contender({}, {} threads)", self.label, self.threads)
    }
}
