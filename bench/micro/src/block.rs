//! A complete 4 KiB read: the store to QueueNotify, the worker's thread, the file, the interrupt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::block::Block;
use devices::irq::IrqLine;
use devices::memory::Memory;
use devices::platform::bus::BusDevice;
use devices::transport::mmio::Mmio;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Case;
use crate::ring::{DEVICE, DRIVER, RAM, SIZE, TABLE};

const HEADER: u64 = 0x8000_8000;
const STATUS: u64 = 0x8000_8010;
const DATA: u64 = 0x8001_0000;

/// Virtio-mmio registers (§ 4.2.2).
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_ACK: u64 = 0x064;
const DEVICE_STATUS: u64 = 0x070;
const QUEUE_DESC: u64 = 0x080;
const QUEUE_DRIVER: u64 = 0x090;
const QUEUE_DEVICE: u64 = 0x0a0;

/// An interrupt line whose state can be read.
struct Wire(Arc<AtomicBool>);

impl IrqLine for Wire {
    fn set(&self, high: bool) {
        self.0.store(high, Ordering::SeqCst);
    }
}

pub(crate) fn request() -> Case {
    let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(RAM, 1 << 20)]).unwrap());
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(1 << 20).unwrap();
    let high = Arc::new(AtomicBool::new(false));
    let disk = Block::new(file, 1 << 20, false, "");
    let wire = Box::new(Wire(Arc::clone(&high)));
    let mmio = Mmio::new(Box::new(disk), Memory::new(Arc::clone(&ram)), wire).unwrap();
    let store = move |register, value: u32| mmio.write(register, &value.to_le_bytes());

    // ACKNOWLEDGE, DRIVER; VERSION_1 alone; FEATURES_OK; the queue; DRIVER_OK (§ 3.1.1).
    store(DEVICE_STATUS, 1);
    store(DEVICE_STATUS, 3);
    store(DRIVER_FEATURES_SEL, 1);
    store(DRIVER_FEATURES, 1);
    store(DEVICE_STATUS, 11);
    store(QUEUE_SIZE, SIZE.into());
    for (register, address) in [
        (QUEUE_DESC, TABLE),
        (QUEUE_DRIVER, DRIVER),
        (QUEUE_DEVICE, DEVICE),
    ] {
        store(register, u32::try_from(address).unwrap());
    }
    store(QUEUE_READY, 1);
    store(DEVICE_STATUS, 15);

    for (index, address, length, flags) in
        [(0, HEADER, 16, 1), (1, DATA, 4096, 3), (2, STATUS, 1, 2)]
    {
        let words = [address, length | flags << 32 | (index + 1) << 48];
        let place = GuestAddress(TABLE + 16 * index);
        ram.write_slice(words.map(u64::to_le_bytes).as_flattened(), place)
            .unwrap();
    }
    let mut index: u16 = 0;
    Case {
        name: "block, a 4 KiB read through mmio and its worker".to_owned(),
        times: 1,
        run: Box::new(move || {
            index = index.wrapping_add(1);
            ram.store(index, GuestAddress(DRIVER + 2), Ordering::Release)
                .unwrap();
            store(QUEUE_NOTIFY, 0);
            while !high.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            store(INTERRUPT_ACK, 1);
        }),
    }
}
