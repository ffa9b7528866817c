//! The console device (§ 5.3): one port, two files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use crate::chain::Chain;
use crate::queue::Broken;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};

const QUEUE_SIZE: u16 = 256;

/// Queue indices of port 0 (§ 5.3.2), and our files in the same order.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Index of the timer among our files.
const TIMER: usize = 2;

/// How long output waits for a reader that takes nothing.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Feature bit: cols and rows of the configuration are valid (§ 5.3.3).
const FEATURE_SIZE: u64 = 1 << 0;

/// The size of the window that shows a console, as its driver reads it (§ 5.3.4): cols, then rows, 16 bits each.
///
/// Whoever changes it calls [`Mmio::config_changed`](crate::mmio::Mmio::config_changed) as well.
#[derive(Debug)]
pub struct Window {
    /// Generation in bits 32 to 63, rows, cols: together, so that no half of a change can be seen.
    packed: AtomicU64,
}

impl Window {
    /// A window of `cols` characters in each of `rows` lines.
    pub fn new(cols: u16, rows: u16) -> Window {
        Window {
            packed: AtomicU64::new(packed(cols, rows)),
        }
    }

    /// Changes the size. Says whether it was another.
    pub fn set(&self, cols: u16, rows: u16) -> bool {
        let size = packed(cols, rows);
        let changed = |old: u64| {
            let next = ((old >> 32) + 1) << 32 | size;
            (old & 0xffff_ffff != size).then_some(next)
        };
        let order = Ordering::SeqCst;
        self.packed.fetch_update(order, order, changed).is_ok()
    }
}

fn packed(cols: u16, rows: u16) -> u64 {
    u64::from(rows) << 16 | u64::from(cols)
}

impl ConfigSpace for Window {
    fn read(&self, offset: usize, data: &mut [u8]) {
        // max_nr_ports and emerg_wr, which follow, belong to features that are not offered.
        let size = self.packed.load(Ordering::SeqCst) & 0xffff_ffff;
        size.to_le_bytes().to_vec().read(offset, data);
    }

    fn generation(&self) -> u32 {
        u32::try_from(self.packed.load(Ordering::SeqCst) >> 32).unwrap_or(0)
    }
}

/// A console whose driver reads what `input` gives and whose output goes to `output`.
///
/// Nothing is buffered here. While `output` takes no more, the driver's buffer waits in its queue, half written if need
/// be, but not for ever: Linux' driver waits in a loop, with a lock held and interrupts off, so that a terminal whose
/// reader has stopped would stop the whole guest. After [`PATIENCE`] without progress output is dropped, until some is
/// taken again. While there is no input, or no buffer for it, the input waits in its file. So no file should block, and one that
/// does stalls this console alone.
pub struct Console {
    input: File,
    output: File,
    input_ended: bool,
    window: Option<Arc<Window>>,
    /// Runs while output waits. Without one, output waits for ever.
    timer: Option<TimerFd>,
    waiting: bool,
    /// The reader has stopped.
    dropping: bool,
}

impl Console {
    /// A console between a pair of files, which may be the same one.
    pub fn new(input: File, output: File) -> Console {
        Console {
            input,
            output,
            input_ended: false,
            window: None,
            timer: TimerFd::new().ok(),
            waiting: false,
            dropping: false,
        }
    }

    /// The same, shown in a window whose size the driver is told.
    #[must_use]
    pub fn in_window(self, window: Arc<Window>) -> Console {
        Console {
            window: Some(window),
            ..self
        }
    }

    fn receive(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        let Some(queue) = queues.get(RECEIVE) else {
            return Ok(());
        };
        queue.drain(|chain| {
            if self.input_ended {
                return None;
            }
            // A buffer without room could never be filled: it goes back empty.
            if chain.writable().is_empty() {
                return Some(0);
            }
            match chain.writable().read_from(self.input.as_fd()) {
                Ok(0) => {
                    self.input_ended = true;
                    None
                }
                // A chain has at most 2^32 bytes, and no read gives more than 2^31.
                Ok(count) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(_) => {
                    self.input_ended = true;
                    None
                }
            }
        })
    }

    fn transmit(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        match queues.get(TRANSMIT) {
            Some(queue) => queue.drain(|chain| self.send(chain)),
            None => Ok(()),
        }
    }

    /// All of a buffer, or `None` when the output takes no more for now.
    fn send(&mut self, chain: &mut Chain) -> Option<u32> {
        while !chain.readable().is_empty() {
            match chain.readable().write_to(self.output.as_fd()) {
                Ok(_) => self.progress(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.dropping {
                        break;
                    }
                    self.wait();
                    return None;
                }
                // Nobody reads any more: a console's output may be lost, its guest must not hang.
                Err(_) => break,
            }
        }
        Some(0)
    }
}

impl Console {
    /// The reader took something.
    fn progress(&mut self) {
        self.dropping = false;
        if std::mem::take(&mut self.waiting)
            && let Some(timer) = &mut self.timer
        {
            // Should it go off all the same, little is dropped.
            let _ = timer.clear();
        }
    }

    /// Output begins to wait, unless it does so already.
    fn wait(&mut self) {
        if !std::mem::replace(&mut self.waiting, true)
            && let Some(timer) = &mut self.timer
        {
            let _ = timer.reset(PATIENCE, None);
        }
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        self.window.as_ref().map_or(0, |_| FEATURE_SIZE)
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        match &self.window {
            Some(window) => Arc::clone(window) as Arc<dyn ConfigSpace>,
            // § 5.3.4: cols, rows, max_nr_ports and emerg_wr belong to features that are not offered.
            None => Arc::new(vec![0; 12]),
        }
    }

    fn kicked(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        match index {
            RECEIVE => self.receive(queues),
            _ => self.transmit(queues),
        }
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        let mut files = vec![
            (self.input.as_fd(), Ready::Read),
            (self.output.as_fd(), Ready::Write),
        ];
        files.extend(self.timer.iter().map(|it| (borrow(it), Ready::Read)));
        files
    }

    fn ready(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        if index == TIMER {
            self.dropping = std::mem::take(&mut self.waiting);
            return self.transmit(queues);
        }
        self.kicked(index, queues)
    }

    fn queue_reset(&mut self, index: usize) {
        if index == TRANSMIT {
            self.progress();
        }
    }

    fn reset(&mut self) {
        self.progress();
    }
}

#[expect(unsafe_code, reason = "TimerFd has no AsFd")]
fn borrow(timer: &TimerFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the timer's, which outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(timer.as_raw_fd()) }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
