//! The lock on an image. It is QEMU's, so it works between Hartvisor and QEMU as well.
//!
//! ```text
//!   byte 100 + n   locked while permission n is used           n = 0: read
//!   byte 200 + n   locked while permission n is not shared         1: write
//! ```
//!
//! All locks are shared open file description locks (QEMU: perm and shared permissions). A process
//! first locks what it uses and what it does not share. Then it checks for others that use what it
//! does not share, or do not share what it uses. If two processes start at once, both may give way,
//! but they never both succeed.

use std::fs::File;
use std::io;

use std::os::fd::AsRawFd;

const DOES: libc::off_t = 100;
const BARS: libc::off_t = 200;
const READING: libc::off_t = 0;
const WRITING: libc::off_t = 1;

/// Locks the image against other writers, and if not `readonly` against other readers, too. Returns
/// false if another process prevents that. The lock lasts until the last descriptor of this open
/// file is closed.
///
/// # Errors
/// The file system does not support locks.
pub(super) fn take(file: &File, readonly: bool) -> io::Result<bool> {
    let (mine, against): (&[_], &[_]) = match readonly {
        true => (
            &[DOES + READING, BARS + WRITING],
            &[DOES + WRITING, BARS + READING],
        ),
        false => (
            &[DOES + READING, DOES + WRITING, BARS + WRITING],
            &[DOES + WRITING, BARS + READING, BARS + WRITING],
        ),
    };
    for byte in mine {
        match lock(file, libc::F_OFD_SETLK, &mut one(*byte, libc::F_RDLCK)) {
            // A process outside this protocol has locked the whole file.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                return Ok(false);
            }
            other => other?,
        }
    }
    for byte in against {
        // Testing for an exclusive lock finds the shared locks of all others.
        let mut found = one(*byte, libc::F_WRLCK);
        lock(file, libc::F_OFD_GETLK, &mut found)?;
        if i32::from(found.l_type) != libc::F_UNLCK {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Releases what [`take`] took.
///
/// # Errors
/// The file system does not support locks.
pub(super) fn release(file: &File) -> io::Result<()> {
    let mut all = libc::flock {
        // To the end of the file.
        l_len: 0,
        ..one(DOES, libc::F_UNLCK)
    };
    lock(file, libc::F_OFD_SETLK, &mut all)
}

/// Open file description locks, which rustix does not offer.
fn lock(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe way to take such a lock")]
    // SAFETY: both commands read a flock(2) structure, and F_OFD_GETLK writes one.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, lock) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn one(byte: libc::off_t, kind: libc::c_int) -> libc::flock {
    let short = |value: libc::c_int| libc::c_short::try_from(value).unwrap_or(0);
    libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
#[path = "lock_test.rs"]
mod tests;
