//! The guest's network driver against the network device, in one process.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use devices::memory::{Readable, Writable};
use devices::net::{self, BackEnd, HEADER, Mac};
use devices::virtio::Ready;
use guest::Net;
use guest::net::{FRAME_MAX, WANTED, features};
use guest::virtio::feature;
use support::{Page, Ram, TIMEOUT, timeout};

const RINGS: [u64; 4] = [
    0,
    feature::INDIRECT_DESC,
    feature::EVENT_IDX,
    feature::INDIRECT_DESC | feature::EVENT_IDX,
];

const OWN: u64 = WANTED & !(feature::INDIRECT_DESC | feature::EVENT_IDX);

/// One end of a pair of sockets: a datagram is a frame, as in a tap interface.
struct Cable(UnixDatagram);

impl BackEnd for Cable {
    fn offloads(&self) -> u64 {
        0
    }

    fn set_offloads(&mut self, features: u64) {
        assert_eq!(features, 0);
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        vec![(self.0.as_fd(), Ready::Read)]
    }

    fn receive(&mut self, to: &mut Writable, rest: &mut [u8]) -> io::Result<usize> {
        to.read_from_with(self.0.as_fd(), rest)
    }

    fn send(&mut self, frame: &mut Readable) -> io::Result<()> {
        frame.write_to(self.0.as_fd()).map(drop)
    }

    fn is_gone(&self, _: &io::Error) -> bool {
        false
    }
}

/// A card with its driver, and the other end of its cable.
fn open(ram: &Ram, wanted: u64) -> (Page, Net<Page>, UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(TIMEOUT)).unwrap();
    far.set_write_timeout(Some(TIMEOUT)).unwrap();
    let card = net::Net::new(
        Box::new(Cable(near)),
        Mac([2, 0, 0, 0, 0, 9]),
        Some(9000),
        true,
    );
    let page = Page::new(ram, card);
    let net = Net::new(page.probe(), &mut ram.dma(), wanted).unwrap();
    (page, net, far)
}

/// Frame number `number`, of `len` bytes behind an empty header.
fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend((0..=250).cycle().skip(number % 251).take(len));
    frame
}

fn receive(net: &mut Net<Page>, into: &mut [u8]) -> usize {
    let mut wait = timeout();
    loop {
        match net.receive(into).unwrap() {
            Some(len) => return len,
            None => assert!(wait(), "no frame"),
        }
    }
}

#[test]
fn frames_pass_in_both_directions_with_each_ring() {
    for ring in RINGS {
        let ram = Ram::new();
        let (_page, mut net, far) = open(&ram, OWN | ring);
        let accepted = net.transport().features();
        assert_eq!(accepted, OWN | ring | feature::VERSION_1);
        assert_eq!(net.mac(), Ok(Some([2, 0, 0, 0, 0, 9])));
        assert_eq!((net.mtu(), net.is_up()), (Some(9000), Ok(true)));
        let mut into = [0; FRAME_MAX];
        for number in 0..500 {
            let sent = frame(number, 14 + number * 4);
            net.send(&sent[HEADER..], &mut timeout()).unwrap();
            let count = far.recv(&mut into).unwrap();
            assert!(into[..count] == sent, "frame {number}");
            far.send(&sent).unwrap();
            let count = receive(&mut net, &mut into);
            assert!(into[..count] == sent[HEADER..], "frame {number}");
        }
    }
}

#[test]
fn a_long_frame_needs_mergeable_buffers() {
    let mut into = vec![0; 9000];
    for (wanted, whole) in [(WANTED, true), (WANTED & !features::MRG_RXBUF, false)] {
        let ram = Ram::new();
        let (_page, mut net, far) = open(&ram, wanted);
        for (number, len) in [(1, 9000), (2, 100)] {
            far.send(&frame(number, len)).unwrap();
        }
        if whole {
            let count = receive(&mut net, &mut into);
            assert!(into[..count] == frame(1, 9000)[HEADER..]);
        }
        let count = receive(&mut net, &mut into);
        assert!(into[..count] == frame(2, 100)[HEADER..]);
    }
}

/// More frames than there are buffers wait in the back end.
#[test]
fn a_burst_is_kept_in_order() {
    const FRAMES: usize = 1000;
    let ram = Ram::new();
    let (_page, mut net, far) = open(&ram, WANTED);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..FRAMES {
                far.send(&frame(number, 60 + number)).unwrap();
            }
        });
        let mut into = [0; FRAME_MAX];
        for number in 0..FRAMES {
            let count = receive(&mut net, &mut into);
            assert!(into[..count] == frame(number, 60 + number)[HEADER..]);
        }
    });
}
