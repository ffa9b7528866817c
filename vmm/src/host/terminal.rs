//! The user's terminal as a back end of the guest's consoles.
//!
//! ```text
//!  stdin ── thread: Ctrl-a q, x, h, … ───┬▶ pipe ──▶ virtio and SBI console: first reader wins
//!                                        └▶ pipe ──▶ serial port, while the guest has it open
//!  consoles ──▶ stdout, which never blocks (terminal/stdout.rs)
//! ```
//! The read ends of the pipes are non-blocking. Other programs that share stdin or stdout (the
//! shell, a pager) never find them non-blocking or raw afterwards.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use devices::output::Lost;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;

mod carrier;
mod escape;
mod mode;
mod stdout;
mod window;

use carrier::Carrier;
pub use carrier::Key;
use escape::Escape;
use mode::Restore;
pub(crate) use mode::restore;
pub use mode::{continued, install_panic_hook, suspend};
use stdout::Stdout;
pub use window::{Watch, size};

/// Stdin and stdout while the guest uses them. Dropping this restores the terminal.
#[derive(Debug)]
pub struct Terminal {
    input: OwnedFd,
    serial: OwnedFd,
    serial_listens: Arc<AtomicBool>,
    lost: Arc<Lost>,
    // Dropped first: the last output goes out while the terminal has our mode.
    stdout: Stdout,
    _restore: Restore,
}

impl Terminal {
    /// Puts the terminal into raw mode, if stdin is a terminal, and starts to copy stdin to
    /// [`Terminal::input`].
    ///
    /// Ctrl-a is special only at a terminal: input from a file or a pipe is passed on unchanged.
    /// `typed` is called in another thread for a key that is a request. [`Key::Leave`] is the last.
    pub fn start(typed: impl FnMut(Key) + Send + 'static) -> Result<Terminal, Error> {
        let is_terminal = io::stdin().is_terminal();
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
                .map_err(Error::host("create a pipe for stdin"))
        };
        let ((input, sink), (serial, serial_sink)) = (pipe()?, pipe()?);
        let serial_listens = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(Lost::new("stdout"));
        let stdout = Stdout::open(&lost).map_err(Error::host("open stdout"))?;
        let restore = Restore::raw().map_err(Error::host("put the terminal into raw mode"))?;
        let escape = is_terminal.then(Escape::default);
        let sinks = [sink.into(), serial_sink.into()];
        let carrier = Carrier::new(sinks, Arc::clone(&serial_listens), escape);
        std::thread::Builder::new()
            .name("terminal".into())
            .spawn(move || carrier.run(typed))
            .map_err(Error::host("start the terminal's thread"))?;
        Ok(Terminal { input, serial, serial_listens, lost, stdout, _restore: restore })
    }

    /// Returns the read end of the pipe with the input. It never blocks, and ends when stdin has
    /// ended.
    ///
    /// All clones share one pipe: the first reader gets the bytes.
    pub fn input(&self) -> Result<File, Error> {
        duplicate(&self.input)
    }

    /// As [`Terminal::input`], for the input that arrives while [`Terminal::serial_listens`] is
    /// set.
    pub fn serial_input(&self) -> Result<File, Error> {
        duplicate(&self.serial)
    }

    /// Returns a flag to set while the guest has the serial port open, which then gets all input.
    /// Otherwise the virtio console, whose driver reads input at once, would leave nothing for a
    /// shell on the serial port.
    pub fn serial_listens(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.serial_listens)
    }

    /// Returns stdout as a descriptor whose writes never block.
    pub fn output(&self) -> Result<File, Error> {
        let clone = self.stdout.output.try_clone();
        clone.map_err(Error::host("duplicate stdout"))
    }

    /// Returns the count of lost output.
    pub fn lost(&self) -> &Arc<Lost> {
        &self.lost
    }
}

impl Drop for Terminal {
    /// Begins a new line for the shell's prompt and for messages.
    fn drop(&mut self) {
        if self.lost.is_mid_line() && io::stdin().is_terminal() && io::stdout().is_terminal() {
            // There is no way to report an error.
            let _ = (&self.stdout.output).write(b"\n");
        }
    }
}

fn duplicate(fd: &OwnedFd) -> Result<File, Error> {
    let clone = fd.try_clone();
    let clone = clone.map_err(Error::host("duplicate the pipe of stdin"))?;
    Ok(clone.into())
}
