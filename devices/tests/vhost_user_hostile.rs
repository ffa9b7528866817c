//! Hostile front ends. Each can end its own connection at most; the next front end finds the device
//! in its initial state.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

#[path = "support/front_end.rs"]
mod front_end;
mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use devices::transport::vhost_user::Error;
use front_end::{PROTOCOL_FEATURES, Served, Service, USER};
use guest::block::{Request, SECTOR, WANTED};
use guest::virtio::feature;
use guest::{Block, Segment};
use support::{RAM, RAM_LEN, Ram, block, image, memory_file, pattern, timeout, wait_for};
use vhost::VhostBackend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const BLOCK: u32 = 2;
const LEN: u64 = RAM_LEN as u64;
/// Header flags: version 1, reply required.
const FLAGS: u32 = 1 | 8;

#[path = "support/vhost_user_codes.rs"]
mod code;

/// A front end that sends anything.
struct Liar {
    stream: UnixStream,
    served: Served,
}

impl Liar {
    fn new(service: &Service) -> Liar {
        let (stream, served) = service.connect();
        Liar { stream, served }
    }

    /// A front end that has negotiated features.
    fn negotiated(service: &Service) -> Liar {
        let mut liar = Liar::new(service);
        liar.send(code::SET_OWNER, &[], &[]);
        let features = liar.ask(code::GET_FEATURES);
        let protocol = liar.ask(code::GET_PROTOCOL_FEATURES);
        liar.send(code::SET_PROTOCOL_FEATURES, &protocol.to_le_bytes(), &[]);
        let accepted = features & (feature::VERSION_1 | PROTOCOL_FEATURES);
        liar.send(code::SET_FEATURES, &accepted.to_le_bytes(), &[]);
        liar
    }

    fn ask(&mut self, code: u32) -> u64 {
        self.ask_with(code, &[])
    }

    fn ask_with(&mut self, code: u32, body: &[u8]) -> u64 {
        self.send(code, body, &[]);
        // Skips the replies to earlier messages.
        loop {
            let mut header = [0; 12];
            self.stream.read_exact(&mut header).unwrap();
            let mut body = vec![0; u32_at(&header, 8) as usize];
            self.stream.read_exact(&mut body).unwrap();
            if u32_at(&header, 0) == code {
                return u64::from_le_bytes(body.try_into().unwrap());
            }
        }
    }

    /// Sends a message. The back end may have disconnected already.
    fn send(&mut self, code: u32, body: &[u8], fds: &[RawFd]) {
        let mut message = code.to_le_bytes().to_vec();
        message.extend(FLAGS.to_le_bytes());
        message.extend((body.len() as u32).to_le_bytes());
        // File descriptors come with the header.
        let _ = self.stream.send_with_fds(&[&message[..]], fds);
        let _ = self.stream.write_all(body);
    }

    /// Disconnects after every message was handled. Returns the result of `serve`.
    fn hang_up(mut self) -> Result<usize, Error> {
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.stream.read_to_end(&mut Vec::new());
        self.served.join().unwrap()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// VhostUserVringState: ring index and a number.
fn state(index: u32, num: u32) -> Vec<u8> {
    [index.to_le_bytes(), num.to_le_bytes()].concat()
}

/// The payload of SET_MEM_TABLE: guest address, size, user address, offset of each region.
fn regions(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = state(regions.len() as u32, 0);
    body.extend(regions.iter().flat_map(|region| words(*region)));
    body
}

fn addresses(index: u32, [descriptors, used, available]: [u64; 3]) -> Vec<u8> {
    let mut body = state(index, 0);
    body.extend(words([descriptors, used, available, 0]));
    body
}

/// A disk of 64 sectors that is served.
fn machine() -> (File, Service) {
    let file = image(64);
    let service = Service::new(block(&file, false));
    (file, service)
}

/// Asserts that the device serves a correct front end.
fn check(service: &Service) {
    let ram = &Ram::new();
    let front = service.front_end(ram, BLOCK);
    let mut block = Block::new(front.probe(), &mut ram.dma(), WANTED, 64).unwrap();
    let mut data = [0; SECTOR];
    block.read(5, &mut data, &mut timeout()).unwrap();
    assert_eq!(data, [pattern(5); SECTOR]);
    front.hang_up().unwrap();
}

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

#[test]
fn invalid_messages_end_the_connection() {
    let service = machine().1;
    let word = |value: u64| value.to_le_bytes().to_vec();
    let cases: Vec<(u32, Vec<u8>)> = vec![
        (0, vec![]),
        (9999, vec![]),
        (code::SET_OWNER, word(0)),
        (code::SET_FEATURES, vec![]),
        (code::SET_FEATURES, word(u64::MAX)),
        (code::SET_FEATURES, word(0)),
        (code::SET_PROTOCOL_FEATURES, word(u64::MAX)),
        (code::SET_MEM_TABLE, regions(&[[RAM, LEN, USER, 0]])),
        (code::SET_MEM_TABLE, state(u32::MAX, 0)),
        (code::SET_LOG_BASE, words([4096, 0])),
        (code::SET_VRING_NUM, state(1, 64)),
        (code::SET_VRING_NUM, state(u32::MAX, 64)),
        (code::SET_VRING_ADDR, addresses(1, [USER; 3])),
        (code::SET_VRING_ADDR, addresses(0, [USER + 1; 3])),
        (code::SET_VRING_BASE, state(0, 0x1_0000)),
        (code::GET_VRING_BASE, state(7, 0)),
        (code::SET_VRING_KICK, word(0)),
        (code::SET_VRING_KICK, word(0x100)),
        (code::SET_VRING_KICK, word(0x1ff)),
        (code::SET_VRING_CALL, word(0)),
        (code::SET_VRING_ERR, word(0)),
        (code::SET_VRING_ENABLE, state(0, 2)),
        (code::SET_VRING_ENABLE, state(9, 1)),
        (code::GET_CONFIG, [state(0xfff, 16), vec![0; 20]].concat()),
        (code::GET_CONFIG, state(0, u32::MAX)),
        (code::SET_CONFIG, [state(u32::MAX, 8), vec![0; 12]].concat()),
        (code::GET_INFLIGHT_FD, vec![0; 24]),
        (code::ADD_MEM_REG, words([0, RAM, LEN, USER, 0])),
        (code::REM_MEM_REG, words([0, RAM, LEN, USER, 0])),
    ];
    for (code, body) in cases {
        let mut liar = Liar::negotiated(&service);
        liar.send(code, &body, &[]);
        let ended = liar.hang_up();
        assert!(
            matches!(ended, Err(Error::Protocol(_))),
            "{code}: {ended:?}"
        );
        check(&service);
    }
}

#[test]
fn invalid_memory_regions_are_refused() {
    let service = machine().1;
    let file = memory_file(LEN);
    let mut zero = OpenOptions::new();
    let zero = zero.read(true).write(true).open("/dev/zero").unwrap();
    let (pipe, _) = UnixStream::pair().unwrap();
    let (file, zero, pipe) = (file.as_raw_fd(), zero.as_raw_fd(), pipe.as_raw_fd());
    let cases: Vec<(Vec<[u64; 4]>, Vec<RawFd>)> = vec![
        // Longer than its file, in each possible way.
        (vec![[RAM, LEN + 1, USER, 0]], vec![file]),
        (vec![[RAM, LEN, USER, 4096]], vec![file]),
        (vec![[RAM, 1 << 60, USER, 0]], vec![file]),
        (vec![[RAM, 4096, USER, LEN]], vec![file]),
        // Sums that wrap, and an empty region.
        (vec![[u64::MAX - 4095, 8192, USER, 0]], vec![file]),
        (vec![[RAM, 8192, u64::MAX - 4095, 0]], vec![file]),
        (vec![[RAM, 8192, USER, u64::MAX - 4095]], vec![file]),
        (vec![[RAM, 0, USER, 0]], vec![file]),
        // Not on a page boundary.
        (vec![[RAM, 4096, USER, 17]], vec![file]),
        // Files without a length, or that cannot be mapped.
        (vec![[RAM, 4096, USER, 0]], vec![zero]),
        (vec![[RAM, 4096, USER, 0]], vec![pipe]),
        // Descriptors missing, or too many.
        (vec![[RAM, 4096, USER, 0]], vec![]),
        (vec![[RAM, 4096, USER, 0]], vec![file, file]),
        // Two regions that overlap, in guest or in front-end addresses.
        (
            vec![[RAM, 8192, USER, 0], [RAM + 4096, 4096, 0, 0]],
            vec![file, file],
        ),
        (
            vec![[RAM, 8192, USER, 0], [0, 4096, USER + 4096, 0]],
            vec![file, file],
        ),
    ];
    for (table, fds) in cases {
        let mut liar = Liar::negotiated(&service);
        liar.send(code::SET_MEM_TABLE, &regions(&table), &fds);
        let ended = liar.hang_up();
        assert!(
            matches!(ended, Err(Error::Protocol(_))),
            "{table:x?}: {ended:?}"
        );
        check(&service);
    }
    // One region more than the maximum.
    let mut liar = Liar::negotiated(&service);
    for n in 0..33_u64 {
        let at = n * 4096;
        let body = words([0, RAM + at, 4096, USER + at, 0]);
        liar.send(code::ADD_MEM_REG, &body, &[file]);
    }
    assert!(liar.hang_up().is_err());
    check(&service);
}

/// A front end that has sent everything correctly, up to the ring's size and addresses.
fn nearly(service: &Service, file: &File, size: u32, areas: [u64; 3]) -> Liar {
    let mut liar = Liar::negotiated(service);
    let table = regions(&[[RAM, LEN, USER, 0]]);
    liar.send(code::SET_MEM_TABLE, &table, &[file.as_raw_fd()]);
    liar.send(code::SET_VRING_NUM, &state(0, size), &[]);
    liar.send(code::SET_VRING_ADDR, &addresses(0, areas), &[]);
    liar.send(code::SET_VRING_ENABLE, &state(0, 1), &[]);
    liar
}

#[test]
fn invalid_rings_are_reported_as_errors_and_never_run() {
    let service = machine().1;
    let file = memory_file(LEN);
    let good = [USER, USER + 0x4000, USER + 0x8000];
    let end = USER + LEN;
    let cases = [
        (0, good),
        (3, good),
        (1000, good),
        (0x1_0000, good),
        (u32::MAX, good),
        (64, [RAM; 3]),
        (64, [0; 3]),
        (64, [u64::MAX - 15; 3]),
        (64, [end - 16, good[1], good[2]]),
        (64, [good[0], end - 16, good[2]]),
        (64, [good[0], good[1], end - 16]),
        (64, [end; 3]),
    ];
    for (size, areas) in cases {
        let mut liar = nearly(&service, &file, size, areas);
        let (kick, error) = (event(), event());
        let zero = 0_u64.to_le_bytes();
        liar.send(code::SET_VRING_ERR, &zero, &[error.as_raw_fd()]);
        liar.send(code::SET_VRING_KICK, &zero, &[kick.as_raw_fd()]);
        // The ring is the guest's, and the guest may reset it: the connection stays.
        let base = liar.ask_with(code::GET_VRING_BASE, &state(0, 0));
        assert_eq!(base, 0, "{size} {areas:x?}");
        assert_eq!(error.read().ok(), Some(1), "{size} {areas:x?}");
        liar.hang_up().unwrap();
        check(&service);
    }
}

#[test]
fn only_eventfds_are_accepted_as_eventfds() {
    let service = machine().1;
    let (socket, _) = UnixStream::pair().unwrap();
    let regular = tempfile::tempfile().unwrap();
    let folder = File::open("/").unwrap();
    let fds = [socket.as_raw_fd(), regular.as_raw_fd(), folder.as_raw_fd()];
    for code in [
        code::SET_VRING_KICK,
        code::SET_VRING_CALL,
        code::SET_VRING_ERR,
    ] {
        for fd in fds {
            let mut liar = Liar::negotiated(&service);
            liar.send(code, &0_u64.to_le_bytes(), &[fd]);
            assert!(liar.hang_up().is_err());
        }
        let mut liar = Liar::negotiated(&service);
        let (one, two) = (event(), event());
        let both = [one.as_raw_fd(), two.as_raw_fd()];
        liar.send(code, &0_u64.to_le_bytes(), &both);
        assert!(liar.hang_up().is_err());
    }
    check(&service);
}

/// The call eventfd is blocking and full: a write to it would block.
#[test]
fn a_full_call_eventfd_does_not_block_the_device() {
    let (ram, service) = (Ram::new(), machine().1);
    let front = service.front_end(&ram, BLOCK);
    let mut dma = ram.dma();
    let data = dma.alloc(SECTOR).unwrap();
    let mut block = Block::new(front.probe(), &mut dma, WANTED, 64).unwrap();
    let full = EventFd::new(0).unwrap();
    full.write(u64::MAX - 1).unwrap();
    front.state().client.set_vring_call(0, &full).unwrap();
    for sector in 0..20 {
        let token = block.submit(Request::read(sector), &[Segment::writable(&data)]);
        block.finish(token.unwrap(), &mut timeout()).unwrap();
    }
    // This waits for the device's thread.
    front.hang_up().unwrap();
    check(&service);
}

#[test]
fn a_message_truncated_anywhere_ends_the_connection() {
    let service = machine().1;
    let mut message = code::SET_FEATURES.to_le_bytes().to_vec();
    message.extend(FLAGS.to_le_bytes());
    message.extend(8_u32.to_le_bytes());
    message.extend(feature::VERSION_1.to_le_bytes());
    for cut in 0..message.len() {
        let mut liar = Liar::new(&service);
        liar.stream.write_all(&message[..cut]).unwrap();
        let ended = liar.hang_up();
        assert_eq!(ended.is_ok(), cut == 0, "{cut}: {ended:?}");
    }
    check(&service);
}

#[test]
fn memory_that_shrank_before_it_is_mapped_is_refused() {
    let service = machine().1;
    let file = memory_file(LEN);
    file.set_len(4096).unwrap();
    let mut liar = Liar::negotiated(&service);
    let table = regions(&[[RAM, LEN, USER, 0]]);
    liar.send(code::SET_MEM_TABLE, &table, &[file.as_raw_fd()]);
    assert!(liar.hang_up().is_err());
    check(&service);
}

/// xorshift64: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Mostly values that could be valid.
    fn word(&mut self) -> u64 {
        match self.next() % 8 {
            0 => self.next(),
            1 => u64::MAX - self.next() % 32,
            2 => USER + self.next() % LEN,
            3 => RAM + self.next() % LEN,
            4 => LEN,
            5 => feature::VERSION_1 | PROTOCOL_FEATURES,
            _ => self.next() % 3,
        }
    }
}

#[test]
fn ten_thousand_messages_at_random_do_no_harm() {
    let (file, service) = machine();
    let memory = memory_file(LEN);
    let kick = event();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut said = 0;
    while said < 10_000 {
        let good = [USER, USER + 0x4000, USER + 0x8000];
        let mut liar = nearly(&service, &memory, 64, good);
        for _ in 0..20 {
            said += 1;
            let code = (random.next() % 44) as u32;
            let mut body: Vec<u8> = (0..random.next() % 7)
                .flat_map(|_| random.word().to_le_bytes())
                .collect();
            // The sizes of most messages.
            match random.next() % 4 {
                0 => body.truncate(8),
                1 => body.resize(40, 0),
                _ => {}
            }
            let fds = [kick.as_raw_fd(), memory.as_raw_fd()];
            let fds = match random.next() % 4 {
                0 => &fds[..1],
                1 => &fds[1..],
                2 => &fds[..],
                _ => &[],
            };
            liar.send(code, &body, fds);
            let _ = kick.write(1);
        }
        let _ = liar.hang_up();
    }
    check(&service);
    assert_eq!(file.metadata().unwrap().len(), 64 * 512);
}

/// A front end with a hostile driver: a device that needs a reset still stops, and serves the next
/// front end.
#[test]
fn a_front_end_that_leaves_an_invalid_ring_is_replaced() {
    let (ram, service) = (Ram::new(), machine().1);
    for _ in 0..10 {
        let front = service.front_end(&ram, BLOCK);
        let mut block = Block::new(front.probe(), &mut ram.dma(), WANTED, 64).unwrap();
        let nowhere = Segment { address: 0x10, len: 512, writable: true };
        drop(block.submit(Request::read(0), &[nowhere]));
        block.kick();
        wait_for("the error", || front.state().rings[0].error.read().is_ok());
        front.hang_up().unwrap();
    }
    check(&service);
}
