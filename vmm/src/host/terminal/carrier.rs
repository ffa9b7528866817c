//! Copies stdin to the pipes of the consoles, in its own thread.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use vmm_sys_util::signal::block_signal;

use super::escape::{Action, Escape};
use super::mode;
use crate::stderr;

/// The text for Ctrl-a h. Output processing stays enabled in raw mode, so a newline is enough.
const HELP: &str = "
Ctrl-a q       ask the guest to power off; a second time, or without a driver: as Ctrl-a x
Ctrl-a x       leave the guest (as if its power was cut)
Ctrl-a h       this help
Ctrl-a Ctrl-a  send one Ctrl-a to the guest
";

/// Maximum number of typed bytes that wait for the guest, besides those in the pipe. A terminal is
/// read meanwhile, so that Ctrl-a x is recognized after a long paste that the guest does not read.
/// A longer paste blocks.
const TYPED_MAX: usize = 4 << 20;
/// The same for a file or a pipe, which has no Ctrl-a x and can wait.
const PIPED_MAX: usize = 1 << 16;
/// Interval at which a waiting thread checks whether the guest has opened or closed its serial
/// port, and whether the process is in the foreground again: 100 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A key after Ctrl-a that is a request of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// q: ask the guest to power off.
    PowerOff,
    /// x: leave the guest.
    Leave,
}

/// The state of the thread.
pub(super) struct Carrier {
    /// The pipes of the virtio and SBI console, and of the serial port.
    sinks: [File; 2],
    serial_listens: Arc<AtomicBool>,
    /// `Some` if stdin is a terminal.
    escape: Option<Escape>,
    pending: VecDeque<u8>,
    ended: bool,
    /// At a terminal, while a shell has this process in the background: others read the terminal.
    background: bool,
}

impl Carrier {
    /// Copies to `sinks`, which are non-blocking: to the second one while `serial_listens` is set.
    pub(super) fn new(
        sinks: [File; 2],
        serial_listens: Arc<AtomicBool>,
        escape: Option<Escape>,
    ) -> Carrier {
        Carrier {
            sinks,
            serial_listens,
            escape,
            pending: VecDeque::new(),
            ended: false,
            background: false,
        }
    }

    /// Runs until stdin has ended and everything is copied, or the user quits.
    pub(super) fn run(mut self, mut request: impl FnMut(Key)) {
        // A read in the background then fails; it would stop the process.
        let _ = block_signal(libc::SIGTTIN);
        while !self.ended || !self.pending.is_empty() {
            self.background = self.escape.is_some() && !mode::follow_shell();
            let readable = self.wait();
            if readable && self.take(&mut request) {
                return;
            }
            if self.give().is_err() {
                return;
            }
        }
    }

    fn sink(&self) -> &File {
        let [consoles, serial] = &self.sinks;
        match self.serial_listens.load(Ordering::SeqCst) {
            true => serial,
            false => consoles,
        }
    }

    /// Waits for input if there is space for it, and for space in the sink if there is input.
    /// Returns whether stdin is readable or has ended.
    fn wait(&self) -> bool {
        let stdin = io::stdin();
        let limit = match self.escape {
            Some(_) => TYPED_MAX,
            None => PIPED_MAX,
        };
        let wanted = !self.ended && !self.background && self.pending.len() < limit;
        let mut fds = Vec::with_capacity(2);
        if wanted {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        if !self.pending.is_empty() {
            fds.push(PollFd::new(self.sink(), PollFlags::OUT));
        }
        let look = self.background || !self.pending.is_empty();
        let ready = poll(&mut fds, look.then_some(&LOOK));
        let first = fds.first().map(PollFd::revents);
        wanted && ready.is_ok() && first.is_some_and(|events| !events.is_empty())
    }

    /// Reads stdin. Returns true if the user quits.
    fn take(&mut self, request: &mut impl FnMut(Key)) -> bool {
        let mut buffer = [0; 4096];
        // Not through std's buffered reader, whose buffer poll() does not see.
        let bytes = match read(io::stdin(), buffer.as_mut_slice()) {
            Ok(count @ 1..) => buffer.get(..count).unwrap_or_default(),
            Err(Errno::INTR | Errno::AGAIN) => return false,
            // The process has just been moved to the background.
            Err(Errno::IO) if self.escape.is_some() && !mode::is_foreground() => return false,
            Ok(0) | Err(_) => {
                self.ended = true;
                return false;
            }
        };
        match &mut self.escape {
            None => self.pending.extend(bytes),
            Some(escape) => {
                let (typed, left) = typed(escape, bytes, request);
                self.pending.extend(typed);
                return left;
            }
        }
        false
    }

    /// Writes as much as the sink accepts.
    fn give(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            let (bytes, _) = self.pending.as_slices();
            match self.sink().write(bytes) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns the bytes for the guest, and whether the user quits.
fn typed(escape: &mut Escape, bytes: &[u8], request: &mut impl FnMut(Key)) -> (Vec<u8>, bool) {
    let mut typed = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match escape.feed(*byte) {
            Action::Send(byte) => typed.push(byte),
            Action::Nothing => {}
            Action::Help => stderr::write(HELP.as_bytes()),
            Action::PowerOff => request(Key::PowerOff),
            Action::Leave => {
                request(Key::Leave);
                return (typed, true);
            }
        }
    }
    (typed, false)
}
