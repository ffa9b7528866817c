use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tempfile::TempDir;

use super::connection::{BUFFER, Ports};
use super::packet::{STREAM, op, shutdown};
use super::table::{CONNECTIONS_MAX, HOST, PATIENCE, REPLIES_MAX};
use super::*;
use crate::rig::{DATA, Rig, WRITE};
use crate::sync::now;

const CID: u32 = 3;
const SIZE: u16 = 64;
/// The length of a driver's buffer for received packets.
const PAGE: u32 = 4096;
/// What the guest says that it can take.
const GUEST_ALLOC: u32 = 256 << 10;

const PORTS: Ports = Ports { host: 52, guest: 1024 };

impl Listener for UnixListener {
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        match UnixListener::accept(self) {
            Ok((stream, _)) => stream.set_nonblocking(true).map(|()| Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A device, the driver's two rings, and the directory of the host's sockets.
struct Bench {
    rx: Rig,
    tx: Rig,
    vsock: Vsock,
    queues: Queues,
    /// Used elements of rx that were read.
    seen: u16,
    alloc: u32,
    /// Bytes that the guest has read, of all connections: for tests with one.
    forwarded: u32,
    folder: TempDir,
}

type Packet = (Header, Vec<u8>);

impl Bench {
    fn new() -> Bench {
        let mut bench = Bench::without_buffers();
        bench.offer_buffers();
        bench
    }

    fn without_buffers() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let vsock = Vsock::new(CID, Arc::new(listener), path).unwrap();
        let (rx, tx) = (Rig::new(SIZE), Rig::new(SIZE));
        let queues = Queues::new(vec![Some(rx.queue(0)), Some(tx.queue(0)), None]);
        Bench { rx, tx, vsock, queues, seen: 0, alloc: GUEST_ALLOC, forwarded: 0, folder }
    }

    fn offer_buffer(&self, index: u16) {
        let at = DATA + u64::from(PAGE) * u64::from(index);
        self.rx.descriptor(index, (at, PAGE), WRITE, 0);
        self.rx.offer(index);
    }

    fn offer_buffers(&mut self) {
        (0..SIZE).for_each(|index| self.offer_buffer(index));
        self.kick(RECEIVE);
    }

    fn kick(&mut self, index: usize) {
        self.vsock.process_queue(index, &mut self.queues).unwrap();
    }

    /// What the device's thread does when its file is readable.
    fn events(&mut self) {
        self.vsock.handle_event(0, &mut self.queues).unwrap();
    }

    fn is_quiet(&self) -> bool {
        let file = self.vsock.table.file();
        let files = &mut [PollFd::new(&file, PollFlags::IN)];
        poll(files, Some(&Timespec::default())).unwrap() == 0
    }

    fn header(&self, op: u16, ports: Ports, len: usize) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST,
            src_port: ports.guest,
            dst_port: ports.host,
            len: u32::try_from(len).unwrap(),
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc: self.alloc,
            fwd_cnt: self.forwarded,
        }
    }

    /// The guest sends these bytes as a chain whose pieces have these lengths.
    fn transmit_pieces(&mut self, bytes: &[u8], pieces: &[usize]) {
        self.tx.write(DATA, bytes);
        let mut at = DATA;
        let mut buffers = Vec::new();
        for piece in pieces {
            buffers.push((at, u32::try_from(*piece).unwrap(), 0));
            at += *piece as u64;
        }
        self.tx.chain(0, &buffers);
        self.tx.offer(0);
        self.kick(TRANSMIT);
    }

    fn transmit(&mut self, header: Header, data: &[u8]) {
        let bytes = [&header.bytes()[..], data].concat();
        let pieces = [LEN, data.len()];
        let count = if data.is_empty() { 1 } else { 2 };
        self.transmit_pieces(&bytes, &pieces[..count]);
    }

    fn send(&mut self, op: u16, ports: Ports, data: &[u8]) {
        self.transmit(self.header(op, ports, data.len()), data);
    }

    fn shut_down(&mut self, ports: Ports, flags: u32) {
        let header = Header { flags, ..self.header(op::SHUTDOWN, ports, 0) };
        self.transmit(header, &[]);
    }

    /// The packets that the driver got since the last call. It offers their buffers again.
    fn packets(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while self.seen != self.rx.used_idx() {
            let (head, written) = self.rx.used(self.seen);
            self.seen = self.seen.wrapping_add(1);
            let bytes = self
                .rx
                .read(DATA + u64::from(PAGE) * u64::from(head), written as usize);
            let (header, data) = bytes.split_at(LEN);
            let header = Header::parse(header.try_into().unwrap());
            assert_eq!(header.len as usize, data.len());
            assert_eq!((header.src_cid, header.dst_cid), (HOST, CID.into()));
            packets.push((header, data.to_vec()));
            self.offer_buffer(u16::try_from(head).unwrap());
            self.kick(RECEIVE);
        }
        packets
    }

    /// Their operations and ports.
    fn ops(&mut self) -> Vec<(u16, Ports)> {
        let packets = self.packets().into_iter();
        packets
            .map(|(it, _)| (it.op, Ports { host: it.src_port, guest: it.dst_port }))
            .collect()
    }

    /// The data of all packets, which must be of one connection and nothing else.
    fn data(&mut self) -> Vec<u8> {
        let packets = self.packets().into_iter();
        packets
            .flat_map(|(header, data)| {
                assert_eq!(header.op, op::RW);
                data
            })
            .collect()
    }

    fn listen(&self, port: u32) -> UnixListener {
        let path = self.folder.path().join(format!("v.sock_{port}"));
        UnixListener::bind(path).unwrap()
    }

    /// A connection of the guest to the host: the host's end.
    fn connected(&mut self, ports: Ports) -> UnixStream {
        let path = self.folder.path().join(format!("v.sock_{}", ports.host));
        let _ = std::fs::remove_file(path);
        let listener = self.listen(ports.host);
        self.send(op::REQUEST, ports, &[]);
        assert_eq!(self.ops(), [(op::RESPONSE, ports)]);
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// A connection of the host, which has written these bytes.
    fn dial(&mut self, text: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.folder.path().join("v.sock")).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(text).unwrap();
        self.events();
        stream
    }

    /// The host has waited for as long as it does.
    fn time_passes(&mut self) {
        self.vsock.table.expire(now() + PATIENCE + PATIENCE);
        self.kick(RECEIVE);
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// What the host can read now, and whether that is all that will come.
fn read(stream: &mut UnixStream) -> (Vec<u8>, bool) {
    let mut bytes = vec![0; 1 << 20];
    let mut count = 0;
    loop {
        match stream.read(&mut bytes[count..]) {
            Ok(0) => break (bytes[..count].to_vec(), true),
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                break (bytes[..count].to_vec(), false);
            }
            // The device closed the socket with bytes in it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                break (bytes[..count].to_vec(), true);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_header_has_the_layout_of_the_specification() {
    let bytes: Vec<u8> = (1..=44).collect();
    let header = Header::parse(bytes.clone().try_into().unwrap());
    assert_eq!(header.src_cid, 0x0807_0605_0403_0201);
    assert_eq!(
        (header.src_port, header.dst_port),
        (0x1413_1211, 0x1817_1615)
    );
    assert_eq!((header.kind, header.op), (0x1e1d, 0x201f));
    assert_eq!(header.fwd_cnt, 0x2c2b_2a29);
    assert_eq!(header.bytes().as_slice(), bytes);
}

#[test]
fn the_configuration_is_the_context_id() {
    let bench = Bench::new();
    let mut config = [0xff; 9];
    bench.vsock.config().read(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.vsock.features(), 0);
}

#[test]
fn a_guest_reaches_a_listener_of_the_host_and_bytes_go_both_ways() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    bench.send(op::RW, PORTS, b"from the guest");
    assert_eq!(read(&mut host), (b"from the guest".to_vec(), false));
    host.write_all(b"from the host").unwrap();
    bench.events();
    let packets = bench.packets();
    let [(header, data)] = packets.as_slice() else {
        panic!("{packets:?}");
    };
    assert_eq!(data, b"from the host");
    assert_eq!(
        (header.op, header.kind, header.src_port, header.dst_port),
        (op::RW, STREAM, 52, 1024)
    );
    assert_eq!((header.buf_alloc, header.fwd_cnt), (BUFFER, 14));
}

#[test]
fn a_port_without_a_listener_is_reset() {
    let mut bench = Bench::new();
    bench.send(op::REQUEST, PORTS, &[]);
    assert_eq!(bench.ops(), [(op::RST, PORTS)]);
    drop(bench.listen(PORTS.host));
    bench.send(op::REQUEST, PORTS, &[]);
    assert_eq!(bench.ops(), [(op::RST, PORTS)]);
    assert_eq!(bench.vsock.table.connections.len(), 0);
}

#[test]
fn a_host_reaches_a_port_of_the_guest_and_what_it_wrote_early_is_not_lost() {
    let mut bench = Bench::new();
    let mut host = bench.dial(b"CONNECT 22\nearly");
    let ports = Ports { host: 1 << 30, guest: 22 };
    assert_eq!(bench.ops(), [(op::REQUEST, ports)]);
    assert_eq!(read(&mut host), (vec![], false));
    bench.send(op::RESPONSE, ports, &[]);
    assert_eq!(read(&mut host), (b"OK 1073741824\n".to_vec(), false));
    assert_eq!(bench.data(), b"early");
    let mut second = bench.dial(b"CONNECT 22\n");
    let ports = Ports { host: (1 << 30) + 1, guest: 22 };
    assert_eq!(bench.ops(), [(op::REQUEST, ports)]);
    bench.send(op::RST, ports, &[]);
    assert_eq!(read(&mut second), (vec![], true));
    assert_eq!(bench.vsock.table.connections.len(), 1);
}

#[test]
fn the_line_of_the_host_may_come_in_pieces() {
    let mut bench = Bench::new();
    let mut host = bench.dial(b"CONN");
    for piece in ["ECT 2", "2", "\n"] {
        assert_eq!(bench.ops(), []);
        host.write_all(piece.as_bytes()).unwrap();
        bench.events();
    }
    assert_eq!(
        bench.ops(),
        [(op::REQUEST, Ports { host: 1 << 30, guest: 22 })]
    );
}

#[test]
fn a_line_that_is_no_request_closes_the_connection() {
    for line in [
        "GET / HTTP/1.1\n",
        "CONNECT\n",
        "CONNECT 4294967296\n",
        "CONNECT -1\n",
        "CONNECT 22                             \n",
        "0123456789012345678901234567890123456789",
        "\n",
        "CONNECT \u{e9}\n",
    ] {
        let mut bench = Bench::new();
        let mut host = bench.dial(line.as_bytes());
        assert_eq!(bench.ops(), [], "{line}");
        assert!(read(&mut host).1, "{line}");
        assert_eq!(bench.vsock.table.connections.len(), 0);
    }
}

#[test]
fn a_host_that_says_nothing_is_closed_after_a_time() {
    let mut bench = Bench::new();
    let mut hosts = [bench.dial(b""), bench.dial(b"CONNECT")];
    bench.vsock.table.expire(now());
    assert_eq!(bench.vsock.table.connections.len(), 2);
    bench.time_passes();
    assert!(hosts.iter_mut().all(|host| read(host).1));
    assert_eq!(
        (bench.vsock.table.connections.len(), bench.ops()),
        (0, vec![])
    );
}

#[test]
fn a_request_that_the_guest_does_not_answer_is_reset_after_a_time() {
    let mut bench = Bench::new();
    let mut host = bench.dial(b"CONNECT 22\n");
    let ports = Ports { host: 1 << 30, guest: 22 };
    assert_eq!(bench.ops(), [(op::REQUEST, ports)]);
    bench.time_passes();
    assert_eq!(bench.ops(), [(op::RST, ports)]);
    assert_eq!(read(&mut host), (vec![], true));
    bench.send(op::RESPONSE, ports, &[]);
    assert_eq!(bench.ops(), [(op::RST, ports)]);
}

/// The same by the timer, whose event the device's thread waits for.
#[test]
fn the_timer_ends_a_wait_and_does_not_run_without_one() {
    let mut bench = Bench::new();
    assert!(bench.is_quiet());
    let mut host = bench.dial(b"CONNECT");
    assert!(bench.is_quiet());
    let file = bench.vsock.table.file();
    let limit = Timespec::try_from(Duration::from_secs(60)).unwrap();
    let files = &mut [PollFd::new(&file, PollFlags::IN)];
    assert_eq!(poll(files, Some(&limit)).unwrap(), 1);
    bench.events();
    assert!(read(&mut host).1);
    assert!(bench.is_quiet());
}

/// cloud-hypervisor's issue 3485: a peer that closed before the OK was a broken pipe, and its data
/// was lost.
#[test]
fn a_host_that_closes_before_the_ok_has_its_bytes_delivered() {
    let mut bench = Bench::new();
    drop(bench.dial(b"CONNECT 22\nlast words"));
    bench.events();
    let ports = Ports { host: 1 << 30, guest: 22 };
    assert_eq!(bench.ops(), [(op::REQUEST, ports)]);
    bench.send(op::RESPONSE, ports, &[]);
    let packets = bench.packets();
    assert_eq!(packets[0].1, b"last words");
    assert_eq!(
        (packets[1].0.op, packets[1].0.flags),
        (op::SHUTDOWN, shutdown::BOTH)
    );
}

/// libkrun's issue 267: a guest whose request is not answered yet must not get anything else first.
#[test]
fn the_answer_to_a_request_comes_before_any_credit() {
    let mut bench = Bench::without_buffers();
    let listener = bench.listen(PORTS.host);
    bench.alloc = 0;
    bench.send(op::REQUEST, PORTS, &[]);
    bench.send(op::CREDIT_REQUEST, PORTS, &[]);
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(b"bytes for which the guest has no room")
        .unwrap();
    bench.events();
    bench.offer_buffers();
    // The RESPONSE has our credit.
    let ops = [op::RESPONSE, op::CREDIT_REQUEST];
    assert_eq!(bench.ops(), ops.map(|op| (op, PORTS)));
    bench.alloc = GUEST_ALLOC;
    let mut host = bench.dial(b"CONNECT 22\n");
    let ports = Ports { host: 1 << 30, guest: 22 };
    bench.send(op::CREDIT_REQUEST, ports, &[]);
    assert_eq!(bench.ops(), [(op::REQUEST, ports)]);
    bench.send(op::RESPONSE, ports, &[]);
    assert_eq!(bench.ops(), [(op::CREDIT_UPDATE, ports)]);
    assert_eq!(read(&mut host).0, b"OK 1073741824\n");
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut bench = Bench::new();
    bench.alloc = 5000;
    let mut host = bench.connected(PORTS);
    let bytes = pattern(12_000);
    host.write_all(&bytes).unwrap();
    bench.events();
    let mut got = Vec::new();
    for round in 0..3 {
        let packets = bench.packets();
        got.extend(packets.iter().flat_map(|(_, data)| data.clone()));
        assert_eq!(got.len(), [5000, 10_000, 12_000][round]);
        let asked = packets.iter().filter(|it| it.0.op == op::CREDIT_REQUEST);
        assert_eq!(asked.count(), usize::from(round < 2));
        // A packet without news does not make us ask again.
        bench.send(op::CREDIT_UPDATE, PORTS, &[]);
        assert_eq!(bench.ops(), []);
        bench.forwarded = u32::try_from(got.len()).unwrap();
        bench.send(op::CREDIT_UPDATE, PORTS, &[]);
    }
    assert!(got == bytes);
}

/// What the guest says of its buffer may be impossible.
#[test]
fn a_guest_that_claims_to_have_read_more_than_it_got_has_no_room() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    host.write_all(b"bytes").unwrap();
    bench.forwarded = 1;
    bench.send(op::CREDIT_UPDATE, PORTS, &[]);
    bench.events();
    assert_eq!(bench.ops(), [(op::CREDIT_REQUEST, PORTS)]);
    bench.forwarded = 0;
    bench.send(op::CREDIT_UPDATE, PORTS, &[]);
    assert_eq!(bench.data(), b"bytes");
}

/// Sends `total` bytes as fast as our credit allows, in packets of at most `packet` bytes and in
/// none that is shorter if `whole`. The host reads `chunk` bytes at a time.
fn stream(total: usize, packet: usize, whole: bool, chunk: usize) {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    let bytes = pattern(total);
    let (mut sent, mut got, mut forwarded) = (0, Vec::<u8>::new(), 0_u32);
    let mut part = vec![0; chunk];
    let mut idle = 0;
    while got.len() < total {
        let room = BUFFER as usize - (sent - forwarded as usize);
        let next = packet.min(total - sent);
        let next = if whole && next > room {
            0
        } else {
            next.min(room)
        };
        if next > 0 {
            bench.send(op::RW, PORTS, &bytes[sent..sent + next]);
            sent += next;
        } else if whole && sent < total {
            bench.send(op::CREDIT_REQUEST, PORTS, &[]);
        }
        match host.read(&mut part) {
            Ok(count) => got.extend(&part[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        bench.events();
        let before = (sent, got.len(), forwarded);
        for (header, _) in bench.packets() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.fwd_cnt;
        }
        idle = match before == (sent, got.len(), forwarded) && next == 0 {
            true => idle + 1,
            false => 0,
        };
        assert!(idle < 1000, "it stalls at {before:?}");
    }
    assert!(got == bytes);
}

/// Firecracker's issue 1751 and vhost-device's 494: a guest without credit waited for ever.
/// libkrun's 772 and 773: a deadlock at 240 KB; bytes that the socket did not take were lost.
#[test]
fn a_stream_to_a_slow_reader_is_complete_and_never_stalls() {
    stream(3 << 20, 65_536, false, 5000);
    stream(1 << 20, 3000, false, 100_000);
}

#[test]
fn a_guest_that_asks_for_credit_never_stalls() {
    stream(2 << 20, 40_000, true, 3000);
    stream(2 << 20, 65_536, true, 3000);
}

/// Fills the host's socket and our buffer: how many bytes that took.
fn fill(bench: &mut Bench, ports: Ports) -> usize {
    let bytes = pattern(1 << 20);
    let (mut sent, mut forwarded) = (0, 0);
    loop {
        let room = (BUFFER as usize + forwarded) - sent;
        if room == 0 {
            return sent;
        }
        let next = room.min(16 << 10);
        bench.send(op::RW, ports, &bytes[sent..sent + next]);
        sent += next;
        // As a guest that is told at once.
        bench.send(op::CREDIT_REQUEST, ports, &[]);
        for (header, _) in bench.packets() {
            forwarded = header.fwd_cnt as usize;
        }
    }
}

#[test]
fn data_beyond_the_credit_resets_the_connection_and_harms_no_other() {
    let mut bench = Bench::new();
    let other = Ports { host: 53, guest: 7 };
    let mut good = bench.connected(other);
    let mut host = bench.connected(PORTS);
    let sent = fill(&mut bench, PORTS);
    bench.send(op::RW, PORTS, b"x");
    assert_eq!(bench.ops(), [(op::RST, PORTS)]);
    bench.send(op::RW, other, b"y");
    assert_eq!(read(&mut good).0, b"y");
    let mut all = Vec::new();
    for _ in 0..2 {
        let (bytes, _) = read(&mut host);
        all.extend(bytes);
        bench.events();
    }
    all.extend(read(&mut host).0);
    assert!(all == pattern(sent));
    assert_eq!(bench.vsock.table.connections.len(), 1);
}

/// cloud-hypervisor's issues 7759, 7958 and 8372.
#[test]
fn a_host_that_ends_its_data_still_gets_the_guests() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    host.write_all(b"all").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    bench.events();
    let packets = bench.packets();
    assert_eq!(packets[0].1, b"all");
    assert_eq!(
        (packets[1].0.op, packets[1].0.flags),
        (op::SHUTDOWN, shutdown::SEND)
    );
    bench.send(op::RW, PORTS, b"answer");
    assert_eq!(read(&mut host), (b"answer".to_vec(), false));
    drop(host);
    bench.events();
    let packets = bench.packets();
    assert_eq!(
        (packets[0].0.op, packets[0].0.flags),
        (op::SHUTDOWN, shutdown::BOTH)
    );
    bench.send(op::RST, PORTS, &[]);
    assert_eq!(
        (bench.vsock.table.connections.len(), bench.ops()),
        (0, vec![])
    );
}

#[test]
fn a_guest_that_ends_its_data_still_gets_the_hosts() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    bench.send(op::RW, PORTS, b"question");
    bench.shut_down(PORTS, shutdown::SEND);
    assert_eq!(read(&mut host), (b"question".to_vec(), true));
    host.write_all(b"answer").unwrap();
    bench.events();
    assert_eq!(bench.data(), b"answer");
    bench.send(op::RW, PORTS, b"more");
    assert_eq!(bench.ops(), [(op::RST, PORTS)], "it had said that it ends");
}

#[test]
fn a_host_cannot_write_to_a_guest_that_receives_no_more() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    bench.shut_down(PORTS, shutdown::RECEIVE);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    bench.send(op::RW, PORTS, b"still");
    assert_eq!(read(&mut host), (b"still".to_vec(), false));
    drop(host);
    bench.events();
    let packets = bench.packets();
    assert_eq!(
        (packets[0].0.op, packets[0].0.flags),
        (op::SHUTDOWN, shutdown::BOTH)
    );
}

/// A host that only reads no more.
#[test]
fn data_that_the_host_refuses_is_dropped_and_the_guest_learns_it() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    host.shutdown(Shutdown::Read).unwrap();
    bench.send(op::RW, PORTS, &pattern(60_000));
    let packets = bench.packets();
    assert_eq!(
        (packets[0].0.op, packets[0].0.flags, packets[0].0.fwd_cnt),
        (op::SHUTDOWN, shutdown::RECEIVE, 60_000)
    );
    bench.send(op::RW, PORTS, &pattern(60_000));
    assert_eq!(bench.ops(), [(op::CREDIT_UPDATE, PORTS)]);
    host.write_all(b"still").unwrap();
    bench.events();
    assert_eq!(bench.data(), b"still");
}

/// hyperkit's pull request 62: a shutdown lost the bytes that were buffered. libkrun's issue 852:
/// the entry of a closed connection stayed, and its port was dead.
#[test]
fn a_closed_connection_gives_the_host_all_bytes_and_frees_its_ports() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    let sent = fill(&mut bench, PORTS);
    bench.shut_down(PORTS, shutdown::BOTH);
    assert_eq!(bench.ops(), [(op::RST, PORTS)]);
    let mut second = bench.connected(PORTS);
    let mut all = Vec::new();
    loop {
        let (bytes, end) = read(&mut host);
        all.extend(bytes);
        if end {
            break;
        }
        bench.events();
    }
    assert!(all == pattern(sent));
    bench.send(op::RW, PORTS, b"second");
    assert_eq!(read(&mut second), (b"second".to_vec(), false));
    assert_eq!(bench.vsock.table.connections.len(), 1);
}

#[test]
fn a_shutdown_that_the_guest_does_not_answer_is_followed_by_a_reset() {
    let mut bench = Bench::new();
    drop(bench.connected(PORTS));
    bench.events();
    assert_eq!(bench.ops(), [(op::SHUTDOWN, PORTS)]);
    bench.time_passes();
    assert_eq!(bench.ops(), [(op::RST, PORTS)]);
    assert_eq!(bench.vsock.table.connections.len(), 0);
}

#[test]
fn packets_with_wrong_context_ids_are_dropped() {
    let mut bench = Bench::new();
    let _listener = bench.listen(PORTS.host);
    let right = bench.header(op::REQUEST, PORTS, 0);
    for header in [
        Header { src_cid: 4, ..right },
        Header { dst_cid: 4, ..right },
        Header { dst_cid: 2 | 1 << 32, ..right },
    ] {
        bench.transmit(header, &[]);
    }
    assert_eq!((bench.ops(), bench.tx.used_idx()), (vec![], 3));
}

#[test]
fn what_belongs_to_no_connection_is_reset_but_no_reset() {
    let mut bench = Bench::new();
    for op in [op::RESPONSE, op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, 0, 99] {
        bench.send(op, PORTS, b"data");
        assert_eq!(bench.ops(), [(op::RST, PORTS)]);
    }
    bench.send(op::RST, PORTS, &[]);
    assert_eq!(bench.ops(), []);
    let header = bench.header(op::REQUEST, PORTS, 0);
    bench.transmit(Header { kind: 2, ..header }, &[]);
    let packets = bench.packets();
    assert_eq!((packets[0].0.op, packets[0].0.kind), (op::RST, 2));
    bench.transmit(Header { kind: 2, op: op::RST, ..header }, &[]);
    assert_eq!(bench.ops(), []);
}

#[test]
fn a_packet_that_its_connection_does_not_allow_resets_it() {
    for op in [op::REQUEST, op::RESPONSE, 0, 8] {
        let mut bench = Bench::new();
        let mut host = bench.connected(PORTS);
        bench.send(op, PORTS, &[]);
        assert_eq!(bench.ops(), [(op::RST, PORTS)]);
        assert!(read(&mut host).1);
        assert_eq!(bench.vsock.table.connections.len(), 0);
    }
    for op in [op::RW, op::SHUTDOWN, op::REQUEST] {
        let mut bench = Bench::new();
        let mut host = bench.dial(b"CONNECT 22\n");
        let ports = Ports { host: 1 << 30, guest: 22 };
        assert_eq!(bench.ops(), [(op::REQUEST, ports)]);
        bench.send(op, ports, &[]);
        assert_eq!(bench.ops(), [(op::RST, ports)]);
        assert_eq!(read(&mut host), (vec![], true));
    }
}

/// CVE-2019-18960: Firecracker did not check a packet's length.
#[test]
fn a_length_beyond_the_chain_or_the_limit_is_an_error_of_that_connection_only() {
    for len in [5, 65_537, u32::MAX] {
        let mut bench = Bench::new();
        let other = Ports { host: 53, guest: 7 };
        let mut good = bench.connected(other);
        let mut host = bench.connected(PORTS);
        let header = bench.header(op::RW, PORTS, 4);
        bench.transmit(Header { len, ..header }, b"four");
        assert_eq!(bench.ops(), [(op::RST, PORTS)]);
        assert_eq!(read(&mut host), (vec![], true));
        bench.send(op::RW, other, b"y");
        assert_eq!(read(&mut good), (b"y".to_vec(), false));
    }
}

#[test]
fn bytes_of_a_chain_beyond_the_length_are_not_data() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    let header = bench.header(op::RW, PORTS, 4);
    bench.transmit(header, b"four and more");
    assert_eq!(read(&mut host), (b"four".to_vec(), false));
}

#[test]
fn a_chain_without_a_header_is_returned() {
    let mut bench = Bench::new();
    bench.transmit_pieces(&[0; 43], &[20, 23]);
    bench.tx.descriptor(0, (DATA, 100), WRITE, 0);
    bench.tx.offer(0);
    bench.kick(TRANSMIT);
    assert_eq!((bench.tx.used_idx(), bench.ops()), (2, vec![]));
}

#[test]
fn a_buffer_without_room_for_data_is_returned_empty() {
    let mut bench = Bench::without_buffers();
    bench.rx.descriptor(0, (DATA, 44), WRITE, 0);
    bench.rx.descriptor(1, (DATA, 100), 0, 0);
    (0..2).for_each(|index| bench.rx.offer(index));
    bench.kick(RECEIVE);
    assert_eq!([bench.rx.used(0), bench.rx.used(1)], [(0, 0), (1, 0)]);
}

#[test]
fn answers_for_a_guest_without_buffers_are_bounded_and_none_is_lost() {
    let mut bench = Bench::without_buffers();
    let count = REPLIES_MAX + 40;
    for guest in 0..count {
        let guest = u32::try_from(guest).unwrap();
        bench.send(op::REQUEST, Ports { host: 9, guest }, &[]);
        // Each chain stays as it is while it waits: the driver uses another descriptor.
        if guest as usize >= REPLIES_MAX {
            break;
        }
    }
    assert_eq!(usize::from(bench.tx.used_idx()), REPLIES_MAX);
    bench.offer_buffers();
    let mut resets = bench.ops();
    while resets.len() <= REPLIES_MAX {
        let more = bench.ops();
        assert!(!more.is_empty());
        resets.extend(more);
    }
    let ports = |guest| Ports { host: 9, guest };
    let expected = (0..=256).map(|guest| (op::RST, ports(guest)));
    assert!(resets.into_iter().eq(expected));
    assert_eq!(usize::from(bench.tx.used_idx()), REPLIES_MAX + 1);
}

#[test]
fn more_connections_than_the_limit_are_reset_or_closed() {
    let mut bench = Bench::new();
    let hosts: Vec<_> = (0..CONNECTIONS_MAX).map(|_| bench.dial(b"")).collect();
    assert!(read(&mut bench.dial(b"")).1);
    let _listener = bench.listen(PORTS.host);
    bench.send(op::REQUEST, PORTS, &[]);
    assert_eq!(bench.ops(), [(op::RST, PORTS)]);
    drop(hosts);
    bench.events();
    assert_eq!(bench.vsock.table.connections.len(), 0);
    bench.send(op::REQUEST, PORTS, &[]);
    assert_eq!(bench.ops(), [(op::RESPONSE, PORTS)]);
}

#[test]
fn a_reset_closes_all_connections_and_new_ones_can_be_made() {
    let mut bench = Bench::new();
    let mut hosts = [
        bench.connected(PORTS),
        bench.dial(b"CONNECT 22\n"),
        bench.dial(b"CONN"),
    ];
    fill(&mut bench, PORTS);
    bench.vsock.reset();
    assert!(hosts.iter_mut().all(|host| read(host).1));
    assert_eq!(bench.vsock.table.connections.len(), 0);
    let (rx, tx) = (Rig::new(SIZE), Rig::new(SIZE));
    bench.queues = Queues::new(vec![Some(rx.queue(0)), Some(tx.queue(0)), None]);
    (bench.rx, bench.tx, bench.seen) = (rx, tx, 0);
    bench.offer_buffers();
    bench.time_passes();
    assert_eq!(bench.ops(), []);
    bench.connected(PORTS);
}

#[test]
fn a_device_without_its_receive_queue_takes_packets_and_sends_none() {
    let mut bench = Bench::new();
    bench.queues = Queues::new(vec![None, Some(bench.tx.queue(0))]);
    bench.send(op::REQUEST, PORTS, &[]);
    let mut host = bench.dial(b"CONNECT 22\n");
    assert_eq!(bench.rx.used_idx(), 0);
    bench.time_passes();
    assert!(read(&mut host).1);
    bench.queues = Queues::new(vec![]);
    (0..4).for_each(|index| bench.kick(index));
    bench.events();
}

#[test]
fn a_peer_that_only_reads_does_not_wake_the_device() {
    let mut bench = Bench::new();
    let mut host = bench.connected(PORTS);
    bench.events();
    bench.send(op::RW, PORTS, &pattern(60_000));
    assert!(bench.is_quiet());
    assert_eq!(read(&mut host).0.len(), 60_000);
    assert!(bench.is_quiet());
}

/// gramine-tdx's issue 25: the bytes of all connections were counted together.
#[test]
fn each_connection_has_its_own_counters() {
    let mut bench = Bench::new();
    let other = Ports { host: 53, guest: 7 };
    let _hosts = [bench.connected(PORTS), bench.connected(other)];
    bench.send(op::RW, PORTS, &pattern(1000));
    bench.send(op::RW, other, &pattern(10));
    for (ports, count) in [(PORTS, 1000), (other, 10)] {
        bench.send(op::CREDIT_REQUEST, ports, &[]);
        let packets = bench.packets();
        assert_eq!(packets.len(), 1);
        assert_eq!(
            (packets[0].0.op, packets[0].0.fwd_cnt),
            (op::CREDIT_UPDATE, count)
        );
    }
}

proptest! {
    /// § 5.10.6: a packet may be split anywhere, in both directions.
    #[test]
    fn packets_arrive_whole_in_any_pieces(
        len in 1..2000_usize,
        cuts in prop::collection::vec(1..600_usize, 1..12),
        buffers in prop::collection::vec(1..300_u32, 1..20),
    ) {
        let mut bench = Bench::without_buffers();
        let listener = bench.listen(PORTS.host);
        bench.send(op::REQUEST, PORTS, &[]);
        let (mut host, _) = listener.accept().unwrap();
        host.set_nonblocking(true).unwrap();
        let bytes = [
            &bench.header(op::RW, PORTS, len).bytes()[..],
            &pattern(len),
        ]
        .concat();
        let mut pieces = Vec::new();
        let mut left = bytes.len();
        for cut in cuts {
            pieces.push(cut.min(left));
            left -= cut.min(left);
        }
        pieces.push(left);
        pieces.retain(|piece| *piece > 0);
        bench.transmit_pieces(&bytes, &pieces);
        prop_assert_eq!(read(&mut host), (pattern(len), false));

        // One chain for the RESPONSE, one for data.
        host.write_all(&pattern(len)).unwrap();
        bench.events();
        bench.offer_buffer(40);
        let mut at = DATA;
        let mut chain = Vec::new();
        for len in &buffers {
            chain.push((at, *len, WRITE));
            at += u64::from(*len) + 1;
        }
        bench.rx.chain(0, &chain);
        bench.rx.offer(0);
        bench.kick(RECEIVE);
        let room: u32 = buffers.iter().sum();
        let (_, written) = bench.rx.used(1);
        if room <= 44 {
            prop_assert_eq!(written, 0);
        } else {
            let mut all = Vec::new();
            for (at, len, _) in chain {
                let count = (written as usize - all.len()).min(len as usize);
                all.extend(bench.rx.read(at, count));
                // The byte behind each piece is untouched.
                prop_assert_eq!(bench.rx.read(at + u64::from(len), 1), [0]);
            }
            let (header, data) = all.split_at(LEN);
            let header = Header::parse(header.try_into().unwrap());
            prop_assert_eq!(header.op, op::RW);
            prop_assert_eq!(header.len as usize, data.len());
            prop_assert!(!data.is_empty());
            prop_assert!(data == &pattern(len)[..data.len()]);
        }
    }
}
