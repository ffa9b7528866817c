//! The platform that the crate `virtio-drivers` needs: pages of memory, and access to the
//! registers.

use std::ptr::{self, NonNull};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use devices::platform::bus::BusDevice;
use guest::Registers;
use guest::mmio::{acknowledge, offset};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::support::{Page, RAM, RAM_LEN, Ram};

/// The memory of all machines in one test program: `Hal` has no `self`.
pub(crate) static POOL: LazyLock<Pool> =
    LazyLock::new(|| Pool { ram: Ram::new(), taken: Mutex::new(vec![false; RAM_LEN / PAGE_SIZE]) });

/// RAM, allocated in pages.
pub(crate) struct Pool {
    pub(crate) ram: Ram,
    taken: Mutex<Vec<bool>>,
}

impl Pool {
    fn taken(&self) -> MutexGuard<'_, Vec<bool>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates `pages` zeroed pages: the first free run that is long enough.
    fn alloc(&self, pages: usize) -> PhysAddr {
        let mut taken = self.taken();
        let first = taken.windows(pages).position(|run| !run.contains(&true));
        let first = first.expect("16 MiB are enough for these tests");
        taken[first..first + pages].fill(true);
        let address = RAM + (first * PAGE_SIZE) as u64;
        self.ram.write(address, &vec![0; pages * PAGE_SIZE]);
        address
    }

    fn free(&self, address: PhysAddr, pages: usize) {
        let first = usize::try_from(address - RAM).unwrap() / PAGE_SIZE;
        for page in &mut self.taken()[first..first + pages] {
            assert!(std::mem::take(page), "{address:#x} was not allocated");
        }
    }
}

/// The driver's platform. Buffers are shared by copying, so that an access outside of them shows.
pub(crate) struct Bounce;

// SAFETY: pages come from a mapping that is never unmapped (`POOL` is static). They are aligned and
// zeroed, and not allocated twice before they are freed.
unsafe impl Hal for Bounce {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let address = POOL.alloc(pages);
        (address, POOL.ram.host(address))
    }

    unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        POOL.free(address, pages);
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("only PCI calls this, for {address:#x}")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let address = POOL.alloc(buffer.len().div_ceil(PAGE_SIZE));
        if direction != BufferDirection::DeviceToDriver {
            let (from, into) = (buffer.cast().as_ptr(), POOL.ram.host(address).as_ptr());
            // SAFETY: the caller's buffer is valid, and nothing writes to it now. As many bytes
            // were just allocated.
            unsafe { ptr::copy_nonoverlapping(from, into, buffer.len()) };
        }
        address
    }

    unsafe fn unshare(address: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            let (from, into) = (POOL.ram.host(address).as_ptr(), buffer.cast().as_ptr());
            // SAFETY: the caller's buffer is valid, and unused now. `share` allocated as many bytes
            // at `address`.
            unsafe { ptr::copy_nonoverlapping(from, into, buffer.len()) };
        }
        POOL.free(address, buffer.len().div_ceil(PAGE_SIZE));
    }
}

/// The registers as a transport of `virtio-drivers`, which offers only the features in `mask`.
pub(crate) struct Port {
    pub(crate) page: Page,
    pub(crate) mask: u64,
}

impl Port {
    fn select(&self, queue: u16) {
        self.page.write(offset::QUEUE_SEL, queue.into());
    }

    fn write_u64(&self, low: usize, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.page.write(low, u32::from_le_bytes([a, b, c, d]));
        self.page.write(low + 4, u32::from_le_bytes([e, f, g, h]));
    }
}

impl Transport for Port {
    fn device_type(&self) -> DeviceType {
        let id = self.page.read(offset::DEVICE_ID);
        id.try_into().unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        self.page.probe().offered() & self.mask
    }

    fn write_driver_features(&mut self, features: u64) {
        let halves = [features & 0xffff_ffff, features >> 32];
        for (select, half) in (0..).zip(halves) {
            self.page.write(offset::DRIVER_FEATURES_SEL, select);
            let half = u32::try_from(half).unwrap();
            self.page.write(offset::DRIVER_FEATURES, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.page.read(offset::QUEUE_SIZE_MAX)
    }

    fn notify(&mut self, queue: u16) {
        self.page.write(offset::QUEUE_NOTIFY, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.page.read(offset::STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.page.write(offset::STATUS, status.bits());
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.select(queue);
        self.page.write(offset::QUEUE_SIZE, size);
        self.write_u64(offset::QUEUE_DESC, descriptors);
        self.write_u64(offset::QUEUE_DRIVER, driver_area);
        self.write_u64(offset::QUEUE_DEVICE, device_area);
        self.page.write(offset::QUEUE_READY, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.select(queue);
        self.page.write(offset::QUEUE_READY, 0);
        assert_eq!(self.page.read(offset::QUEUE_READY), 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.page.read(offset::QUEUE_READY) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_truncate(acknowledge(&self.page))
    }

    fn read_config_generation(&self) -> u32 {
        self.page.read(offset::CONFIG_GENERATION)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        let place = (offset::CONFIG + offset) as u64;
        self.page.mmio.read(place, value.as_mut_bytes());
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let place = (offset::CONFIG + offset) as u64;
        self.page.mmio.write(place, value.as_bytes());
        Ok(())
    }
}
