//! The signals with which a user, a shell or a service manager controls a run.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};
use std::time::Duration;

use libc::c_int;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use vmm_sys_util::signal::create_sigset;

use crate::error::Error;

/// SIGTERM from a service manager, SIGINT from a terminal in cooked mode, SIGHUP from a terminal
/// that was closed.
const ENDING: [i32; 3] = [POWER_OFF, libc::SIGINT, libc::SIGHUP];

/// Asks the guest to power off, once; if it cannot be asked, and the second time, it ends the run.
pub const POWER_OFF: i32 = libc::SIGTERM;

/// The size of a disk or of the balloon has changed.
pub const RESIZED: i32 = libc::SIGUSR2;

/// Requests the statistics of a run in progress: those of `--stats`, and the balloon's.
pub const REPORT: i32 = libc::SIGUSR1;

/// Signals that are requests and do not end the run.
pub const HEARD: [i32; 2] = [RESIZED, REPORT];

/// A shell's job control stops this process. The guest is paused first.
pub const SUSPEND: i32 = libc::SIGTSTP;

/// This process continues after a stop. The shell may have changed the terminal's mode.
pub const CONTINUED: i32 = libc::SIGCONT;

/// Signals that must not be delivered to a thread that does not wait for them: a changed window
/// size, and a change of the terminal's mode from the background.
const QUIET: [i32; 2] = [libc::SIGWINCH, libc::SIGTTOU];

/// A write beyond the file size limit (ulimit -f) must fail like a write to a full disk, not end
/// the process.
const TOO_LARGE: i32 = libc::SIGXFSZ;

/// Returns the signals that end a run, except those that the parent process set to be ignored.
pub fn ending() -> Vec<i32> {
    let ending = ENDING.into_iter();
    ending.filter(|signal| !is_ignored(*signal)).collect()
}

/// Blocks the signals that end a run in this thread and in those that it starts later. Also blocks
/// those of [`HEARD`] and `others`.
///
/// Signals that the parent process set to be ignored stay ignored: nohup(1) does that with SIGHUP,
/// and shells do it with SIGINT for background jobs.
///
/// # Errors
/// None are known.
pub fn block(others: &[i32]) -> Result<(), Error> {
    let own = [CONTINUED, TOO_LARGE];
    let signals = [&ending()[..], &HEARD, &QUIET, &own, others].concat();
    mask(libc::SIG_BLOCK, &signals).map_err(Error::host("block signals"))
}

/// Unblocks all signals and ignores [`SUSPEND`], also across exec(2). It may be called after
/// fork(2).
///
/// # Errors
/// None are known.
pub fn reset() -> io::Result<()> {
    mask(libc::SIG_SETMASK, &[])?;
    #[expect(unsafe_code, reason = "a signal handler may interrupt anything")]
    // SAFETY: there is no handler.
    match unsafe { libc::signal(SUSPEND, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn mask(how: c_int, signals: &[i32]) -> io::Result<()> {
    let set = create_sigset(signals)?;
    #[expect(unsafe_code, reason = "no safe way to change the mask")]
    // SAFETY: the set is initialised, and the old mask is not returned.
    match unsafe { libc::pthread_sigmask(how, &raw const set, null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Reads blocked signals from a file descriptor, see signalfd(2).
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Reads `signals`.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(signals: &[i32]) -> io::Result<SignalFd> {
        let set = create_sigset(signals)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        #[expect(unsafe_code, reason = "no safe way to make one")]
        // SAFETY: the set is initialised, and signalfd(2) keeps a copy of it.
        let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        #[expect(unsafe_code, reason = "as above")]
        // SAFETY: the descriptor is new, and nothing else owns it.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes a pending signal, if there is one. Does not wait.
    ///
    /// # Errors
    /// The host has no memory left.
    pub fn take(&self) -> io::Result<Option<i32>> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut info) {
            // The number comes first.
            Ok(_) => Ok(info.first_chunk().copied().map(i32::from_ne_bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until a signal can be taken or `other` has an event. Returns whether `other` has one.
    /// `None` waits without a limit.
    ///
    /// # Errors
    /// The host has no memory left.
    pub fn wait(&self, other: &impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
        let [ready] = self.wait_for([other.as_fd()], timeout)?;
        Ok(ready)
    }

    /// Waits until a signal can be taken or one of `others` has an event. Returns which have one.
    ///
    /// # Errors
    /// The host has no memory left.
    pub fn wait_for<const N: usize>(
        &self,
        others: [BorrowedFd<'_>; N],
        timeout: Option<Duration>,
    ) -> io::Result<[bool; N]> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let poll_fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds: Vec<_> = others
            .into_iter()
            .chain([self.0.as_fd()])
            .map(poll_fd)
            .collect();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(others.map(|_| ready.next().unwrap_or(false)))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Stops this process with all its threads until SIGCONT: the default action of SIGTSTP.
pub fn stop() {
    // Cannot fail: a process may always signal itself.
    let _ = kill_process(getpid(), Signal::STOP);
}

/// Installs a handler in all threads. `flags` are those of sigaction(2).
///
/// # Errors
/// `signal` cannot be caught.
///
/// # Safety
/// The handler may interrupt anything, so it calls only async-signal-safe functions.
#[expect(unsafe_code, reason = "a signal handler may interrupt anything")]
pub unsafe fn catch(signal: i32, handler: extern "C" fn(c_int), flags: c_int) -> io::Result<()> {
    // SAFETY: zeroed bytes are a valid sigaction, with an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = flags;
    // SAFETY: the action is initialised, and the caller vouches for the handler.
    match unsafe { libc::sigaction(signal, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether `signal` is ignored, by the parent process or by this one.
pub fn is_ignored(signal: i32) -> bool {
    let mut found = MaybeUninit::<libc::sigaction>::zeroed();
    #[expect(unsafe_code, reason = "no safe way to read an action")]
    // SAFETY: with no new action, sigaction(2) only writes the current one to `found`, which is
    // large enough.
    let result = unsafe { libc::sigaction(signal, null(), found.as_mut_ptr()) };
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: zeroed bytes are a valid sigaction, and so is what the kernel wrote over them.
    let found = unsafe { found.assume_init() };
    result == 0 && found.sa_sigaction == libc::SIG_IGN
}
