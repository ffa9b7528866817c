//! A machine without a CPU: guest memory, register pages and wires. The test acts as the guest.
//!
//! ```text
//!   the test's thread                                   the devices' threads
//!   driver ── Page (Registers) ──▶ Mmio ──kick──▶ worker ── device
//!      │                                              │
//!      └──── Dma ────▶ Ram: 16 MiB at 0x8000_0000 ◀───┘
//! ```

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use devices::block::Block;
use devices::console::Console;
use devices::irq::IrqLine;
use devices::memory::Memory;
use devices::platform::bus::BusDevice;
use devices::transport::mmio::Mmio;
use devices::transport::remote::Remote;
use devices::virtio::VirtioDevice;
use guest::{Dma, Registers, Transport};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

mod wire;
pub(crate) use wire::Wire;

/// The start of RAM, as on the real machine.
pub(crate) const RAM: u64 = 0x8000_0000;
/// Bytes of RAM.
pub(crate) const RAM_LEN: usize = 16 << 20;
/// Bytes of a driver's arena.
const ARENA: usize = 1 << 20;

/// A deadline that is long enough for any machine under any load.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A [`guest::Wait`] that lets the devices' threads run, up to a deadline.
pub(crate) fn timeout() -> impl FnMut() -> bool {
    let deadline = Instant::now() + TIMEOUT;
    move || {
        std::thread::yield_now();
        Instant::now() < deadline
    }
}

/// Waits until `done` returns true. Fails after the deadline.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let mut wait = timeout();
    while !done() {
        assert!(wait(), "{what}: not within {TIMEOUT:?}");
    }
}

/// Guest RAM, from which drivers get arenas.
pub(crate) struct Ram {
    file: File,
    mapping: Arc<GuestMemoryMmap>,
    taken: AtomicUsize,
}

impl Ram {
    pub(crate) fn new() -> Ram {
        let file = memory_file(RAM_LEN as u64);
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(RAM), RAM_LEN, Some(offset));
        let mapping = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        Ram { file, mapping: Arc::new(mapping), taken: AtomicUsize::new(0) }
    }

    /// The memory for devices.
    pub(crate) fn memory(&self) -> Memory {
        Memory::new(Arc::clone(&self.mapping))
    }

    /// The file of the memory, for mapping it elsewhere.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A new arena of 1 MiB for one driver. It must not be used after `self` is dropped.
    pub(crate) fn dma(&self) -> Dma {
        let offset = self.taken.fetch_add(ARENA, Ordering::Relaxed);
        assert!(offset + ARENA <= RAM_LEN, "too many arenas in one test");
        let address = RAM + offset as u64;
        // SAFETY: it is mapped for as long as `self` lives, which every test keeps to its end.
        // Arenas do not overlap, and the test accesses them only through the mapping, as a device
        // does.
        unsafe { Dma::new(self.host(address), address, ARENA) }
    }

    /// The address of guest address `address` in this process.
    pub(crate) fn host(&self, address: u64) -> NonNull<u8> {
        let host = self.mapping.get_host_address(GuestAddress(address));
        NonNull::new(host.unwrap()).unwrap()
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        let written = self.mapping.write_slice(bytes, GuestAddress(address));
        written.unwrap();
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.mapping.read_slice(&mut bytes, GuestAddress(address));
        read.unwrap();
        bytes
    }
}

/// A file in memory of `len` zeroes.
pub(crate) fn memory_file(len: u64) -> File {
    let fd = memfd_create(c"ram", MemfdFlags::CLOEXEC);
    let file = File::from(fd.unwrap());
    file.set_len(len).unwrap();
    file
}

/// A device behind its register page, with its wire.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) mmio: Arc<Mmio>,
    pub(crate) wire: Wire,
}

impl Page {
    pub(crate) fn new(ram: &Ram, device: impl VirtioDevice + 'static) -> Page {
        let wire = Wire::default();
        let line = Box::new(wire.clone());
        let mmio = Mmio::new(Box::new(device), ram.memory(), line).unwrap();
        Page { mmio: Arc::new(mmio), wire }
    }

    /// A device that another process serves.
    pub(crate) fn remote(ram: &Ram, remote: &Arc<Remote>) -> Page {
        let wire = Wire::default();
        let line = Box::new(wire.clone());
        let mmio = Mmio::remote(remote, ram.memory(), line).unwrap();
        Page { mmio: Arc::new(mmio), wire }
    }

    /// Probes the device for a driver. Fails if there is none.
    pub(crate) fn probe(&self) -> Transport<Page> {
        Transport::probe(self.clone()).unwrap().unwrap()
    }

    fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut data = [0; N];
        self.mmio.read(offset as u64, &mut data);
        data
    }
}

impl Registers for Page {
    fn read(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.load(offset))
    }

    fn write(&self, offset: usize, value: u32) {
        self.mmio.write(offset as u64, &value.to_le_bytes());
    }

    fn read_u8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.load(offset))
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.load(offset))
    }
}

/// The byte that fills sector `sector` of a new disk.
pub(crate) fn pattern(sector: u64) -> u8 {
    u8::try_from(sector % 251).unwrap()
}

/// A file of `sectors` sectors, each filled with its [`pattern`].
pub(crate) fn image(sectors: u64) -> File {
    let content: Vec<u8> = (0..sectors).flat_map(|n| [pattern(n); 512]).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    file
}

/// A disk in `file`, which stays open for the test.
pub(crate) fn disk(ram: &Ram, file: &File, readonly: bool) -> Page {
    Page::new(ram, block(file, readonly))
}

/// The same, without a transport.
pub(crate) fn block(file: &File, readonly: bool) -> Block {
    let size = file.metadata().unwrap().len();
    Block::new(file.try_clone().unwrap(), size, readonly, "disk-1")
}

/// The terminal's ends of a console's files.
pub(crate) struct Terminal {
    pub(crate) keyboard: UnixStream,
    pub(crate) screen: UnixStream,
    /// The console's end of `screen`, for filling it up.
    output: UnixStream,
}

impl Terminal {
    /// Fills the pipe to the screen. Returns the number of bytes.
    pub(crate) fn clog(&mut self) -> usize {
        let mut clogged = 0;
        loop {
            match self.output.write(&[b'#'; 4096]) {
                Ok(count) => clogged += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return clogged,
                Err(error) => panic!("filling the terminal: {error}"),
            }
        }
    }
}

/// A console and its terminal.
pub(crate) fn console(ram: &Ram) -> (Page, Terminal) {
    let (keyboard, input) = UnixStream::pair().unwrap();
    let (screen, output) = UnixStream::pair().unwrap();
    input.set_nonblocking(true).unwrap();
    output.set_nonblocking(true).unwrap();
    let terminal = Terminal { keyboard, screen, output: output.try_clone().unwrap() };
    let file = |stream| File::from(OwnedFd::from(stream));
    let console = Console::new(file(input), file(output));
    (Page::new(ram, console), terminal)
}
