use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec::Vec;

use super::{FRAME_MAX, HEADER, Net, WANTED, features};
use crate::model::{Device, Memory, Ring};
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::{Error, Transport};

/// The other end of the model's cable.
#[derive(Default)]
struct Wire {
    /// Chains of the transmitq, with their headers.
    sent: Vec<Vec<u8>>,
    /// Each is a frame: its header, and the buffers that it fills.
    arriving: VecDeque<Vec<Vec<u8>>>,
    deaf: bool,
}

type Shared = Rc<RefCell<Wire>>;

fn wire(memory: &Memory, offered: u64) -> (Device<'_>, Shared) {
    let wire = Shared::default();
    let served = Rc::clone(&wire);
    let device = Device::new(memory, 1, offered, move |index, ring, memory| {
        serve(&mut served.borrow_mut(), index, ring, memory);
    });
    (device, wire)
}

fn serve(wire: &mut Wire, index: u16, ring: &mut Ring, memory: &Memory) {
    if index == 1 {
        while !wire.deaf
            && let Some(chain) = ring.pop(memory)
        {
            assert_eq!(chain.writable(), 0, "the transmitq is for reading");
            wire.sent.push(chain.readable(memory));
            ring.push(memory, chain.head.into(), 0);
        }
        return;
    }
    while let Some(frame) = wire.arriving.pop_front() {
        for part in frame {
            let chain = ring.pop(memory).expect("a buffer");
            assert!(chain.writable() >= 1526, "§5.1.6.3.1");
            chain.fill(memory, &part);
            let written = u32::try_from(part.len()).unwrap();
            ring.push(memory, chain.head.into(), written);
        }
    }
}

fn open<'a, 'm>(device: &'a Device<'m>, memory: &Memory) -> Net<&'a Device<'m>> {
    let transport = Transport::probe(device).unwrap().unwrap();
    Net::new(transport, &mut memory.dma(), WANTED).unwrap()
}

fn never() -> bool {
    false
}

/// A frame of `len` bytes, behind a header with this `num_buffers`.
fn with_header(num_buffers: u8, len: usize) -> Vec<u8> {
    let mut bytes = std::vec![0; HEADER];
    bytes[10] = num_buffers;
    bytes.extend((0..=250).cycle().take(len));
    bytes
}

fn arrive(device: &Device<'_>, wire: &Shared, frame: Vec<Vec<u8>>) {
    wire.borrow_mut().arriving.push_back(frame);
    device.run(0);
}

#[test]
fn a_frame_is_sent_behind_a_header_of_zeroes() {
    for offered in [0, EVENT_IDX, INDIRECT_DESC, INDIRECT_DESC | EVENT_IDX] {
        let memory = Memory::new();
        let (device, wire) = wire(&memory, offered);
        let mut net = open(&device, &memory);
        for len in (1..100).chain([FRAME_MAX]) {
            let expected = with_header(0, len);
            net.send(&expected[HEADER..], &mut never).unwrap();
            assert!(wire.borrow_mut().sent.pop().unwrap() == expected, "{len}");
        }
    }
}

#[test]
fn a_frame_that_is_empty_or_too_long_is_not_sent() {
    let memory = Memory::new();
    let (device, wire) = wire(&memory, features::MTU);
    device.state.borrow_mut().config[10..12].copy_from_slice(&[100, 0]);
    let mut net = open(&device, &memory);
    assert_eq!((net.mtu(), net.frame_max()), (Some(100), 114));
    let long = Error::FrameLength { len: 115, max: 114 };
    assert_eq!(net.send(&[1; 115], &mut never), Err(long));
    let refused = net.send(&[], &mut never);
    assert!(matches!(refused, Err(Error::Chain { .. })), "{refused:?}");
    assert!(wire.borrow().sent.is_empty());
    net.send(&[1; 114], &mut never).unwrap();
}

#[test]
fn a_device_that_takes_nothing_ends_in_a_timeout_and_may_go_on_later() {
    let memory = Memory::new();
    let (device, wire) = wire(&memory, 0);
    let mut net = open(&device, &memory);
    wire.borrow_mut().deaf = true;
    assert_eq!(net.send(&[1; 60], &mut never), Err(Error::Timeout));
    assert_eq!(net.send(&[2; 60], &mut never), Err(Error::Timeout));
    wire.borrow_mut().deaf = false;
    device.run(1);
    net.send(&[3; 60], &mut never).unwrap();
    // The second was never handed over: the buffer still belonged to the device.
    let sent: Vec<u8> = wire.borrow().sent.iter().map(|frame| frame[20]).collect();
    assert_eq!(sent, [1, 3]);
}

#[test]
fn frames_arrive_in_order_and_no_buffer_is_lost() {
    for offered in [0, EVENT_IDX, features::MRG_RXBUF] {
        let memory = Memory::new();
        let (device, wire) = wire(&memory, offered);
        let mut net = open(&device, &memory);
        let mut into = [0; FRAME_MAX];
        assert_eq!(net.receive(&mut into), Ok(None));
        // More than there are buffers, in bursts.
        for burst in 0..100 {
            let lens: Vec<usize> = (0..7).map(|n| 60 + (burst * 7 + n) * 19 % 1400).collect();
            for len in &lens {
                arrive(&device, &wire, std::vec![with_header(1, *len)]);
            }
            for len in lens {
                assert_eq!(net.receive(&mut into), Ok(Some(len)));
                assert!(into[..len] == with_header(1, len)[HEADER..]);
            }
            assert_eq!(net.receive(&mut into), Ok(None));
        }
        assert_eq!(net.receiveq.in_flight(), 64);
    }
}

#[test]
fn a_frame_in_several_buffers_is_put_together() {
    let memory = Memory::new();
    let (device, wire) = wire(&memory, features::MRG_RXBUF);
    let mut net = open(&device, &memory);
    let whole = with_header(3, 5000);
    let parts: Vec<_> = whole.chunks(2048).map(<[u8]>::to_vec).collect();
    arrive(&device, &wire, parts.clone());
    let mut into = [0; 8192];
    assert_eq!(net.receive(&mut into), Ok(Some(5000)));
    assert!(into[..5000] == whole[HEADER..]);
    // What does not fit is lost, and nothing is written behind.
    arrive(&device, &wire, parts);
    assert_eq!(net.receive(&mut into[..2100]), Ok(Some(5000)));
    assert!(into[..2100] == whole[HEADER..HEADER + 2100]);
    assert_eq!(net.receiveq.in_flight(), 64);
}

#[test]
fn without_mergeable_buffers_num_buffers_is_not_looked_at() {
    let memory = Memory::new();
    let (device, wire) = wire(&memory, 0);
    let mut net = open(&device, &memory);
    arrive(&device, &wire, std::vec![with_header(9, 60)]);
    assert_eq!(net.receive(&mut [0; 100]), Ok(Some(60)));
}

#[test]
fn buffers_that_come_back_empty_are_offered_again() {
    let memory = Memory::new();
    let (device, wire) = wire(&memory, features::MRG_RXBUF);
    let mut net = open(&device, &memory);
    for _ in 0..200 {
        arrive(&device, &wire, std::vec![Vec::new()]);
        assert_eq!(net.receive(&mut [0; 100]), Ok(None));
    }
    arrive(&device, &wire, std::vec![with_header(1, 60)]);
    assert_eq!(net.receive(&mut [0; 100]), Ok(Some(60)));
}

#[test]
fn a_device_that_lies_about_its_frames_is_found_out() {
    let short = Error::Short { written: 11, expected: 12 };
    let none = Error::NumBuffers { claimed: 0, used: 1 };
    let missing = Error::NumBuffers { claimed: 3, used: 1 };
    for (frame, error) in [
        (with_header(1, 0)[..11].to_vec(), short),
        (with_header(0, 60), none),
        (with_header(3, 60), missing),
    ] {
        let memory = Memory::new();
        let (device, wire) = wire(&memory, features::MRG_RXBUF);
        let mut net = open(&device, &memory);
        arrive(&device, &wire, std::vec![frame]);
        assert_eq!(net.receive(&mut [0; 100]), Err(error));
    }
}

#[test]
fn address_link_and_mtu_are_told_only_with_their_features() {
    let memory = Memory::new();
    let config = [2, 0, 0, 1, 2, 3, 0, 0, 1, 0, 0xdc, 5];
    for (offered, mac, up, mtu) in [
        (0, None, true, None),
        (features::MAC, Some([2, 0, 0, 1, 2, 3]), true, None),
        (features::STATUS | features::MTU, None, false, Some(1500)),
    ] {
        let (device, _) = wire(&memory, offered);
        device.state.borrow_mut().config[..12].copy_from_slice(&config);
        let net = open(&device, &memory);
        assert_eq!((net.mac(), net.is_up()), (Ok(mac), Ok(up)));
        assert_eq!(net.mtu(), mtu);
    }
}

#[test]
fn offloads_and_the_control_queue_are_never_accepted() {
    let memory = Memory::new();
    let (device, _) = wire(&memory, u64::MAX);
    let transport = Transport::probe(&device).unwrap().unwrap();
    let net = Net::new(transport, &mut memory.dma(), u64::MAX).unwrap();
    let accepted = net.transport().features();
    assert_eq!(accepted, WANTED | crate::virtio::feature::VERSION_1);
}
