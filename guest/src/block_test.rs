#![allow(
    clippy::cast_possible_truncation,
    reason = "bytes that tell their place"
)]

use std::cell::RefCell;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use super::{Block, Frame, Request, SECTOR, Status, WANTED, features};
use crate::model::{Device, Memory, Ring};
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::{Error, Layout, Segment, Transport};

/// How the model's disk answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Correctly.
    Right,
    /// With this status instead.
    Status(u8),
    /// With this many bytes as written.
    Length(u32),
    /// Never.
    Silence,
}

/// The disk's content, and how it answers.
struct Disk {
    sectors: Vec<u8>,
    answer: Answer,
    /// Segments of each chain so far.
    chains: Vec<usize>,
}

type Shared = Rc<RefCell<Disk>>;

fn disk(memory: &Memory, offered: u64, sectors: usize) -> (Device<'_>, Shared) {
    let content = (0..sectors * SECTOR)
        .map(|byte| (byte / SECTOR) as u8)
        .collect();
    let disk = Disk { sectors: content, answer: Answer::Right, chains: Vec::new() };
    let disk = Rc::new(RefCell::new(disk));
    let served = Rc::clone(&disk);
    let device = Device::new(memory, 2, offered, move |_, ring, memory| {
        serve(&mut served.borrow_mut(), ring, memory);
    });
    device.state.borrow_mut().config[..8].copy_from_slice(&(sectors as u64).to_le_bytes());
    (device, disk)
}

fn serve(disk: &mut Disk, ring: &mut Ring, memory: &Memory) {
    while disk.answer != Answer::Silence
        && let Some(chain) = ring.pop(memory)
    {
        disk.chains.push(chain.segments.len());
        let request = chain.readable(memory);
        let kind = u32::from_le_bytes(request[..4].try_into().unwrap());
        let sector = u64::from_le_bytes(request[8..16].try_into().unwrap());
        let room = chain.writable() - 1;
        let start = usize::try_from(sector)
            .unwrap_or(usize::MAX)
            .saturating_mul(SECTOR);
        let mut answer = vec![0; room];
        let mut status = match (kind, start.saturating_add(room.max(request.len() - 16))) {
            (Request::IN | Request::OUT, end) if end > disk.sectors.len() => 1,
            (Request::IN, end) => {
                answer.copy_from_slice(&disk.sectors[start..end]);
                0
            }
            (Request::OUT, end) => {
                disk.sectors[start..end].copy_from_slice(&request[16..]);
                0
            }
            (Request::FLUSH, _) => 0,
            (Request::GET_ID, _) => {
                answer[..6].copy_from_slice(b"serial");
                0
            }
            _ => 2,
        };
        if let Answer::Status(other) = disk.answer {
            status = other;
        }
        answer.push(status);
        chain.fill(memory, &answer);
        let written = match disk.answer {
            Answer::Length(written) => written,
            _ => u32::try_from(answer.len()).unwrap(),
        };
        ring.push(memory, chain.head.into(), written);
    }
}

fn open<'a, 'm>(device: &'a Device<'m>, memory: &Memory) -> Block<&'a Device<'m>> {
    let transport = Transport::probe(device).unwrap().unwrap();
    Block::new(transport, &mut memory.dma(), WANTED, 16).unwrap()
}

/// The model answers at once or never.
fn never() -> bool {
    false
}

#[test]
fn another_kind_of_device_is_refused() {
    let memory = Memory::new();
    let device = Device::new(&memory, 3, 0, |_, _, _| {});
    let transport = Transport::probe(&device).unwrap().unwrap();
    let error = Block::new(transport, &mut memory.dma(), WANTED, 16).unwrap_err();
    assert_eq!(error, Error::DeviceId { found: 3, wanted: 2 });
}

#[test]
fn what_is_written_is_read_back_with_every_mix_of_features() {
    for offered in [0, INDIRECT_DESC, EVENT_IDX, INDIRECT_DESC | EVENT_IDX] {
        let memory = Memory::new();
        let (device, disk) = disk(&memory, offered, 400);
        let mut block = open(&device, &memory);
        assert_eq!(block.capacity(), 400);
        // More than the driver's buffer, hence several requests.
        let data: Vec<u8> = (0..300 * SECTOR).map(|byte| (byte % 251) as u8).collect();
        block.write(50, &data, &mut never).unwrap();
        let mut back = vec![0; 300 * SECTOR];
        block.read(50, &mut back, &mut never).unwrap();
        assert_eq!(data, back);
        assert_eq!(disk.borrow().sectors[49 * SECTOR], 49, "the sector before");
        assert_eq!(disk.borrow().sectors[350 * SECTOR], 94, "the sector after");
        assert_eq!(disk.borrow().chains, [3; 6]);
        assert_eq!(block.queue().in_flight(), 0);
    }
}

#[test]
fn identity_flush_and_read_only_are_those_of_the_device() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, features::FLUSH | features::RO, 1);
    let mut block = open(&device, &memory);
    assert_eq!(&block.id(&mut never).unwrap()[..7], b"serial\0");
    block.flush(&mut never).unwrap();
    assert!(block.read_only());
    assert_eq!(disk.borrow().chains, [3, 2]);
}

#[test]
fn without_the_feature_a_flush_asks_for_nothing() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, 0, 1);
    let mut block = open(&device, &memory);
    block.flush(&mut never).unwrap();
    assert!(!block.read_only());
    assert_eq!(disk.borrow().chains, []);
}

#[test]
fn a_failed_request_is_an_error_with_its_status() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, 0, 4);
    let mut block = open(&device, &memory);
    let mut sector = [0; SECTOR];
    let beyond = block.read(4, &mut sector, &mut never);
    assert_eq!(beyond, Err(Error::Request(Status::IoErr)));
    let unknown = Request { kind: 77, sector: 0 };
    assert_eq!(
        block.request(unknown, &[], &mut never).unwrap().status,
        Status::Unsupp
    );
    disk.borrow_mut().answer = Answer::Status(9);
    let odd = block.write(0, &sector, &mut never);
    assert_eq!(odd, Err(Error::Request(Status::Other(9))));
}

#[test]
fn an_answer_that_is_too_short_is_not_believed() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, 0, 4);
    let mut block = open(&device, &memory);
    let mut sector = [0x77; SECTOR];
    disk.borrow_mut().answer = Answer::Length(512);
    let short = block.read(0, &mut sector, &mut never);
    assert_eq!(short, Err(Error::Short { written: 512, expected: 513 }));
    assert_eq!(sector, [0x77; SECTOR], "nothing is handed on");
    // If no byte was written, there is no status, whatever is in memory.
    disk.borrow_mut().answer = Answer::Length(0);
    let none = block.read(0, &mut sector, &mut never);
    assert_eq!(none, Err(Error::Request(Status::Other(0xff))));
}

#[test]
fn an_answer_that_is_too_long_breaks_the_queue() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, 0, 4);
    let mut block = open(&device, &memory);
    disk.borrow_mut().answer = Answer::Length(514);
    let lie = Err(Error::UsedLength { written: 514, writable: 513 });
    assert_eq!(block.read(0, &mut [0; SECTOR], &mut never), lie);
    disk.borrow_mut().answer = Answer::Right;
    assert_eq!(
        block.read(0, &mut [0; SECTOR], &mut never),
        lie,
        "stays broken"
    );
}

#[test]
fn a_silent_device_ends_in_a_timeout_and_a_broken_one_says_so() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, 0, 4);
    let mut block = open(&device, &memory);
    disk.borrow_mut().answer = Answer::Silence;
    let mut polls = 0;
    let mut three = || {
        polls += 1;
        polls <= 3
    };
    assert_eq!(
        block.read(0, &mut [0; SECTOR], &mut three),
        Err(Error::Timeout)
    );
    assert_eq!(polls, 4);
    device.state.borrow_mut().status |= 64;
    assert_eq!(
        block.read(0, &mut [0; SECTOR], &mut never),
        Err(Error::NeedsReset(0x4f))
    );
}

#[test]
fn a_late_answer_goes_to_nobody_and_frees_its_place() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, 0, 4);
    let mut block = open(&device, &memory);
    disk.borrow_mut().answer = Answer::Silence;
    assert_eq!(
        block.read(0, &mut [0; SECTOR], &mut never),
        Err(Error::Timeout)
    );
    assert_eq!(block.queue().in_flight(), 1);
    disk.borrow_mut().answer = Answer::Right;
    let mut sector = [0; SECTOR];
    block.read(3, &mut sector, &mut never).unwrap();
    assert_eq!(sector, [3; SECTOR]);
    assert_eq!(block.queue().in_flight(), 0);
}

#[test]
fn requests_in_flight_are_told_apart_in_any_order() {
    let memory = Memory::new();
    let (device, _) = disk(&memory, EVENT_IDX, 8);
    let mut dma = memory.dma();
    let transport = Transport::probe(&device).unwrap().unwrap();
    let mut block = Block::new(transport, &mut dma, WANTED, 32).unwrap();
    let data = dma.alloc(8 * SECTOR).unwrap();
    let sectors: Vec<_> = (0..8)
        .map(|index| data.slice(index * SECTOR..(index + 1) * SECTOR))
        .collect();
    let tokens: Vec<_> = (0..8)
        .zip(&sectors)
        .map(|(index, sector)| {
            // The last one is beyond the end.
            let first = if index == 7 { 100 } else { index };
            block
                .submit(Request::read(first), &[Segment::writable(sector)])
                .unwrap()
        })
        .collect();
    assert_eq!(device.state.borrow().notified, 0);
    assert_eq!(block.poll(&tokens[0]), Ok(None));
    block.kick();
    assert_eq!(device.state.borrow().notified, 1, "one kick for all");
    for (index, token) in tokens.into_iter().enumerate().rev() {
        let done = block.finish(token, &mut never).unwrap();
        let status = if index == 7 {
            Status::IoErr
        } else {
            Status::Ok
        };
        assert_eq!(done.status, status, "request {index}");
        if index < 7 {
            let mut found = [0];
            sectors[index].read(511, &mut found);
            assert_eq!(usize::from(found[0]), index);
        }
    }
}

#[test]
fn a_full_queue_takes_more_after_a_completion() {
    let memory = Memory::new();
    let (device, _) = disk(&memory, 0, 4);
    let mut block = open(&device, &memory);
    let tokens: Vec<_> = (0..8)
        .map(|_| block.submit(Request::flush(), &[]).unwrap())
        .collect();
    assert_eq!(block.submit(Request::flush(), &[]), Err(Error::QueueFull));
    for token in tokens {
        assert_eq!(block.finish(token, &mut never).unwrap().status, Status::Ok);
    }
    let token = block.submit(Request::flush(), &[]).unwrap();
    assert_eq!(block.finish(token, &mut never).unwrap().written, 1);
}

#[test]
fn a_frame_is_cut_where_it_says_and_at_the_boundary() {
    let memory = Memory::new();
    let (device, disk) = disk(&memory, INDIRECT_DESC, 8);
    let mut dma = memory.dma();
    let transport = Transport::probe(&device).unwrap().unwrap();
    let mut block = Block::new(transport, &mut dma, WANTED, 16).unwrap();
    let whole = dma.alloc(16 + 2 * SECTOR + 1).unwrap();
    for layout in [
        Layout::Direct,
        Layout::Indirect { direct: 0 },
        Layout::Indirect { direct: 2 },
    ] {
        // A write: one cut goes over the end of the header, one over the boundary to the status.
        whole.slice(16..16 + 2 * SECTOR).fill(0xab);
        let cuts = [1, 2, 500, 538];
        let frame = Frame { memory: &whole, readable: 16 + 2 * SECTOR, cuts: &cuts, layout };
        let token = block.submit_framed(Request::write(3), &frame).unwrap();
        assert_eq!(block.finish(token, &mut never).unwrap().status, Status::Ok);
        assert_eq!(disk.borrow().chains.last(), Some(&5));
        // A read: all that the device writes in one segment.
        whole.slice(16..16 + 2 * SECTOR).fill(0);
        let cuts = [16, 2 * SECTOR + 1];
        let frame = Frame { memory: &whole, readable: 16, cuts: &cuts, layout: Layout::Direct };
        let token = block.submit_framed(Request::read(3), &frame).unwrap();
        let done = block.finish(token, &mut never).unwrap();
        assert_eq!((done.status, done.written), (Status::Ok, 1025));
        assert_eq!(disk.borrow().chains.last(), Some(&2));
        let mut back = [0; 2 * SECTOR];
        whole.read(16, &mut back);
        assert_eq!(back, [0xab; 2 * SECTOR]);
    }
}

#[test]
fn cuts_that_do_not_add_up_are_refused() {
    let memory = Memory::new();
    let (device, _) = disk(&memory, 0, 8);
    let mut dma = memory.dma();
    let transport = Transport::probe(&device).unwrap().unwrap();
    let mut block = Block::new(transport, &mut dma, WANTED, 16).unwrap();
    let whole = dma.alloc(17).unwrap();
    let frame = |readable, cuts| Frame { memory: &whole, readable, cuts, layout: Layout::Direct };
    for (readable, cuts) in [
        (16, &[16][..]),
        (16, &[16, 2]),
        (16, &[]),
        (17, &[17]),
        (15, &[17]),
    ] {
        let found = block.submit_framed(Request::flush(), &frame(readable, cuts));
        assert!(
            matches!(found, Err(Error::Cuts { .. })),
            "{readable} {cuts:?}"
        );
    }
    let token = block
        .submit_framed(Request::flush(), &frame(16, &[17]))
        .unwrap();
    assert_eq!(block.finish(token, &mut never).unwrap().status, Status::Ok);
}

#[test]
fn transfers_are_whole_sectors() {
    let memory = Memory::new();
    let (device, _) = disk(&memory, 0, 4);
    let mut block = open(&device, &memory);
    assert_eq!(
        block.read(0, &mut [], &mut never),
        Err(Error::NotSectors(0))
    );
    assert_eq!(
        block.write(0, &[0; 513], &mut never),
        Err(Error::NotSectors(513))
    );
}
