//! A console with one further port: checks that input and output arrive complete, in order, and
//! nowhere else.
//!
//! The device decides when to take a chain, so the guest does not change chains once they are
//! available. So the [`model`](crate::model) can compute each byte in advance, and each returned
//! chain is compared with it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arbitrary::Arbitrary;
use devices::console::Console;
use devices::transport::interrupt::Interrupt;
use devices::virtio::{Queues, VirtioDevice};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::driver::{Shape, few};
use crate::line::Line;
use crate::queue::{Nowhere, activate};
use crate::ram::{BASE, LEN, Ram};

/// Receive and transmit of port 0, of control messages, of port 1.
const QUEUES: usize = 6;
const CONTROL: [usize; 2] = [2, 3];

const MULTIPORT: u64 = 1 << 1;
const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// Index of the console's timer among its files, after the input and output of port 0.
const TIMER: usize = 2;

/// Bytes of a pipe's buffer: one page, so that it is soon full.
const PIPE: i32 = 4096;

/// The steps of a guest with a console.
#[derive(Debug, Arbitrary)]
pub struct Case {
    declined: u64,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Offer {
        queue: u8,
        #[arbitrary(with = few)]
        readable: Vec<Vec<u8>>,
        #[arbitrary(with = few)]
        writable: Vec<u8>,
        shape: Shape,
    },
    /// A control message of the driver: port, event, value.
    Control(u8, u8, u8),
    Kick(u8),
    /// The host's side: input arrives, output is read, a file is ready.
    Type(bool, u8),
    Take(bool, u16),
    Ready(u8),
    Wish(u8, u16, u16),
    Configure(u8, [u8; 4], u8),
    Reset(u64),
}

/// Runs a case. Panics if a byte is lost, duplicated, or written elsewhere.
pub fn run(case: &Case) {
    let mut guest = Guest::new();
    guest.set_up(case.declined);
    for step in &case.steps {
        guest.step(step);
    }
    // After a reset, and with a reader, it is a working console.
    guest.set_up(MULTIPORT);
    let line = b"the last line";
    guest.offer(1, &[line.to_vec()], &[], &Shape::default());
    guest.kick(1);
    assert_eq!(guest.take(0, line.len()), line);
}

/// The host side of one port.
struct End {
    keyboard: File,
    screen: File,
    typed: VecDeque<u8>,
    next: u8,
    /// The expected output, in order.
    shown: VecDeque<u8>,
    /// The output may differ: it is dropped after the reader was given up, or there is emergency
    /// output.
    lossy: bool,
}

struct Guest {
    ram: Ram,
    console: Console,
    interrupt: Arc<Interrupt>,
    queues: Queues,
    lines: Vec<Line>,
    ends: [End; 2],
    /// A ring is broken: the device stops until the reset.
    broken: bool,
}

impl Guest {
    fn new() -> Guest {
        let (first, [input, output]) = End::new();
        let (second, [more_input, more_output]) = End::new();
        let console = Console::new(input, output);
        Guest {
            ram: Ram::new(),
            console: console.with_port("fuzz", more_input, more_output, None),
            interrupt: Arc::new(Interrupt::new(Box::new(Nowhere))),
            queues: Queues::new(Vec::new()),
            lines: Vec::new(),
            ends: [first, second],
            broken: false,
        }
    }

    fn set_up(&mut self, declined: u64) {
        self.queues = Queues::new(Vec::new());
        self.console.reset();
        // The rest of a half-written chain is no longer expected.
        for port in 0..self.ends.len() {
            while !self.take(port, PIPE as usize).is_empty() {}
            self.ends[port].shown.clear();
            self.ends[port].lossy = false;
        }
        self.interrupt.reset();
        self.broken = false;
        self.ram.write(BASE, &vec![0xa5; LEN as usize]);
        let features = (self.console.features() | INDIRECT | EVENT_IDX) & !declined;
        let mut queues = Vec::new();
        self.lines.clear();
        for index in 0..QUEUES {
            let size = self.console.queues()[index];
            let line = Line::new(&mut self.ram, index, QUEUES, size, features);
            queues.push(activate(
                &self.ram,
                line.rings,
                size,
                features,
                &self.interrupt,
            ));
            self.lines.push(line);
        }
        self.queues = Queues::new(queues);
        self.console.activate(features, &self.ram.memory());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Offer { queue, readable, writable, shape } => {
                let writable: Vec<u32> = writable.iter().map(|len| (*len).into()).collect();
                self.offer(usize::from(*queue) % QUEUES, readable, &writable, shape);
            }
            Step::Control(port, event, value) => {
                let message = [port % 3, 0, 0, 0, event % 8, 0, value % 3, 0];
                self.offer(CONTROL[1], &[message.to_vec()], &[], &Shape::default());
                self.kick(CONTROL[1]);
            }
            Step::Kick(queue) => self.kick(usize::from(*queue) % QUEUES),
            Step::Type(port, count) => self.ends[usize::from(*port)].press(*count),
            Step::Take(port, count) => {
                self.take((*port).into(), (*count).into());
            }
            Step::Ready(index) => self.handle_event((index % 8).into()),
            Step::Wish(queue, flags, event) => {
                let line = &mut self.lines[usize::from(*queue) % QUEUES];
                line.driver.wish(&mut self.ram, *flags, *event);
            }
            Step::Configure(offset, bytes, len) => {
                let (offset, len) = (usize::from(*offset), usize::from(len % 5));
                let (config, mut read) = (self.console.config(), [0; 4]);
                // emerg_wr is output too.
                self.ends[0].lossy |= (5..12).contains(&offset);
                config.write(offset, &bytes[..len]);
                config.read(offset, &mut read[..len]);
            }
            Step::Reset(declined) => self.set_up(*declined),
        }
    }

    fn offer(&mut self, queue: usize, readable: &[Vec<u8>], writable: &[u32], shape: &Shape) {
        let line = &mut self.lines[queue];
        let offered: Vec<_> = line
            .offer(&mut self.ram, readable, writable, shape)
            .collect();
        if let 1 | 5 = queue {
            for chain in offered {
                let len = chain.readable.len();
                let bytes = chain.readable.read(&self.ram, len);
                self.ends[queue / 4].shown.extend(bytes);
            }
        }
    }

    fn kick(&mut self, queue: usize) {
        if !self.broken {
            let kicked = self.console.process_queue(queue, &mut self.queues);
            self.look(kicked.is_err());
        }
    }

    fn handle_event(&mut self, index: usize) {
        if !self.broken {
            // The timer expired: the reader has stopped.
            self.ends[0].lossy |= index == TIMER;
            let ready = self.console.handle_event(index, &mut self.queues);
            self.look(ready.is_err());
        }
    }

    /// The chains that the device has returned since the last call.
    fn look(&mut self, failed: bool) {
        self.broken |= failed;
        assert!(!failed || self.lines.iter().any(|line| line.broken));
        for (queue, line) in self.lines.iter_mut().enumerate() {
            while let Some((chain, written)) = line.next_returned(&mut self.ram) {
                let bytes = chain.accept(&mut self.ram, written.into());
                match queue {
                    0 | 4 => self.ends[queue / 4].was_given(&bytes),
                    2 => {}
                    _ => assert_eq!(written, 0),
                }
            }
        }
        // A stalled chain is not written.
        self.ram.check();
    }

    /// Reads up to `count` bytes of output.
    fn take(&mut self, port: usize, count: usize) -> Vec<u8> {
        let end = &mut self.ends[port];
        let mut bytes = vec![0; count];
        let count = match end.screen.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the screen: {error}"),
        };
        bytes.truncate(count);
        if !end.lossy {
            let shown: Vec<u8> = end.shown.drain(..count.min(end.shown.len())).collect();
            assert!(bytes == shown, "what came out is not what was written");
        }
        bytes
    }
}

impl End {
    /// Both ends of two pipes.
    fn new() -> (End, [File; 2]) {
        let pipe = || {
            let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).expect("a pipe");
            fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE)).expect("a page");
            let file = |end: OwnedFd| File::from(end);
            (file(read), file(write))
        };
        let ((input, keyboard), (screen, output)) = (pipe(), pipe());
        let end = End {
            keyboard,
            screen,
            typed: VecDeque::new(),
            next: 0,
            shown: VecDeque::new(),
            lossy: false,
        };
        (end, [input, output])
    }

    fn press(&mut self, count: u8) {
        for _ in 0..count {
            if self.keyboard.write(&[self.next]).is_err() {
                return;
            }
            self.typed.push_back(self.next);
            self.next = self.next.wrapping_add(1);
        }
    }

    fn was_given(&mut self, bytes: &[u8]) {
        let expected: Vec<u8> = self
            .typed
            .drain(..bytes.len().min(self.typed.len()))
            .collect();
        assert_eq!(bytes, expected);
    }
}
