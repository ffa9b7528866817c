use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec::Vec;

use super::packet::{HEADER, HOST, Header, STREAM, op, shutdown};
use super::{BUFFER, STREAMS_MAX, Stream, Vsock, WANTED, features};
use crate::model::{Device, Memory, Ring};
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC, VERSION_1};
use crate::{Error, Transport};

const CID: u64 = 5;

/// The host's side of the model.
#[derive(Default)]
struct Peer {
    /// Packets of the driver, with their data.
    sent: Vec<(Header, Vec<u8>)>,
    /// What each of them is answered with, in their order, or as [`Peer::answer`] does.
    script: VecDeque<Vec<Vec<u8>>>,
    arriving: VecDeque<Vec<u8>>,
    events: VecDeque<Vec<u8>>,
    deaf: bool,
    /// Bytes that the driver may send.
    alloc: u32,
}

type Shared = Rc<RefCell<Peer>>;

impl Peer {
    /// Accepts every connection, agrees to the end of one, and gives credit when asked.
    fn answer(&self, header: &Header) -> Option<Header> {
        let ended = header.flags == shutdown::BOTH;
        let op = match header.op {
            op::REQUEST => op::RESPONSE,
            op::SHUTDOWN if ended => op::RST,
            op::CREDIT_REQUEST => op::CREDIT_UPDATE,
            _ => return None,
        };
        Some(Header { buf_alloc: self.alloc, ..header.reply(op) })
    }

    fn serve(&mut self, index: u16, ring: &mut Ring, memory: &Memory) {
        if index == 1 {
            while !self.deaf
                && let Some(chain) = ring.pop(memory)
            {
                assert_eq!(chain.writable(), 0, "the transmitq is for reading");
                let bytes = chain.readable(memory);
                let header = Header::parse(bytes[..HEADER].try_into().unwrap());
                assert_eq!(header.len as usize, bytes.len() - HEADER);
                self.sent.push((header, bytes[HEADER..].to_vec()));
                ring.push(memory, chain.head.into(), 0);
                match self.script.pop_front() {
                    Some(answers) => self.arriving.extend(answers),
                    None => {
                        let answer = self.answer(&header);
                        self.arriving.extend(answer.map(|it| it.bytes().to_vec()));
                    }
                }
            }
            return;
        }
        let from = if index == 0 {
            &mut self.arriving
        } else {
            &mut self.events
        };
        while let Some(bytes) = from.pop_front() {
            let chain = ring.pop(memory).expect("a buffer");
            chain.fill(memory, &bytes);
            ring.push(
                memory,
                chain.head.into(),
                u32::try_from(bytes.len()).unwrap(),
            );
        }
    }
}

fn peer(memory: &Memory, offered: u64) -> (Device<'_>, Shared) {
    let peer = Rc::new(RefCell::new(Peer { alloc: 1 << 20, ..Peer::default() }));
    let served = Rc::clone(&peer);
    let device = Device::new(memory, 19, offered, move |index, ring, memory| {
        served.borrow_mut().serve(index, ring, memory);
    });
    device.state.borrow_mut().config[..8].copy_from_slice(&CID.to_le_bytes());
    (device, peer)
}

fn open<'a, 'm>(device: &'a Device<'m>, memory: &Memory) -> Vsock<&'a Device<'m>> {
    let transport = Transport::probe(device).unwrap().unwrap();
    Vsock::new(transport, &mut memory.dma(), WANTED).unwrap()
}

/// A wait in which the device gives the driver what arrives.
fn serving<'a>(device: &'a Device<'_>) -> impl FnMut() -> bool + 'a {
    let mut rounds = 0;
    move || {
        device.run(0);
        rounds += 1;
        rounds < 100
    }
}

/// A packet of the host to our port 7, from its port 9.
fn packet(op: u16) -> Header {
    Header {
        src_cid: HOST,
        dst_cid: CID,
        src_port: 9,
        dst_port: 7,
        kind: STREAM,
        op,
        buf_alloc: 1 << 20,
        ..Header::default()
    }
}

fn with_data(header: Header, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&Header { len, ..header }.bytes(), data].concat()
}

fn arrive(device: &Device<'_>, peer: &Shared, bytes: Vec<u8>) {
    peer.borrow_mut().arriving.push_back(bytes);
    device.run(0);
}

/// A stream between our port 7 and the host's port 9.
fn accepted(device: &Device<'_>, peer: &Shared, vsock: &mut Vsock<&Device<'_>>) -> Stream {
    vsock.listen(7);
    arrive(device, peer, packet(op::REQUEST).bytes().to_vec());
    vsock.accept(&mut serving(device)).unwrap()
}

/// The operations of the packets that the driver has sent since the last call.
fn ops(peer: &Shared) -> Vec<u16> {
    let sent = std::mem::take(&mut peer.borrow_mut().sent);
    sent.iter().map(|(header, _)| header.op).collect()
}

#[test]
fn a_header_is_its_bytes() {
    let bytes: [u8; HEADER] = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let header = Header::parse(&bytes);
    assert_eq!(header.bytes(), bytes);
    assert_eq!(
        (header.src_cid, header.dst_port),
        (0x0706_0504_0302_0100, 0x1716_1514)
    );
    assert_eq!(
        (header.kind, header.op, header.flags),
        (0x1d1c, 0x1f1e, 0x2322_2120)
    );
    assert_eq!(header.fwd_cnt, 0x2b2a_2928);
}

#[test]
fn a_stream_is_made_used_and_ended_with_each_ring() {
    for offered in [0, features::STREAM, EVENT_IDX, INDIRECT_DESC | EVENT_IDX] {
        let memory = Memory::new();
        let (device, peer) = peer(&memory, offered);
        let mut vsock = open(&device, &memory);
        assert_eq!(
            (vsock.cid(), vsock.transport().features()),
            (CID, offered | VERSION_1)
        );
        let stream = vsock.connect(52, &mut serving(&device)).unwrap();
        vsock
            .send(&stream, b"hello", &mut serving(&device))
            .unwrap();
        let (request, (data, bytes)) = (peer.borrow().sent[0].0, peer.borrow().sent[1].clone());
        let expected = Header { op: op::REQUEST, ..packet(0).reply(0) };
        let expected = Header { dst_port: 52, src_port: 1024, buf_alloc: 4096, ..expected };
        assert_eq!(request, expected);
        assert_eq!(
            (data, bytes),
            (Header { op: op::RW, len: 5, ..expected }, b"hello".to_vec())
        );

        let answer = Header { buf_alloc: 1 << 20, ..data.reply(op::RW) };
        arrive(&device, &peer, with_data(answer, b"back"));
        let mut into = [0; 8];
        assert_eq!(
            vsock.receive(&stream, &mut into, &mut serving(&device)),
            Ok(4)
        );
        assert_eq!(into[..4], *b"back");
        ops(&peer);
        vsock.close(stream, &mut serving(&device)).unwrap();
        assert_eq!(ops(&peer), [op::SHUTDOWN]);
    }
}

#[test]
fn a_refused_connection_leaves_nothing_behind() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    for port in 0..10 {
        let refusal = Header { src_port: port, dst_port: 1024 + port, ..packet(op::RST) };
        peer.borrow_mut()
            .script
            .push_back(std::vec![refusal.bytes().to_vec()]);
        let refused = vsock.connect(port, &mut serving(&device));
        assert_eq!(refused, Err(Error::ConnectionReset));
        assert_eq!(ops(&peer), [op::REQUEST]);
    }
    // And one that nobody answers is withdrawn.
    peer.borrow_mut().script.push_back(Vec::new());
    assert_eq!(vsock.connect(1, &mut serving(&device)), Err(Error::Timeout));
    assert_eq!(ops(&peer), [op::REQUEST, op::RST]);
}

#[test]
fn there_are_so_many_streams_and_more_are_refused() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    let mut streams: Vec<_> = (0..STREAMS_MAX)
        .map(|_| vsock.connect(52, &mut serving(&device)).unwrap())
        .collect();
    assert_eq!(
        vsock.connect(52, &mut serving(&device)),
        Err(Error::Streams)
    );
    vsock.listen(7);
    ops(&peer);
    arrive(&device, &peer, packet(op::REQUEST).bytes().to_vec());
    assert_eq!(vsock.accept(&mut serving(&device)), Err(Error::Timeout));
    assert_eq!(ops(&peer), [op::RST]);
    vsock
        .close(streams.remove(2), &mut serving(&device))
        .unwrap();
    arrive(&device, &peer, packet(op::REQUEST).bytes().to_vec());
    let stream = vsock.accept(&mut serving(&device)).unwrap();
    assert_eq!(stream, Stream(2));
}

#[test]
fn no_more_is_sent_than_the_peer_has_room_for() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    peer.borrow_mut().alloc = 10;
    let mut vsock = open(&device, &memory);
    let stream = vsock.connect(52, &mut serving(&device)).unwrap();
    let mut wait = serving(&device);
    assert_eq!(vsock.send_some(&stream, &[1; 20], &mut wait), Ok(10));
    // It is asked once for more.
    for _ in 0..3 {
        assert_eq!(vsock.send_some(&stream, &[2; 20], &mut wait), Ok(0));
    }
    assert_eq!(ops(&peer), [op::REQUEST, op::RW, op::CREDIT_REQUEST]);
    // The peer shrinks its buffer below what is on the way, and then takes all.
    let ours = Header { src_port: 52, dst_port: 1024, ..packet(op::CREDIT_UPDATE) };
    for (buf_alloc, fwd_cnt, expected) in [(5, 0, 0), (10, 7, 7), (u32::MAX, 17, 20)] {
        let update = Header { buf_alloc, fwd_cnt, ..ours };
        arrive(&device, &peer, update.bytes().to_vec());
        assert_eq!(vsock.send_some(&stream, &[3; 20], &mut wait), Ok(expected));
    }
}

#[test]
fn received_bytes_are_kept_in_order_and_credit_is_given_back() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    let stream = accepted(&device, &peer, &mut vsock);
    assert_eq!(ops(&peer), [op::RESPONSE]);
    let (mut sent, mut got) = (0_u32, 0_u32);
    let mut into = [0; 1000];
    while got < 50_000 {
        let bytes: Vec<_> = (sent..sent + 700)
            .map(|at| at.to_le_bytes()[0] ^ 0x5a)
            .collect();
        // As far as the driver's credit goes.
        if sent - got + 700 <= 4096 {
            arrive(&device, &peer, with_data(packet(op::RW), &bytes));
            sent += 700;
            continue;
        }
        let count = vsock
            .receive(&stream, &mut into, &mut serving(&device))
            .unwrap();
        for byte in &into[..count] {
            assert_eq!(*byte, got.to_le_bytes()[0] ^ 0x5a, "byte {got}");
            got += 1;
        }
    }
    let sent = std::mem::take(&mut peer.borrow_mut().sent);
    assert!(
        sent.iter()
            .all(|(header, _)| header.op == op::CREDIT_UPDATE)
    );
    assert!(sent.last().unwrap().0.fwd_cnt > got - 2048, "half is told");
    assert!(sent.len() < 30, "{} updates", sent.len());
    // All of the buffer, and a byte more.
    let mut all = [0; BUFFER];
    while vsock.receive(&stream, &mut all, &mut || false).is_ok() {}
    arrive(
        &device,
        &peer,
        with_data(packet(op::RW), &[1; BUFFER - 100]),
    );
    arrive(&device, &peer, with_data(packet(op::RW), &[2; 101]));
    ops(&peer);
    assert_eq!(
        vsock.receive(&stream, &mut all, &mut serving(&device)),
        Ok(BUFFER - 100)
    );
    assert_eq!(ops(&peer), [op::RST]);
    let reset = vsock.receive(&stream, &mut all, &mut serving(&device));
    assert_eq!(reset, Err(Error::ConnectionReset));
}

#[test]
fn either_side_ends_its_data_and_the_other_goes_on() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    let stream = accepted(&device, &peer, &mut vsock);
    vsock.shutdown_send(&stream, &mut serving(&device)).unwrap();
    let sent = peer.borrow().sent.last().unwrap().0;
    assert_eq!((sent.op, sent.flags), (op::SHUTDOWN, shutdown::SEND));
    let more = vsock.send(&stream, b"more", &mut serving(&device));
    assert_eq!(more, Err(Error::Finished));
    arrive(&device, &peer, with_data(packet(op::RW), b"last"));
    let end = Header { flags: shutdown::SEND, ..packet(op::SHUTDOWN) };
    arrive(&device, &peer, end.bytes().to_vec());
    let mut into = [0; 3];
    for expected in [3, 1, 0, 0] {
        assert_eq!(
            vsock.receive(&stream, &mut into, &mut serving(&device)),
            Ok(expected)
        );
    }

    let stream = vsock.connect(52, &mut serving(&device)).unwrap();
    let deaf = Header { src_port: 52, dst_port: 1024, ..packet(op::SHUTDOWN) };
    let deaf = Header { flags: shutdown::RECEIVE, ..deaf };
    arrive(&device, &peer, deaf.bytes().to_vec());
    let sent = vsock.send(&stream, b"data", &mut serving(&device));
    assert_eq!(sent, Err(Error::Finished));
    ops(&peer);
    let both = Header { flags: shutdown::SEND, ..deaf };
    arrive(&device, &peer, both.bytes().to_vec());
    assert_eq!(
        vsock.receive(&stream, &mut into, &mut serving(&device)),
        Ok(0)
    );
    assert_eq!(ops(&peer), [op::RST]);
    vsock.close(stream, &mut serving(&device)).unwrap();
    assert_eq!(ops(&peer), []);
}

#[test]
fn a_close_ends_at_its_deadline_without_an_answer() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    let stream = accepted(&device, &peer, &mut vsock);
    ops(&peer);
    peer.borrow_mut().script.push_back(Vec::new());
    vsock.close(stream, &mut serving(&device)).unwrap();
    assert_eq!(ops(&peer), [op::SHUTDOWN, op::RST]);
}

#[test]
fn packets_without_a_stream_are_reset_and_those_of_others_ignored() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    let stream = accepted(&device, &peer, &mut vsock);
    ops(&peer);
    let strangers = [
        (Header { src_port: 1, ..packet(op::RW) }, true),
        (Header { dst_port: 8, ..packet(op::REQUEST) }, true),
        (Header { src_port: 1, kind: 2, ..packet(op::REQUEST) }, true),
        (Header { kind: 2, ..packet(op::RW) }, true),
        (Header { src_port: 1, ..packet(op::RST) }, false),
        (Header { src_cid: 3, ..packet(op::RW) }, false),
        (Header { dst_cid: 4, ..packet(op::RW) }, false),
    ];
    for (header, answered) in strangers {
        arrive(&device, &peer, header.bytes().to_vec());
        let nothing = vsock.receive(&stream, &mut [0; 1], &mut || false);
        assert_eq!(nothing, Err(Error::Timeout));
        let sent = std::mem::take(&mut peer.borrow_mut().sent);
        let sent: Vec<_> = sent.into_iter().map(|(header, _)| header).collect();
        let expected: &[Header] = if answered {
            &[header.reply(op::RST)]
        } else {
            &[]
        };
        assert_eq!(sent, expected, "{header:?}");
    }
    // An operation out of place ends the stream.
    arrive(&device, &peer, packet(op::RESPONSE).bytes().to_vec());
    let reset = vsock.receive(&stream, &mut [0; 1], &mut serving(&device));
    assert_eq!(
        (reset, ops(&peer)),
        (Err(Error::ConnectionReset), std::vec![op::RST])
    );
}

#[test]
fn after_a_reset_of_the_transport_the_streams_are_lost_and_the_cid_is_read_again() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    let stream = accepted(&device, &peer, &mut vsock);
    device.state.borrow_mut().config[0] = 9;
    for id in [1, 0] {
        peer.borrow_mut().events.push_back(std::vec![id, 0, 0, 0]);
        device.run(2);
        let received = vsock.receive(&stream, &mut [0; 1], &mut || false);
        let expected = [Error::ConnectionReset, Error::Timeout][usize::from(id)].clone();
        assert_eq!(received, Err(expected));
    }
    assert_eq!(vsock.cid(), 9);
    vsock.close(stream, &mut serving(&device)).unwrap();
    assert_eq!(
        (vsock.receiveq.in_flight(), vsock.eventq.in_flight()),
        (16, 4)
    );
}

#[test]
fn a_device_that_lies_about_its_packets_is_found_out() {
    let data = Header { len: 2, ..packet(op::RW) }.bytes().to_vec();
    let short = |written, expected| Error::Short { written, expected };
    for (bytes, error) in [
        (data[..43].to_vec(), short(43, 46)),
        (data.clone(), short(44, 46)),
        ([&data[..], &[0]].concat(), short(45, 46)),
    ] {
        let memory = Memory::new();
        let (device, peer) = peer(&memory, 0);
        let mut vsock = open(&device, &memory);
        let stream = accepted(&device, &peer, &mut vsock);
        arrive(&device, &peer, bytes);
        let found = vsock.receive(&stream, &mut [0; 1], &mut serving(&device));
        assert_eq!(found, Err(error));
    }
}

#[test]
fn a_device_that_takes_no_packets_is_waited_for_until_the_deadline() {
    let memory = Memory::new();
    let (device, peer) = peer(&memory, 0);
    let mut vsock = open(&device, &memory);
    peer.borrow_mut().deaf = true;
    for _ in 0..10 {
        assert_eq!(vsock.connect(52, &mut || false), Err(Error::Timeout));
    }
}

#[test]
fn another_kind_of_device_is_refused() {
    let memory = Memory::new();
    let device = Device::new(&memory, 1, 0, |_, _, _| {});
    let transport = Transport::probe(&device).unwrap().unwrap();
    let refused = Vsock::new(transport, &mut memory.dma(), WANTED).unwrap_err();
    assert_eq!(refused, Error::DeviceId { found: 1, wanted: 19 });
}
