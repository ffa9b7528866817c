//! The mode of the terminal at stdin. It is restored however this process ends, except by SIGKILL.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};

/// The original mode. Plain data, so that a signal handler can read it.
static FOUND: OnceLock<libc::termios> = OnceLock::new();
/// Whether the terminal may have a mode other than the original one.
static CHANGED: AtomicBool = AtomicBool::new(false);
/// Whether this run needs raw mode while it is in the foreground.
static RAW: AtomicBool = AtomicBool::new(false);

/// Signals that kill a process that does not handle them: sent by a user, or raised by a fault.
const DEADLY: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGABRT,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// Restores the terminal's mode when dropped, on a panic (see [`install_panic_hook`]) or on a
/// deadly signal.
#[derive(Debug)]
pub struct Restore(());

impl Restore {
    /// Saves the mode for a child that will change it. Does nothing if stdin is not a terminal.
    pub fn later() -> io::Result<Restore> {
        if io::stdin().is_terminal() {
            let mode = tcgetattr(io::stdin())?;
            FOUND.get_or_init(|| mode.into());
            CHANGED.store(true, Ordering::SeqCst);
            catch_deadly_signals()?;
        }
        Ok(Restore(()))
    }

    /// Saves the mode and sets raw mode: no line editing, no signals, no echo. In the background
    /// this is postponed until the shell brings this process to the foreground ([`continued`]).
    pub(super) fn raw() -> io::Result<Restore> {
        let restore = Restore::later()?;
        RAW.store(io::stdin().is_terminal(), Ordering::SeqCst);
        take()?;
        Ok(restore)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        restore();
    }
}

/// As cfmakeraw(3), but with output processing (OPOST): lines that end with a newline only, from
/// the guest or from this program, would otherwise not return to the first column.
fn make_raw(mode: &mut Termios) {
    mode.input_flags &= !(InputFlags::IGNBRK
        | InputFlags::BRKINT
        | InputFlags::PARMRK
        | InputFlags::ISTRIP
        | InputFlags::INLCR
        | InputFlags::IGNCR
        | InputFlags::ICRNL
        | InputFlags::IXON);
    mode.local_flags &= !(LocalFlags::ECHO
        | LocalFlags::ECHONL
        | LocalFlags::ICANON
        | LocalFlags::ISIG
        | LocalFlags::IEXTEN);
    let minimum = SpecialCharacterIndices::VMIN as usize;
    let time = SpecialCharacterIndices::VTIME as usize;
    for (index, value) in [(minimum, 1), (time, 0)] {
        if let Some(character) = mode.control_chars.get_mut(index) {
            *character = value;
        }
    }
}

/// Whether this process may change the terminal's mode. Not in the background: tcsetattr(3) would
/// change the shell's mode, or stop this process. Async-signal-safe.
pub(super) fn is_foreground() -> bool {
    // A terminal that is not the controlling terminal has no foreground.
    tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
}

/// Sets raw mode, if this run needs it and may change the mode.
fn take() -> io::Result<()> {
    if RAW.load(Ordering::SeqCst)
        && is_foreground()
        && let Some(mode) = FOUND.get()
    {
        let mut mode = Termios::from(*mode);
        make_raw(&mut mode);
        CHANGED.store(true, Ordering::SeqCst);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &mode)?;
    }
    Ok(())
}

/// Restores the original mode, calls `stop`, which stops the process as job control does, and sets
/// raw mode again afterwards, if the process is in the foreground then.
pub fn suspend(stop: impl FnOnce()) {
    let changed = CHANGED.load(Ordering::SeqCst);
    restore();
    stop();
    // A child that sets the mode, such as QEMU, sets it again.
    CHANGED.store(changed, Ordering::SeqCst);
    continued();
}

/// Handles SIGCONT: in the foreground, sets the mode that this run needs, whatever the shell has
/// set meanwhile.
pub fn continued() {
    // A closed terminal needs no mode.
    let _ = take();
}

/// Restores the terminal's mode, once. Async-signal-safe: an atomic, plain data, tcsetattr(3).
pub(crate) fn restore() {
    if CHANGED.swap(false, Ordering::SeqCst)
        && is_foreground()
        && let Some(mode) = FOUND.get()
    {
        // A closed terminal needs no mode.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &Termios::from(*mode));
    }
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore();
    // SA_RESETHAND has restored the default action, which follows when this handler returns.
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = raise(signal);
    }
}

/// Catches deadly signals. Those that a thread waits for with signalfd stay blocked and do not get
/// here.
fn catch_deadly_signals() -> io::Result<()> {
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::Handler(restore_and_die), flags, SigSet::empty());
    for signal in DEADLY {
        let found = set_action(signal, &action)?;
        if matches!(found.handler(), SigHandler::SigIgn) {
            // nohup(1) and similar programs want this signal to be ignored.
            set_action(signal, &found)?;
        }
    }
    Ok(())
}

fn set_action(signal: Signal, action: &SigAction) -> io::Result<SigAction> {
    #[expect(unsafe_code, reason = "a signal handler may interrupt anything")]
    // SAFETY: the only handler here is restore_and_die, which calls only async-signal-safe
    // functions (see restore()), and the others are the ones that were installed.
    let found = unsafe { sigaction(signal, action) };
    Ok(found?)
}

/// Makes a panic in any thread end the process with status 4, after it restores the terminal,
/// removes the pidfile and prints one line to stderr.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        restore();
        crate::pidfile::remove();
        let text = info.to_string().replace('\n', " ");
        crate::stderr::line(format_args!("internal error: {text}"));
        std::process::exit(4);
    }));
}
