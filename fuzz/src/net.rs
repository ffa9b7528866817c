//! A network card between a guest and a back end that delivers frames of any length and fails:
//! each frame arrives whole, in order, in the right buffers, or is counted as lost.
//!
//! As with the console, chains do not change once they are available. So what each holds when it
//! comes back follows from the frames that had arrived, and from the results of the back end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard};

use arbitrary::Arbitrary;
use devices::memory::{Readable, Writable};
use devices::net::{BackEnd, FRAME_MAX, HEADER, Mac, Net, feature};
use devices::transport::interrupt::Interrupt;
use devices::virtio::{Queues, Ready, VirtioDevice};

use crate::driver::{Shape, few};
use crate::line::Line;
use crate::model::Chain;
use crate::queue::{Nowhere, activate};
use crate::ram::{BASE, LEN, Ram};

const QUEUES: usize = 2;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// The shortest frame that is sent, with its header.
const SENT_MIN: u64 = HEADER as u64 + 14;
/// Errors of the back end: try again, down, full, and gone.
const ERRORS: [i32; 4] = [
    nix::libc::EAGAIN,
    nix::libc::EIO,
    nix::libc::ENOBUFS,
    nix::libc::EBADFD,
];

/// The steps of a guest with a network card, and of the network.
#[derive(Debug, Arbitrary)]
pub struct Case {
    set_up: SetUp,
    steps: Vec<Step>,
}

#[derive(Debug, Default, Arbitrary)]
struct SetUp {
    declined: u64,
    /// Rings of 128, 64, … entries.
    halved: u8,
    /// Only the other queue is in use.
    only: Option<bool>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Offer {
        queue: bool,
        #[arbitrary(with = few)]
        readable: Vec<Vec<u8>>,
        #[arbitrary(with = few)]
        writable: Vec<u16>,
        shape: Shape,
    },
    /// A receive buffer, and a frame to send, as drivers offer them.
    Buffer(u16),
    Frame(u8),
    Kick(bool),
    /// A frame of this many bytes, or of many more.
    Arrive(u16, bool),
    Ready(bool),
    /// The result of the next call of the back end: one of [`ERRORS`], or success.
    Fail(bool, u8),
    Wish(bool, u16, u16),
    Configure(u8, u8),
    /// VIRTIO_F_RING_RESET of a queue that the driver then does not use again.
    QueueReset(bool),
    Reset(SetUp),
}

/// Runs a case. Panics if a frame is changed, or lost without being counted.
pub fn run(case: &Case) {
    let mut guest = Guest::new();
    guest.set_up(&case.set_up);
    for step in &case.steps {
        guest.step(step);
    }
    // After a reset, and without errors, it is a working card.
    guest.set_up(&SetUp::default());
    guest.cable.lock().errors = Default::default();
    guest.frames.clear();
    while guest.cable.lock().near.recv(&mut []).is_ok() {}
    guest.arrive(100);
    guest.step(&Step::Buffer(1526));
    guest.kick(RECEIVE);
    let sent = guest.sent;
    guest.step(&Step::Frame(60));
    guest.kick(TRANSMIT);
    assert_eq!((guest.returned(RECEIVE), guest.sent - sent), (1, 1));
}

/// What a back end does, and did.
struct Cable {
    /// The device's end, and that of the network. A datagram is a frame, as in a tap interface.
    near: UnixDatagram,
    far: UnixDatagram,
    /// Results of the next calls, for [`RECEIVE`] and [`TRANSMIT`]: an error, or none.
    errors: [VecDeque<Option<i32>>; QUEUES],
    /// What was sent, or `None` for what was lost.
    results: VecDeque<Option<Vec<u8>>>,
    /// A call failed with EBADFD, or a receive with anything but EAGAIN.
    gone: bool,
}

/// The back end, which the device and the test share.
#[derive(Clone)]
struct Shared(Arc<Mutex<Cable>>, Arc<[UnixDatagram; 2]>);

impl Shared {
    fn new() -> Shared {
        let (near, far) = UnixDatagram::pair().expect("a pair of sockets");
        for socket in [&near, &far] {
            socket.set_nonblocking(true).expect("a socket");
        }
        let files = [&near, &near].map(|file| file.try_clone().expect("a descriptor"));
        let cable =
            Cable { near, far, errors: Default::default(), results: VecDeque::new(), gone: false };
        Shared(Arc::new(Mutex::new(cable)), Arc::new(files))
    }

    fn lock(&self) -> MutexGuard<'_, Cable> {
        self.0.lock().expect("no panic before")
    }
}

impl Cable {
    fn next(&mut self, queue: usize) -> io::Result<()> {
        match self.errors[queue].pop_front().flatten() {
            None => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl BackEnd for Shared {
    fn offloads(&self) -> u64 {
        feature::HOST | feature::GUEST
    }

    fn set_offloads(&mut self, features: u64) {
        assert_eq!(features & !self.offloads(), 0);
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        let [near, far] = self.1.each_ref().map(AsFd::as_fd);
        vec![(near, Ready::Read), (far, Ready::Write)]
    }

    fn receive(&mut self, to: &mut Writable, rest: &mut [u8]) -> io::Result<usize> {
        let mut cable = self.lock();
        let next = cable.next(RECEIVE);
        cable.gone |= matches!(&next, Err(error) if error.kind() != io::ErrorKind::WouldBlock);
        next?;
        to.read_from_with(cable.near.as_fd(), rest)
    }

    fn send(&mut self, frame: &mut Readable) -> io::Result<()> {
        let mut cable = self.lock();
        if let Err(error) = cable.next(TRANSMIT) {
            if error.kind() != io::ErrorKind::WouldBlock {
                cable.results.push_back(None);
            }
            cable.gone |= self.is_gone(&error);
            return Err(error);
        }
        frame.write_to(cable.near.as_fd())?;
        let mut bytes = vec![0; 1 << 17];
        let count = cable.far.recv(&mut bytes)?;
        bytes.truncate(count);
        cable.results.push_back(Some(bytes));
        Ok(())
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        error.raw_os_error() == Some(nix::libc::EBADFD)
    }
}

/// A frame that is longer than its first buffer.
struct Open {
    bytes: Vec<u8>,
    got: Vec<u8>,
    buffers: u16,
}

struct Guest {
    ram: Ram,
    net: Net,
    cable: Shared,
    interrupt: Arc<Interrupt>,
    queues: Queues,
    /// `None` for a queue that is not in use.
    lines: [Option<Line>; QUEUES],
    mergeable: bool,
    size: u16,
    /// Frames that have arrived, and that the device has not yet delivered or dropped.
    frames: VecDeque<Vec<u8>>,
    next: u8,
    open: Option<Open>,
    sent: usize,
    lost: u64,
    broken: bool,
}

impl Guest {
    fn new() -> Guest {
        let cable = Shared::new();
        Guest {
            ram: Ram::new(),
            net: Net::new(
                Box::new(cable.clone()),
                Mac([2, 0, 0, 0, 0, 1]),
                Some(1500),
                true,
            ),
            cable,
            interrupt: Arc::new(Interrupt::new(Box::new(Nowhere))),
            queues: Queues::new(Vec::new()),
            lines: [None, None],
            mergeable: false,
            size: 0,
            frames: VecDeque::new(),
            next: 0,
            open: None,
            sent: 0,
            lost: 0,
            broken: false,
        }
    }

    fn set_up(&mut self, set_up: &SetUp) {
        self.queues = Queues::new(Vec::new());
        self.net.reset();
        self.settle();
        self.interrupt.reset();
        self.broken = false;
        self.ram.write(BASE, &vec![0xa5; LEN as usize]);
        let features = (self.net.features() | INDIRECT | EVENT_IDX) & !set_up.declined;
        self.mergeable = features & feature::MRG_RXBUF != 0;
        self.size = 128 >> (set_up.halved % 8);
        let mut queues = Vec::new();
        for index in 0..QUEUES {
            self.lines[index] = None;
            if set_up.only.is_some_and(|only| usize::from(only) != index) {
                queues.push(None);
                continue;
            }
            let line = Line::new(&mut self.ram, index, QUEUES, self.size, features);
            queues.push(activate(
                &self.ram,
                line.rings,
                self.size,
                features,
                &self.interrupt,
            ));
            self.lines[index] = Some(line);
        }
        self.queues = Queues::new(queues);
        self.net.activate(features, &self.ram.memory());
    }

    /// Forgets the frames of the driver that is gone: the one that is partly delivered, and what
    /// was sent without being returned.
    fn settle(&mut self) {
        let mut left = 0;
        let cable = self.cable.lock();
        let mut bytes = vec![0; 1 << 17];
        // What the device took from the cable is gone with the driver's buffers.
        let mut waiting = Vec::new();
        while let Ok(count) = cable.near.recv(&mut bytes) {
            waiting.push(bytes[..count].to_vec());
            left += 1;
        }
        for frame in &waiting {
            cable.far.send(frame).expect("there was room");
        }
        drop(cable);
        assert!(left <= self.frames.len());
        self.frames.drain(..self.frames.len() - left);
        assert!(
            self.frames.iter().eq(&waiting),
            "a frame was lost or changed"
        );
        self.open = None;
        self.cable.lock().results.clear();
        self.lost = self.net.link().dropped();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Offer { queue, readable, writable, shape } => {
                let writable: Vec<u32> = writable.iter().map(|len| (len % 2048).into()).collect();
                self.offer((*queue).into(), readable, &writable, shape);
            }
            Step::Buffer(len) => {
                self.offer(RECEIVE, &[], &[u32::from(*len % 2048)], &Shape::default());
            }
            Step::Frame(len) => {
                let parts = [vec![0; HEADER], vec![*len; usize::from(*len)]];
                self.offer(TRANSMIT, &parts, &[], &Shape::default());
            }
            Step::Kick(queue) => self.kick((*queue).into()),
            Step::Arrive(len, long) => {
                let len = usize::from(*len);
                self.arrive(if *long { 2 * len } else { len % 3000 });
            }
            Step::Ready(index) => self.handle_event((*index).into()),
            Step::Fail(queue, error) => {
                let error = ERRORS
                    .get(usize::from(*error) % (ERRORS.len() + 1))
                    .copied();
                self.cable.lock().errors[usize::from(*queue)].push_back(error);
            }
            Step::Wish(queue, flags, event) => {
                if let Some(line) = &mut self.lines[usize::from(*queue)] {
                    line.driver.wish(&mut self.ram, *flags, *event);
                }
            }
            Step::Configure(offset, len) => self.configure((*offset).into(), len % 5),
            Step::QueueReset(queue) => self.queue_reset((*queue).into()),
            Step::Reset(set_up) => self.set_up(set_up),
        }
    }

    /// A frame arrives, unless the network is full.
    fn arrive(&mut self, len: usize) {
        let len = len.max(HEADER);
        let mut frame: Vec<u8> = (0..len)
            .map(|at| self.next.wrapping_add(at as u8))
            .collect();
        frame[HEADER - 2..HEADER].fill(0xff);
        self.next = self.next.wrapping_add(1);
        if self.cable.lock().far.send(&frame).is_ok() {
            self.frames.push_back(frame);
        }
    }

    fn configure(&mut self, offset: usize, len: u8) {
        let (config, mut bytes) = (self.net.config(), [0; 4]);
        config.write(offset, &bytes);
        config.read(offset, &mut bytes[..len.into()]);
        let mut all = [0; 14];
        config.read(0, &mut all);
        let up = u8::from(!self.cable.lock().gone);
        assert_eq!(all, [2, 0, 0, 0, 0, 1, up, 0, 1, 0, 0xdc, 5, 0, 0]);
    }

    /// The driver resets a queue, and then uses neither.
    fn queue_reset(&mut self, queue: usize) {
        self.lines = [None, None];
        self.queues = Queues::new(vec![None, None]);
        self.net.queue_reset(queue);
        self.settle();
    }

    fn offer(&mut self, queue: usize, readable: &[Vec<u8>], writable: &[u32], shape: &Shape) {
        if let Some(line) = &mut self.lines[queue] {
            let _ = line.offer(&mut self.ram, readable, writable, shape);
        }
    }

    fn kick(&mut self, queue: usize) {
        if !self.broken {
            let kicked = self.net.process_queue(queue, &mut self.queues);
            self.look(kicked.is_err());
        }
    }

    fn handle_event(&mut self, index: usize) {
        if !self.broken {
            let ready = self.net.handle_event(index, &mut self.queues);
            self.look(ready.is_err());
        }
    }

    /// Chains that queue `queue` has returned.
    fn returned(&self, queue: usize) -> u16 {
        self.lines[queue].as_ref().map_or(0, |line| line.returned)
    }

    /// The chains that the device has returned since the last call.
    fn look(&mut self, failed: bool) {
        self.broken |= failed;
        let broken = |line: &Line| line.broken;
        assert!(!failed || self.lines.iter().flatten().any(broken));
        for queue in 0..QUEUES {
            while let Some((chain, written)) = self.next_returned(queue) {
                if queue == RECEIVE {
                    self.received(chain, written);
                } else {
                    assert_eq!(written, 0);
                    self.transmitted(chain);
                }
            }
        }
        assert!(self.open.is_none(), "a part of a frame came back");
        assert_eq!(self.net.link().dropped(), self.lost);
        // What the device holds may have the beginning of a frame.
        if let Some(line) = &self.lines[RECEIVE] {
            for chain in &line.offered {
                chain.clone().accept(&mut self.ram, chain.writable.len());
            }
        }
        self.ram.check();
    }

    fn next_returned(&mut self, queue: usize) -> Option<(Chain, u32)> {
        let line = self.lines[queue].as_mut()?;
        line.next_returned(&mut self.ram)
    }

    /// A receive buffer has come back.
    fn received(&mut self, chain: Chain, written: u32) {
        let room = chain.writable.len() as usize;
        let size = self.size;
        // Bytes after those that count are the device's to write.
        let mut bytes = chain.accept(&mut self.ram, room as u64);
        bytes.truncate(written as usize);
        let mut open = match self.open.take() {
            Some(open) => open,
            None if room < HEADER => return assert_eq!(written, 0),
            None => {
                let mut bytes = self.frames.pop_front().expect("a frame from nowhere");
                // A datagram that is too long is cut, as in a tap interface.
                bytes.truncate(room + FRAME_MAX);
                Open { bytes, got: Vec::new(), buffers: 0 }
            }
        };
        if !self.mergeable && open.bytes.len() > room {
            self.lost += 1;
            return assert_eq!(written, 0);
        }
        assert_eq!(
            written as usize,
            room.min(open.bytes.len() - open.got.len())
        );
        open.got.extend(bytes);
        open.buffers += 1;
        if open.got.len() < open.bytes.len() && open.buffers < size {
            self.open = Some(open);
            return;
        }
        let place = HEADER - 2..HEADER;
        open.bytes[place].copy_from_slice(&open.buffers.to_le_bytes());
        assert!(open.bytes.starts_with(&open.got), "another frame");
    }

    /// A frame was sent, or lost.
    fn transmitted(&mut self, mut chain: Chain) {
        let len = chain.readable.len();
        let bytes = chain.readable.read(&self.ram, len);
        if len < SENT_MIN {
            self.lost += 1;
            return;
        }
        match self.cable.lock().results.pop_front() {
            Some(Some(sent)) => {
                assert!(sent == bytes, "what was sent is not what was written");
                self.sent += 1;
            }
            Some(None) => self.lost += 1,
            None => panic!("a frame was returned, and neither sent nor lost"),
        }
    }
}
