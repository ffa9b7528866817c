//! One port of a console: two files, and the two queues between which and them bytes move.
//!
//! Nothing is buffered here. While the output takes no more, the driver's buffer waits in its queue, half written if
//! need be. While there is no input, or no buffer for it, the input waits in its file. So no file should block, and one
//! that does stalls its console's ports alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::known::Known;
use super::signal::Link;
use crate::output::Output;
use crate::virtio::chain::Chain;

/// A port's files, what the driver knows of it, and how long its output waits.
pub(super) struct Port {
    pub(super) input: File,
    pub(super) output: Arc<Output>,
    input_ended: bool,
    /// Without one, output waits for as long as it takes.
    pub(super) patience: Option<Patience>,
    pub(super) name: Option<String>,
    /// Without one, somebody is always at the far end.
    pub(super) link: Option<Arc<Link>>,
    pub(super) known: Known,
}

impl Port {
    pub(super) fn new(input: File, output: Output) -> Port {
        Port {
            input,
            output: Arc::new(output),
            input_ended: false,
            patience: None,
            name: None,
            link: None,
            known: Known::default(),
        }
    }

    /// Fills a buffer of the driver's with input; `None` when there is none for now.
    pub(super) fn fill(&mut self, chain: &mut Chain) -> Option<u32> {
        if self.input_ended {
            return None;
        }
        // A buffer without room could never be filled: it goes back empty.
        if chain.writable().is_empty() {
            return Some(0);
        }
        match chain.writable().read_from(self.input.as_fd()) {
            // A chain has at most 2^32 bytes, and no read gives more than 2^31.
            Ok(count @ 1..) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(0) | Err(_) => {
                self.input_ended = true;
                None
            }
        }
    }

    /// Writes all of a buffer of the driver's out; `None` when the output takes no more for now.
    pub(super) fn empty(&mut self, chain: &mut Chain) -> Option<u32> {
        while !chain.readable().is_empty() {
            match chain.readable().write_to(self.output.as_fd()) {
                Ok(_) => self.calm(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match &mut self.patience {
                        Some(patience) if patience.is_lost => {
                            self.output.lost().add(chain.readable().len());
                            break;
                        }
                        Some(patience) => patience.begin(),
                        None => {}
                    }
                    return None;
                }
                Err(error) => {
                    self.output.lost().failed(chain.readable().len(), &error);
                    break;
                }
            }
        }
        Some(0)
    }

    /// The reader took something, or there is nothing for it any more.
    pub(super) fn calm(&mut self) {
        if let Some(patience) = &mut self.patience {
            patience.end();
        }
    }

    /// Whether the output takes at once what it takes: it does not block, or is a regular file, which takes everything.
    pub(super) fn never_waits(&self) -> bool {
        let file = self.output.file();
        let nonblocking = fcntl_getfl(file).is_ok_and(|it| it.contains(OFlags::NONBLOCK));
        nonblocking || file.metadata().is_ok_and(|it| it.is_file())
    }

    /// Whether somebody is at the far end.
    pub(super) fn is_linked(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.is_open())
    }
}

/// How long output waits for a reader that takes nothing.
pub(super) struct Patience {
    timer: OwnedFd,
    limit: Duration,
    is_waiting: bool,
    /// The reader has stopped.
    is_lost: bool,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> io::Result<Patience> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Patience {
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            limit,
            is_waiting: false,
            is_lost: false,
        })
    }

    /// Output begins to wait, unless it does so already.
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.set(self.limit);
        }
    }

    fn end(&mut self) {
        self.is_lost = false;
        if std::mem::take(&mut self.is_waiting) {
            self.set(Duration::ZERO);
        }
    }

    /// Lets the timer go off after `limit`, once; never if that is zero.
    fn set(&self, limit: Duration) {
        let it_value = Timespec::try_from(limit).unwrap_or_default();
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value,
        };
        // Not set, output waits for longer; still set, little is dropped.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
    }

    /// The timer went off.
    pub(super) fn is_over(&mut self) {
        self.is_lost |= std::mem::take(&mut self.is_waiting);
    }

    #[cfg(test)]
    pub(super) fn is_running(&self) -> bool {
        let left = rustix::time::timerfd_gettime(&self.timer).unwrap();
        left.it_value != Timespec::default()
    }

    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
