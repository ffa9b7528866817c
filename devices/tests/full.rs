//! A full host file system. The limit of a file's size (RLIMIT_FSIZE) stands in for it: it needs no
//! root, and fails at a byte that the test chooses. The limit applies to the whole process, so this
//! program has only one test.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use guest::block::{SECTOR, Status, WANTED};
use guest::{Block, Error};
use support::{Page, Ram, timeout};

/// The disk's sectors, and those that fit on the host.
const SECTORS: u64 = 2048;
const ROOM: u64 = 1024;

/// Counts warnings.
struct Counter;

static WARNINGS: AtomicU32 = AtomicU32::new(0);

impl log::Log for Counter {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn {
            WARNINGS.fetch_add(1, Ordering::SeqCst);
            assert!(record.args().to_string().contains("disk \"full\""));
        }
    }

    fn flush(&self) {}
}

/// Limits every file to `bytes` from now on.
fn limit(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call reads `limit`, which is valid.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    assert_eq!(result, 0);
}

#[test]
fn a_full_host_loses_no_flushed_data_and_is_reported_once() {
    log::set_logger(&Counter).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    // SAFETY: this installs no handler. The signal comes with the error, and would end the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let file = tempfile::tempfile().unwrap();
    file.set_len(SECTORS * 512).unwrap();
    let options = devices::block::Options { name: "disk \"full\"", ..Default::default() };
    let device = devices::block::Block::with(file.try_clone().unwrap(), SECTORS * 512, &options);
    let ram = Ram::new();
    let page = Page::new(&ram, device);
    let mut block = Block::new(page.probe(), &mut ram.dma(), WANTED, 64).unwrap();

    // The device after a reboot. Its memory file is made before the limit is set.
    let device = devices::block::Block::with(file.try_clone().unwrap(), SECTORS * 512, &options);
    let other_ram = Ram::new();
    let other_page = Page::new(&other_ram, device);
    let mut rebooted = Block::new(other_page.probe(), &mut other_ram.dma(), WANTED, 64).unwrap();

    limit(ROOM * 512);
    let content: Vec<u8> = (0..ROOM)
        .flat_map(|n| [n.to_le_bytes(); 64].concat())
        .collect();
    block.write(0, &content, &mut timeout()).unwrap();
    block.flush(&mut timeout()).unwrap();

    let refused = Err(Error::Request(Status::IoErr));
    for sector in [ROOM, SECTORS - 1, ROOM, ROOM + 1] {
        let full = block.write(sector, &[0xaa; SECTOR], &mut timeout());
        assert_eq!(full, refused, "sector {sector}");
    }
    // The first half of this request fits.
    let half = block.write(ROOM - 1, &[0xbb; 2 * SECTOR], &mut timeout());
    assert_eq!(half, refused);
    assert_eq!(WARNINGS.load(Ordering::SeqCst), 1);

    // A guest cannot fill the log by rebooting, which makes a new device for the same disk.
    let full = rebooted.write(ROOM, &[0xaa; SECTOR], &mut timeout());
    assert_eq!(full, refused);
    assert_eq!(WARNINGS.load(Ordering::SeqCst), 1);

    block.flush(&mut timeout()).unwrap();
    let flushed = content.len() - SECTOR;
    let mut seen = vec![0; flushed];
    block.read(0, &mut seen, &mut timeout()).unwrap();
    assert!(
        seen == content[..flushed],
        "the driver reads what it flushed"
    );
    file.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == content[..flushed], "and it is on the file");

    // There is space again.
    limit(libc::RLIM_INFINITY);
    block.write(ROOM, &[0xaa; SECTOR], &mut timeout()).unwrap();
    block.flush(&mut timeout()).unwrap();
    let mut back = [0; SECTOR];
    block.read(ROOM, &mut back, &mut timeout()).unwrap();
    assert_eq!(back, [0xaa; SECTOR]);
}
