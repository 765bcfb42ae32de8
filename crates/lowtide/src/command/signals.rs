//! Signals to a run. Ctrl-C: the first asks it to stop and save, the second ends the process.
//! SIGUSR1 lets it pause, and SIGUSR2 go on. SIGBUS comes where a mapped file was cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use signal_hook::consts::{SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::consts::{SIGUSR1, SIGUSR2};
#[cfg(unix)]
use signal_hook::flag::register_usize;
use signal_hook::flag::{register, register_conditional_shutdown};

/// Exit code of an interrupted run: what a shell makes of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// A flag that SIGINT and SIGTERM set. A signal that finds it set ends the process at once.
///
/// # Panics
/// When the system lets a process handle neither.
pub(crate) fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Handlers run in the order of registration: the shutdown has to see the flag as it was.
        register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop))
            .and_then(|_| register(signal, Arc::clone(&stop)))
            .expect("SIGINT and SIGTERM may be handled");
    }
    stop
}

/// A number that SIGUSR1 sets to 1 and SIGUSR2 to 0, where the system has these signals.
///
/// # Panics
/// When the system lets a process handle neither.
pub(crate) fn pause_number() -> Arc<AtomicUsize> {
    let pause = Arc::new(AtomicUsize::new(0));
    #[cfg(unix)]
    for (signal, value) in [(SIGUSR1, 1), (SIGUSR2, 0)] {
        register_usize(signal, Arc::clone(&pause), value)
            .expect("SIGUSR1 and SIGUSR2 may be handled");
    }
    pause
}

/// Ends the process with a message when a part of a mapped file is read that the file no longer
/// has, which would otherwise end it without a word. `last_words` are told. Once a process.
///
/// # Errors
/// A system that lets nobody handle the signal, or has no room for one more open file.
#[cfg(unix)]
pub(crate) fn end_at_cut_file(last_words: &str) -> std::io::Result<()> {
    use std::os::fd::AsFd;

    let to = std::io::stderr().as_fd().try_clone_to_owned()?;
    lowtide::formats::end_at_fault(to, format!("error: {last_words}\n"), 1)
}
