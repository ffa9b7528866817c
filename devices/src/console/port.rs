//! One port of a console: two files, and the two queues that are connected to them.
//!
//! Nothing is buffered here. While the output accepts nothing, the driver's buffer waits in its
//! queue, partly written if need be. While there is no input, or no buffer for it, the input waits
//! in its file. So no file should block; one that does stalls only the ports of its console.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::port_state::PortState;
use crate::output::Output;
use crate::output::timed::is_nonblocking;
use crate::timer::Timer;
use crate::virtio::chain::Chain;

/// A port: its files, its state and its write timeout.
pub(super) struct Port {
    pub(super) input: File,
    pub(super) output: Arc<Output>,
    input_ended: bool,
    /// `None` if output waits without a limit.
    pub(super) timeout: Option<WriteTimeout>,
    pub(super) name: Option<String>,
    /// `None` if a client is always connected.
    pub(super) link: Option<Arc<Link>>,
    pub(super) state: PortState,
}

impl Port {
    pub(super) fn new(input: File, output: Output) -> Port {
        Port {
            input,
            output: Arc::new(output),
            input_ended: false,
            timeout: None,
            name: None,
            link: None,
            state: PortState::default(),
        }
    }

    /// Fills a buffer of the driver with input; `None` if there is none now.
    pub(super) fn fill(&mut self, chain: &mut Chain) -> Option<u32> {
        if self.input_ended {
            return None;
        }
        // A buffer without writable bytes could never be filled, so it is returned.
        if chain.writable().is_empty() {
            return Some(0);
        }
        match chain.writable().read_from(self.input.as_fd()) {
            // It fits: a read returns less than 2^31 bytes.
            Ok(count @ 1..) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(0) | Err(_) => {
                self.input_ended = true;
                None
            }
        }
    }

    /// Writes a buffer of the driver to the output; `None` if the output accepts no more now.
    pub(super) fn empty(&mut self, chain: &mut Chain) -> Option<u32> {
        while !chain.readable().is_empty() {
            match chain.readable().write_to(self.output.as_fd()) {
                Ok(_) => self.progress(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match &mut self.timeout {
                        Some(timeout) if timeout.has_expired => {
                            self.output.lost().add(chain.readable().len());
                            break;
                        }
                        Some(timeout) => timeout.start(),
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

    /// Stops the write timeout: the output accepted bytes, or there are none to write.
    pub(super) fn progress(&mut self) {
        if let Some(timeout) = &mut self.timeout {
            timeout.stop();
        }
    }

    /// Whether a write never blocks: the output is nonblocking, or a regular file.
    pub(super) fn never_waits(&self) -> bool {
        let file = self.output.file();
        is_nonblocking(file) || file.metadata().is_ok_and(|it| it.is_file())
    }

    /// Whether a client is connected.
    pub(super) fn is_linked(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.is_open())
    }
}

/// A timer for output whose reader accepts nothing.
pub(super) struct WriteTimeout {
    timer: Timer,
    limit: Duration,
    is_waiting: bool,
    /// The timer has fired since the last progress: output is dropped.
    has_expired: bool,
}

impl WriteTimeout {
    pub(super) fn new(limit: Duration) -> io::Result<WriteTimeout> {
        Ok(WriteTimeout { timer: Timer::new()?, limit, is_waiting: false, has_expired: false })
    }

    /// Starts the timer, unless it runs already.
    fn start(&mut self) {
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.timer.set(self.limit);
        }
    }

    fn stop(&mut self) {
        self.has_expired = false;
        if std::mem::take(&mut self.is_waiting) {
            self.timer.set(Duration::ZERO);
        }
    }

    /// Called when the timer has fired.
    pub(super) fn expire(&mut self) {
        self.has_expired |= std::mem::take(&mut self.is_waiting);
    }

    #[cfg(test)]
    pub(super) fn is_running(&self) -> bool {
        self.timer.is_running()
    }

    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
