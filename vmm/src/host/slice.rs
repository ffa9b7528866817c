//! The time slice of the threads that serve the devices.
//!
//! Such a thread sleeps most of the time. When the guest notifies its queue, it works for some
//! microseconds, and the guest waits for the result. If it shares a CPU with the vCPU, it should
//! run at once: a vCPU that continues finds nothing to do, executes WFI and gives up the CPU only
//! then. Linux 6.12 switches to the thread when it wakes it. Kernels with lazy preemption do so
//! only if the thread's slice is shorter than the vCPU's (EEVDF's PREEMPT_SHORT;
//! Documentation/scheduler/sched-eevdf.rst).
//!
//! The console has none: a vCPU serves its output inline, and on Linux 7.2 a line then took 45 µs
//! instead of 38.
//!
//! A short slice does not change a thread's share of the CPU. The thread gets the same time sooner
//! and in smaller parts. It needs no privilege.

#![allow(unsafe_code)]

use std::io;

use libc::{SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_attr};
use log::debug;

/// In nanoseconds: the minimum of Linux.
const SHORT: u64 = 100_000;

/// Threads that the calling thread starts while this exists have a short slice. It is an
/// optimization: a host that refuses it only serves devices later.
pub(crate) struct ShortSlice(());

impl ShortSlice {
    pub(crate) fn begin() -> ShortSlice {
        set(SHORT);
        ShortSlice(())
    }
}

impl Drop for ShortSlice {
    fn drop(&mut self) {
        // The default.
        set(0);
    }
}

/// Sets the slice of the calling thread and of the threads that it starts, in nanoseconds. A thread
/// with another scheduling policy, set by the user, is left alone.
fn set(nanoseconds: u64) {
    let changed = get().and_then(|attributes| {
        if attributes.sched_policy != SCHED_OTHER.cast_unsigned() {
            return Ok(());
        }
        let attributes = sched_attr { sched_runtime: nanoseconds, ..attributes };
        // SAFETY: the kernel reads as many bytes as the structure's size field says.
        match unsafe { libc::syscall(SYS_sched_setattr, 0, &raw const attributes, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    if let Err(error) = changed {
        debug!("no short slice for the devices' threads: {error}");
    }
}

/// Returns the scheduling attributes of the calling thread.
fn get() -> io::Result<sched_attr> {
    let mut attributes = sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let size = size_of::<sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes.
    match unsafe { libc::syscall(SYS_sched_getattr, 0, &raw mut attributes, size, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(all(test, feature = "e2e"))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_started_meanwhile_have_a_short_slice_and_later_ones_not() {
        let slice = || thread::spawn(|| get().unwrap().sched_runtime).join();
        let before = slice().unwrap();
        let short = ShortSlice::begin();
        assert_eq!(slice().unwrap(), SHORT);
        drop(short);
        assert_eq!(slice().unwrap(), before);
    }
}
