//! The console device (§ 5.3): one port, two files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::chain::Chain;
use crate::queue::Broken;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};

const QUEUE_SIZE: u16 = 256;

/// Queue indices of port 0 (§ 5.3.2), and our files in the same order.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// A console whose driver reads what `input` gives and whose output goes to `output`.
///
/// Nothing is buffered here. While `output` takes no more, the driver's buffer waits in its queue, half written if need
/// be; while there is no input, or no buffer for it, the input waits in its file. So no file should block, and one that
/// does stalls this console alone.
pub struct Console {
    input: File,
    output: File,
    input_ended: bool,
}

impl Console {
    /// A console between a pair of files, which may be the same one.
    pub fn new(input: File, output: File) -> Console {
        Console {
            input,
            output,
            input_ended: false,
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
    fn send(&self, chain: &mut Chain) -> Option<u32> {
        while !chain.readable().is_empty() {
            match chain.readable().write_to(self.output.as_fd()) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // Nobody reads any more: a console's output may be lost, its guest must not hang.
                Err(_) => break,
            }
        }
        Some(0)
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
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        // § 5.3.4: cols, rows, max_nr_ports and emerg_wr belong to features that are not offered.
        Arc::new(vec![0; 12])
    }

    fn kicked(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        match index {
            RECEIVE => self.receive(queues),
            _ => self.transmit(queues),
        }
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        vec![
            (self.input.as_fd(), Ready::Read),
            (self.output.as_fd(), Ready::Write),
        ]
    }

    fn ready(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        self.kicked(index, queues)
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
