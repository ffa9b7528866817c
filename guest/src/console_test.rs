use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use super::{Console, WANTED, emergency_write, features};
use crate::model::{Device, Memory, Ring};
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::{Error, Transport};

/// The host side of the model's console.
#[derive(Default)]
struct Terminal {
    shown: Vec<u8>,
    /// Each is put into one receive buffer.
    typed: Vec<Vec<u8>>,
    deaf: bool,
}

type Shared = Rc<RefCell<Terminal>>;

fn terminal(memory: &Memory, offered: u64) -> (Device<'_>, Shared) {
    let terminal = Shared::default();
    let served = Rc::clone(&terminal);
    let device = Device::new(memory, 3, offered, move |index, ring, memory| {
        serve(&mut served.borrow_mut(), index, ring, memory);
    });
    (device, terminal)
}

fn serve(terminal: &mut Terminal, index: u16, ring: &mut Ring, memory: &Memory) {
    if index == 0 {
        while !terminal.typed.is_empty()
            && let Some(chain) = ring.pop(memory)
        {
            let bytes = terminal.typed.remove(0);
            assert_eq!(
                chain.readable(memory),
                [],
                "buffers of the receiveq are for writing"
            );
            chain.fill(memory, &bytes);
            ring.push(
                memory,
                chain.head.into(),
                u32::try_from(bytes.len()).unwrap(),
            );
        }
    } else {
        while !terminal.deaf
            && let Some(chain) = ring.pop(memory)
        {
            assert_eq!(
                chain.writable(),
                0,
                "buffers of the transmitq are for reading"
            );
            terminal.shown.extend(chain.readable(memory));
            ring.push(memory, chain.head.into(), 0);
        }
    }
}

fn open<'a, 'm>(device: &'a Device<'m>, memory: &Memory) -> Console<&'a Device<'m>> {
    let transport = Transport::probe(device).unwrap().unwrap();
    Console::new(transport, &mut memory.dma(), WANTED).unwrap()
}

fn never() -> bool {
    false
}

#[test]
fn everything_sent_is_shown_in_order() {
    for offered in [0, EVENT_IDX, INDIRECT_DESC | EVENT_IDX] {
        let memory = Memory::new();
        let (device, terminal) = terminal(&memory, offered);
        let mut console = open(&device, &memory);
        let text: Vec<u8> = (0..250).cycle().take(10_000).collect();
        console.send(&text, &mut never).unwrap();
        console.send(b"", &mut never).unwrap();
        console.send(b"end", &mut never).unwrap();
        assert_eq!(terminal.borrow().shown, [&text[..], b"end"].concat());
    }
}

#[test]
fn everything_typed_arrives_in_order_and_no_buffer_is_lost() {
    let memory = Memory::new();
    let (device, terminal) = terminal(&memory, EVENT_IDX);
    let mut console = open(&device, &memory);
    assert_eq!(console.receive(&mut [0; 8]), Ok(0));
    let mut expected = Vec::new();
    let mut arrived = Vec::new();
    for round in 0..200_u8 {
        // Empty ones and full ones are legal.
        let bytes = std::vec![round; usize::from(round) * 256 / 199];
        expected.extend_from_slice(&bytes);
        terminal.borrow_mut().typed.push(bytes);
        device.run(0);
        let mut some = [0; 100];
        loop {
            let count = console.receive(&mut some).unwrap();
            arrived.extend_from_slice(&some[..count]);
            if count == 0 {
                break;
            }
        }
    }
    assert_eq!(expected, arrived);
    assert_eq!(console.receiveq.in_flight(), 16);
}

#[test]
fn a_burst_is_kept_in_order() {
    let memory = Memory::new();
    let (device, terminal) = terminal(&memory, 0);
    let mut console = open(&device, &memory);
    let lines: Vec<_> = (0..40_u8).map(|line| std::vec![line; 3]).collect();
    terminal.borrow_mut().typed.clone_from(&lines);
    device.run(0);
    let mut arrived = Vec::new();
    let mut byte = [0];
    while console.receive(&mut byte).unwrap() == 1 {
        arrived.extend(byte);
    }
    assert_eq!(arrived, lines.concat());
}

#[test]
fn a_terminal_that_takes_nothing_ends_in_a_timeout_and_may_go_on_later() {
    let memory = Memory::new();
    let (device, terminal) = terminal(&memory, 0);
    let mut console = open(&device, &memory);
    terminal.borrow_mut().deaf = true;
    assert_eq!(console.send(b"one", &mut never), Err(Error::Timeout));
    assert_eq!(console.send(b"two", &mut never), Err(Error::Timeout));
    terminal.borrow_mut().deaf = false;
    device.run(1);
    console.send(b"three", &mut never).unwrap();
    // "two" was never handed over: the buffer still belonged to the device.
    assert_eq!(terminal.borrow().shown, b"onethree");
}

#[test]
fn multiport_is_never_accepted() {
    let memory = Memory::new();
    let (device, _) = terminal(&memory, features::MULTIPORT | features::SIZE);
    let transport = Transport::probe(&device).unwrap().unwrap();
    let console = Console::new(transport, &mut memory.dma(), u64::MAX).unwrap();
    assert_eq!(console.transport().features() & features::MULTIPORT, 0);
}

#[test]
fn the_size_is_told_only_with_the_feature() {
    let memory = Memory::new();
    for (offered, size) in [(0, None), (features::SIZE, Some((80, 25)))] {
        let (device, _) = terminal(&memory, offered);
        device.state.borrow_mut().config[..4].copy_from_slice(&[80, 0, 25, 0]);
        assert_eq!(open(&device, &memory).size(), Ok(size));
    }
}

#[test]
fn the_emergency_byte_needs_no_initialisation() {
    let memory = Memory::new();
    let (device, _) = terminal(&memory, features::EMERG_WRITE);
    emergency_write(&Transport::probe(&device).unwrap().unwrap(), b'!');
    assert_eq!(device.state.borrow().written, [(0x108, 33)]);
}
