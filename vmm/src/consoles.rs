//! What the guest's consoles lead to: opened once, and kept while the guest restarts.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use devices::console::{Console, Window};
use devices::output::{Lost, Output};
use devices::transport::mmio::Mmio;

use crate::config::Target;
use crate::error::Error;
use crate::machine::Machine;
use crate::port::Port;
use crate::terminal::{self, Terminal, Watch};

/// The far ends of the virtio console (`--console`), of its further ports (`--port`), and of the
/// serial port and SBI console (`--serial`).
pub struct Consoles {
    terminal: Option<Terminal>,
    console: Option<Port>,
    serial: Option<Port>,
    /// By their names.
    ports: Vec<(String, Port)>,
    window: Option<Arc<Window>>,
    /// Whether the guest, in any of its lives, has used one of them.
    used: Arc<AtomicBool>,
    /// The virtio console's transport, to be told of a new window size.
    shown: Arc<Mutex<Weak<Mmio>>>,
    _watch: Option<Watch>,
}

impl Consoles {
    /// Opens what `machine` names; `leave` is called when Ctrl-a x is typed. To be called by the
    /// main thread before it starts others.
    ///
    /// # Errors
    /// Something cannot be opened.
    pub fn open(
        machine: &Machine,
        leave: impl FnOnce() + Send + 'static,
    ) -> Result<Consoles, Error> {
        let shown = Arc::new(Mutex::new(Weak::new()));
        let (mut window, mut watch) = (None, None);
        let config = &machine.config;
        if config.console == Target::Stdio
            && let Some((cols, rows)) = terminal::size()
        {
            let shared = Arc::new(Window::new(cols, rows).map_err(watching)?);
            window = Some(Arc::clone(&shared));
            watch = Some(watch_window(shared, Arc::clone(&shown))?);
        }
        let console = Port::open("--console", "--console", &config.console)?;
        let serial = Port::open("--serial", "--serial", &config.serial)?;
        let mut ports = Vec::new();
        for port in &config.ports {
            // None leads to the terminal.
            if let Some(open) = Port::open("--port", &port.label(), &port.target)? {
                ports.push((port.name.clone(), open));
            }
        }
        // Without a console on it the terminal stays as it is, with its Ctrl-c.
        let terminal = match (&console, &serial) {
            (Some(_), Some(_)) => None,
            _ => Some(Terminal::start(leave)?),
        };
        Ok(Consoles {
            terminal,
            console,
            serial,
            ports,
            window,
            used: Arc::default(),
            shown,
            _watch: watch,
        })
    }

    /// The virtio console.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn virtio(&self) -> Result<Console, Error> {
        let (input, output) = self.ends(self.console.as_ref())?;
        let mut console = Console::new(input, output).noting_driver(Arc::clone(&self.used));
        if let Some(window) = &self.window {
            console = console.in_window(Arc::clone(window));
        }
        for (name, port) in &self.ports {
            console = console.with_port(name, port.input()?, port.output()?, port.link());
        }
        Ok(console)
    }

    /// The guest has sent something by another console than the virtio one.
    pub fn note_output(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether the guest has had a driver of the virtio console, or sent a byte by another one.
    pub fn were_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Which transport shows the virtio console now.
    pub fn show(&self, transport: &Arc<Mmio>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(transport);
    }

    /// Input and output of the SBI console.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn sbi(&self) -> Result<(File, Output), Error> {
        self.ends(self.serial.as_ref())
    }

    /// Inputs and output of the serial port, and what it is to keep to whether the guest has it
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

    /// The counts of each console's output that is lost.
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

/// Passes the terminal's new size on whenever it changes.
fn watch_window(window: Arc<Window>, shown: Arc<Mutex<Weak<Mmio>>>) -> Result<Watch, Error> {
    let changed = move || {
        let Some((cols, rows)) = terminal::size() else {
            return;
        };
        if window.set(cols, rows) {
            let transport = shown
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .upgrade();
            if let Some(transport) = transport {
                transport.config_changed();
            }
        }
    };
    Watch::start(changed).map_err(watching)
}

fn watching(source: io::Error) -> Error {
    Error::Host {
        what: "watch the terminal's size".to_owned(),
        source,
    }
}
