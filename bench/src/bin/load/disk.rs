//! The tests of the disk. All memory is allocated and filled before a test starts, and checked
//! after it ends.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use bench::pattern::{self, BLOCK, BLOCKS};
use bench::protocol::{Kind, Test};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::ring::Ring;

const MIB: usize = 1 << 20;

/// The disk, and how often each block was written.
pub(crate) struct Disk {
    pub(crate) file: File,
    seed: u64,
    /// How often each block was written.
    generations: Vec<u8>,
    ring: Ring,
}

/// The operations of a test.
pub(crate) struct Job {
    kind: Kind,
    /// The first block of each operation.
    places: Vec<u64>,
    buffer: Buffer,
    length: usize,
}

/// A page-aligned buffer, as direct I/O requires.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    fn new(length: usize) -> Buffer {
        // Not zero, so that the pages are allocated.
        let bytes = vec![0xaa; length + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Buffer { bytes, start, length }
    }

    fn get(&self) -> &[u8] {
        self.bytes
            .get(self.start..self.start + self.length)
            .unwrap_or_default()
    }

    fn get_mut(&mut self) -> &mut [u8] {
        self.bytes
            .get_mut(self.start..self.start + self.length)
            .unwrap_or_default()
    }
}

impl Disk {
    pub(crate) fn open(path: &Path, seed: u64) -> Result<Disk> {
        Ok(Disk {
            file: crate::open_direct(path)?,
            seed,
            generations: vec![0; usize::try_from(BLOCKS)?],
            ring: Ring::new()?,
        })
    }

    /// Chooses blocks and fills buffers.
    pub(crate) fn prepare(&mut self, test: Test) -> Result<Job> {
        let length = match test.kind {
            Kind::Read1m | Kind::Write1m => MIB,
            _ => BLOCK,
        };
        let per_place = (length / BLOCK) as u64;
        let places: Vec<u64> = match test.kind {
            Kind::Null | Kind::Idle => Vec::new(),
            Kind::Read1m | Kind::Write1m => (0..test.operations as u64)
                .map(|index| index * per_place)
                .collect(),
            _ => {
                self.seed += 1;
                let order = pattern::shuffled(self.seed);
                order.into_iter().take(test.operations).collect()
            }
        };
        ensure!(
            places.iter().all(|place| place + per_place <= BLOCKS),
            "{test}: the disk is smaller"
        );
        let mut buffer = Buffer::new(length * places.len());
        if writes(test.kind) {
            for (bytes, &place) in buffer.get_mut().chunks_exact_mut(length).zip(&places) {
                for (bytes, block) in bytes.chunks_exact_mut(BLOCK).zip(place..) {
                    let generation = self
                        .generations
                        .get_mut(usize::try_from(block)?)
                        .context("no such block")?;
                    *generation += 1;
                    pattern::fill(bytes, block, *generation);
                }
            }
        }
        Ok(Job { kind: test.kind, places, buffer, length })
    }
}

/// Reads the parts with one thread per CPU, each with an equal share.
fn each_cpu(file: &File, mut parts: Vec<(&mut [u8], u64)>) -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let share = parts.len().div_ceil(cpus).max(1);
    thread::scope(|scope| {
        let readers: Vec<_> = parts
            .chunks_mut(share)
            .enumerate()
            .map(|(cpu, parts)| scope.spawn(move || read_on(cpu, file, parts)))
            .collect();
        let join = |reader: ScopedJoinHandle<'_, _>| reader.join().map_err(|_| anyhow!("panicked"));
        readers.into_iter().try_for_each(|reader| join(reader)?)
    })
}

fn read_on(cpu: usize, file: &File, parts: &mut [(&mut [u8], u64)]) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("CPU {cpu}"))?;
    for (part, offset) in parts {
        file.read_exact_at(part, *offset)?;
    }
    Ok(())
}

fn writes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Write4k | Kind::Write4kDeep | Kind::Write1m | Kind::Sync4k
    )
}

impl Job {
    /// Runs the measured operations.
    pub(crate) fn run(&mut self, disk: &mut Disk) -> Result<()> {
        let (places, length) = (&self.places, self.length);
        let offset = |place: &u64| place * BLOCK as u64;
        let parts = self.buffer.get_mut().chunks_exact_mut(length);
        match self.kind {
            Kind::Read4k | Kind::Read1m => {
                for (part, place) in parts.zip(places) {
                    disk.file.read_exact_at(part, offset(place))?;
                }
            }
            Kind::Write4k | Kind::Write1m => {
                for (part, place) in parts.zip(places) {
                    disk.file.write_all_at(part, offset(place))?;
                }
            }
            Kind::Sync4k => {
                for (part, place) in parts.zip(places) {
                    disk.file.write_all_at(part, offset(place))?;
                    disk.file.sync_data()?;
                }
            }
            Kind::Read4kDeep | Kind::Write4kDeep => {
                let write = writes(self.kind);
                disk.ring
                    .run(&disk.file, write, parts.zip(places.iter().map(offset)))?;
            }
            Kind::Read4kEach => {
                let parts: Vec<_> = parts.zip(places.iter().map(offset)).collect();
                each_cpu(&disk.file, parts)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Verifies every byte that was read, and reads back and verifies every byte that was written.
    pub(crate) fn verify(mut self, disk: &Disk) -> Result<()> {
        let length = self.length;
        if writes(self.kind) {
            let parts = self.buffer.get_mut().chunks_exact_mut(length);
            for (part, place) in parts.zip(&self.places) {
                part.fill(0xaa);
                disk.file.read_exact_at(part, place * BLOCK as u64)?;
            }
        }
        for (part, &place) in self.buffer.get().chunks_exact(length).zip(&self.places) {
            for (bytes, block) in part.chunks_exact(BLOCK).zip(place..) {
                let generation = disk
                    .generations
                    .get(usize::try_from(block)?)
                    .context("no such block")?;
                ensure!(
                    pattern::is_block(bytes, block, *generation),
                    "block {block} does not hold what its {generation}th write left there"
                );
            }
        }
        Ok(())
    }
}
