//! Small qcow2 images.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// The properties of one of our images.
#[derive(Debug, Arbitrary)]
pub struct Shape {
    old: bool,
    bits: u8,
    order: u8,
    tail: u8,
    backing: bool,
    clusters: [Content; 24],
    /// Further L2 tables, without entries.
    tables: u8,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Content {
    None,
    Zero,
    Data(u8),
    Prepared,
    Compressed(u8),
    /// A data cluster that a snapshot has too.
    Shared(u8),
}

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

impl Shape {
    /// The bytes of the image, and whether it needs a backing file.
    pub fn image(&self) -> (Vec<u8>, bool) {
        let bits = 9 + u32::from(self.bits % 5);
        let cluster = 1_usize << bits;
        // Shared clusters need counts of 2.
        let order = if self.old {
            4
        } else {
            1 + u32::from(self.order % 6)
        };
        let mut file = vec![0; cluster];
        let mut counts = vec![1_u64];
        let mut add = |bytes: &[u8], count: u64, file: &mut Vec<u8>| {
            let at = file.len();
            file.extend_from_slice(bytes);
            file.resize(file.len().next_multiple_of(cluster), 0);
            counts.resize(file.len() / cluster, count);
            at as u64
        };
        let mut l2 = Vec::new();
        for content in self.clusters {
            let entry = match content {
                Content::None => 0,
                Content::Zero | Content::Prepared if self.old => 0,
                Content::Zero => 1,
                Content::Prepared => add(&vec![0xee; cluster], 1, &mut file) | COPIED | 1,
                Content::Data(value) => add(&vec![value; cluster], 1, &mut file) | COPIED,
                Content::Shared(value) => add(&vec![value; cluster], 2, &mut file),
                Content::Compressed(value) => {
                    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
                    encoder.write_all(&vec![value; cluster]).expect("memory");
                    let packed = encoder.finish().expect("memory");
                    let sectors = (packed.len() as u64).div_ceil(512) - 1;
                    add(&packed, 1, &mut file) | COMPRESSED | sectors << (62 - (bits - 8))
                }
            };
            l2.extend(entry.to_be_bytes());
        }
        let mut l1 = Vec::new();
        l1.extend((add(&l2, 1, &mut file) | COPIED).to_be_bytes());
        l1.resize(8 + usize::from(self.tables % 4) * 8, 0);
        let l1_at = add(&l1, 1, &mut file);

        let each = (cluster * 8) >> order;
        let (mut blocks, before) = (1, file.len() / cluster);
        while before + 1 + blocks > blocks * each {
            blocks += 1;
        }
        let first = file.len();
        let table: Vec<u8> = (0..blocks)
            .flat_map(|block| ((first + block * cluster) as u64).to_be_bytes())
            .collect();
        let mut block = vec![0_u8; blocks * cluster];
        counts.resize(before + blocks + table.len().div_ceil(cluster), 1);
        for (index, count) in counts.iter().enumerate() {
            let at = index << order;
            match order {
                0..3 => block[at / 8] |= (*count as u8) << (at % 8),
                _ => {
                    let (at, len) = (at / 8, 1 << (order - 3));
                    block[at..at + len].copy_from_slice(&count.to_be_bytes()[8 - len..]);
                }
            }
        }
        file.extend(block);
        let table_at = file.len() as u64;
        file.extend(&table);
        let table_clusters = table.len().div_ceil(cluster);
        file.resize(table_at as usize + table_clusters * cluster, 0);

        let full = (self.clusters.len() * cluster) as u64;
        let size = if self.tables.is_multiple_of(4) {
            full - u64::from(self.tail) * 512 % cluster as u64
        } else {
            // In the last of the further tables.
            (l1.len() as u64 / 8 - 1) * (cluster * cluster / 8) as u64 + 4096
        };
        let mut header = b"QFI\xfb".to_vec();
        header.extend(if self.old { 2_u32 } else { 3 }.to_be_bytes());
        let name = if self.backing { b"raw".as_slice() } else { b"" };
        let name_at = if self.backing { 256_u64 } else { 0 };
        header.extend(name_at.to_be_bytes());
        header.extend((name.len() as u32).to_be_bytes());
        header.extend(bits.to_be_bytes());
        header.extend(size.to_be_bytes());
        header.extend([0; 4]);
        header.extend((l1.len() as u32 / 8).to_be_bytes());
        header.extend(l1_at.to_be_bytes());
        header.extend(table_at.to_be_bytes());
        header.extend((table_clusters as u32).to_be_bytes());
        header.extend([0; 12]);
        if !self.old {
            header.extend([0; 24]);
            header.extend(order.to_be_bytes());
            header.extend(104_u32.to_be_bytes());
        }
        file[..header.len()].copy_from_slice(&header);
        if self.backing {
            file[256..256 + name.len()].copy_from_slice(name);
        }
        (file, self.backing)
    }
}

/// An image of qemu-img, or an empty file if it is not installed.
pub fn made_by_qemu(number: u8) -> Vec<u8> {
    static ALL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(make);
    match ALL.len() {
        0 => Shape::default().image().0,
        count => ALL[usize::from(number) % count].clone(),
    }
}

impl Default for Shape {
    fn default() -> Self {
        let clusters = [Content::Data(7); 24];
        Shape { old: false, bits: 0, order: 3, tail: 0, backing: false, clusters, tables: 0 }
    }
}

fn make() -> Vec<Vec<u8>> {
    let directory = std::env::temp_dir().join(format!("fuzz-qcow2-{}", std::process::id()));
    let made = fs::create_dir_all(&directory).and_then(|()| make_in(&directory));
    let _ = fs::remove_dir_all(&directory);
    made.unwrap_or_default()
}

fn make_in(directory: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let (raw, image) = (directory.join("raw"), directory.join("image"));
    let content: Vec<u8> = (0..192 * 1024_u32)
        .map(|at| if at & 0x4000 == 0 { (at >> 9) as u8 } else { 0 })
        .collect();
    fs::write(&raw, content)?;
    let qemu_img = |arguments: &[&str], files: &[&Path]| {
        let done = Command::new("qemu-img")
            .args(arguments)
            .args(files)
            .output()?;
        match done.status.success() {
            true => Ok(()),
            false => Err(std::io::Error::other(String::from_utf8_lossy(&done.stderr))),
        }
    };
    let mut images = Vec::new();
    for options in [
        "cluster_size=512",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=4096,refcount_bits=8",
        "cluster_size=4096,preallocation=metadata",
        "cluster_size=4096,lazy_refcounts=on",
        "cluster_size=4096,compat=0.10",
        "cluster_size=64k",
    ] {
        for packed in [false, true] {
            if packed && options.contains("preallocation") {
                continue;
            }
            let convert = ["convert", "-q", "-O", "qcow2", "-o", options, "-c"];
            let arguments = &convert[..convert.len() - usize::from(!packed)];
            qemu_img(arguments, &[&raw, &image])?;
            images.push(fs::read(&image)?);
            if !options.contains("refcount_bits=1") {
                qemu_img(&["snapshot", "-c", "one"], &[&image])?;
                images.push(fs::read(&image)?);
            }
        }
    }
    Ok(images)
}
