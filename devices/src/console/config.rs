//! The console's configuration space (§ 5.3.4): the window's size, the number of ports, emergency
//! output.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::output::Output;
use crate::signal::Signal;
use crate::virtio::ConfigSpace;

/// Offset of emerg_wr.
const EMERG_WR: usize = 8;

/// The size of a console's window, in the driver's format: cols, then rows, 16 bits each.
///
/// After a change, call [`Mmio::config_changed`](crate::transport::mmio::Mmio::config_changed).
#[derive(Debug)]
pub struct Window {
    /// rows and cols in one word, so that a change is atomic.
    packed: AtomicU32,
    /// Wakes the device: with several ports it notifies the driver with a message.
    changed: Signal,
}

impl Window {
    /// A window of `cols` characters in each of `rows` lines.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(cols: u16, rows: u16) -> io::Result<Window> {
        Ok(Window { packed: AtomicU32::new(packed(cols, rows)), changed: Signal::new()? })
    }

    /// Sets the size. Returns whether it changed.
    pub fn set(&self, cols: u16, rows: u16) -> bool {
        let size = packed(cols, rows);
        let changed = self.packed.swap(size, Ordering::SeqCst) != size;
        if changed {
            self.changed.raise();
        }
        changed
    }

    /// cols and rows, in the format of the configuration and of the RESIZE message.
    pub(super) fn bytes(&self) -> [u8; 4] {
        self.packed.load(Ordering::SeqCst).to_le_bytes()
    }

    pub(super) fn changes(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}

fn packed(cols: u16, rows: u16) -> u32 {
    u32::from(rows) << 16 | u32::from(cols)
}

/// The configuration space.
pub(super) struct Config {
    pub(super) window: Option<Arc<Window>>,
    /// max_nr_ports; 0 if there is only one port, as MULTIPORT is not offered then.
    pub(super) ports: u32,
    /// Where emergency output goes.
    pub(super) output: Arc<Output>,
}

impl ConfigSpace for Config {
    fn len(&self) -> usize {
        EMERG_WR + 4
    }

    fn read(&self, offset: usize, data: &mut [u8]) {
        let size = self.window.as_ref().map(|window| window.bytes());
        let mut fields = size.unwrap_or_default().to_vec();
        fields.extend(self.ports.to_le_bytes());
        // emerg_wr is write-only.
        fields.read(offset, data);
    }

    /// § 5.3.4: emergency output of a byte, in any state of the device, from any vCPU. This must
    /// not wait: if the terminal accepts nothing now, the byte is lost.
    fn write(&self, offset: usize, data: &[u8]) {
        if offset != EMERG_WR {
            return;
        }
        // Polled first, as the output may be in blocking mode.
        let mut room = [PollFd::new(&self.output, PollFlags::OUT)];
        let ready = poll(&mut room, Some(&Timespec::default()));
        let [room] = room;
        if ready.is_ok() && room.revents().contains(PollFlags::OUT) {
            // There is no way to report a failure.
            let _ = data.get(..1).map(|byte| self.output.file().write(byte));
        }
    }
}
