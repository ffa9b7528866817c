//! The signals by which a user, a shell or a service manager ends a run, or speaks to it.

use std::process;
use std::ptr::null;
use std::thread::Builder;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, raise};

use crate::error::Error;
use crate::{pidfile, terminal};

/// SIGTERM from a service manager, SIGINT from a terminal that is not raw, SIGHUP from a terminal that is gone.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// A user says that disks have a new size. Under QEMU it has no effect.
pub const RESIZED: Signal = Signal::SIGUSR2;

/// A user wants to see the statistics of a run that goes on. Without `--stats` it has no effect.
pub const REPORT: Signal = Signal::SIGUSR1;

/// Those that end nothing: a user speaks to us by them.
pub const HEARD: [Signal; 2] = [RESIZED, REPORT];

/// A shell's job control stops us. A guest is paused first.
pub const SUSPEND: Signal = Signal::SIGTSTP;

/// We go on after a stop, perhaps with the terminal as a shell left it.
pub const CONTINUED: Signal = Signal::SIGCONT;

/// Those that must not reach a thread that happens to have been started before whoever waits for
/// them: the window has another size; a mode of the terminal is set in the background.
const QUIET: [Signal; 2] = [Signal::SIGWINCH, Signal::SIGTTOU];

/// How long after the signal that ends a run another one counts as the same: timeout(1) and shells
/// send one to the process and to its group.
const SAME: Duration = Duration::from_millis(500);

/// A write beyond the limit of a file's size (ulimit -f) shall fail, as one to a full disk does, not end the process.
const TOO_LARGE: Signal = Signal::SIGXFSZ;

/// The signals that end a run, but those that whoever started us has set to be ignored.
pub fn ending() -> SigSet {
    let ending = ENDING.into_iter();
    ending.filter(|signal| !ignored(*signal)).collect()
}

/// Keeps the signals that end a run from ending the process, in this thread and those it starts from here on, and gives
/// them, to be waited for. Those of [`HEARD`] wait as well.
///
/// Those that whoever started us has set to be ignored (nohup(1) does so with SIGHUP, a shell with SIGINT for what runs in
/// the background) are left out, and stay without effect.
pub fn block() -> Result<SigSet, Error> {
    let signals = ending();
    let mut blocked = signals;
    let others = HEARD.into_iter().chain(QUIET);
    others.for_each(|signal| blocked.add(signal));
    blocked.add(CONTINUED);
    blocked.add(TOO_LARGE);
    blocked.thread_block().map_err(|errno| Error::Host {
        what: "block signals".into(),
        source: errno.into(),
    })?;
    Ok(signals)
}

/// Keeps [`SUSPEND`] from stopping the process, as [`block`] does with others.
///
/// # Errors
/// None are known.
pub fn block_suspend() -> Result<(), Error> {
    let suspend = SigSet::from_iter([SUSPEND]);
    suspend.thread_block().map_err(|errno| Error::Host {
        what: "block signals".into(),
        source: errno.into(),
    })
}

/// Stops this process, all its threads, until somebody continues it (SIGCONT): what SIGTSTP does to others.
pub fn stop() {
    // Cannot fail: a process may always signal itself.
    let _ = raise(Signal::SIGSTOP);
}

/// A signal has ended the run, which takes until the request in hand is done. From here on another
/// one ends the process at once, with the terminal restored and the pidfile removed.
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
    // Without a thread for it, the run ends as it would anyway.
    let _ = Builder::new().name("signals".into()).spawn(end);
}

fn ignored(signal: Signal) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    #[expect(unsafe_code, reason = "nix can only look at an action by replacing it")]
    // SAFETY: with no new action, sigaction(2) only writes the present one to `found`, which is large enough.
    let result = unsafe { libc::sigaction(signal as libc::c_int, null(), found.as_mut_ptr()) };
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: zeroed bytes are a valid sigaction, and so is what the kernel wrote over them.
    let found = unsafe { found.assume_init() };
    result == 0 && found.sa_sigaction == libc::SIG_IGN
}
