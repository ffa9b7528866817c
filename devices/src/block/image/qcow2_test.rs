use std::os::unix::fs::FileExt;

use imago::qcow2::Qcow2 as Created;
use imago::{FormatCreateBuilder, StorageOpenOptions};

use super::super::Image;
use super::*;
use crate::block::request::{DISCARD, FLUSH, IN, OUT, UNMAP, WRITE_ZEROES};
use crate::block::tests::{Fixture, IOERR, OK, PAYLOAD};
use crate::block::{Block, Options};
use crate::rig::WRITE;

/// The size of a new image: its L1 table refers to two L2 tables.
const SIZE: u64 = 4 << 20;
const CLUSTER: usize = 4096;

/// A new, empty image.
fn image() -> File {
    let file = tempfile::tempfile().unwrap();
    let options = StorageOpenOptions::new().write(true);
    let storage = Storage::from_open_file(file.try_clone().unwrap(), options).unwrap();
    let create = Created::<Storage>::create_builder(storage);
    create.size(SIZE).cluster_size(CLUSTER).create().unwrap();
    file
}

/// The bytes at `offset`.
fn at<const N: usize>(file: &File, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn fixture(file: &File, readonly: bool) -> Fixture {
    let image = Image::qcow2(file.try_clone().unwrap(), readonly, vec![]).unwrap();
    let options = Options { readonly, ..Options::default() };
    let size = image.size().unwrap();
    Fixture::of(Block::of(image, size, &options), file)
}

/// Fills the sectors from `first` on with `value`. Returns the status.
fn write(fixture: &mut Fixture, first: u64, sectors: u32, value: u8) -> u8 {
    let len = sectors * 512;
    fixture.rig.write(PAYLOAD, &vec![value; len as usize]);
    fixture.request(OUT, first, &[(PAYLOAD, len, 0)]).0
}

/// Reads the sectors from `first` on. Returns the status, and the value of all their bytes if they
/// are equal.
fn read(fixture: &mut Fixture, first: u64, sectors: u32) -> (u8, Option<u8>) {
    let len = sectors * 512;
    fixture.rig.write(PAYLOAD, &vec![0xee; len as usize]);
    let (status, _) = fixture.request(IN, first, &[(PAYLOAD, len, WRITE)]);
    let data = fixture.rig.read(PAYLOAD, len as usize);
    let value = data[0];
    (status, data.iter().all(|it| *it == value).then_some(value))
}

fn segment(fixture: &mut Fixture, kind: u32, first: u64, sectors: u32, flags: u32) -> u8 {
    let segment = u128::from(first) | u128::from(sectors) << 64 | u128::from(flags) << 96;
    fixture.rig.write(PAYLOAD, &segment.to_le_bytes());
    fixture.request(kind, 0, &[(PAYLOAD, 16, 0)]).0
}

#[test]
fn flushed_data_is_there_when_the_image_is_opened_again() {
    let file = image();
    let mut first = fixture(&file, false);
    assert_eq!(read(&mut first, 0, 64), (OK, Some(0)));
    assert_eq!(write(&mut first, 3, 200, 7), OK);
    assert_eq!(write(&mut first, SIZE / 512 - 1, 1, 9), OK);
    assert_eq!(first.request(FLUSH, 0, &[]).0, OK);
    // As if killed: the image is not closed.
    std::mem::forget(first);
    for readonly in [true, false] {
        let mut again = fixture(&file, readonly);
        assert_eq!(read(&mut again, 2, 1), (OK, Some(0)));
        assert_eq!(read(&mut again, 3, 200), (OK, Some(7)));
        assert_eq!(read(&mut again, SIZE / 512 - 1, 1), (OK, Some(9)));
        assert_eq!(read(&mut again, SIZE / 512, 1).0, IOERR);
    }
}

/// imago meets the alignment that direct I/O requires: these sectors are in the middle of clusters
/// and of the host's blocks.
#[test]
fn an_image_may_be_opened_with_o_direct() {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, content(&image())).unwrap();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let Ok(file) = options.open(&path) else {
        return eprintln!("skipped: no O_DIRECT in {}", folder.path().display());
    };
    let mut first = fixture(&file, false);
    assert_eq!(write(&mut first, 3, 200, 7), OK);
    assert_eq!(write(&mut first, 100, 1, 8), OK);
    drop(first);
    let mut again = fixture(&File::open(&path).unwrap(), true);
    assert_eq!(read(&mut again, 3, 97), (OK, Some(7)));
    assert_eq!(read(&mut again, 100, 1), (OK, Some(8)));
    assert_eq!(read(&mut again, 101, 102), (OK, Some(7)));
}

#[test]
fn zeroes_are_zeroes_and_what_is_around_them_stays() {
    for unmap in [0, UNMAP] {
        let mut fixture = fixture(&image(), false);
        assert_eq!(write(&mut fixture, 0, 200, 7), OK);
        assert_eq!(segment(&mut fixture, WRITE_ZEROES, 3, 100, unmap), OK);
        assert_eq!(read(&mut fixture, 0, 3), (OK, Some(7)));
        assert_eq!(read(&mut fixture, 3, 100), (OK, Some(0)));
        assert_eq!(read(&mut fixture, 103, 97), (OK, Some(7)));
    }
}

#[test]
fn discarded_clusters_are_used_again() {
    let file = image();
    let mut fixture = fixture(&file, false);
    let mut len = 0;
    for round in 0..20 {
        assert_eq!(write(&mut fixture, 0, 256, round), OK);
        assert_eq!(segment(&mut fixture, DISCARD, 0, 256, 0), OK);
        assert_eq!(fixture.request(FLUSH, 0, &[]).0, OK);
        if round == 1 {
            len = file.metadata().unwrap().len();
        }
    }
    assert!(file.metadata().unwrap().len() <= len);
}

#[test]
fn the_driver_learns_of_the_virtual_size_and_of_clusters() {
    let fixture = fixture(&image(), false);
    assert_eq!(fixture.config(0, 8), (SIZE / 512).to_le_bytes());
    // opt_io_size: a cluster in logical blocks.
    assert_eq!(fixture.config(28, 4), 8_u32.to_le_bytes());
}

#[test]
fn a_read_only_image_is_not_touched() {
    let file = image();
    let before = content(&file);
    let mut fixture = fixture(&file, true);
    assert_eq!(read(&mut fixture, 0, 8), (OK, Some(0)));
    assert_eq!(write(&mut fixture, 0, 1, 1), IOERR);
    drop(fixture);
    assert_eq!(content(&file), before);
}

fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn put32(file: &File, offset: u64, value: u32) {
    file.write_all_at(&value.to_be_bytes(), offset).unwrap();
}

fn put64(file: &File, offset: u64, value: u64) {
    file.write_all_at(&value.to_be_bytes(), offset).unwrap();
}

#[test]
fn images_that_name_other_files_or_are_damaged_are_refused() {
    type Change = fn(&File);
    let cases: [(&str, Change); 26] = [
        ("not a qcow2 image", |file| {
            file.write_all_at(b"raw!", 0).unwrap();
        }),
        ("its version is 4, expected 2 or 3", |file| {
            put32(file, 4, 4);
        }),
        ("backing file, \"/etc/passwd\"", |file| {
            file.write_all_at(b"/etc/passwd", 1024).unwrap();
            put64(file, 8, 1024);
            put32(file, 16, 11);
        }),
        ("name has 1024 bytes at 512", |file| {
            put64(file, 8, 512);
            put32(file, 16, 1024);
        }),
        ("name has 11 bytes at 18446744073709551615", |file| {
            put64(file, 8, u64::MAX);
            put32(file, 16, 11);
        }),
        ("expected UTF-8", |file| {
            file.write_all_at(&[0xff; 3], 1024).unwrap();
            put64(file, 8, 1024);
            put32(file, 16, 3);
        }),
        ("clusters have 2^22 bytes, expected 9 to 21", |file| {
            put32(file, 20, 22);
        }),
        ("clusters have 2^4294967295 bytes", |file| {
            put32(file, 20, u32::MAX);
        }),
        ("its disk has 72057594037927937 bytes", |file| {
            put64(file, 24, (1 << 56) + 1);
        }),
        ("encrypted", |file| put32(file, 32, 2)),
        ("L1 table has 1 entries, expected 2 to 4194304", |file| {
            put32(file, 36, 1);
        }),
        ("L1 table has 4294967295 entries", |file| {
            put32(file, 36, u32::MAX);
        }),
        ("L1 table of 4096 bytes is at 4097", |file| {
            put32(file, 36, 512);
            put64(file, 40, 4097);
        }),
        ("L1 table of 4096 bytes is at 0", |file| {
            put32(file, 36, 512);
            put64(file, 40, 0);
        }),
        ("L1 table of 33554432 bytes is at", |file| {
            put32(file, 36, 1 << 22);
        }),
        (
            "refcount table of 8 bytes is at 18446744073709547520",
            |file| {
                put64(file, 48, u64::MAX - 4095);
            },
        ),
        ("refcount table has 0 bytes", |file| put32(file, 56, 0)),
        ("refcount table has 17592186040320 bytes", |file| {
            put32(file, 56, u32::MAX);
        }),
        ("its data in another file", |file| put64(file, 72, 4)),
        // The dirty bit: the refcounts are out of date.
        ("not closed properly (qemu-img check -r all", |file| {
            put64(file, 72, 1);
        }),
        ("unknown features (0x100000000)", |file| {
            put64(file, 72, 1 << 32);
        }),
        ("refcounts have 2^7 bits", |file| put32(file, 96, 7)),
        ("its header has 4097 bytes, expected 104 to 4096", |file| {
            put32(file, 100, 4097);
        }),
        ("feature name table has 49 bytes", |file| {
            let header = u32::from_be_bytes(at(file, 100)).into();
            put32(file, header, 0x6803_f857);
            put32(file, header + 4, 49);
        }),
        // The first entry of the refcount table, then the refcount of the first cluster.
        ("refcounts are damaged", |file| {
            put64(file, u64::from_be_bytes(at(file, 48)), 0);
        }),
        ("refcounts are damaged", |file| {
            let block = u64::from_be_bytes(at(file, u64::from_be_bytes(at(file, 48))));
            file.write_all_at(&[0; 2], block).unwrap();
        }),
    ];
    for (why, change) in cases {
        let file = image();
        change(&file);
        let refused = Image::qcow2(file, true, vec![]).err().expect(why);
        assert!(refused.to_string().contains(why), "{refused} for {why}");
    }
}

/// imago would search the clusters for a free one for hours.
#[test]
fn refcounts_far_past_the_end_of_the_file_are_refused() {
    let file = image();
    let table = u64::from_be_bytes(at(&file, 48));
    let block: u64 = u64::from_be_bytes(at(&file, table));
    let each = 2048;
    // Up to the block after the one that covers the end.
    put64(&file, table + 8, block);
    assert!(Image::qcow2(file.try_clone().unwrap(), true, vec![]).is_ok());
    put64(&file, table + 16, block);
    let refused = Image::qcow2(file, true, vec![]).err().unwrap();
    let text = format!("its refcounts cover {} clusters", 3 * each);
    assert!(refused.to_string().contains(&text), "{refused}");
}

#[test]
fn a_truncated_image_is_refused() {
    let whole = image();
    let len = whole.metadata().unwrap().len();
    for len in [100, CLUSTER as u64, len - 4096] {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content(&whole), 0).unwrap();
        file.set_len(len).unwrap();
        assert!(Image::qcow2(file, true, vec![]).is_err(), "{len}");
    }
}

/// The entry of an L2 table for a compressed cluster in the first cluster of the file. Discarding
/// it frees the header, and imago allocates that next.
#[test]
fn the_header_is_not_overwritten_when_the_tables_say_it_is_free() {
    let file = image();
    let mut first = fixture(&file, false);
    assert_eq!(write(&mut first, 0, 8, 5), OK);
    drop(first);
    let l1: u64 = u64::from_be_bytes(at(&file, 40));
    let l2 = u64::from_be_bytes(at(&file, l1)) & 0x00ff_ffff_ffff_fe00;
    put64(&file, l2 + 8, 1 << 62);
    let before: [u8; 104] = at(&file, 0);
    let mut fixture = fixture(&file, false);
    assert_eq!(segment(&mut fixture, DISCARD, 8, 8, 0), OK);
    let statuses: Vec<u8> = (2..40)
        .map(|cluster| write(&mut fixture, cluster * 8, 8, 6))
        .collect();
    assert!(statuses.contains(&IOERR), "{statuses:?}");
    fixture.request(FLUSH, 0, &[]);
    drop(fixture);
    assert_eq!(at::<104>(&file, 0), before);
}

#[test]
fn a_backing_file_shows_where_the_image_has_no_data() {
    let file = image();
    file.write_all_at(b"below", 1024).unwrap();
    put64(&file, 8, 1024);
    put32(&file, 16, 5);
    let backing = Image::backing(&file).unwrap().unwrap();
    assert_eq!(backing, Backing { name: "below".into(), format: None });
    // Shorter than the image, and between them another image.
    let raw = tempfile::tempfile().unwrap();
    raw.write_all_at(&[3; 1 << 20], 0).unwrap();
    let middle = image();
    let mut overlay = fixture(&middle, false);
    assert_eq!(write(&mut overlay, 16, 8, 4), OK);
    drop(overlay);
    middle.write_all_at(b"raw", 1024).unwrap();
    put64(&middle, 8, 1024);
    put32(&middle, 16, 3);
    let before = content(&raw);
    let layers = || {
        vec![
            Layer { file: middle.try_clone().unwrap(), qcow2: true },
            Layer { file: raw.try_clone().unwrap(), qcow2: false },
        ]
    };
    let open = |layers| Image::qcow2(file.try_clone().unwrap(), false, layers);
    let image = open(layers()).unwrap();
    let size = image.size().unwrap();
    let mut fixture = Fixture::of(Block::of(image, size, &Options::default()), &file);
    assert_eq!(read(&mut fixture, 0, 16), (OK, Some(3)));
    assert_eq!(read(&mut fixture, 16, 8), (OK, Some(4)));
    assert_eq!(read(&mut fixture, 2048, 64), (OK, Some(0)));
    // One sector is copied with its cluster.
    assert_eq!(write(&mut fixture, 1, 1, 9), OK);
    assert_eq!(segment(&mut fixture, WRITE_ZEROES, 24, 8, UNMAP), OK);
    assert_eq!(segment(&mut fixture, DISCARD, 16, 8, 0), OK);
    assert_eq!(read(&mut fixture, 0, 1), (OK, Some(3)));
    assert_eq!(read(&mut fixture, 1, 1), (OK, Some(9)));
    assert_eq!(read(&mut fixture, 2, 6), (OK, Some(3)));
    assert_eq!(read(&mut fixture, 16, 16), (OK, Some(0)));
    assert_eq!(content(&raw), before);
    // A backing file of the wrong kind, or none, is an error.
    let not = open(vec![Layer { file: raw, qcow2: true }]).err().unwrap();
    assert!(not.to_string().contains("not a qcow2 image"), "{not}");
    let none = open(vec![]).err().unwrap();
    assert!(
        none.to_string().contains("backing file, \"below\""),
        "{none}"
    );
}

/// A stand-in for a fault of imago that no image here causes.
#[test]
fn after_a_panic_each_request_fails_and_the_file_is_left_alone() {
    crate::contain::tests::install_hook();
    let file = image();
    let mut image = Qcow2::open(file.try_clone().unwrap(), false, vec![]).unwrap();
    let before = content(&file);
    let panic = image.image.run::<()>(|_| panic!("a fault of the library"));
    let text = panic.unwrap_err().to_string();
    assert!(text.contains("imago: a fault of the library"), "{text}");
    for _ in 0..2 {
        assert!(image.sync().is_err() && image.discard(0, 4096).is_err());
    }
    drop(image);
    assert_eq!(content(&file), before);
}

/// xorshift64: the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

/// Damages images anywhere, mostly in the metadata. A request then returns data or an error, and
/// nothing panics.
#[test]
fn a_damaged_image_causes_no_more_than_an_error() {
    let whole = {
        let file = image();
        let mut fixture = fixture(&file, false);
        for sector in [0, 100, 5000, 8000] {
            assert_eq!(write(&mut fixture, sector, 16, 5), OK);
        }
        drop(fixture);
        content(&file)
    };
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut opened, mut failed) = (0, 0);
    for round in 0..600 {
        let mut content = whole.clone();
        if round % 4 == 0 {
            content.truncate(chance.below(whole.len()));
        }
        for _ in 0..1 + chance.below(8) {
            // The header in one case of three, anywhere in the others.
            let at = match chance.below(3) {
                0 => chance.below(112),
                _ => chance.below(content.len().max(1)),
            };
            let what = [
                0,
                1,
                0x7f,
                0x80,
                0xff,
                u8::try_from(chance.below(256)).unwrap(),
            ];
            if let Some(byte) = content.get_mut(at / 8 * 8 + chance.below(8)) {
                *byte = what[chance.below(what.len())];
            }
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        let Ok(image) = Image::qcow2(file.try_clone().unwrap(), false, vec![]) else {
            continue;
        };
        opened += 1;
        let size = image.size().unwrap();
        let mut fixture = Fixture::of(Block::of(image, size, &Options::default()), &file);
        for sector in [0, 100, 5000, 8000] {
            let statuses = [
                read(&mut fixture, sector, 16).0,
                write(&mut fixture, sector, 8, 6),
                segment(&mut fixture, WRITE_ZEROES, sector, 40, UNMAP),
                segment(&mut fixture, DISCARD, sector, 40, 0),
                fixture.request(FLUSH, 0, &[]).0,
            ];
            failed += statuses.iter().filter(|it| **it == IOERR).count();
        }
    }
    // The test must cover both kinds of damage.
    assert!(opened > 100 && failed > 100, "{opened} {failed}");
}
