//! The mode of the terminal at stdin, and that it is restored whatever ends this process (but
//! SIGKILL).

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};

/// The mode that was found first. Kept as plain data, so that a signal handler can read it.
static FOUND: OnceLock<libc::termios> = OnceLock::new();
/// Whether the terminal may have another mode than the one found.
static CHANGED: AtomicBool = AtomicBool::new(false);
/// Whether this run wants the terminal raw while it is in the foreground.
static RAW: AtomicBool = AtomicBool::new(false);

/// Signals that end a process that does not handle them: those a user sends, and those of a fault.
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

/// Restores the terminal's mode when dropped, by a panic (see [`install_panic_hook`]) or by a
/// deadly signal.
#[derive(Debug)]
pub struct Restore(());

impl Restore {
    /// Remembers the mode for a child that will change it. Nothing happens if stdin is no terminal.
    pub fn later() -> io::Result<Restore> {
        if io::stdin().is_terminal() {
            let mode = tcgetattr(io::stdin())?;
            FOUND.get_or_init(|| mode.into());
            CHANGED.store(true, Ordering::SeqCst);
            catch_deadly_signals()?;
        }
        Ok(Restore(()))
    }

    /// Remembers the mode and makes it raw: each byte at once, none with a meaning, no echo. In the
    /// background that has to wait until the shell gives us the terminal ([`continued`]).
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

/// As cfmakeraw(3), but for output processing (OPOST): a guest that ends its lines with a line feed
/// alone, and our own messages, would run down the screen like stairs.
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

/// Whether the terminal at stdin is ours to change: not while a shell has us in the background,
/// when tcsetattr(3) would change the shell's mode, or stop us. Async-signal-safe.
fn is_foreground() -> bool {
    // A terminal that does not control us has no foreground.
    tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
}

/// Makes the terminal raw, if this run wants that and it is ours to change.
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

/// Calls `stop`, which stops the process as job control does, with the terminal in the mode that
/// was found; makes it raw again afterwards, if we are in the foreground then.
pub fn suspend(stop: impl FnOnce()) {
    let changed = CHANGED.load(Ordering::SeqCst);
    restore();
    stop();
    // A child that sets the mode, as QEMU does, does so again.
    CHANGED.store(changed, Ordering::SeqCst);
    continued();
}

/// The process was continued (SIGCONT): in the foreground the terminal gets the mode that we want,
/// whatever the shell made of it meanwhile.
pub fn continued() {
    // A terminal that is gone needs no mode.
    let _ = take();
}

/// Gives the terminal back its mode, once. Async-signal-safe: an atomic, plain data, tcsetattr(3).
pub(crate) fn restore() {
    if CHANGED.swap(false, Ordering::SeqCst)
        && is_foreground()
        && let Some(mode) = FOUND.get()
    {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &Termios::from(*mode));
    }
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore();
    // SA_RESETHAND made the default action that of the signal; it comes when this handler returns.
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = raise(signal);
    }
}

/// Signals that a thread waits for (signalfd) stay blocked and never get here.
fn catch_deadly_signals() -> io::Result<()> {
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::Handler(restore_and_die), flags, SigSet::empty());
    for signal in DEADLY {
        let found = set_action(signal, &action)?;
        if matches!(found.handler(), SigHandler::SigIgn) {
            // nohup(1) and its like asked for this signal to be ignored.
            set_action(signal, &found)?;
        }
    }
    Ok(())
}

fn set_action(signal: Signal, action: &SigAction) -> io::Result<SigAction> {
    #[expect(unsafe_code, reason = "a signal handler may interrupt anything")]
    // SAFETY: the handlers here are restore_and_die, which calls only what is async-signal-safe
    // (see restore()), and what was found in place.
    let found = unsafe { sigaction(signal, action) };
    Ok(found?)
}

/// Makes a panic in any thread end the whole process with status 4, the terminal restored, the
/// pidfile removed and one line on stderr.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        restore();
        crate::pidfile::remove();
        let text = info.to_string().replace('\n', " ");
        crate::stderr::line(format_args!("internal error: {text}"));
        std::process::exit(4);
    }));
}
