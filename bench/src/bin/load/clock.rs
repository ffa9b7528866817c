//! The guest's clock, read by a system call: some VMMs (QEMU 10) do not let their guests' user mode
//! read the time by itself, and the C library would.

use anyhow::{Result, ensure};
use nix::libc::{CLOCK_MONOTONIC, SYS_clock_gettime, syscall, timespec};

/// Nanoseconds of CLOCK_MONOTONIC.
#[allow(unsafe_code)]
pub(crate) fn now() -> Result<u64> {
    let mut time = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills in a timespec that is ours.
    let result = unsafe { syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &raw mut time) };
    ensure!(result == 0, "clock_gettime");
    Ok(u64::try_from(time.tv_sec)? * 1_000_000_000 + u64::try_from(time.tv_nsec)?)
}
