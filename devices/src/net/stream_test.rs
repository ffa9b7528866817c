use std::io::{Read, Write};

use super::*;
use crate::net::{Mac, Net, RECEIVE, TRANSMIT, feature};
use crate::rig::{DATA, Rig, WRITE};
use crate::virtio::{Queues, VirtioDevice};

/// A device with one queue, and the other end of its socket.
struct Bench {
    rig: Rig,
    net: Net,
    index: usize,
    queues: Queues,
    stream: Stream,
    far: UnixStream,
}

fn device(stream: &Stream) -> Net {
    Net::new(Box::new(stream.clone()), Mac([2; 6]), None, true)
}

impl Bench {
    fn new(index: usize) -> Bench {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let stream = Stream::new(near).unwrap();
        let mut net = device(&stream);
        let rig = Rig::new(8);
        net.activate(feature::MRG_RXBUF, &rig.memory);
        let mut queues = vec![None, None];
        queues[index] = Some(rig.queue(0));
        let queues = Queues::new(queues);
        Bench { rig, net, index, queues, stream, far }
    }

    /// Another device on the same socket, as after a reboot.
    fn reboot(self) -> Bench {
        let Bench { index, stream, far, .. } = self;
        let mut bench = Bench::new(index);
        bench.net = device(&stream);
        bench.net.activate(feature::MRG_RXBUF, &bench.rig.memory);
        (bench.stream, bench.far) = (stream, far);
        bench
    }

    fn offer(&self, index: u16, len: u32) {
        let buffer = (DATA + 4096 * u64::from(index), len);
        self.rig.descriptor(index, buffer, WRITE, 0);
        self.rig.offer(index);
    }

    fn arrives(&mut self, bytes: &[u8]) {
        self.far.write_all(bytes).unwrap();
        self.net.handle_event(0, &mut self.queues).unwrap();
    }

    fn received(&self, index: u16) -> Vec<u8> {
        let (head, len) = self.rig.used(index);
        self.rig.read(DATA + 4096 * u64::from(head), len as usize)
    }

    /// Sends a frame whose bytes are all `byte`, from two buffers.
    fn sends(&mut self, header: u8, byte: u8, len: u32) {
        let head = (self.rig.used_idx() % 4) * 2;
        let mut bytes = vec![byte; HEADER + len as usize];
        bytes[..HEADER].fill(header);
        let at = DATA + (1 << 17) * u64::from(head);
        self.rig.write(at, &bytes);
        self.rig.chain(head, &[(at, 20, 0), (at + 20, len - 8, 0)]);
        self.rig.offer(head);
        self.net
            .process_queue(self.index, &mut self.queues)
            .unwrap();
    }

    /// Everything that has come to the other end.
    fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let error = self.far.read_to_end(&mut all).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        all
    }
}

/// A frame on the stream.
fn framed(byte: u8, len: u32) -> Vec<u8> {
    let mut frame = len.to_be_bytes().to_vec();
    frame.resize(LENGTH + len as usize, byte);
    frame
}

/// A frame as the driver gets it, in this many buffers.
fn delivered(byte: u8, len: usize, buffers: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame[10] = buffers;
    frame.resize(HEADER + len, byte);
    frame
}

#[test]
fn frames_that_arrive_together_and_in_pieces_are_told_apart() {
    let mut bench = Bench::new(RECEIVE);
    for index in 0..4 {
        bench.offer(index, 1526);
    }
    let third = framed(3, 700);
    let bytes = [framed(1, 60), framed(2, 1500), third[..3].to_vec()].concat();
    bench.arrives(&bytes);
    assert_eq!(bench.rig.used_idx(), 2);
    assert_eq!(bench.received(0), delivered(1, 60, 1));
    assert!(bench.received(1) == delivered(2, 1500, 1));
    bench.arrives(&third[3..100]);
    assert_eq!(bench.rig.used_idx(), 2);
    bench.arrives(&third[100..]);
    assert_eq!(bench.received(2), delivered(3, 700, 1));
}

#[test]
fn a_frame_of_the_largest_size_fills_buffers_of_a_page() {
    let mut bench = Bench::new(RECEIVE);
    for index in 0..8 {
        bench.offer(index, 4096);
    }
    bench.far.set_nonblocking(false).unwrap();
    bench.arrives(&framed(5, 7 * 4096));
    assert_eq!(bench.rig.used_idx(), 8);
    let all: Vec<u8> = (0..8).flat_map(|index| bench.received(index)).collect();
    assert!(all == delivered(5, 7 * 4096, 8));
}

#[test]
fn frames_wait_until_there_are_buffers() {
    let mut bench = Bench::new(RECEIVE);
    bench.arrives(&[framed(1, 60), framed(2, 61)].concat());
    bench.offer(0, 1526);
    bench.offer(1, 1526);
    bench.net.process_queue(RECEIVE, &mut bench.queues).unwrap();
    assert_eq!(bench.received(0), delivered(1, 60, 1));
    assert_eq!(bench.received(1), delivered(2, 61, 1));
}

#[test]
fn frames_are_sent_with_their_length_and_without_their_header() {
    let mut bench = Bench::new(TRANSMIT);
    bench.sends(0, 1, 60);
    bench.sends(0, 2, 1514);
    assert!(bench.take() == [framed(1, 60), framed(2, 1514)].concat());
    assert_eq!(bench.rig.used(1), (2, 0));
}

#[test]
fn an_offload_that_was_not_offered_and_a_frame_that_is_too_long_are_dropped() {
    let mut bench = Bench::new(TRANSMIT);
    bench.sends(1, 1, 60);
    bench.sends(0, 2, u32::try_from(FRAME).unwrap() + 1);
    assert_eq!(bench.net.link().dropped(), 2);
    bench.sends(0, 3, 60);
    assert!(bench.take() == framed(3, 60));
}

/// A socket that takes a part of a frame gets the rest before any other frame. Otherwise the other
/// end would be out of step for ever.
#[test]
fn a_frame_that_was_written_in_part_is_finished_first_also_after_a_reboot() {
    let mut bench = Bench::new(TRANSMIT);
    let mut sent = 0;
    // Until the socket is full, and a frame waits.
    while bench.rig.used_idx() == sent {
        bench.sends(0, u8::try_from(sent).unwrap(), 60_000);
        sent += 1;
        assert!(sent < 200);
    }
    let kept = bench.stream.frames().unwritten.len();
    assert!(kept <= LENGTH + 60_000);
    let full = bench.rig.used_idx();
    let mut bench = bench.reboot();
    let mut all = bench.take();
    bench.net.handle_event(1, &mut bench.queues).unwrap();
    all.extend(bench.take());
    bench.sends(0, 77, 60);
    all.extend(bench.take());
    let before = (0..full).flat_map(|byte| framed(u8::try_from(byte).unwrap(), 60_000));
    let expected: Vec<u8> = before.chain(framed(77, 60)).collect();
    assert!(all == expected, "{} of {}", all.len(), expected.len());
}

#[test]
fn the_end_of_the_connection_and_a_length_without_sense_take_the_link_down() {
    for hostile in [false, true] {
        let mut bench = Bench::new(RECEIVE);
        bench.offer(0, 1526);
        if hostile {
            bench.arrives(&[0xff; 8]);
        } else {
            drop(std::mem::replace(
                &mut bench.far,
                UnixStream::pair().unwrap().0,
            ));
            bench.net.handle_event(0, &mut bench.queues).unwrap();
        }
        let mut config = [0; 12];
        bench.net.config().read(0, &mut config);
        assert_eq!(config[6], 0);
        assert_eq!(bench.rig.used_idx(), 0);
    }
    let mut bench = Bench::new(TRANSMIT);
    drop(std::mem::replace(
        &mut bench.far,
        UnixStream::pair().unwrap().0,
    ));
    bench.sends(0, 1, 60);
    assert_eq!(bench.rig.used_idx(), 1);
    let mut config = [0; 12];
    bench.net.config().read(0, &mut config);
    assert_eq!(config[6], 0);
}
