//! The consoles of QEMU's guest. Their back ends are this process's, as on KVM; QEMU has one end of
//! a socket pair per console.
//!
//! ```text
//!   virtconsole ── socket pair ── thread ──▶ --console     keys ──▶ the console that the command
//!   16550       ── socket pair ── thread ──▶ --serial               line names, or the guest uses
//! ```
//! Two socket pairs do not preserve the order of output. So if stdin is a file or a pipe, perhaps of
//! a script, both consoles share one, which QEMU multiplexes. The virtio console then has
//! the input, so this is not done if the command line names the serial port.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use devices::output::Output;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::inherit;
use crate::board::slots::{ConsoleSockets, Sockets, virtio_target};
use crate::config::{self, Target};
use crate::consoles::Consoles;
use crate::error::Error;
use crate::host::buffer::{Buffer, is_temporary};
use crate::host::port::Port;
use crate::host::socket::Socket;
use crate::host::terminal::Key;
use crate::machine::Machine;
use crate::observe::{Moment, Observer};

/// How often output is tried again that its reader does not accept: 100 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The consoles of a run.
pub(super) struct Carried {
    threads: Vec<JoinHandle<()>>,
    /// QEMU's ends of the socket pairs.
    theirs: Vec<OwnedFd>,
    /// Whether the guest has written to `hvc0`, if that is the console of its command line. OpenSBI
    /// writes to the serial port, so output there does not tell.
    hvc0_used: Option<Arc<AtomicBool>>,
    /// The back ends of ports.
    ports: Vec<Port>,
    listeners: Vec<Socket>,
    /// Dropped last: that restores the terminal.
    _consoles: Consoles,
}

impl Carried {
    /// Opens the back ends, and returns QEMU's ends, too, as addresses for its -chardev socket.
    /// `typed` is called for a key after Ctrl-a. The main thread must call this before it starts
    /// other threads.
    ///
    /// # Errors
    /// A back end cannot be opened, or the host has no thread or file descriptor left.
    pub(super) fn open(
        machine: &Machine,
        observer: &dyn Observer,
        typed: impl FnMut(Key) + Send + 'static,
    ) -> Result<(Carried, Sockets), Error> {
        let consoles = Consoles::without_ports(machine, typed)?;
        observer.notify(Moment::Outputs(consoles.lost()));
        let (mut inputs, output, keys_to_serial) = consoles.serial()?;
        // The last one is the serial port's alone.
        let input = inputs.pop();
        let config = &machine.config;
        let virtio = virtio_target(config);
        let shared = (virtio, &config.serial) == (&Target::Stdio, &Target::Stdio);
        let one =
            shared && !io::stdin().is_terminal() && named(&config.cmdline) != Some(Named::Serial);
        let keys = Keys::new(shared, &config.cmdline, keys_to_serial);
        let is_open = *virtio != Target::Null;
        let virtio = is_open.then(|| consoles.console()).transpose()?;
        let mut carried = Carried {
            threads: Vec::new(),
            theirs: Vec::new(),
            hvc0_used: None,
            ports: Vec::new(),
            listeners: Vec::new(),
            _consoles: consoles,
        };
        let consoles = match virtio {
            Some((input, output)) if one => {
                let mut socket = carried.carry("consoles", Some(input), output, keys, false)?;
                // Both consoles of the guest use it.
                socket.push(",mux=on");
                ConsoleSockets::Shared(socket)
            }
            virtio => {
                let serial = carried.carry("serial", input, output, keys.clone(), true)?;
                let mut console = None;
                if let Some((input, output)) = virtio {
                    if named(&config.cmdline) == Some(Named::Virtio) {
                        carried.hvc0_used = Some(Arc::clone(&keys.hvc0_used));
                    }
                    console = Some(carried.carry("console", Some(input), output, keys, false)?);
                }
                ConsoleSockets::Apart { serial, console }
            }
        };
        let ports = config.ports.iter().map(|port| carried.port(port));
        let ports = ports.collect::<Result<_, _>>()?;
        Ok((carried, Sockets { consoles, ports }))
    }

    /// Opens the back end of a port, with the same errors and messages as on KVM. QEMU accepts the
    /// clients of a socket itself, since its guest sees whether there is one.
    fn port(&mut self, port: &config::Port) -> Result<Option<OsString>, Error> {
        if let Target::Socket(path) = &port.target {
            let socket = Socket::listen("--port", path)?;
            let theirs = socket.as_fd().try_clone_to_owned();
            let mut address = self.lend(theirs.map_err(Error::host("duplicate a socket"))?)?;
            address.push(",server=on,wait=off");
            self.listeners.push(socket);
            return Ok(Some(address));
        }
        let Some(open) = Port::open("--port", &port.label(), &port.target)? else {
            return Ok(None);
        };
        let address = match port.target {
            Target::Pty => Some(self.lend(open.input()?.into())?),
            // QEMU opens the file itself. This descriptor keeps a FIFO's reader.
            _ => None,
        };
        self.ports.push(open);
        Ok(address)
    }

    /// Lets QEMU inherit its end of a connection. Returns the end's address.
    fn lend(&mut self, theirs: OwnedFd) -> Result<OsString, Error> {
        inherit(&theirs)?;
        let address = format!("fd={}", theirs.as_raw_fd());
        self.theirs.push(theirs);
        Ok(address.into())
    }

    /// Starts the thread of a console. Returns the address of QEMU's end.
    fn carry(
        &mut self,
        name: &str,
        input: Option<File>,
        output: Output,
        keys: Keys,
        is_serial: bool,
    ) -> Result<OsString, Error> {
        let pair = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            Ok((File::from(OwnedFd::from(ours)), OwnedFd::from(theirs)))
        });
        let (guest, theirs) = pair.map_err(Error::host("create a socket pair"))?;
        let address = self.lend(theirs)?;
        let console = Console { guest, input, output, keys, is_serial };
        let thread = Builder::new()
            .name(name.into())
            .spawn(move || console.run());
        self.threads
            .push(thread.map_err(Error::host("start the thread of a console"))?);
        Ok(address)
    }

    /// Closes this process's copies of QEMU's ends once QEMU has inherited them, so that QEMU's
    /// exit closes the connection.
    pub(super) fn inherited(&mut self) {
        self.theirs.clear();
    }

    /// Waits for the last output, after QEMU's exit. Returns whether `hvc0` remained silent although
    /// the command line names it.
    pub(super) fn finish(self) -> bool {
        for thread in self.threads {
            // A panic has already been reported.
            let _ = thread.join();
        }
        self.hvc0_used
            .is_some_and(|used| !used.load(Ordering::SeqCst))
    }
}

/// Decides which console gets the keys, if both use the terminal. On KVM the guest decides, by
/// opening the serial port, but QEMU does not report that.
#[derive(Clone)]
struct Keys {
    to_serial: Arc<AtomicBool>,
    /// Whether they go to the console that the guest wrote to last.
    follow: bool,
    /// Set once the guest has written to the virtio console.
    hvc0_used: Arc<AtomicBool>,
}

impl Keys {
    fn new(shared: bool, cmdline: &str, to_serial: Arc<AtomicBool>) -> Keys {
        let named = named(cmdline);
        // The flag has no effect unless the serial port uses the terminal.
        to_serial.store(!shared || named == Some(Named::Serial), Ordering::SeqCst);
        let follow = shared && named.is_none();
        Keys { to_serial, follow, hvc0_used: Arc::default() }
    }

    fn used(&self, is_serial: bool) {
        if !is_serial {
            self.hvc0_used.store(true, Ordering::SeqCst);
        }
        if self.follow {
            self.to_serial.store(is_serial, Ordering::SeqCst);
        }
    }
}

/// The console of a kernel's command line.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Virtio,
    Serial,
}

/// Returns the console that Linux reads: the last one of the command line.
fn named(cmdline: &str) -> Option<Named> {
    let words = cmdline.split_ascii_whitespace().rev();
    match words
        .filter_map(|word| word.strip_prefix("console="))
        .next()?
    {
        name if name.starts_with("hvc") => Some(Named::Virtio),
        name if name.starts_with("ttyS") => Some(Named::Serial),
        _ => None,
    }
}

/// The state of a console's thread.
struct Console {
    /// Our end of the socket pair, non-blocking.
    guest: File,
    /// `None` at its end.
    input: Option<File>,
    output: Output,
    keys: Keys,
    is_serial: bool,
}

impl Console {
    /// Copies in both directions until QEMU has closed its end and all output is written.
    fn run(mut self) {
        let (mut typed, mut printed) = (Buffer::default(), Buffer::default());
        loop {
            self.wait(&typed, &printed);
            if printed.is_empty() {
                match printed.fill(&self.guest) {
                    Ok(1..) => self.keys.used(self.is_serial),
                    Err(error) if is_temporary(&error) => {}
                    Ok(0) | Err(_) => return,
                }
            }
            printed.empty_by(|bytes| self.output.write(bytes));
            if typed.is_empty()
                && let Some(input) = &self.input
            {
                match typed.fill(input) {
                    Err(error) if is_temporary(&error) => {}
                    Ok(1..) => {}
                    Ok(0) | Err(_) => self.input = None,
                }
            }
            // QEMU's exit is noticed by reading.
            let _ = typed.empty_into(&self.guest);
        }
    }

    /// Waits until something can be copied.
    fn wait(&self, typed: &Buffer, printed: &Buffer) {
        let guest = Some(self.guest.as_fd());
        let wanted = [
            (printed.is_empty(), guest, PollFlags::IN),
            (!typed.is_empty(), guest, PollFlags::OUT),
            (
                typed.is_empty(),
                self.input.as_ref().map(AsFd::as_fd),
                PollFlags::IN,
            ),
            (
                !printed.is_empty(),
                Some(self.output.as_fd()),
                PollFlags::OUT,
            ),
        ];
        let wanted = wanted.into_iter().filter(|(wanted, ..)| *wanted);
        let mut fds: Vec<_> = wanted
            .filter_map(|(_, fd, flags)| Some(PollFd::from_borrowed_fd(fd?, flags)))
            .collect();
        // If this fails, nothing is ready. Copying does not block.
        let _ = poll(&mut fds, (!printed.is_empty()).then_some(&LOOK));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn keys(shared: bool, cmdline: &str) -> Keys {
        Keys::new(shared, cmdline, Arc::default())
    }

    #[test]
    fn the_command_line_decides_before_the_guest_does() {
        for (cmdline, serial) in [
            ("console=ttyS0", true),
            ("console=hvc0 root=/dev/vda", false),
            ("console=ttyS0 console=hvc0", false),
            ("console=hvc0 console=ttyS0,115200 quiet", true),
        ] {
            let keys = keys(true, cmdline);
            keys.used(!serial);
            assert_eq!(keys.to_serial.load(Ordering::SeqCst), serial, "{cmdline}");
        }
    }

    #[test]
    fn without_a_named_console_the_keys_follow_the_guest() {
        for cmdline in ["", "quiet", "console=tty0", "earlycon=sbi"] {
            let keys = keys(true, cmdline);
            for serial in [true, false, true] {
                keys.used(serial);
                assert_eq!(keys.to_serial.load(Ordering::SeqCst), serial, "{cmdline}");
            }
        }
    }

    #[test]
    fn a_console_that_has_the_terminal_alone_gets_all_keys() {
        let keys = keys(false, "console=hvc0");
        keys.used(true);
        assert!(!keys.hvc0_used.load(Ordering::SeqCst));
        keys.used(false);
        assert!(keys.hvc0_used.load(Ordering::SeqCst));
        assert!(keys.to_serial.load(Ordering::SeqCst));
    }

    #[test]
    fn a_console_carries_both_ways_until_qemu_ends() {
        let (mut qemu, guest) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        let (input, typed) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let (printed, output) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let console = Console {
            guest: File::from(OwnedFd::from(guest)),
            input: Some(input.into()),
            output: Output::from(File::from(output)),
            keys: keys(true, ""),
            is_serial: true,
        };
        let to_serial = Arc::clone(&console.keys.to_serial);
        let thread = std::thread::spawn(move || console.run());
        File::from(typed).write_all(b"typed").unwrap();
        let mut bytes = [0; 5];
        qemu.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"typed");
        // More than a pipe holds: it is written while it is read.
        let all = vec![b'.'; 1 << 18];
        let sent = all.clone();
        let writer = std::thread::spawn(move || qemu.write_all(&sent));
        let mut seen = Vec::new();
        let mut printed = File::from(printed);
        while seen.len() < all.len() {
            match printed.read(&mut [0; 4096]) {
                Ok(count) => seen.resize(seen.len() + count, b'.'),
                Err(error) => {
                    assert!(is_temporary(&error));
                    let mut fds = [PollFd::new(&printed, PollFlags::IN)];
                    poll(&mut fds, None).unwrap();
                }
            }
        }
        writer.join().unwrap().unwrap();
        thread.join().unwrap();
        assert!(to_serial.load(Ordering::SeqCst));
    }
}
