//! The back ends of the guest's consoles: opened once, and kept across reboots.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use devices::console::{Console, Window};
use devices::output::{Lost, Output};
use devices::transport::mmio::Mmio;

use crate::config::Target;
use crate::error::Error;
use crate::host::port::Port;
use crate::host::terminal::{self, Key, Terminal, Watch};
use crate::machine::Machine;

/// What fails, in errors.
const WATCH: &str = "watch the terminal's size";

/// The back ends of the virtio console (`--console`), its additional ports (`--port`), the serial
/// port and the SBI console (`--serial`).
pub struct Consoles {
    terminal: Option<Terminal>,
    console: Option<Port>,
    serial: Option<Port>,
    /// Names and back ends.
    ports: Vec<(String, Port)>,
    window: Option<Arc<Window>>,
    /// Whether the guest has used one of them; kept across reboots.
    used: Arc<AtomicBool>,
    /// The virtio console's transport, for notifications of a new window size.
    shown: Arc<Mutex<Weak<Mmio>>>,
    _watch: Option<Watch>,
}

impl Consoles {
    /// Opens the back ends of `machine`. `typed` is called for a key after Ctrl-a. The main
    /// thread must call this before it starts other threads.
    ///
    /// # Errors
    /// A back end cannot be opened.
    pub fn open(
        machine: &Machine,
        typed: impl FnMut(Key) + Send + 'static,
    ) -> Result<Consoles, Error> {
        let shown = Arc::new(Mutex::new(Weak::new()));
        let (mut window, mut watch) = (None, None);
        let config = &machine.config;
        if config.console == Target::Stdio
            && let Some((cols, rows)) = terminal::size()
        {
            let shared = Arc::new(Window::new(cols, rows).map_err(Error::host(WATCH))?);
            window = Some(Arc::clone(&shared));
            watch = Some(watch_window(shared, Arc::clone(&shown))?);
        }
        let mut ports = Vec::new();
        for port in &config.ports {
            // A port cannot use the terminal.
            if let Some(open) = Port::open("--port", &port.label(), &port.target)? {
                ports.push((port.name.clone(), open));
            }
        }
        let consoles = Consoles::without_ports(machine, typed)?;
        Ok(Consoles { ports, window, shown, _watch: watch, ..consoles })
    }

    /// As [`Consoles::open`], for a virtio console in another process: without its ports and the
    /// terminal's size.
    ///
    /// # Errors
    /// A back end cannot be opened.
    pub fn without_ports(
        machine: &Machine,
        typed: impl FnMut(Key) + Send + 'static,
    ) -> Result<Consoles, Error> {
        let config = &machine.config;
        let console = Port::open("--console", "--console", &config.console)?;
        let serial = Port::open("--serial", "--serial", &config.serial)?;
        // Without a console on it, the terminal stays in its mode, and Ctrl-c works.
        let terminal = match (&console, &serial) {
            (Some(_), Some(_)) => None,
            _ => Some(Terminal::start(typed)?),
        };
        Ok(Consoles {
            terminal,
            console,
            serial,
            ports: Vec::new(),
            window: None,
            used: Arc::default(),
            shown: Arc::default(),
            _watch: None,
        })
    }

    /// Creates the virtio console.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn virtio(&self) -> Result<Console, Error> {
        let (input, output) = self.console()?;
        let mut console = Console::new(input, output).noting_driver(Arc::clone(&self.used));
        if let Some(window) = &self.window {
            console = console.in_window(Arc::clone(window));
        }
        for (name, port) in &self.ports {
            console = console.with_port(name, port.input()?, port.output()?, port.link());
        }
        Ok(console)
    }

    /// Returns input and output of the virtio console.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn console(&self) -> Result<(File, Output), Error> {
        self.ends(self.console.as_ref())
    }

    /// Records output from the guest on a console other than the virtio console.
    pub fn note_output(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether the guest has had a driver of the virtio console, or sent a byte on another one.
    pub fn were_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Sets the current transport of the virtio console.
    pub fn show(&self, transport: &Arc<Mmio>) {
        *devices::lock(&self.shown) = Arc::downgrade(transport);
    }

    /// Returns input and output of the SBI console.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn sbi(&self) -> Result<(File, Output), Error> {
        self.ends(self.serial.as_ref())
    }

    /// Returns inputs and output of the serial port, and a flag that it sets while the guest has it
    /// open.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn serial(&self) -> Result<(Vec<File>, Output, Arc<AtomicBool>), Error> {
        let (input, output) = self.ends(self.serial.as_ref())?;
        Ok(match (&self.serial, &self.terminal) {
            (None, Some(terminal)) => (
                vec![input, terminal.serial_input()?],
                output,
                terminal.serial_listens(),
            ),
            _ => (vec![input], output, Arc::default()),
        })
    }

    /// Returns the counts of lost output, per console.
    pub fn lost(&self) -> Vec<Arc<Lost>> {
        let terminal = self.terminal.iter().map(Terminal::lost);
        let ports = self.ports.iter().map(|(_, port)| port);
        let ports = self.console.iter().chain(&self.serial).chain(ports);
        terminal.chain(ports.map(Port::lost)).cloned().collect()
    }

    fn ends(&self, port: Option<&Port>) -> Result<(File, Output), Error> {
        match (port, &self.terminal) {
            (Some(port), _) => Ok((port.input()?, port.output()?)),
            (None, Some(terminal)) => {
                let lost = Arc::clone(terminal.lost());
                Ok((terminal.input()?, Output::new(terminal.output()?, lost)))
            }
            (None, None) => Err(Error::Internal("a console without a terminal".to_owned())),
        }
    }
}

/// Notifies the guest of each change of the terminal's size.
fn watch_window(window: Arc<Window>, shown: Arc<Mutex<Weak<Mmio>>>) -> Result<Watch, Error> {
    let changed = move || {
        let Some((cols, rows)) = terminal::size() else {
            return;
        };
        if window.set(cols, rows) {
            let transport = devices::lock(&shown).upgrade();
            if let Some(transport) = transport {
                transport.config_changed();
            }
        }
    };
    Watch::start(changed).map_err(Error::host(WATCH))
}
