//! Direct I/O with driver buffers that are not aligned for it.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::*;
use crate::block::Options;
use crate::block::request::{IN, OUT, WRITE_ZEROES};
use crate::block::tests::{Fixture, IOERR, OK, PAYLOAD};
use crate::rig::WRITE;

/// A disk of 128 KiB whose sector `n` is filled with byte `n`: opened with O_DIRECT, or normally
/// with the requirements `align` forced. `None` if the file system does not support O_DIRECT.
fn direct(folder: &Path, align: Option<Direct>) -> Option<Fixture> {
    let path = folder.join("disk");
    let content: Vec<u8> = (0..=255).flat_map(|sector| [sector; 512]).collect();
    fs::write(&path, content).unwrap();
    let mut options = File::options();
    options.read(true).write(true);
    let mut fixture = match align {
        // As if the host required that.
        Some(_) => Fixture::new(options.open(&path).unwrap(), &Options::default()),
        None => {
            let file = options.custom_flags(libc::O_DIRECT).open(&path).ok()?;
            Fixture::new(file, &Options::default())
        }
    };
    if let Some(align) = align {
        let image = fixture.block.disk.image.as_raw();
        image.direct = Some(align);
        image.bounce = Bounce::new(align);
    }
    // For reading the content without the code under test.
    fixture.file = File::open(&path).unwrap();
    Some(fixture)
}

/// The alignments under test; the host's own comes last.
const ALIGNMENTS: [Option<Direct>; 4] = [
    Some(Direct { memory: 512, offset: 512 }),
    Some(Direct { memory: 4, offset: 4096 }),
    Some(Direct { memory: 4096, offset: 65536 }),
    None,
];

/// Sector, number of sectors, and the offset of the driver's buffer in its page.
const CASES: [(u8, u32, u64); 8] = [
    (0, 8, 0),
    (0, 8, 1),
    (8, 8, 512),
    (3, 1, 0),
    (7, 2, 3),
    (5, 150, 0),
    (5, 150, 2047),
    (255, 1, 0),
];

#[test]
fn direct_reads_and_writes_take_any_sector_and_any_buffer() {
    let folder = tempfile::tempdir().unwrap();
    for align in ALIGNMENTS {
        for (sector, count, shift) in CASES {
            let Some(mut fixture) = direct(folder.path(), align) else {
                return eprintln!("skipped: no O_DIRECT in {}", folder.path().display());
            };
            let (at, len) = (PAYLOAD + shift, count * 512);
            let read = (at, len, WRITE);
            assert_eq!(fixture.request(IN, sector.into(), &[read]), (OK, len + 1));
            let data = fixture.rig.read(at, len as usize);
            let expected: Vec<u8> = (sector..=255).take(count as usize).collect();
            let seen: Vec<u8> = data.chunks(512).map(|sector| sector[0]).collect();
            assert_eq!(seen, expected, "{align:?} {sector} {count} {shift}");
            assert!(data.chunks(512).all(|sector| sector == [sector[0]; 512]));

            fixture.rig.write(at, &vec![0xaa; len as usize]);
            let write = (at, len, 0);
            assert_eq!(fixture.request(OUT, sector.into(), &[write]), (OK, 1));
            for (other, number) in (0_u8..=255).zip(0_u64..) {
                let written = number.checked_sub(sector.into());
                let written = written.is_some_and(|distance| distance < count.into());
                let expected = if written { 0xaa } else { other };
                assert_eq!(
                    fixture.sector(number),
                    [expected; 512],
                    "{align:?} {number}"
                );
            }
        }
    }
}

#[test]
fn direct_zeroes_keep_what_is_around_them() {
    let folder = tempfile::tempdir().unwrap();
    for align in ALIGNMENTS {
        let Some(mut fixture) = direct(folder.path(), align) else {
            return eprintln!("skipped: no O_DIRECT in {}", folder.path().display());
        };
        let mut segment = 3_u64.to_le_bytes().to_vec();
        segment.extend(200_u32.to_le_bytes());
        segment.extend([0; 4]);
        fixture.rig.write(PAYLOAD, &segment);
        let list = (PAYLOAD, 16, 0);
        assert_eq!(fixture.request(WRITE_ZEROES, 0, &[list]), (OK, 1));
        assert_eq!(fixture.sector(2), [2; 512]);
        assert_eq!(fixture.sector(203), [203; 512]);
        assert!((3..203).all(|sector| fixture.sector(sector) == [0; 512]));

        // The same with zeroes that are written; ones show the difference.
        let image = fixture.block.disk.image.as_raw();
        let file = image.file.try_clone().unwrap();
        let ones = |buffer: &mut [u8]| buffer.fill(1);
        image.bounce.write(&file, 3 * 512, 200 * 512, ones).unwrap();
        assert_eq!(fixture.sector(2), [2; 512]);
        assert_eq!(fixture.sector(203), [203; 512]);
        assert!((3..203).all(|sector| fixture.sector(sector) == [1; 512]));
    }
}

#[test]
fn reading_past_the_end_of_a_truncated_direct_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let align = ALIGNMENTS[1];
    let mut fixture = direct(folder.path(), align).unwrap();
    let path = folder.path().join("disk");
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(1000)
        .unwrap();
    let read = |count: u32| (PAYLOAD, count * 512, WRITE);
    assert_eq!(fixture.request(IN, 0, &[read(1)]), (OK, 513));
    assert_eq!(fixture.request(IN, 1, &[read(1)]), (IOERR, 1));
    assert_eq!(fixture.request(IN, 0, &[read(20)]), (IOERR, 1));
    assert_eq!(fixture.request(OUT, 9, &[(PAYLOAD, 512, 0)]), (IOERR, 1));
}

/// The block size that the guest sees, on which its partition table depends, is the same with
/// direct I/O.
#[test]
fn a_direct_disk_has_the_usual_block_size_and_reports_its_unit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut fixture) = direct(folder.path(), None) else {
        return eprintln!("skipped: no O_DIRECT in {}", folder.path().display());
    };
    assert_eq!(fixture.config(20, 4), 512_u32.to_le_bytes());
    let unit = granularity(&fixture.block.disk.image.as_raw().file);
    let exponent = u64::from(fixture.config(24, 1)[0]);
    assert!(512 << exponent >= unit, "{exponent} for {unit}");
    // A part of a unit at the end cannot be written, so it is not in the capacity.
    let size = unit * 5 + 512;
    fixture.block.shared_config().resize(size);
    let sectors = (size - size % unit) / 512;
    assert_eq!(fixture.config(0, 8), sectors.to_le_bytes());
}

/// Tests the block devices of this machine, whatever they are: sysfs is readable for everyone.
#[test]
fn the_geometry_of_a_block_device_is_what_the_kernel_reports() {
    let devices: Vec<_> = fs::read_dir("/sys/dev/block").unwrap().collect();
    if devices.is_empty() {
        eprintln!("skipped in part: this machine has no block device");
    }
    for device in devices {
        let name = device.unwrap().file_name().into_string().unwrap();
        let (major, minor) = name.split_once(':').unwrap();
        let rdev = rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap());
        let geometry = Geometry::of_device(rdev, 512);
        let reported = queue_limit(rdev, "logical_block_size").unwrap();
        assert_eq!(geometry.logical, 512, "{name}");
        assert!(geometry.physical >= reported, "{name}");
        assert!(Geometry::of_device(rdev, 8192).physical >= 8192, "{name}");
    }
    // An unknown device has the defaults.
    let unknown = Geometry::of_device(rustix::fs::makedev(4095, 1), 512);
    assert_eq!((unknown.logical, unknown.discards), (512, false));
}

/// Only a block device supports the ioctl. On a file the error shows that the ioctl was made.
#[test]
fn only_whole_blocks_of_a_block_device_are_discarded() {
    let file = tempfile::tempfile().unwrap();
    for (offset, len) in [(512, 3584), (512, 4096), (0, 4095), (4095, 2)] {
        discard_blocks(&file, offset, len, 4096).unwrap();
    }
    for (offset, len) in [(0, 4096), (1, 8191), (4095, 4097)] {
        let refused = discard_blocks(&file, offset, len, 4096).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
    }
}
