use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::request::Status;
use super::*;
use crate::rig::{self, DATA, Rig};
use crate::virtio::queue::Queue;

pub(super) const SECTORS: u64 = 16;
const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
pub(super) const PAYLOAD: u64 = DATA + 0x1000;

/// A disk, its file, and one of its queues. The driver has accepted all features offered.
pub(super) struct Fixture {
    pub(super) rig: Rig,
    pub(super) block: Block,
    queues: Queues,
    pub(super) file: File,
}

/// A disk whose sector `n` is filled with byte `n`.
pub(super) fn fixture(readonly: bool) -> Fixture {
    let mut file = tempfile::tempfile().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[u8::try_from(sector).unwrap(); 512])
            .unwrap();
    }
    let options = Options { readonly, serial: "serial-1", ..Options::default() };
    Fixture::new(file, &options)
}

impl Fixture {
    pub(super) fn new(file: File, options: &Options<'_>) -> Fixture {
        let size = file.metadata().unwrap().len();
        let block = Block::with(file.try_clone().unwrap(), size, options);
        Fixture::of(block, &file)
    }

    /// A fixture for `block`, whose image is `file`.
    pub(super) fn of(mut block: Block, file: &File) -> Fixture {
        let rig = Rig::new(512);
        let queue: Queue = rig.queue(crate::virtio::queue::FEATURES);
        block.activate(block.features(), &rig.memory);
        Fixture {
            block,
            queues: Queues::new(vec![Some(queue)]),
            rig,
            file: file.try_clone().unwrap(),
        }
    }

    /// `len` bytes of the configuration space.
    pub(super) fn config(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0xaa; len];
        self.block.config().read(offset, &mut data);
        data
    }

    /// Submits a request of a header and `buffers`. Returns the status and the used length.
    pub(super) fn request(
        &mut self,
        kind: u32,
        sector: u64,
        buffers: &[(u64, u32, u16)],
    ) -> (u8, u32) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.rig.write(HEADER, &header);
        let mut chain = vec![(HEADER, 16, 0)];
        chain.extend(buffers);
        chain.push((STATUS, 1, rig::WRITE));
        self.submit(&chain)
    }

    fn submit(&mut self, chain: &[(u64, u32, u16)]) -> (u8, u32) {
        self.rig.write(STATUS, &[0xee]);
        self.rig.chain(0, chain);
        self.rig.offer(0);
        self.block.process_queue(0, &mut self.queues).unwrap();
        let (_, written) = self.rig.used(self.rig.used_idx().wrapping_sub(1));
        (self.rig.read(STATUS, 1)[0], written)
    }

    pub(super) fn sector(&self, sector: u64) -> Vec<u8> {
        let mut data = vec![0; 512];
        self.file.read_exact_at(&mut data, sector * 512).unwrap();
        data
    }
}

pub(super) const OK: u8 = Status::Ok as u8;
pub(super) const IOERR: u8 = Status::IoErr as u8;
pub(super) const UNSUPP: u8 = Status::Unsupp as u8;

#[test]
fn a_read_fills_the_buffers_in_order() {
    let mut fixture = fixture(false);
    let buffers = [
        (PAYLOAD, 1000, rig::WRITE),
        (PAYLOAD + 0x1000, 24, rig::WRITE),
    ];
    assert_eq!(fixture.request(request::IN, 3, &buffers), (OK, 1025));
    let mut data = fixture.rig.read(PAYLOAD, 1000);
    data.extend(fixture.rig.read(PAYLOAD + 0x1000, 24));
    assert_eq!(data, [vec![3; 512], vec![4; 512]].concat());
}

#[test]
fn a_write_reaches_the_file_and_nothing_else() {
    let mut fixture = fixture(false);
    fixture.rig.write(PAYLOAD, &[0xaa; 512]);
    assert_eq!(
        fixture.request(request::OUT, 5, &[(PAYLOAD, 512, 0)]),
        (OK, 1)
    );
    assert_eq!(fixture.sector(4), [4; 512]);
    assert_eq!(fixture.sector(5), [0xaa; 512]);
    assert_eq!(fixture.sector(6), [6; 512]);
}

/// § 2.7.4.3: the framing of a request has no meaning.
#[test]
fn a_request_in_pieces_of_one_byte_is_the_same_request() {
    let mut fixture = fixture(false);
    let mut header = request::OUT.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(7_u64.to_le_bytes());
    fixture.rig.write(HEADER, &header);
    fixture.rig.write(PAYLOAD, &[0x77; 512]);
    let mut chain: Vec<_> = (0..16).map(|byte| (HEADER + byte, 1, 0)).collect();
    chain.extend([
        (PAYLOAD, 1, 0),
        (PAYLOAD + 1, 511, 0),
        (STATUS, 1, rig::WRITE),
    ]);
    assert_eq!(fixture.submit(&chain), (OK, 1));
    assert_eq!(fixture.sector(7), [0x77; 512]);

    // Header, data and status each share a descriptor with a neighbour.
    let mut request = header.clone();
    request.extend([0x66; 512]);
    fixture.rig.write(PAYLOAD, &request);
    assert_eq!(
        fixture.submit(&[(PAYLOAD, 528, 0), (STATUS, 1, rig::WRITE)]),
        (OK, 1)
    );
    assert_eq!(fixture.sector(7), [0x66; 512]);

    header[0] = 0; // IN
    fixture.rig.write(HEADER, &header);
    fixture.submit(&[(HEADER, 16, 0), (PAYLOAD, 513, rig::WRITE)]);
    assert_eq!(
        fixture.rig.read(PAYLOAD, 513),
        [vec![0x66; 512], vec![OK]].concat()
    );
}

#[test]
fn a_request_past_the_capacity_is_an_error_and_writes_nothing() {
    let sectors = [
        SECTORS - 1,
        SECTORS,
        SECTORS + 1,
        1 << 55,
        u64::MAX / 512,
        u64::MAX,
    ];
    for sector in sectors {
        let mut fixture = fixture(false);
        fixture.rig.write(PAYLOAD, &[0xaa; 1024]);
        let (read, write) = ((PAYLOAD, 1024, rig::WRITE), (PAYLOAD, 1024, 0));
        assert_eq!(
            fixture.request(request::IN, sector, &[read]),
            (IOERR, 1),
            "{sector:#x}"
        );
        assert_eq!(fixture.rig.read(PAYLOAD, 1024), [0xaa; 1024]);
        assert_eq!(fixture.request(request::OUT, sector, &[write]), (IOERR, 1));
        assert_eq!(fixture.sector(SECTORS - 1), [15; 512]);
        assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
    }
}

#[test]
fn the_last_sector_can_be_read() {
    let mut fixture = fixture(false);
    let read = (PAYLOAD, 512, rig::WRITE);
    assert_eq!(
        fixture.request(request::IN, SECTORS - 1, &[read]),
        (OK, 513)
    );
    assert_eq!(fixture.rig.read(PAYLOAD, 512), [15; 512]);
}

#[test]
fn a_length_that_is_not_a_multiple_of_a_sector_is_an_error() {
    for len in [1, 511, 513] {
        let mut fixture = fixture(false);
        assert_eq!(
            fixture.request(request::IN, 0, &[(PAYLOAD, len, rig::WRITE)]),
            (IOERR, 1)
        );
        assert_eq!(
            fixture.request(request::OUT, 0, &[(PAYLOAD, len, 0)]),
            (IOERR, 1)
        );
        assert_eq!(fixture.sector(0), [0; 512]);
    }
}

/// The descriptors of a chain may all name the same memory, so the size of RAM is no bound.
#[test]
fn a_request_longer_than_size_max_times_seg_max_is_refused_without_io() {
    const PIECE: u32 = 512 << 10;
    let file = tempfile::tempfile().unwrap();
    file.set_len(config::REQUEST_MAX + 512).unwrap();
    file.write_all_at(&[0x11; 512], config::REQUEST_MAX - 512)
        .unwrap();
    let mut fixture = Fixture::new(file, &Options::default());
    let number = |bytes: Vec<u8>| u64::from(u32::from_le_bytes(bytes.try_into().unwrap()));
    let limit = number(fixture.config(8, 4)) * number(fixture.config(12, 4));
    assert_eq!(limit, config::REQUEST_MAX);
    let pieces = usize::try_from(limit / u64::from(PIECE)).unwrap();
    let last = PAYLOAD + u64::from(PIECE) - 512;

    let mut buffers = vec![(PAYLOAD, PIECE, rig::WRITE); pieces];
    let written = u32::try_from(limit).unwrap() + 1;
    assert_eq!(fixture.request(request::IN, 0, &buffers), (OK, written));
    assert_eq!(fixture.rig.read(last, 512), [0x11; 512]);

    fixture.rig.write(last, &[0xaa; 512]);
    buffers.push((PAYLOAD, 512, rig::WRITE));
    assert_eq!(fixture.request(request::IN, 0, &buffers), (IOERR, 1));
    assert_eq!(fixture.rig.read(last, 512), [0xaa; 512], "nothing was read");

    let mut buffers = vec![(PAYLOAD, PIECE, 0); pieces];
    buffers.push((PAYLOAD, 512, 0));
    assert_eq!(fixture.request(request::OUT, 0, &buffers), (IOERR, 1));
    let end = fixture.sector(limit / SECTOR - 1);
    assert_eq!(end, [0x11; 512], "nothing was written");
}

#[test]
fn the_block_size_is_configurable_and_the_capacity_is_in_whole_blocks() {
    for (asked, seen) in [(512_u32, 512_u32), (4096, 4096), (0, 512), (1000, 512)] {
        let options = Options { block_size: asked, ..Options::default() };
        let file = tempfile::tempfile().unwrap();
        file.set_len(5 * 4096 + 512).unwrap();
        let mut fixture = Fixture::new(file, &options);
        assert_eq!(fixture.config(20, 4), seen.to_le_bytes(), "{asked}");
        let sectors = if seen == 4096 { 40_u64 } else { 41 };
        assert_eq!(fixture.config(0, 8), sectors.to_le_bytes());
        // The unit of requests is the sector, whatever the block size (§ 5.2.5).
        let read = (PAYLOAD, 512, rig::WRITE);
        assert_eq!(fixture.request(request::IN, 3, &[read]), (OK, 513));
    }
}

#[test]
fn a_read_only_disk_refuses_writes_and_keeps_its_data() {
    let mut fixture = fixture(true);
    fixture.rig.write(PAYLOAD, &[0xaa; 512]);
    assert_eq!(
        fixture.request(request::OUT, 1, &[(PAYLOAD, 512, 0)]),
        (IOERR, 1)
    );
    assert_eq!(fixture.sector(1), [1; 512]);
    assert_eq!(fixture.request(request::FLUSH, 0, &[]), (OK, 1));
    assert_ne!(fixture.block.features() & feature::RO, 0);
}

#[test]
fn the_serial_number_is_as_long_as_the_buffer_or_20_bytes() {
    let mut fixture = fixture(false);
    let id = (PAYLOAD, 20, rig::WRITE);
    assert_eq!(fixture.request(request::GET_ID, 0, &[id]), (OK, 21));
    assert_eq!(
        fixture.rig.read(PAYLOAD, 20),
        b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    fixture.rig.write(PAYLOAD, &[0xaa; 600]);
    let short = (PAYLOAD, 3, rig::WRITE);
    assert_eq!(fixture.request(request::GET_ID, 0, &[short]), (OK, 4));
    assert_eq!(fixture.rig.read(PAYLOAD, 4), b"ser\xaa");
    let long = (PAYLOAD, 512, rig::WRITE);
    assert_eq!(fixture.request(request::GET_ID, 0, &[long]), (OK, 21));
    assert_eq!(fixture.rig.read(PAYLOAD + 20, 2), [0xaa; 2]);
}

#[test]
fn an_unknown_request_is_unsupported() {
    for kind in [2, 3, 5, 11, 13, 14, 99, u32::MAX] {
        let mut fixture = fixture(false);
        // Without the features DISCARD and WRITE_ZEROES, these types are unknown too.
        fixture.block.activate(feature::FLUSH, &fixture.rig.memory);
        let data = (PAYLOAD, 512, rig::WRITE);
        assert_eq!(
            fixture.request(kind, 0, &[data]),
            (UNSUPP, 1),
            "type {kind}"
        );
    }
}

#[test]
fn a_request_without_status_or_header_is_returned() {
    let mut fixture = fixture(false);
    let (status, written) = fixture.submit(&[(HEADER, 16, 0)]);
    assert_eq!((status, written), (0xee, 0));
    assert_eq!(
        fixture.submit(&[(HEADER, 15, 0), (STATUS, 1, rig::WRITE)]),
        (IOERR, 1)
    );
    assert_eq!(fixture.submit(&[(STATUS, 1, rig::WRITE)]), (IOERR, 1));
    assert_eq!(fixture.rig.used_idx(), 3);
}

#[test]
fn reading_past_the_end_of_a_truncated_file_is_an_error() {
    let mut fixture = fixture(false);
    fixture.file.set_len(2 * 512).unwrap();
    let read = (PAYLOAD, 1024, rig::WRITE);
    assert_eq!(fixture.request(request::IN, 1, &[read]), (IOERR, 1));
    assert_eq!(fixture.request(request::IN, 0, &[read]), (OK, 1025));
}

#[test]
fn a_failing_host_file_is_an_error_and_the_device_goes_on() {
    let mut fixture = fixture(false);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    fs::write(&path, [1; 512]).unwrap();
    // Opened read-only, which the device does not know.
    fixture.block.disk.image = Image::raw(File::open(&path).unwrap());
    assert_eq!(
        fixture.request(request::OUT, 0, &[(PAYLOAD, 512, 0)]),
        (IOERR, 1)
    );
    assert_eq!(
        fixture.request(request::IN, 0, &[(PAYLOAD, 512, rig::WRITE)]),
        (OK, 513)
    );
}

#[test]
fn the_configuration_has_the_fields_of_the_features_offered() {
    let fixture = fixture(false);
    assert_eq!(fixture.config(0, 8), SECTORS.to_le_bytes());
    assert_eq!(fixture.config(8, 4), (1_u32 << 20).to_le_bytes());
    assert_eq!(fixture.config(12, 4), 254_u32.to_le_bytes());
    assert_eq!(fixture.config(20, 4), 512_u32.to_le_bytes());
    // Topology: the file system's blocks, in logical blocks of 512 bytes.
    let blocks = u16::try_from(fixture.file.metadata().unwrap().blksize() / 512).unwrap();
    let exponent = u8::try_from(blocks.min(8).ilog2()).unwrap();
    assert_eq!(fixture.config(24, 2), [exponent, 0]);
    assert_eq!(fixture.config(26, 2), blocks.to_le_bytes());
    assert_eq!(fixture.config(28, 4), [0; 4]);
    // A cache, one queue.
    assert_eq!(fixture.config(32, 4), [1, 0, 1, 0]);
    // Discard: 1 GiB in each of 16 segments. Zeroes: 32 MiB in one segment, with unmap.
    assert_eq!(fixture.config(36, 4), (1_u32 << 21).to_le_bytes());
    assert_eq!(fixture.config(40, 4), 16_u32.to_le_bytes());
    assert_eq!(fixture.config(44, 4), u32::from(blocks).to_le_bytes());
    assert_eq!(fixture.config(48, 4), (1_u32 << 16).to_le_bytes());
    assert_eq!(fixture.config(52, 4), 1_u32.to_le_bytes());
    assert_eq!(fixture.config(56, 4), [1, 0, 0, 0]);
    // Past the end, and across it.
    assert_eq!(fixture.config(58, 4), [0; 4]);
    assert_eq!(fixture.config(usize::MAX, 4), [0; 4]);
}

#[test]
fn no_field_but_the_cache_mode_can_be_written() {
    let fixture = fixture(false);
    let before = fixture.config(0, 64);
    let config = fixture.block.config();
    for offset in (0..64).chain([usize::MAX]) {
        config.write(offset, &[0xff; 8]);
        config.write(offset, &[0xff; 2]);
        if offset != 32 {
            config.write(offset, &[0xff]);
        }
    }
    assert_eq!(fixture.config(0, 64), before);
}

/// Writes a sector to a disk whose file accepts writes but cannot be synced: an error shows that
/// the write had to be durable.
fn durable(fixture: &mut Fixture) -> bool {
    let unsyncable = File::options().write(true).open("/dev/null").unwrap();
    fixture.block.disk.image = Image::raw(unsyncable);
    let data = (PAYLOAD, 512, 0);
    fixture.request(request::OUT, 0, &[data]).0 == IOERR
}

#[test]
fn a_driver_without_flush_gets_write_through() {
    let mut fixture = fixture(false);
    let offered = fixture.block.features();
    for (features, expected) in [
        (offered, false),
        (offered & !feature::CONFIG_WCE, false),
        (offered & !feature::FLUSH, true),
        (0, true),
    ] {
        fixture.block.activate(features, &fixture.rig.memory);
        assert_eq!(durable(&mut fixture), expected, "{features:#x}");
        assert_eq!(fixture.config(32, 1), [u8::from(!expected)]);
        fixture.block.reset();
        assert_eq!(fixture.config(32, 1), [1]);
    }
}

#[test]
fn the_driver_may_turn_the_cache_off_and_on_with_config_wce() {
    let mut fixture = fixture(false);
    let config = fixture.block.config();
    for value in [0, 1, 0] {
        config.write(32, &[value]);
        assert_eq!(fixture.config(32, 1), [value]);
        assert_eq!(durable(&mut fixture), value == 0);
    }
    fixture.block.reset();
    assert_eq!(fixture.config(32, 1), [1]);
    config.write(32, &[0]);
    assert_eq!(fixture.config(32, 1), [1], "before negotiation");
    fixture.block.activate(feature::FLUSH, &fixture.rig.memory);
    config.write(32, &[0]);
    assert_eq!(fixture.config(32, 1), [1], "without CONFIG_WCE");
}

#[test]
fn a_write_through_disk_is_write_through_after_each_reset() {
    let options = Options { write_through: true, ..Options::default() };
    let mut fixture = Fixture::new(tempfile::tempfile().unwrap(), &options);
    fixture.block.disk.config.resize(SECTORS * 512);
    assert_eq!(fixture.config(32, 1), [0]);
    assert!(durable(&mut fixture));
    fixture.block.config().write(32, &[1]);
    assert!(!durable(&mut fixture));
    fixture.block.reset();
    let features = fixture.block.features();
    fixture.block.activate(features, &fixture.rig.memory);
    assert!(durable(&mut fixture));
}

#[test]
fn the_number_of_queues_is_configurable_within_bounds() {
    for (asked, queues) in [(0, 1_u16), (1, 1), (2, 2), (16, 16), (u16::MAX, 16)] {
        let options = Options { queues: asked, ..Options::default() };
        let fixture = Fixture::new(tempfile::tempfile().unwrap(), &options);
        assert_eq!(fixture.block.queues().len(), usize::from(queues));
        assert_eq!(fixture.config(34, 2), queues.to_le_bytes());
        let offered = fixture.block.features() & feature::MQ != 0;
        assert_eq!(offered, queues > 1);
    }
}

#[test]
fn a_resize_changes_the_capacity_and_the_limit_of_requests() {
    let mut fixture = fixture(false);
    let config = fixture.block.shared_config();
    let read = (PAYLOAD, 512, rig::WRITE);
    assert!(!config.resize(SECTORS * 512 + 511), "the same sectors");

    assert!(config.resize(4 * 512));
    assert_eq!(fixture.config(0, 8), 4_u64.to_le_bytes());
    assert_eq!(fixture.request(request::IN, 3, &[read]), (OK, 513));
    assert_eq!(fixture.request(request::IN, 4, &[read]), (IOERR, 1));

    fixture.file.set_len(100 * 512).unwrap();
    assert!(config.resize(100 * 512));
    assert_eq!(fixture.request(request::IN, 99, &[read]), (OK, 513));
    assert_eq!(fixture.request(request::IN, 100, &[read]), (IOERR, 1));
}
