//! The console's configuration space (§ 5.3.4): the window's size, the number of ports, emergency output.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::signal::Signal;
use crate::output::Output;
use crate::virtio::ConfigSpace;

/// Offset of emerg_wr.
const EMERG_WR: usize = 8;

/// The size of the window that shows a console, as its driver reads it: cols, then rows, 16 bits each.
///
/// Whoever changes it calls [`Mmio::config_changed`](crate::transport::mmio::Mmio::config_changed) as well.
#[derive(Debug)]
pub struct Window {
    /// rows, cols: together, so that no half of a change can be seen.
    packed: AtomicU32,
    /// Wakes the device: with several ports the driver is told by a message.
    changed: Signal,
}

impl Window {
    /// A window of `cols` characters in each of `rows` lines.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(cols: u16, rows: u16) -> io::Result<Window> {
        Ok(Window {
            packed: AtomicU32::new(packed(cols, rows)),
            changed: Signal::new()?,
        })
    }

    /// Changes the size. Says whether it was another.
    pub fn set(&self, cols: u16, rows: u16) -> bool {
        let size = packed(cols, rows);
        let changed = self.packed.swap(size, Ordering::SeqCst) != size;
        if changed {
            self.changed.raise();
        }
        changed
    }

    /// cols, rows, as both the configuration and the RESIZE message have them.
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

/// What the driver reads and writes.
pub(super) struct Config {
    pub(super) window: Option<Arc<Window>>,
    /// max_nr_ports; 0 where there is but one, as the field then belongs to a feature that is not offered.
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
        // emerg_wr is written only.
        fields.read(offset, data);
    }

    /// § 5.3.4: a byte of output on a device in any state, from any vCPU. It must not wait there: a terminal that takes
    /// nothing now loses it.
    fn write(&self, offset: usize, data: &[u8]) {
        if offset != EMERG_WR {
            return;
        }
        // Asked first, as an output may block after all.
        let mut room = [PollFd::new(&self.output, PollFlags::OUT)];
        let ready = poll(&mut room, Some(&Timespec::default()));
        let [room] = room;
        if ready.is_ok() && room.revents().contains(PollFlags::OUT) {
            // Nobody could be told of a failure.
            let _ = data.get(..1).map(|byte| self.output.file().write(byte));
        }
    }
}
