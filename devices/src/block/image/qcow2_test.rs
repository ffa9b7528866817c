use std::os::unix::fs::FileExt;

use imago::FormatCreateBuilder;

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
    let create = Opened::<Storage>::create_builder(storage);
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
    let image = Image::qcow2(file.try_clone().unwrap(), readonly).unwrap();
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

#[test]
fn images_that_name_other_files_or_are_damaged_are_refused() {
    type Change = fn(&File);
    let cases: [(&str, Change); 10] = [
        ("backing file, \"/etc/passwd\"", |file| {
            file.write_all_at(b"/etc/passwd", 1024).unwrap();
            file.write_all_at(&1024_u64.to_be_bytes(), 8).unwrap();
            file.write_all_at(&11_u32.to_be_bytes(), 16).unwrap();
        }),
        ("its data in another file", |file| {
            file.write_all_at(&4_u64.to_be_bytes(), 72).unwrap();
        }),
        ("encrypted", |file| {
            file.write_all_at(&2_u32.to_be_bytes(), 32).unwrap();
        }),
        // The dirty bit: the refcounts are out of date, and qemu-img check repairs them.
        ("incompatible", |file| {
            file.write_all_at(&1_u64.to_be_bytes(), 72).unwrap();
        }),
        ("refcounts are damaged", |file| {
            // The first entry of the refcount table, then the refcount of the first cluster.
            let table = u64::from_be_bytes(at(file, 48));
            file.write_all_at(&[0; 8], table).unwrap();
        }),
        ("refcounts are damaged", |file| {
            let table = u64::from_be_bytes(at(file, 48));
            let block = u64::from_be_bytes(at(file, table));
            file.write_all_at(&[0; 2], block).unwrap();
        }),
        ("refcounts are damaged", |file| {
            file.write_all_at(&[0; 4], 56).unwrap();
        }),
        ("feature name table is damaged", |file| {
            let header = u64::from(u32::from_be_bytes(at(file, 100)));
            let extension = [0x6803_f857_u32, 49].map(u32::to_be_bytes).concat();
            file.write_all_at(&extension, header).unwrap();
        }),
        ("refcounts are damaged", |file| file.set_len(100).unwrap()),
        ("not a qcow2 image", |file| {
            file.write_all_at(b"raw!", 0).unwrap();
        }),
    ];
    for (why, change) in cases {
        let file = image();
        change(&file);
        let refused = Image::qcow2(file, true).err().expect(why);
        assert!(refused.to_string().contains(why), "{refused} for {why}");
    }
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
        let Ok(image) = Image::qcow2(file.try_clone().unwrap(), false) else {
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
