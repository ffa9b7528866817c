use std::io::{self, Write};
use std::os::fd::AsFd;

use vm_memory::GuestAddress;

use super::*;
use crate::memory::iovec::IoVecs;
use crate::rig::{DATA, DEVICE, RAM, Rig};
use crate::virtio::queue::{FEATURES, Queue};

const PAGE: u64 = 4096;
/// A range over three pages: the end of the first, all of the second, the start of the third.
const ACROSS: (u64, u32) = (DATA + PAGE - 1, 4098);
const NOTHING: [u64; 0] = [];
const PAGES: [u64; 3] = [DATA, DATA + PAGE, DATA + 2 * PAGE];

/// A rig whose memory records what is written.
fn recorded() -> Rig {
    let mut rig = Rig::new(4);
    let page = NonZeroUsize::new(4096).unwrap();
    rig.memory = Memory::recorded(Arc::clone(&rig.ram), page);
    rig
}

/// The addresses of the pages written since the last call.
fn written(memory: &Memory) -> Vec<u64> {
    let pages = memory.take_written().into_iter().flat_map(|region| {
        let bits = (0..).zip(region.pages).flat_map(|(word, bits)| {
            (0..64)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| 64 * word + bit)
        });
        bits.map(move |page: u64| region.start + page * PAGE)
    });
    pages.collect()
}

/// Two buffers that cover `ACROSS`, and one far from it.
fn pieces<D>(memory: &Memory) -> IoVecs<D> {
    let mut pieces = IoVecs::new(memory.clone());
    pieces.append(ACROSS.0, 10).unwrap();
    pieces.append(ACROSS.0 + 10, ACROSS.1 - 10).unwrap();
    pieces.append(DATA + 9 * PAGE, 1).unwrap();
    pieces
}

fn file(content: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// A stream with `content`.
fn stream(content: &[u8]) -> std::io::PipeReader {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(content).unwrap();
    reader
}

#[test]
fn every_way_to_fill_a_buffer_records_exactly_its_pages() {
    type Fill = fn(&mut Writable, usize);
    let all = ACROSS.1 as usize;
    let ways: [(&str, Fill); 3] = [
        ("copied", |pieces, len| {
            assert_eq!(pieces.write(&vec![1; len]), len);
        }),
        ("from a file", |pieces, len| {
            pieces.truncate(len as u64);
            let file = file(&vec![1; len]);
            pieces.read_exact_at(file.as_fd(), 0).unwrap();
        }),
        ("from a stream", |pieces, len| {
            let stream = stream(&vec![1; len]);
            assert_eq!(pieces.read_from(stream.as_fd()).unwrap(), len as u64);
        }),
    ];
    for (way, fill) in ways {
        let memory = recorded().memory;
        fill(&mut pieces(&memory), 1);
        assert_eq!(written(&memory), PAGES[..1], "{way}");
        fill(&mut pieces(&memory), all - 1);
        assert_eq!(written(&memory), PAGES[..2], "{way}");
        fill(&mut pieces(&memory), all);
        assert_eq!(written(&memory), PAGES, "{way}");
        assert_eq!(written(&memory), NOTHING, "{way}: taken is taken");
    }
}

#[test]
fn a_read_that_fails_part_way_is_recorded() {
    let memory = recorded().memory;
    let short = file(&[1; 4097]);
    let read = pieces(&memory).read_exact_at(short.as_fd(), 0);
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(written(&memory), PAGES[..2]);
    // After an error, every page of the buffers counts as written.
    let directory = std::fs::File::open("/").unwrap();
    assert!(pieces(&memory).read_exact_at(directory.as_fd(), 0).is_err());
    let far = DATA + 9 * PAGE;
    assert_eq!(written(&memory), [&PAGES[..], &[far]].concat());
}

#[test]
fn a_status_byte_is_recorded() {
    let memory = recorded().memory;
    let mut pieces = pieces(&memory);
    assert!(pieces.split_last());
    assert_eq!(written(&memory), NOTHING);
    pieces.put_last(7);
    assert_eq!(written(&memory), [DATA + 9 * PAGE]);
}

#[test]
fn reads_are_not_recorded() {
    let rig = recorded();
    let mut out = vec![0; ACROSS.1 as usize];
    pieces(&rig.memory).read(&mut out);
    rig.memory.read(DATA, &mut out).unwrap();
    let (sink, (_reader, writer)) = (tempfile::tempfile().unwrap(), std::io::pipe().unwrap());
    pieces(&rig.memory)
        .write_all_at(sink.as_fd(), 0, None)
        .unwrap();
    pieces(&rig.memory).write_to(writer.as_fd()).unwrap();
    let mut queue = rig.queue(FEATURES);
    rig.descriptor(0, (DATA, 16), 0, 0);
    rig.offer(0);
    assert!(queue.pop().unwrap().is_some());
    assert_eq!(written(&rig.memory), NOTHING);
}

#[test]
fn a_write_is_the_same_in_slices_of_any_size() {
    let memory = recorded().memory;
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(4 * 4096).collect();
    let filled = pieces(&memory).write(&bytes);
    let expected = bytes.get(..filled).unwrap();
    for limit in [None, Some(1), Some(100), Some(4096), Some(1 << 20)] {
        let mut file = tempfile::tempfile().unwrap();
        let mut all = pieces(&memory);
        all.write_all_at(file.as_fd(), 0, limit).unwrap();
        assert_eq!(all.len(), 0);
        let mut written = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut written).unwrap();
        assert_eq!(written, expected, "{limit:?}");
    }
}

#[test]
fn every_store_to_a_ring_is_recorded() {
    const EVENT_IDX: u64 = 1 << 29;
    type Step = fn(&mut Queue);
    let steps: [(u64, Step); 3] = [
        (0, Queue::suppress_kicks),
        (0, |queue| {
            queue.allow_kicks();
        }),
        (EVENT_IDX, |queue| {
            queue.allow_kicks();
        }),
    ];
    for (features, step) in steps {
        let rig = recorded();
        step(&mut rig.queue(features));
        assert_eq!(written(&rig.memory), [DEVICE]);
    }
    // The index is the last word of a page; the elements start on the next page.
    let mut rig = recorded();
    rig.config.device = DEVICE + PAGE - 4;
    let mut queue = rig.queue(0);
    rig.descriptor(0, (DATA, 16), 0, 0);
    rig.offer(0);
    let chain = queue.pop().unwrap().unwrap();
    queue.push(chain, 0);
    // Recorded once per batch, when it is published.
    queue.notify();
    assert_eq!(written(&rig.memory), [DEVICE, DEVICE + PAGE]);
}

#[test]
fn each_region_has_its_own_bitmap_and_unrecorded_memory_has_none() {
    let regions = [(GuestAddress(0x1000), 0x1000), (GuestAddress(RAM), 0x3000)];
    let ram = Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
    let page = NonZeroUsize::new(4096).unwrap();
    for (memory, expected) in [
        (Memory::new(Arc::clone(&ram)), vec![]),
        (Memory::recorded(ram, page), vec![0x1000, RAM + 2 * PAGE]),
    ] {
        for address in [0x1fff, RAM + 2 * PAGE] {
            let mut pieces = Writable::new(memory.clone());
            pieces.append(address, 1).unwrap();
            pieces.write(&[1]);
        }
        assert_eq!(written(&memory), expected);
    }
}
