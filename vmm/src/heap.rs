//! One heap for all threads.

#![allow(unsafe_code)]

/// Makes all threads allocate from one heap. To be called before the first thread is started.
///
/// glibc gives each thread a heap of its own, which costs four system calls and 4 to 8 KiB per
/// thread. Our threads allocate when they start and hardly ever later, so they gain nothing by it.
pub fn share() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets a number, and no other thread runs yet. A failure keeps the default.
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}
