//! A socket device between a guest and programs of the host: checks that the bytes of each
//! connection arrive in order, that the guest is never sent more than it has room for, and that
//! nothing is written elsewhere.
//!
//! The bytes of each direction of a connection count from 0, so the receiver knows the next one.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs, process};

use arbitrary::Arbitrary;
use devices::transport::interrupt::Interrupt;
use devices::virtio::{Queues, VirtioDevice};
use devices::vsock::{Listener, Vsock};
use nix::sys::signal::{SigSet, Signal};

use crate::driver::{Driver, Shape, cut, few};
use crate::model::{Chain, Model};
use crate::queue::{Nowhere, SetUp};
use crate::ram::{BASE, Ram};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const SIZE: u16 = 256;
const CID: u32 = 3;
const HEADER: usize = 44;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const RW: u16 = 5;

/// The port of the host that has a listener.
const PORT: u32 = 5;

/// The steps of a guest and of programs of the host.
#[derive(Debug, Arbitrary)]
pub struct Case {
    set_up: SetUp,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// A packet of the guest: operation, ports, flags, bytes of data.
    Packet(Packet),
    /// The guest answers the last request of the host.
    Answer,
    /// Any chain of the guest.
    Chain {
        queue: bool,
        #[arbitrary(with = few)]
        readable: Vec<Vec<u8>>,
        #[arbitrary(with = few)]
        writable: Vec<u8>,
        shape: Shape,
    },
    /// Buffers for received packets: how many, of which length.
    Buffers(u8, u16),
    Kick(u8),
    /// The guest says that it has read all that it was sent.
    Credit(u8, u8),
    Events,
    Dial(u8),
    Say(u8, #[arbitrary(with = few)] Vec<u8>),
    Write(u8, u16),
    Read(u8, u16),
    ShutDown(u8, u8),
    Close(u8),
    Wish(bool, u16, u16),
    Scribble(u32, [u8; 4]),
    Reset(SetUp),
}

#[derive(Debug, Arbitrary)]
struct Packet {
    op: u8,
    host: u8,
    guest: u8,
    flags: u8,
    data: u16,
    /// What is wrong with the header, seldom.
    wrong: u8,
    alloc: u16,
    #[arbitrary(with = few)]
    cuts: Vec<u16>,
    shape: Shape,
}

/// Runs a case. Panics if a byte is wrong, or written elsewhere.
pub fn run(case: &Case) {
    let mut world = World::new();
    world.set_up(&case.set_up);
    for step in &case.steps {
        world.step(step);
    }
    // After a reset it is a working device.
    world.set_up(&SetUp::default());
    world.step(&Step::Buffers(8, 300));
    world.packet(REQUEST, (PORT, 1), 0, 100, &[], &Shape::default());
    world.kick(TRANSMIT);
    assert_eq!(world.programs.len(), 1, "the host has a connection");
    world.packet(RW, (PORT, 1), 10, 100, &[], &Shape::default());
    world.kick(TRANSMIT);
    assert_eq!(world.programs[0].read(100), 10);
    world.programs[0].write(20);
    world.events();
    assert_eq!(world.ends[&(PORT, 1)].got, 20);
}

/// The listener of the device, at a path of this process, and that of port 5.
struct Socket(UnixListener);

impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener for Socket {
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        accept(&self.0)
    }
}

fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    match listener.accept() {
        Ok((stream, _)) => stream.set_nonblocking(true).map(|()| Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn listen(path: &PathBuf) -> UnixListener {
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    listener
}

/// A program of the host.
struct Program {
    stream: UnixStream,
    written: u8,
    /// The next byte. `None`: the first line is to come.
    next: Option<u8>,
}

impl Program {
    fn write(&mut self, count: u16) {
        for _ in 0..count {
            if self.stream.write(&[self.written]).is_err() {
                return;
            }
            self.written = self.written.wrapping_add(1);
        }
    }

    fn read(&mut self, count: u16) -> usize {
        let mut bytes = vec![0; count.into()];
        let count = self.stream.read(&mut bytes).unwrap_or(0);
        for byte in &bytes[..count] {
            match &mut self.next {
                None => self.next = (*byte == b'\n').then_some(0),
                Some(next) => {
                    assert_eq!(byte, next, "a byte for the host");
                    *next = next.wrapping_add(1);
                }
            }
        }
        count
    }
}

/// The guest's end of a connection.
#[derive(Default)]
struct End {
    /// Bytes that it sent, and got, in all.
    sent: u8,
    got: u32,
    /// What it said of its buffer.
    alloc: u32,
    forwarded: u32,
}

struct Line {
    model: Option<Model>,
    driver: Driver,
    device: u64,
    size: u64,
    offered: VecDeque<Chain>,
    returned: u16,
}

struct World {
    ram: Ram,
    vsock: Vsock,
    path: PathBuf,
    listener: UnixListener,
    interrupt: Arc<Interrupt>,
    queues: Queues,
    lines: Vec<Line>,
    programs: Vec<Program>,
    /// By the ports of the host and of the guest.
    ends: HashMap<(u32, u32), End>,
    asked: Option<(u32, u32)>,
    /// The last connection of the host.
    dialled: (u32, u32),
    /// A ring is broken, or the guest wrote what it likes: the content is not checked.
    broken: bool,
    wild: bool,
}

impl World {
    fn new() -> World {
        // A write to a closed socket is an error, as in a program of Rust.
        let blocked = SigSet::from(Signal::SIGPIPE).thread_block();
        blocked.expect("a signal mask");
        let path = env::temp_dir().join(format!("fuzz-vsock-{}", process::id()));
        let mut other = path.clone().into_os_string();
        other.push(format!("_{PORT}"));
        let socket = Socket(listen(&path));
        World {
            ram: Ram::new(),
            vsock: Vsock::new(CID, Arc::new(socket), path.clone()).expect("descriptors"),
            path,
            listener: listen(&other.into()),
            interrupt: Arc::new(Interrupt::new(Box::new(Nowhere))),
            queues: Queues::new(Vec::new()),
            lines: Vec::new(),
            programs: Vec::new(),
            ends: HashMap::new(),
            asked: None,
            dialled: (9, 9),
            broken: false,
            wild: false,
        }
    }

    fn set_up(&mut self, set_up: &SetUp) {
        self.queues = Queues::new(Vec::new());
        self.programs.clear();
        // Those that wait to be accepted.
        let waiting = self.vsock.handle_event(0, &mut self.queues);
        waiting.expect("no ring, so none that is broken");
        self.vsock.reset();
        self.interrupt.reset();
        self.ends.clear();
        (self.asked, self.broken, self.wild) = (None, false, false);
        let started = set_up.start(&mut self.ram, 0, SIZE, &self.interrupt);
        self.lines.clear();
        for ((model, driver), index) in started.models.into_iter().zip(started.drivers).zip(0..) {
            self.wild |= !driver.is_regular(index);
            let rings = driver.rings();
            self.lines.push(Line {
                device: rings.device,
                size: rings.size.into(),
                model,
                driver: Driver::sharing(rings, index, 2),
                offered: VecDeque::new(),
                returned: 0,
            });
        }
        self.queues = started.queues;
        self.vsock.activate(started.features, &self.ram.memory());
    }

    fn step(&mut self, step: &Step) {
        let program = |index: &u8, all: usize| usize::from(*index).checked_rem(all);
        let count = self.programs.len();
        match step {
            Step::Packet(it) => {
                let ports = match it.host % 8 {
                    7 => self.dialled,
                    host => (host.into(), u32::from(it.guest % 4)),
                };
                let op = u16::from(it.op % 9);
                // Less than a program of the host writes at once.
                let alloc = u32::from(it.alloc % 1000);
                self.packet_with(
                    op,
                    ports,
                    it.data % 3000,
                    alloc,
                    &it.cuts,
                    &it.shape,
                    |header| {
                        header[32] = it.flags % 4;
                        match it.wrong {
                            1 => header[0] ^= it.flags,
                            2 => header[8] ^= it.flags,
                            3 => header[28] ^= it.flags,
                            4 => header[24] ^= it.flags,
                            5 => header[27] ^= it.flags,
                            _ => {}
                        }
                        it.wrong != 0 && it.wrong < 6
                    },
                );
            }
            Step::Answer => {
                if let Some(ports) = self.asked.take() {
                    self.dialled = ports;
                    self.ends.insert(ports, End::default());
                    self.packet(RESPONSE, ports, 0, 500, &[], &Shape::default());
                }
            }
            Step::Chain { queue, readable, writable, shape } => {
                self.wild = true;
                let pieces: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
                let writable: Vec<u32> = writable.iter().map(|len| (*len).into()).collect();
                self.offer(usize::from(*queue), &pieces, &writable, shape);
            }
            Step::Buffers(count, len) => {
                for _ in 0..count % 16 {
                    self.offer(RECEIVE, &[], &[u32::from(len % 2000)], &Shape::default());
                }
                self.kick(RECEIVE);
            }
            Step::Kick(queue) => self.kick((queue % 3).into()),
            Step::Credit(host, guest) => {
                let ports = (u32::from(host % 8), u32::from(guest % 4));
                if self.ends.contains_key(&ports) {
                    self.packet(6, ports, 0, 900, &[], &Shape::default());
                }
            }
            Step::Events => self.events(),
            Step::Dial(port) if count < 20 => {
                if let Ok(mut stream) = UnixStream::connect(&self.path) {
                    stream.set_nonblocking(true).expect("a socket");
                    let _ = stream.write(format!("CONNECT {}\n", port % 4).as_bytes());
                    self.programs
                        .push(Program { stream, written: 0, next: None });
                    self.events();
                }
            }
            Step::Dial(_) => {}
            Step::Say(index, bytes) => {
                if let Some(index) = program(index, count) {
                    // Bytes that do not count.
                    self.wild = true;
                    let _ = self.programs[index].stream.write(bytes);
                }
            }
            Step::Write(index, len) => {
                if let Some(index) = program(index, count) {
                    self.programs[index].write(len % 1000);
                }
            }
            Step::Read(index, len) => {
                if let Some(index) = program(index, count) {
                    if self.wild {
                        let _ = self.programs[index]
                            .stream
                            .read(&mut vec![0; (*len).into()]);
                    } else {
                        self.programs[index].read(*len);
                    }
                }
            }
            Step::ShutDown(index, how) => {
                if let Some(index) = program(index, count) {
                    let how =
                        [Shutdown::Read, Shutdown::Write, Shutdown::Both][usize::from(how % 3)];
                    let _ = self.programs[index].stream.shutdown(how);
                }
            }
            Step::Close(index) => {
                if let Some(index) = program(index, count) {
                    self.programs.remove(index);
                }
            }
            Step::Wish(queue, flags, event) => {
                let line = &mut self.lines[usize::from(*queue)];
                line.driver.wish(&mut self.ram, *flags, *event);
            }
            Step::Scribble(offset, bytes) => {
                self.wild = true;
                self.ram.write(BASE + u64::from(*offset % 0x8000), bytes);
            }
            Step::Reset(set_up) => self.set_up(set_up),
        }
    }

    fn packet(
        &mut self,
        op: u16,
        ports: (u32, u32),
        data: u16,
        alloc: u32,
        cuts: &[u16],
        shape: &Shape,
    ) {
        self.packet_with(op, ports, data, alloc, cuts, shape, |_| false);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn packet_with(
        &mut self,
        op: u16,
        (host, guest): (u32, u32),
        data: u16,
        alloc: u32,
        cuts: &[u16],
        shape: &Shape,
        bend: impl Fn(&mut Vec<u8>) -> bool,
    ) {
        if op == REQUEST {
            self.ends.insert((host, guest), End::default());
        }
        let end = self.ends.entry((host, guest)).or_default();
        // A buffer never becomes smaller than what was sent to it.
        end.alloc = end.alloc.max(alloc);
        end.forwarded = end.got;
        let data = if op == RW { data } else { 0 };
        let mut packet = Vec::new();
        packet.extend(u64::from(CID).to_le_bytes());
        packet.extend(2_u64.to_le_bytes());
        for field in [guest, host, data.into()] {
            packet.extend(field.to_le_bytes());
        }
        packet.extend(1_u16.to_le_bytes());
        packet.extend(op.to_le_bytes());
        for field in [0, end.alloc, end.forwarded] {
            packet.extend(field.to_le_bytes());
        }
        for _ in 0..data {
            packet.push(end.sent);
            end.sent = end.sent.wrapping_add(1);
        }
        self.wild |= bend(&mut packet) || shape.fault.is_some();
        let pieces = cut(&packet, cuts);
        self.wild |= !self.offer(TRANSMIT, &pieces, &[], shape);
    }

    fn offer(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32], shape: &Shape) -> bool {
        let line = &mut self.lines[queue];
        // Chains that share memory, or come to lie on others, are the content of another target.
        let bytes = readable.iter().map(|it| it.len()).sum::<usize>();
        let bytes = bytes + writable.iter().sum::<u32>() as usize;
        let count = readable.len() + writable.len();
        if shape.is_shared() || line.model.is_none() || !line.driver.has_room(count, bytes) {
            return false;
        }
        line.driver.offer(&mut self.ram, readable, writable, shape);
        true
    }

    fn kick(&mut self, queue: usize) {
        if !self.broken {
            let kicked = self.vsock.process_queue(queue, &mut self.queues);
            self.look(kicked.is_err());
        }
    }

    fn events(&mut self) {
        if !self.broken {
            let handled = self.vsock.handle_event(0, &mut self.queues);
            self.look(handled.is_err());
        }
    }

    /// The chains that the device has returned, and the connections that it made.
    fn look(&mut self, failed: bool) {
        self.broken |= failed;
        while let Ok(Some(stream)) = accept(&self.listener) {
            self.programs
                .push(Program { stream, written: 0, next: Some(0) });
        }
        for queue in [RECEIVE, TRANSMIT] {
            for bytes in self.returned(queue) {
                assert!(queue == RECEIVE || bytes.is_empty());
                if !bytes.is_empty() && !self.wild {
                    self.was_sent(&bytes);
                }
            }
        }
    }

    fn returned(&mut self, queue: usize) -> Vec<Vec<u8>> {
        let line = &mut self.lines[queue];
        let Some(model) = line.model.as_mut().filter(|_| !self.wild) else {
            return Vec::new();
        };
        while let Ok(Some(chain)) = model.pop(&self.ram) {
            line.offered.push_back(chain);
        }
        let idx = self.ram.found(line.device + 2, 2);
        let idx = u16::from_le_bytes(idx.try_into().expect("2"));
        let mut all = Vec::new();
        while line.returned != idx {
            let chain = line.offered.pop_front().expect("more than was offered");
            let element = line.device + 4 + 8 * (u64::from(line.returned) % line.size);
            let element = self.ram.found(element, 8);
            let id = u32::from_le_bytes(element[..4].try_into().expect("4"));
            let written = u32::from_le_bytes(element[4..].try_into().expect("4"));
            assert_eq!(id, u32::from(chain.head));
            line.returned = line.returned.wrapping_add(1);
            all.push(chain.accept(&mut self.ram, written.into()));
        }
        all
    }

    /// A packet for the guest.
    fn was_sent(&mut self, bytes: &[u8]) {
        let (header, data) = bytes.split_at(HEADER);
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4"));
        assert_eq!((u32_at(0), u32_at(8)), (2, CID));
        assert_eq!(u32_at(24) as usize, data.len());
        let op = u16::from_le_bytes(header[30..32].try_into().expect("2"));
        assert!((1..=7).contains(&op));
        let ports = (u32_at(16), u32_at(20));
        match op {
            REQUEST => self.asked = Some(ports),
            RST => {}
            RW => {
                let end = self.ends.get_mut(&ports).expect("a connection");
                for byte in data {
                    assert_eq!(u32::from(*byte), end.got % 256, "a byte for the guest");
                    end.got += 1;
                }
                assert!(end.got - end.forwarded <= end.alloc, "there is no room");
            }
            _ => assert!(data.is_empty()),
        }
    }
}
