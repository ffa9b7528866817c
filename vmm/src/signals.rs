//! The signals with which a user, a shell or a service manager controls a run.

use std::process;
use std::ptr::null;
use std::thread::Builder;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, raise};

use crate::error::Error;
use crate::{pidfile, terminal};

/// SIGTERM from a service manager, SIGINT from a terminal in cooked mode, SIGHUP from a terminal
/// that was closed.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// A disk's size has changed. No effect under QEMU.
pub const RESIZED: Signal = Signal::SIGUSR2;

/// Requests the statistics of a run in progress. No effect without `--stats`.
pub const REPORT: Signal = Signal::SIGUSR1;

/// Signals that are requests and do not end the run.
pub const HEARD: [Signal; 2] = [RESIZED, REPORT];

/// A shell's job control stops this process. The guest is paused first.
pub const SUSPEND: Signal = Signal::SIGTSTP;

/// This process continues after a stop. The shell may have changed the terminal's mode.
pub const CONTINUED: Signal = Signal::SIGCONT;

/// Signals that must not be delivered to a thread that does not wait for them: a changed window
/// size, and a change of the terminal's mode from the background.
const QUIET: [Signal; 2] = [Signal::SIGWINCH, Signal::SIGTTOU];

/// Another signal within this time after the signal that ends a run is the same: timeout(1) and
/// shells signal both the process and its group.
const SAME: Duration = Duration::from_millis(500);

/// A write beyond the file size limit (ulimit -f) must fail like a write to a full disk, not end
/// the process.
const TOO_LARGE: Signal = Signal::SIGXFSZ;

/// Returns the signals that end a run, except those that the parent process set to be ignored.
pub fn ending() -> SigSet {
    let ending = ENDING.into_iter();
    ending.filter(|signal| !ignored(*signal)).collect()
}

/// Blocks the signals that end a run in this thread and in those that it starts later, and returns
/// them for signalfd or sigwait. Also blocks those of [`HEARD`].
///
/// Signals that the parent process set to be ignored stay ignored: nohup(1) does that with SIGHUP,
/// and shells do it with SIGINT for background jobs.
pub fn block() -> Result<SigSet, Error> {
    let signals = ending();
    let mut blocked = signals;
    let others = HEARD.into_iter().chain(QUIET);
    others.for_each(|signal| blocked.add(signal));
    blocked.add(CONTINUED);
    blocked.add(TOO_LARGE);
    blocked
        .thread_block()
        .map_err(Error::host("block signals"))?;
    Ok(signals)
}

/// Blocks [`SUSPEND`], as [`block`] does with others.
///
/// # Errors
/// None are known.
pub fn block_suspend() -> Result<(), Error> {
    let suspend = SigSet::from_iter([SUSPEND]);
    suspend.thread_block().map_err(Error::host("block signals"))
}

/// Stops this process with all its threads until SIGCONT: the default action of SIGTSTP.
pub fn stop() {
    // Cannot fail: a process may always signal itself.
    let _ = raise(Signal::SIGSTOP);
}

/// Call it after a signal has ended the run, which takes until the current request is complete.
/// From here on another signal ends the process at once. The terminal is restored and the pidfile
/// removed first.
pub fn end_at_once_by_another() {
    let (signals, first) = (ending(), Instant::now());
    let end = move || {
        while let Ok(signal) = signals.wait() {
            if first.elapsed() >= SAME {
                terminal::restore();
                pidfile::remove();
                process::exit(128 + signal as i32);
            }
        }
    };
    // Without this thread, the run ends normally.
    let _ = Builder::new().name("signals".into()).spawn(end);
}

fn ignored(signal: Signal) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    #[expect(unsafe_code, reason = "nix can only look at an action by replacing it")]
    // SAFETY: with no new action, sigaction(2) only writes the current one to `found`, which is
    // large enough.
    let result = unsafe { libc::sigaction(signal as libc::c_int, null(), found.as_mut_ptr()) };
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: zeroed bytes are a valid sigaction, and so is what the kernel wrote over them.
    let found = unsafe { found.assume_init() };
    result == 0 && found.sa_sigaction == libc::SIG_IGN
}
