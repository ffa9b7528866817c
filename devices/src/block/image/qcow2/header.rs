//! The header of a qcow2 image, checked before imago sees the image.
//!
//! QEMU's docs/interop/qcow2.rst, be32 and be64:
//!
//! ```text
//!    0 magic       4 version     8 backing file (64)   16 its length   20 cluster_bits
//!   24 size (64)  32 encryption 36 l1_size             40 l1_table (64)
//!   48 refcount_table (64)      56 its clusters        60 snapshots    64 their table (64)
//!   version 3:    72 incompatible features (64)        80, 88 other features
//!                 96 refcount_order                   100 header length, then extensions
//! ```
//!
//! imago allocates what these fields say, and loops over it. So each field has a limit here.
//! Snapshots are never read.

use std::io;

use imago::StorageExt;
use imago::file::File;

use super::refused;

/// The bytes at the start of the header that never change: from the magic to the encryption,
/// except the position of the backing file's name (8 to 20).
pub(super) const START: usize = 36;

/// Cluster sizes of QEMU: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The largest L1 table and refcount table, in bytes (QEMU's limits).
const L1_MAX: u64 = 32 << 20;
const REFCOUNTS_MAX: u64 = 8 << 20;
/// The largest disk: host offsets in tables have 56 bits.
const SIZE_MAX: u64 = 1 << 56;
/// The most clusters that refcounts may cover. imago searches them all for a free one.
const COVERED_MAX: u64 = 1 << 30;
/// The longest name of a backing file, in bytes.
const NAME_MAX: u32 = 1023;

/// Incompatible features, by bit.
const INCOMPATIBLE: [&str; 5] = [
    "it was not closed properly (qemu-img check -r all repairs it)",
    "it is marked corrupt (qemu-img check -r all repairs it)",
    "it has its data in another file",
    "it is compressed by zstd, expected deflate",
    "it has extended L2 entries",
];

/// What is used of a header.
#[derive(Debug)]
pub(super) struct Header {
    /// The size of a cluster, in bytes.
    pub(super) cluster: u32,
    /// The first bytes of the image.
    pub(super) start: [u8; START],
    pub(super) backing: Option<Backing>,
}

/// The backing file that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name.
    pub name: String,
    /// Its format, such as "raw", if the image says that.
    pub format: Option<String>,
}

impl Header {
    /// Reads and checks the header of the image in `file`, and the tables that imago trusts.
    ///
    /// # Errors
    /// It cannot be read, is damaged or is not supported. The message says which field is wrong.
    pub(super) fn read(file: &File) -> io::Result<Header> {
        let start: [u8; START] = bytes(file, 0)?;
        if !start.starts_with(b"QFI\xfb") {
            return Err(refused("it is not a qcow2 image"));
        }
        let version = be32(file, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(refused(format!(
                "its version is {version}, expected 2 or 3"
            )));
        }
        let bits = be32(file, 20)?;
        if !CLUSTER_BITS.contains(&bits) {
            let expected = "expected 9 to 21";
            return Err(refused(format!(
                "its clusters have 2^{bits} bytes, {expected}"
            )));
        }
        let cluster = 1_u32 << bits;
        if be32(file, 32)? != 0 {
            return Err(refused("it is encrypted"));
        }
        let mut order = 4;
        let mut format = None;
        if version == 3 {
            order = be32(file, 96)?;
            check_features(be64(file, 72)?)?;
            format = extensions(file, cluster)?;
        }
        if order > 6 {
            return Err(refused(format!(
                "its refcounts have 2^{order} bits, expected 2^0 to 2^6"
            )));
        }
        let len = len(file)?;
        check_l1(file, cluster, len)?;
        check_refcounts(file, cluster, order, len)?;
        let backing = backing(file, cluster)?.map(|name| Backing { name, format });
        Ok(Header { cluster, start, backing })
    }
}

fn check_features(incompatible: u64) -> io::Result<()> {
    for (bit, problem) in INCOMPATIBLE.iter().enumerate() {
        if incompatible & (1 << bit) != 0 {
            return Err(refused(*problem));
        }
    }
    match incompatible {
        0 => Ok(()),
        _ => Err(refused(format!(
            "it needs unknown features ({incompatible:#x})"
        ))),
    }
}

/// Checks the header extensions of version 3, which are in the first cluster: be32 type, be32
/// length, data padded to a multiple of 8 bytes. Returns the format of the backing file.
fn extensions(file: &File, cluster: u32) -> io::Result<Option<String>> {
    const BACKING_FORMAT: u32 = 0xe279_2aca;
    const FEATURE_NAMES: u32 = 0x6803_f857;
    /// The longest name of a format; QEMU has 15 bytes.
    const FORMAT_MAX: u32 = 64;
    let header = be32(file, 100)?;
    if !(104..=cluster).contains(&header) {
        let expected = format!("expected 104 to {cluster}");
        return Err(refused(format!(
            "its header has {header} bytes, {expected}"
        )));
    }
    let mut format = None;
    let mut offset = u64::from(header);
    while offset + 8 <= cluster.into() {
        let (kind, len) = (be32(file, offset)?, be32(file, offset + 4)?);
        match kind {
            0 => break,
            // imago (0.2.6) panics on a truncated entry; each entry has 48 bytes.
            FEATURE_NAMES if !len.is_multiple_of(48) => {
                let problem = "expected a multiple of 48";
                return Err(refused(format!(
                    "its feature name table has {len} bytes, {problem}"
                )));
            }
            BACKING_FORMAT if len > FORMAT_MAX => {
                let problem = format!("expected at most {FORMAT_MAX}");
                return Err(refused(format!(
                    "its backing format has {len} bytes, {problem}"
                )));
            }
            BACKING_FORMAT => format = Some(text(file, offset + 8, len)?),
            _ => {}
        }
        offset += 8 + u64::from(len).next_multiple_of(8);
    }
    Ok(format)
}

/// Checks the table of the tables of clusters, which imago reads completely.
fn check_l1(file: &File, cluster: u32, len: u64) -> io::Result<()> {
    let cluster = u64::from(cluster);
    let (size, entries, table) = (be64(file, 24)?, be32(file, 36)?, be64(file, 40)?);
    if size > SIZE_MAX {
        return Err(refused(format!(
            "its disk has {size} bytes, expected at most {SIZE_MAX}"
        )));
    }
    // An L2 table fills a cluster, and an entry has 8 bytes.
    let needed = size.div_ceil(cluster * (cluster / 8));
    let bytes = u64::from(entries) * 8;
    if u64::from(entries) < needed || bytes > L1_MAX {
        let expected = format!("expected {needed} to {}", L1_MAX / 8);
        return Err(refused(format!(
            "its L1 table has {entries} entries, {expected}"
        )));
    }
    check_place("L1 table", table, bytes, cluster, len)
}

/// Checks the reference counts: be64 offsets of blocks, each a cluster of counts.
fn check_refcounts(file: &File, cluster: u32, order: u32, len: u64) -> io::Result<()> {
    let cluster = u64::from(cluster);
    let (table, clusters) = (be64(file, 48)?, be32(file, 56)?);
    let bytes = u64::from(clusters) * cluster;
    if clusters == 0 || bytes > REFCOUNTS_MAX {
        let expected = format!("expected {cluster} to {REFCOUNTS_MAX}");
        return Err(refused(format!(
            "its refcount table has {bytes} bytes, {expected}"
        )));
    }
    // QEMU writes the table's last cluster only as far as it is used.
    check_place("refcount table", table, 8, cluster, len)?;
    // The header is in the first cluster, so its refcount must not be 0. If it is, imago (0.2.6)
    // allocates that cluster, or recurses until the stack overflows if the refcount block is
    // missing.
    let block = be64(file, table)? & !0x1ff;
    let counts: [u8; 8] = self::bytes(file, block)?;
    let used = match order {
        0..3 => counts[0] & ((1 << (1 << order)) - 1) != 0,
        _ => counts.iter().take(1 << (order - 3)).any(|byte| *byte != 0),
    };
    if block == 0 || !used {
        let problem = "its refcounts are damaged: its header is not in use";
        return Err(refused(format!(
            "{problem} (qemu-img check -r all repairs it)"
        )));
    }
    check_coverage(file, table, bytes, (cluster * 8) >> order, cluster, len)
}

/// Checks which clusters the table of `bytes` bytes covers, with `each` per block. imago searches
/// them for a free one, even past the end of the file.
fn check_coverage(
    file: &File,
    table: u64,
    bytes: u64,
    each: u64,
    cluster: u64,
    len: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let (mut blocks, mut last) = (0_u64, 0);
    let mut done = 0;
    while done < bytes {
        let rest = usize::try_from(bytes - done).unwrap_or(usize::MAX);
        let part = buffer.split_at_mut(rest.min(64 * 1024)).0;
        fill(file, part, table + done)?;
        for (index, entry) in (done / 8..).zip(part.chunks(8)) {
            if entry.iter().any(|byte| *byte != 0) {
                (blocks, last) = (blocks + 1, index);
            }
        }
        done += part.len() as u64;
    }
    if last > len.div_ceil(each * cluster) || blocks * each > COVERED_MAX {
        let most = len.div_ceil(cluster).saturating_add(each).min(COVERED_MAX);
        let covered = (last + 1).saturating_mul(each);
        let problem = format!("expected at most {most} for a file of {len} bytes");
        return Err(refused(format!(
            "its refcounts cover {covered} clusters, {problem}"
        )));
    }
    Ok(())
}

/// Checks that a table is aligned, after the header and within the file.
fn check_place(what: &str, table: u64, bytes: u64, cluster: u64, len: u64) -> io::Result<()> {
    let end = table.checked_add(bytes);
    if table >= cluster && table.is_multiple_of(cluster) && end.is_some_and(|end| end <= len) {
        return Ok(());
    }
    let problem = format!("expected a multiple of {cluster} within the file's {len}");
    Err(refused(format!(
        "its {what} of {bytes} bytes is at {table}, {problem}"
    )))
}

/// The name of the backing file.
fn backing(file: &File, cluster: u32) -> io::Result<Option<String>> {
    let (offset, len) = (be64(file, 8)?, be32(file, 16)?);
    if offset == 0 {
        return Ok(None);
    }
    let end = offset.checked_add(len.into());
    if !(1..=NAME_MAX).contains(&len) || end.is_none_or(|end| end >= cluster.into()) {
        let expected = format!("expected 1 to {NAME_MAX} within the first {cluster}");
        let problem = format!("its backing file's name has {len} bytes at {offset}");
        return Err(refused(format!("{problem}, {expected}")));
    }
    text(file, offset, len).map(Some)
}

fn text(file: &File, offset: u64, len: u32) -> io::Result<String> {
    let mut text = vec![0; usize::try_from(len).unwrap_or(0)];
    fill(file, &mut text, offset)?;
    let wrong = |error: std::string::FromUtf8Error| {
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        refused(format!("its header has the text {text:?}, expected UTF-8"))
    };
    String::from_utf8(text).map_err(wrong)
}

fn be32(file: &File, offset: u64) -> io::Result<u32> {
    bytes(file, offset).map(u32::from_be_bytes)
}

fn be64(file: &File, offset: u64) -> io::Result<u64> {
    bytes(file, offset).map(u64::from_be_bytes)
}

fn bytes<const N: usize>(file: &File, offset: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(file, &mut bytes, offset)?;
    Ok(bytes)
}

/// Reads at `offset`; past the end of the file there are zeroes. imago reads, as it handles the
/// alignment for O_DIRECT.
fn fill(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read(bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let problem = "it refers to an offset larger than any file";
            Err(refused(format!("{problem}, {offset}")))
        }
        done => done,
    }
}

fn len(file: &File) -> io::Result<u64> {
    imago::Storage::size(file)
}
