//! Ctrl-C: the first asks a run to stop and save, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
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
