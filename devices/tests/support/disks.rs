//! Disks of 256 sectors, and checks of them that work with any transport.

use std::fs::File;
use std::os::unix::fs::FileExt;

use guest::block::{Request, SECTOR, WANTED};
use guest::virtio::feature;
use guest::{Block, Registers, Segment};

use crate::support::{Page, Ram, disk, image, pattern, timeout};

pub(crate) const SECTORS: u64 = 256;

/// The ring features that a driver may accept: none, each of the two, or both.
pub(crate) const RINGS: [u64; 4] = [
    0,
    feature::INDIRECT_DESC,
    feature::EVENT_IDX,
    feature::INDIRECT_DESC | feature::EVENT_IDX,
];

/// The disk features that the driver accepts.
pub(crate) const OWN: u64 = WANTED & !(feature::INDIRECT_DESC | feature::EVENT_IDX);

/// A disk behind virtio-mmio, its file, and RAM for its driver.
pub(crate) fn machine(readonly: bool) -> (Ram, File, Page) {
    let ram = Ram::new();
    let file = image(SECTORS);
    let page = disk(&ram, &file, readonly);
    (ram, file, page)
}

pub(crate) fn open(ram: &Ram, page: &Page, wanted: u64) -> Block<Page> {
    Block::new(page.probe(), &mut ram.dma(), wanted, 64).unwrap()
}

/// Makes one read, and compares it with the pattern of a new disk.
pub(crate) fn check_read(block: &mut Block<impl Registers>, sector: u64) {
    let mut data = [0xee; SECTOR];
    block.read(sector, &mut data, &mut timeout()).unwrap();
    assert_eq!(data, [pattern(sector); SECTOR], "sector {sector}");
}

pub(crate) fn on_file(file: &File, sector: u64) -> [u8; SECTOR] {
    let mut data = [0; SECTOR];
    file.read_exact_at(&mut data, sector * 512).unwrap();
    data
}

/// Resets the disk behind `transport` with 32 requests in flight. After that it must not access the
/// memory, and must serve a new driver.
pub(crate) fn reset_in_flight<R: Registers>(ram: &Ram, transport: guest::Transport<R>, ring: u64) {
    let mut dma = ram.dma();
    let data = dma.alloc(32 * 8 * SECTOR).unwrap();
    let mut block = Block::new(transport, &mut dma, OWN | ring, 128).unwrap();
    for n in 0..32 {
        let place = data.slice(n * 8 * SECTOR..(n + 1) * 8 * SECTOR);
        let request = Request::read(n as u64);
        drop(block.submit(request, &[Segment::writable(&place)]).unwrap());
    }
    let used = block.queue().device_area();
    block.kick();
    let mut transport = block.into_transport();
    transport.reset().unwrap();
    data.fill(0x5a);
    let ring_then = ram.read(used, 4 + 8 * 128);
    let mut again = Block::new(transport, &mut ram.dma(), OWN | ring, 128).unwrap();
    check_read(&mut again, 77);
    let mut seen = vec![0; data.len()];
    data.read(0, &mut seen);
    assert!(seen.iter().all(|byte| *byte == 0x5a), "{ring:#x}");
    assert_eq!(ram.read(used, 4 + 8 * 128), ring_then);
}
