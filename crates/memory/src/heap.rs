//! Giving free heap pages back to the system.
#![allow(unsafe_code, reason = "one call into the C library, which has no safe wrapper")]

/// Asks the C library to return the free pages of its heap to the system.
///
/// Tokenizers and parsers free their memory before slabs are reserved, but glibc keeps freed pages
/// for later; to the system they still count as held. Elsewhere this does nothing.
pub fn release_free_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `malloc_trim` takes its own locks and touches free blocks only.
        unsafe { libc::malloc_trim(0) };
    }
}
