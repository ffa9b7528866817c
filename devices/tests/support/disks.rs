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

/// Uses a new disk, whose driver has accepted the ring features `ring`: reads all of it, writes, and
/// compares what is in `file`.
pub(crate) fn check_use(block: &mut Block<impl Registers>, file: &File, ring: u64) {
    assert_eq!(
        block.transport().features() & !OWN,
        ring | feature::VERSION_1
    );
    assert_eq!((block.capacity(), block.read_only()), (SECTORS, false));
    (0..SECTORS).for_each(|sector| check_read(block, sector));
    let data: Vec<u8> = (0..200).flat_map(|n| [0xff - n; SECTOR]).collect();
    block.write(7, &data, &mut timeout()).unwrap();
    block.flush(&mut timeout()).unwrap();
    let mut on_file = vec![0; data.len()];
    file.read_exact_at(&mut on_file, 7 * 512).unwrap();
    assert_eq!(on_file, data);
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
