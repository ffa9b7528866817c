//! Pops and pushes a chain with all its buffers translated, with Hartvisor's queue and with
//! rust-vmm's virtio-queue.

use std::hint::black_box;
use std::sync::Arc;

use devices::irq::IrqLine;
use devices::memory::Memory;
use devices::transport::interrupt::Interrupt;
use devices::virtio::queue::{FEATURES, QueueConfig};
use virtio_queue::QueueT;
use vm_memory::GuestMemoryBackend;

use crate::Case;
use crate::ring::{self, DEVICE, DRIVER, SIZE, Shape, TABLE};

/// An interrupt line that is not connected.
struct Loose;

impl IrqLine for Loose {
    fn set(&self, _: bool) {}
}

pub(crate) fn ours(shape: Shape) -> Case {
    let ram = ring::memory(shape);
    let config = QueueConfig {
        size: SIZE,
        ready: true,
        descriptors: TABLE,
        driver: DRIVER,
        device: DEVICE,
        ..QueueConfig::new(SIZE)
    };
    let interrupt = Arc::new(Interrupt::new(Box::new(Loose)));
    let mut queue = config
        .activate(&Memory::new(Arc::clone(&ram)), FEATURES, interrupt)
        .unwrap();
    let mut index = 0;
    Case {
        name: shape.name("hartvisor"),
        times: SIZE.into(),
        run: Box::new(move || {
            ring::offer(&ram, &mut index);
            while let Some(chain) = queue.pop().unwrap() {
                queue.push(black_box(chain), 512);
            }
            queue.notify();
        }),
    }
}

pub(crate) fn virtio_queue(shape: Shape) -> Case {
    let ram = ring::memory(shape);
    let mut queue = virtio_queue::Queue::new(SIZE).unwrap();
    queue.set_size(SIZE);
    let halves = |address: u64| (u32::try_from(address).ok(), Some(0));
    let (low, high) = halves(TABLE);
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(DRIVER);
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(DEVICE);
    queue.set_used_ring_address(low, high);
    queue.set_event_idx(true);
    queue.set_ready(true);
    let mut index = 0;
    Case {
        name: shape.name("virtio-queue"),
        times: SIZE.into(),
        run: Box::new(move || {
            ring::offer(&ram, &mut index);
            while let Some(chain) = queue.pop_descriptor_chain(&*ram) {
                let head = chain.head_index();
                for buffer in chain {
                    let length = usize::try_from(buffer.len()).unwrap();
                    black_box(ram.get_slice(buffer.addr(), length).unwrap());
                }
                queue.add_used(&*ram, head, 512).unwrap();
            }
            black_box(queue.needs_notification(&*ram).unwrap());
        }),
    }
}
