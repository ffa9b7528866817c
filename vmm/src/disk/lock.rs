//! The lock on an image: QEMU's, so that it holds between QEMU and us as well.
//!
//! ```text
//!   byte 100 + n   locked by who does n           n = 0: reads
//!   byte 200 + n   locked by who bears nobody         1: writes
//!                  beside him that does n
//! ```
//!
//! All locks are shared ones of open file descriptions. So each says what he does and what he does not bear, and then
//! looks for others who do what he does not bear, or do not bear what he does. Of two who come at once, both may give
//! way, but never neither.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

const DOES: libc::off_t = 100;
const BARS: libc::off_t = 200;
const READING: libc::off_t = 0;
const WRITING: libc::off_t = 1;

/// Locks the image against a second writer, and as a writer against everybody. False if another process stands against
/// that. The lock lasts until the last descriptor of this open file is closed.
///
/// # Errors
/// The file system has no locks.
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
        match fcntl(file, FcntlArg::F_OFD_SETLK(&one(*byte, libc::F_RDLCK))) {
            // Somebody who does not follow the protocol has locked the whole file.
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            other => other?,
        };
    }
    for byte in against {
        // An exclusive lock, asked for and not taken, meets those of all others.
        let mut found = one(*byte, libc::F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
        if i32::from(found.l_type) != libc::F_UNLCK {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives up what [`take`] took.
///
/// # Errors
/// The file system has no locks.
pub(super) fn release(file: &File) -> io::Result<()> {
    let all = libc::flock {
        // To the end of the file, wherever that is.
        l_len: 0,
        ..one(DOES, libc::F_UNLCK)
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&all))?;
    Ok(())
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
