//! The mode of the terminal at stdin. It is restored however this process ends, except by SIGKILL.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::signals;

/// The original mode. Plain data, so that a signal handler can read it.
static FOUND: OnceLock<Termios> = OnceLock::new();
/// Whether the terminal may have a mode other than the original one.
static CHANGED: AtomicBool = AtomicBool::new(false);
/// Whether this run needs raw mode while it is in the foreground.
static RAW: AtomicBool = AtomicBool::new(false);
/// Whether raw mode waits until this process is in the foreground.
static POSTPONED: AtomicBool = AtomicBool::new(false);

/// Signals that kill a process that does not handle them: sent by a user, or raised by a fault.
const DEADLY: [c_int; 9] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
];

/// Restores the terminal's mode when dropped, on a panic (see [`install_panic_hook`]) or on a
/// deadly signal.
#[derive(Debug)]
pub(super) struct Restore(());

impl Restore {
    /// Saves the mode. Does nothing if stdin is not a terminal.
    fn saved() -> io::Result<Restore> {
        if io::stdin().is_terminal() {
            let mode = tcgetattr(io::stdin())?;
            FOUND.get_or_init(|| mode);
            CHANGED.store(true, Ordering::SeqCst);
            catch_deadly_signals()?;
        }
        Ok(Restore(()))
    }

    /// Saves the mode and sets raw mode: no line editing, no signals, no echo. In the background
    /// this is postponed until the shell brings this process to the foreground ([`continued`],
    /// [`follow_shell`]).
    pub(super) fn raw() -> io::Result<Restore> {
        let restore = Restore::saved()?;
        RAW.store(io::stdin().is_terminal(), Ordering::SeqCst);
        take()?;
        Ok(restore)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // follow_shell() sets no mode after this.
        RAW.store(false, Ordering::SeqCst);
        restore();
    }
}

/// As cfmakeraw(3), but with output processing (OPOST): lines that end with a newline only, from
/// the guest or from this program, would otherwise not return to the first column.
fn make_raw(mode: &mut Termios) {
    let output = mode.output_modes;
    mode.make_raw();
    mode.output_modes = output;
}

/// Whether this process may change the terminal's mode. Not in the background: tcsetattr(3) would
/// change the shell's mode, or stop this process. Async-signal-safe.
pub(super) fn is_foreground() -> bool {
    // Not by rustix: the id of a group that begins outside of this PID namespace is 0.
    #[expect(unsafe_code, reason = "as said")]
    // SAFETY: only returns an id.
    let foreground = unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) };
    #[expect(unsafe_code, reason = "as said")]
    // SAFETY: as above.
    let own = unsafe { libc::getpgrp() };
    // A terminal that is not the controlling terminal has no foreground.
    foreground < 0 || foreground == own
}

/// Sets raw mode, if this run needs it. In the background, postpones it.
fn take() -> io::Result<()> {
    if RAW.load(Ordering::SeqCst)
        && let Some(mode) = FOUND.get()
    {
        let foreground = is_foreground();
        POSTPONED.store(!foreground, Ordering::SeqCst);
        if !foreground {
            return Ok(());
        }
        let mut mode = mode.clone();
        make_raw(&mut mode);
        CHANGED.store(true, Ordering::SeqCst);
        tcsetattr(io::stdin(), OptionalActions::Now, &mode)?;
    }
    Ok(())
}

/// Restores the original mode, calls `stop`, which stops the process as job control does, and sets
/// raw mode again afterwards, if the process is in the foreground then.
pub fn suspend(stop: impl FnOnce()) {
    restore();
    stop();
    continued();
}

/// Handles SIGCONT: in the foreground, sets the mode that this run needs, whatever the shell has
/// set meanwhile.
pub fn continued() {
    // A closed terminal needs no mode.
    let _ = take();
}

/// Returns whether this process is in the foreground, and sets the mode that was postponed until
/// then. A shell sends no SIGCONT when it moves a job there that was never stopped.
pub(super) fn follow_shell() -> bool {
    let foreground = is_foreground();
    if !foreground {
        POSTPONED.store(true, Ordering::SeqCst);
    } else if POSTPONED.load(Ordering::SeqCst) {
        continued();
    }
    foreground
}

/// Restores the terminal's mode, once. Async-signal-safe: an atomic, plain data, tcsetattr(3).
pub(crate) fn restore() {
    if CHANGED.swap(false, Ordering::SeqCst)
        && is_foreground()
        && let Some(mode) = FOUND.get()
    {
        // A closed terminal needs no mode.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, mode);
    }
}

extern "C" fn restore_and_die(signal: c_int) {
    restore();
    #[expect(unsafe_code, reason = "no safe way to raise it")]
    // SAFETY: raise(3) is async-signal-safe. SA_RESETHAND has restored the default action, which
    // follows when this handler returns.
    unsafe {
        libc::raise(signal);
    }
}

/// Catches deadly signals. Those that a thread waits for with signalfd stay blocked and do not get
/// here. Those that nohup(1) and similar programs ignore stay ignored.
fn catch_deadly_signals() -> io::Result<()> {
    let flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
    for signal in DEADLY {
        if !signals::is_ignored(signal) {
            #[expect(unsafe_code, reason = "a signal handler may interrupt anything")]
            // SAFETY: restore_and_die calls only async-signal-safe functions (see restore()).
            unsafe {
                signals::catch(signal, restore_and_die, flags)?;
            }
        }
    }
    Ok(())
}

/// Makes a panic in any thread end the process with status 4, after it restores the terminal,
/// removes the pidfile and prints one line to stderr. A panic that a device contains is an error of
/// its request.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        if devices::report_if_contained(info) {
            return;
        }
        restore();
        crate::host::pidfile::remove();
        let text = info.to_string().replace('\n', " ");
        crate::stderr::line(format_args!("internal error: {text}"));
        std::process::exit(4);
    }));
}
