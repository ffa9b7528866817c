//! The signals by which a user, a shell or a service manager ends a run.

use std::ptr::null;

use nix::sys::signal::{SigSet, Signal};

use crate::error::Error;

/// SIGTERM from a service manager, SIGINT from a terminal that is not raw, SIGHUP from a terminal that is gone.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Keeps the signals that end a run from ending the process, in this thread and those it starts from here on, and gives
/// them, to be waited for.
///
/// Those that whoever started us has set to be ignored (nohup(1) does so with SIGHUP, a shell with SIGINT for what runs in
/// the background) are left out, and stay without effect.
pub fn block() -> Result<SigSet, Error> {
    let signals: SigSet = ENDING
        .into_iter()
        .filter(|signal| !ignored(*signal))
        .collect();
    signals.thread_block().map_err(|errno| Error::Host {
        what: "block signals".into(),
        source: errno.into(),
    })?;
    Ok(signals)
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
