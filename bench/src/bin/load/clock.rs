//! The guest's clock, read with a system call. Under some VMMs (QEMU 10) user mode cannot read the
//! time itself, as the C library would.

use anyhow::{Result, ensure};
use nix::libc::{CLOCK_MONOTONIC, SYS_clock_gettime, syscall, timespec};

/// Nanoseconds of CLOCK_MONOTONIC.
#[allow(unsafe_code)]
pub(crate) fn now() -> Result<u64> {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in our timespec.
    let result = unsafe { syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &raw mut time) };
    ensure!(result == 0, "clock_gettime");
    Ok(u64::try_from(time.tv_sec)? * 1_000_000_000 + u64::try_from(time.tv_nsec)?)
}
