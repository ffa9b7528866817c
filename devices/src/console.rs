//! The console device (§ 5.3): a console, and named ports for programs that talk to the host.
//!
//! ```text
//!   queue 0, 1   receive and transmit of port 0, the console
//!         2, 3   receive and transmit of control messages, if there are more ports
//!         4, 5   receive and transmit of port 1, and so on
//! ```

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::memory::Memory;
use crate::output::{Output, WRITE_TIMEOUT};
use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};

mod config;
mod control;
mod link;
mod port;
mod port_state;

use config::Config;
pub use config::Window;
pub use link::Link;
use port::{Port, WriteTimeout};
use port_state::{PortState, event};

/// Entries of a port's queues. Linux allocates a page per entry of a receive queue, 256 KiB in
/// total; longer queues would not be faster.
const QUEUE_SIZE: u16 = 64;
/// Entries of the control queues.
const CONTROL_SIZE: u16 = 32;

/// The most ports, including the console, as in QEMU.
pub const PORTS_MAX: usize = 31;

/// The longest name of a port, in bytes.
pub const NAME_MAX: usize = 64;

/// Feature bits (§ 5.3.3).
mod feature {
    /// cols and rows of the configuration are valid.
    pub(super) const SIZE: u64 = 1 << 0;
    /// There are control queues, and there may be several ports.
    pub(super) const MULTIPORT: u64 = 1 << 1;
    /// emerg_wr can be written.
    pub(super) const EMERG_WRITE: u64 = 1 << 2;
}

/// The function of a queue (§ 5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Role {
    fn of(queue: usize) -> Role {
        let port = match queue / 2 {
            0 => 0,
            1 if queue == 2 => return Role::ControlReceive,
            1 => return Role::ControlTransmit,
            pair => pair - 1,
        };
        match queue.is_multiple_of(2) {
            true => Role::Receive(port),
            false => Role::Transmit(port),
        }
    }

    fn queue(self) -> usize {
        let first = |port| if port == 0 { 0 } else { 2 * port + 2 };
        match self {
            Role::Receive(port) => first(port),
            Role::Transmit(port) => first(port) + 1,
            Role::ControlReceive => 2,
            Role::ControlTransmit => 3,
        }
    }
}

/// A file for which the device waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Input(usize),
    Output(usize),
    /// A client of a port has connected or disconnected.
    Link(usize),
    /// The write timeout of a port.
    Timer(usize),
    /// The window's size has changed.
    Window,
}

/// A console and further ports, each with an input and an output file.
///
/// A further port stalls for as long as its output accepts nothing. The console does not: Linux's
/// driver waits for it in a loop, with a lock held and interrupts off, so a terminal whose reader
/// has stopped would stop the whole guest. After [`WRITE_TIMEOUT`] without progress, output is
/// dropped until the terminal accepts some again.
pub struct Console {
    /// The console, then the further ports.
    ports: Vec<Port>,
    queue_sizes: Vec<u16>,
    window: Option<Arc<Window>>,
    /// Whether MULTIPORT was negotiated.
    multiport: bool,
    /// Set when a driver activates the device.
    driven: Arc<AtomicBool>,
}

impl Console {
    /// A console with a pair of files, which may be the same file.
    pub fn new(input: File, output: impl Into<Output>) -> Console {
        let mut port = Port::new(input, output.into());
        // Without a timer, output waits forever.
        port.timeout = WriteTimeout::new(WRITE_TIMEOUT).ok();
        Console {
            ports: vec![port],
            queue_sizes: vec![QUEUE_SIZE; 2],
            window: None,
            multiport: false,
            driven: Arc::default(),
        }
    }

    /// Makes the console set `driven` when a driver activates it.
    #[must_use]
    pub fn noting_driver(self, driven: Arc<AtomicBool>) -> Console {
        Console { driven, ..self }
    }

    /// Makes the console report the size of `window` to its driver.
    #[must_use]
    pub fn in_window(self, window: Arc<Window>) -> Console {
        Console { window: Some(window), ..self }
    }

    /// Adds a port, up to [`PORTS_MAX`]. Programs in the guest find it by its name, of up to
    /// [`NAME_MAX`] bytes. `link` says whether a client is connected; without it, one always is.
    #[must_use]
    pub fn with_port(
        mut self,
        name: &str,
        input: File,
        output: impl Into<Output>,
        link: Option<Arc<Link>>,
    ) -> Console {
        if self.ports.len() == 1 {
            self.queue_sizes.extend([CONTROL_SIZE; 2]);
        }
        self.queue_sizes.extend([QUEUE_SIZE; 2]);
        let mut port = Port::new(input, output.into());
        port.name = Some(name.to_owned());
        port.link = link;
        self.ports.push(port);
        self
    }

    fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, Ready)> {
        let ports = self.ports.iter().enumerate().flat_map(|(index, port)| {
            let link = port.link.as_ref();
            let timer = port.timeout.as_ref();
            [
                Some((Source::Input(index), port.input.as_fd(), Ready::Read)),
                Some((Source::Output(index), port.output.as_fd(), Ready::Write)),
                link.map(|it| (Source::Link(index), it.changes(), Ready::Read)),
                timer.map(|it| (Source::Timer(index), it.timer(), Ready::Read)),
            ]
        });
        let window = self.window.iter();
        let window = window.map(|it| Some((Source::Window, it.changes(), Ready::Read)));
        ports.chain(window).flatten()
    }

    /// Passes input of port `index` to the driver, if it has opened the port.
    fn receive(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let open = |port: &&mut Port| !self.multiport || port.state.open;
        let port = self.ports.get_mut(index).filter(open);
        match (port, queues.get(Role::Receive(index).queue())) {
            (Some(port), Some(queue)) => queue.drain(|chain| port.fill(chain)),
            _ => Ok(()),
        }
    }

    fn transmit(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let queue = queues.get(Role::Transmit(index).queue());
        match (self.ports.get_mut(index), queue) {
            (Some(port), Some(queue)) => queue.drain(|chain| port.empty(chain)),
            _ => Ok(()),
        }
    }

    /// Handles the driver's control messages, and sends answers.
    fn receive_control(&mut self, queues: &mut Queues) -> Result<(), QueueError> {
        let (ports, window) = (&mut self.ports, self.window.is_some());
        let mut opened = false;
        if let Some(queue) = queues.get(Role::ControlTransmit.queue()) {
            queue.drain(|chain| {
                opened |= control::handle(ports, window, chain);
                Some(0)
            })?;
        }
        if opened {
            for index in 0..self.ports.len() {
                self.receive(index, queues)?;
            }
        }
        self.send_control(queues)
    }

    /// Sends the control messages that are due, as far as the driver has provided buffers.
    fn send_control(&mut self, queues: &mut Queues) -> Result<(), QueueError> {
        let (ports, window) = (&mut self.ports, self.window.as_deref());
        match queues.get(Role::ControlReceive.queue()) {
            Some(queue) => queue.drain(|chain| control::send(ports, window, chain)),
            None => Ok(()),
        }
    }

    /// Sends `event` of port `index` to the driver, as soon as it has provided a buffer.
    fn send_event(
        &mut self,
        index: usize,
        event: u16,
        queues: &mut Queues,
    ) -> Result<(), QueueError> {
        if let Some(port) = self.ports.get_mut(index) {
            port.state.set_due(event);
        }
        self.send_control(queues)
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn queues(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let size = self.window.as_ref().map_or(0, |_| feature::SIZE);
        let multiport = match self.ports.len() {
            1 => 0,
            _ => feature::MULTIPORT,
        };
        size | multiport | feature::EMERG_WRITE
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        // No more than PORTS_MAX.
        let ports = u32::try_from(self.ports.len()).unwrap_or(0);
        let output = self.ports.first().map(|port| Arc::clone(&port.output));
        match output {
            Some(output) => Arc::new(Config {
                window: self.window.clone(),
                ports: if ports > 1 { ports } else { 0 },
                output,
            }),
            None => Arc::new(Vec::new()),
        }
    }

    fn activate(&mut self, features: u64, _memory: &Memory) {
        self.multiport = features & feature::MULTIPORT != 0;
        self.driven.store(true, Ordering::Relaxed);
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        match Role::of(index) {
            Role::Receive(0) => self.receive(0, queues),
            Role::Transmit(0) => self.transmit(0, queues),
            // Without MULTIPORT there are no other queues.
            _ if !self.multiport => Ok(()),
            Role::Receive(port) => self.receive(port, queues),
            Role::Transmit(port) => self.transmit(port, queues),
            Role::ControlReceive => self.send_control(queues),
            Role::ControlTransmit => self.receive_control(queues),
        }
    }

    /// True for the console's output: Linux's driver waits for each buffer in a loop, with a lock
    /// held and interrupts off. If host CPUs are scarce, its vCPU would spend the time in which the
    /// device's thread could serve the queue. If the output accepts nothing now, the queue stalls
    /// as usual, and the device's thread continues.
    fn inline_notify(&self, index: usize) -> bool {
        let console = self.ports.first();
        Role::of(index) == Role::Transmit(0) && console.is_some_and(Port::never_waits)
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        self.sources()
            .map(|(_, file, ready)| (file, ready))
            .collect()
    }

    fn handle_event(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let source = self.sources().nth(index).map(|(source, ..)| source);
        match source {
            Some(Source::Input(port)) => self.process_queue(Role::Receive(port).queue(), queues),
            Some(Source::Output(port)) => self.process_queue(Role::Transmit(port).queue(), queues),
            Some(Source::Timer(port)) => {
                let timeout = self.ports.get_mut(port).and_then(|it| it.timeout.as_mut());
                if let Some(timeout) = timeout {
                    timeout.expire();
                }
                self.process_queue(Role::Transmit(port).queue(), queues)
            }
            Some(Source::Link(port)) if self.multiport => {
                self.send_event(port, event::PORT_OPEN, queues)
            }
            Some(Source::Window) if self.multiport => self.send_event(0, event::RESIZE, queues),
            Some(Source::Link(_) | Source::Window) | None => Ok(()),
        }
    }

    fn queue_reset(&mut self, index: usize) {
        if let Role::Transmit(port) = Role::of(index)
            && let Some(port) = self.ports.get_mut(port)
        {
            port.progress();
        }
    }

    fn reset(&mut self) {
        self.multiport = false;
        for port in &mut self.ports {
            port.progress();
            port.state = PortState::default();
        }
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
