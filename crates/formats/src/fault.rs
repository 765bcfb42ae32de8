//! Last words of a process that reads what a mapped file no longer has.
#![allow(unsafe_code, reason = "a handler of a signal is unsafe: it may run at any instant")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the handler needs, made before it can run. It belongs to the process, as its signals do.
static LAST: OnceLock<LastWords> = OnceLock::new();

struct LastWords {
    to: File,
    words: Vec<u8>,
    exit_code: i32,
    spoken: AtomicBool,
}

/// For a program to ask for, once: from now on it writes `words` to `to` and ends with `exit_code`
/// when it reads a part of a [`MappedFile`](crate::MappedFile) that the file no longer has, because
/// it was cut or its disk failed. Otherwise the system ends it without a word (SIGBUS).
///
/// Nothing is unwound or flushed: the thread that reads cannot go on.
///
/// # Errors
/// When it was asked for before, or the system lets nobody handle the signal.
pub fn end_at_fault(to: OwnedFd, words: impl Into<Vec<u8>>, exit_code: i32) -> io::Result<()> {
    let spoken = AtomicBool::new(false);
    let last = LastWords { to: to.into(), words: words.into(), exit_code, spoken };
    if LAST.set(last).is_err() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let handler: extern "C" fn(libc::c_int) = end;
    // It takes the place of the handler of the standard library, which must not be called as well:
    // that one lets the system end the process at the next fault, and another thread may have it
    // before the words are written.
    // SAFETY: `end` has the signature of a handler, stays for ever, and does only what a handler
    // may do at any instant: see there.
    let before = unsafe { libc::signal(libc::SIGBUS, handler as *const () as libc::sighandler_t) };
    match before {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The handler. It loads and swaps atomics and calls `write` and `_exit`, which POSIX lets a
/// handler call; it takes no lock and no memory.
extern "C" fn end(_signal: libc::c_int) {
    let Some(last) = LAST.get() else { return };
    // Of threads that fault at once, one speaks; the others come back until it has ended them.
    if last.spoken.swap(true, Ordering::Relaxed) {
        return;
    }
    // A `File` has no buffer and no lock, and there is nobody left to tell if it takes nothing.
    let _ = (&last.to).write_all(&last.words);
    // SAFETY: `_exit` ends the process at once and runs nothing of it: no destructor, no handler.
    unsafe { libc::_exit(last.exit_code) }
}
