//! DISCARD and WRITE_ZEROES.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use super::super::tests::{Fixture, IOERR, OK, PAYLOAD, SECTORS, UNSUPP, fixture};
use super::super::{Options, SECTOR, feature};
use super::{DISCARD, OUT, UNMAP, WRITE_ZEROES};
use crate::virtio::VirtioDevice;

const BOTH: [u32; 2] = [DISCARD, WRITE_ZEROES];

/// A segment: sector, num_sectors, flags.
type Segment = (u64, u32, u32);

impl Fixture {
    fn segments(&mut self, kind: u32, segments: &[Segment]) -> (u8, u32) {
        let mut bytes = Vec::new();
        for (sector, sectors, flags) in segments {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        self.rig.write(PAYLOAD, &bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        self.request(kind, 0, &[(PAYLOAD, len, 0)])
    }

    /// Asserts that every sector is as on a new disk.
    fn assert_untouched(&self) {
        for sector in 0..SECTORS {
            assert_eq!(self.sector(sector), [u8::try_from(sector).unwrap(); 512]);
        }
    }
}

#[test]
fn write_zeroes_zeroes_its_range_and_nothing_else() {
    for flags in [0, UNMAP] {
        let mut fixture = fixture(false);
        assert_eq!(fixture.segments(WRITE_ZEROES, &[(3, 7, flags)]), (OK, 1));
        for sector in 0..SECTORS {
            let expected = match sector {
                3..10 => 0,
                other => u8::try_from(other).unwrap(),
            };
            assert_eq!(fixture.sector(sector), [expected; 512], "sector {sector}");
        }
        assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * SECTOR);
    }
}

#[test]
fn the_whole_disk_may_be_zeroed_and_an_empty_segment_has_no_effect() {
    let mut fixture = fixture(false);
    let sectors = u32::try_from(SECTORS).unwrap();
    assert_eq!(fixture.segments(WRITE_ZEROES, &[(SECTORS, 0, 0)]), (OK, 1));
    assert_eq!(fixture.segments(DISCARD, &[(SECTORS, 0, 0)]), (OK, 1));
    fixture.assert_untouched();
    assert_eq!(fixture.segments(WRITE_ZEROES, &[(0, sectors, 0)]), (OK, 1));
    assert_eq!(fixture.sector(0), [0; 512]);
    assert_eq!(fixture.sector(SECTORS - 1), [0; 512]);
}

/// Discards half of 1 MiB of data.
#[test]
fn a_discard_frees_space_on_the_host() {
    for kind in BOTH {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0xaa; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let taken = file.metadata().unwrap().blocks();
        let mut fixture = Fixture::new(file, &Options::default());
        let flags = if kind == DISCARD { 0 } else { UNMAP };
        let segments = match kind {
            // Only a discard may have several segments.
            DISCARD => vec![(1024, 512, flags), (1536, 512, flags)],
            _ => vec![(1024, 1024, flags)],
        };
        assert_eq!(fixture.segments(kind, &segments), (OK, 1));
        let metadata = fixture.file.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(
            metadata.blocks() <= taken - 1024,
            "{} of {taken}",
            metadata.blocks()
        );
        assert_eq!(fixture.sector(1023), [0xaa; 512]);
        assert_eq!(fixture.sector(1024), [0; 512]);
    }
}

#[test]
fn zeroes_are_written_if_the_host_cannot_zero_a_range() {
    // A character device supports neither holes nor zeroing; this one accepts writes.
    let mut fixture = fixture(false);
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    fixture.block.disk.image = super::Image::raw(device);
    assert_eq!(fixture.segments(WRITE_ZEROES, &[(3, 7, UNMAP)]), (OK, 1));
    // A discard is a hint, so it succeeds.
    assert_eq!(fixture.segments(DISCARD, &[(3, 7, 0)]), (OK, 1));
    let full = std::fs::File::options().write(true).open("/dev/full");
    fixture.block.disk.image = super::Image::raw(full.unwrap());
    assert_eq!(fixture.segments(WRITE_ZEROES, &[(3, 7, UNMAP)]), (IOERR, 1));
}

#[test]
fn an_unknown_flag_is_unsupported_and_nothing_happens() {
    for (kind, flags) in [
        (DISCARD, UNMAP),
        (DISCARD, 2),
        (DISCARD, u32::MAX),
        (WRITE_ZEROES, 2),
        (WRITE_ZEROES, UNMAP | 1 << 31),
    ] {
        let mut fixture = fixture(false);
        assert_eq!(fixture.segments(kind, &[(1, 2, flags)]), (UNSUPP, 1));
        fixture.assert_untouched();
    }
    // A valid segment before it is not executed either.
    let mut fixture = fixture(false);
    assert_eq!(
        fixture.segments(DISCARD, &[(1, 2, 0), (4, 2, UNMAP)]),
        (UNSUPP, 1)
    );
    fixture.assert_untouched();
}

#[test]
fn segments_past_the_capacity_are_an_error_and_nothing_happens() {
    for kind in BOTH {
        for bad in [
            (SECTORS, 1, 0),
            (SECTORS - 1, 2, 0),
            (0, u32::try_from(SECTORS).unwrap() + 1, 0),
            (u64::MAX, 1, 0),
            (u64::MAX - 1, 2, 0),
            (u64::MAX / 512, 1, 0),
            (1 << 55, 0, 0),
            (0, u32::MAX, 0),
        ] {
            let mut fixture = fixture(false);
            assert_eq!(fixture.segments(kind, &[bad]), (IOERR, 1), "{bad:?}");
            assert_eq!(fixture.segments(kind, &[(0, 1, 0), bad]), (IOERR, 1));
            fixture.assert_untouched();
        }
    }
}

#[test]
fn invalid_segment_lists_are_an_error_and_nothing_happens() {
    let mut fixture = fixture(false);
    fixture.rig.write(PAYLOAD, &[0; 0x2000]);
    for kind in BOTH {
        let most = if kind == DISCARD { 16 } else { 1 };
        for len in [0, 1, 15, 17, 31, 16 * (most + 1), 0x2000] {
            let data = (PAYLOAD, len, 0);
            assert_eq!(fixture.request(kind, 0, &[data]), (IOERR, 1), "{len} bytes");
        }
        assert_eq!(
            fixture.segments(kind, &vec![(0, 0, 0); most as usize]),
            (OK, 1)
        );
    }
    fixture.assert_untouched();
}

#[test]
fn a_segment_longer_than_the_limit_in_the_configuration_is_an_error() {
    let options = Options::default();
    for (kind, most) in [(DISCARD, 1 << 21), (WRITE_ZEROES, 1 << 16)] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 << 30).unwrap();
        let mut fixture = Fixture::new(file, &options);
        assert_eq!(fixture.segments(kind, &[(1, most + 1, 0)]), (IOERR, 1));
        assert_eq!(fixture.segments(kind, &[(1, most, 0)]), (OK, 1));
    }
}

/// § 2.7.4.3: a segment list in buffers of one byte is the same list.
#[test]
fn a_segment_list_may_be_cut_anywhere() {
    let mut fixture = fixture(false);
    let mut bytes = 3_u64.to_le_bytes().to_vec();
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend([0; 4]);
    fixture.rig.write(PAYLOAD, &bytes);
    let pieces: Vec<_> = (0..16).map(|byte| (PAYLOAD + byte, 1, 0)).collect();
    assert_eq!(fixture.request(WRITE_ZEROES, 0, &pieces), (OK, 1));
    assert_eq!(fixture.sector(2), [2; 512]);
    assert_eq!(fixture.sector(3), [0; 512]);
    assert_eq!(fixture.sector(4), [0; 512]);
    assert_eq!(fixture.sector(5), [5; 512]);
}

#[test]
fn a_read_only_disk_offers_neither_and_refuses_both() {
    let mut fixture = fixture(true);
    let offered = fixture.block.features();
    assert_eq!(offered & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    for kind in BOTH {
        assert_eq!(fixture.segments(kind, &[(0, 1, 0)]), (UNSUPP, 1));
        // The transport refuses a driver that accepts what was not offered; this test bypasses it.
        fixture.block.activate(u64::MAX, &fixture.rig.memory);
        assert_eq!(fixture.segments(kind, &[(0, 1, 0)]), (IOERR, 1));
        fixture.block.activate(offered, &fixture.rig.memory);
    }
    fixture.assert_untouched();
}

#[test]
fn zeroes_through_a_write_through_cache_are_durable() {
    let mut fixture = fixture(false);
    let unsyncable = std::fs::File::options().write(true).open("/dev/null");
    fixture.block.disk.image = super::Image::raw(unsyncable.unwrap());
    assert_eq!(fixture.segments(WRITE_ZEROES, &[(0, 1, 0)]), (OK, 1));
    fixture.block.config().write(32, &[0]);
    assert_eq!(fixture.segments(WRITE_ZEROES, &[(0, 1, 0)]), (IOERR, 1));
    assert_eq!(fixture.request(OUT, 0, &[(PAYLOAD, 512, 0)]), (IOERR, 1));
}
