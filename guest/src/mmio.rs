//! The driver side of virtio-mmio, version 2 (virtio 1.3 § 4.2): probe, initialisation, queues,
//! configuration space, interrupt status.
//!
//! ```text
//!   probe ── negotiate ─────────────────────── queue, queue, … ── start
//!            reset, ACKNOWLEDGE, DRIVER,        one for each        DRIVER_OK
//!            features, FEATURES_OK, re-read     virtqueue
//! ```

mod registers;

pub use registers::{MmioRegisters, Registers};

use crate::virtio::{feature, status};
use crate::{Dma, Error, Queue, Wait};

/// Offsets of the registers, in bytes (§4.2.2).
pub mod offset {
    /// MagicValue, "virt".
    pub const MAGIC: usize = 0x000;
    /// Version, 2.
    pub const VERSION: usize = 0x004;
    /// DeviceID; 0 is an empty slot.
    pub const DEVICE_ID: usize = 0x008;
    /// VendorID.
    pub const VENDOR_ID: usize = 0x00c;
    /// DeviceFeatures, the half selected by DeviceFeaturesSel.
    pub const DEVICE_FEATURES: usize = 0x010;
    /// DeviceFeaturesSel.
    pub const DEVICE_FEATURES_SEL: usize = 0x014;
    /// DriverFeatures, the half selected by DriverFeaturesSel.
    pub const DRIVER_FEATURES: usize = 0x020;
    /// DriverFeaturesSel.
    pub const DRIVER_FEATURES_SEL: usize = 0x024;
    /// QueueSel, the queue of the queue registers.
    pub const QUEUE_SEL: usize = 0x030;
    /// QueueSizeMax; 0 is an absent queue.
    pub const QUEUE_SIZE_MAX: usize = 0x034;
    /// QueueSize.
    pub const QUEUE_SIZE: usize = 0x038;
    /// QueueReady.
    pub const QUEUE_READY: usize = 0x044;
    /// QueueNotify.
    pub const QUEUE_NOTIFY: usize = 0x050;
    /// InterruptStatus: bit 0 a used buffer, bit 1 a configuration change.
    pub const INTERRUPT_STATUS: usize = 0x060;
    /// InterruptACK.
    pub const INTERRUPT_ACK: usize = 0x064;
    /// Status.
    pub const STATUS: usize = 0x070;
    /// Descriptor area, low half; the high half follows 4 bytes on.
    pub const QUEUE_DESC: usize = 0x080;
    /// Driver area, low half.
    pub const QUEUE_DRIVER: usize = 0x090;
    /// Device area, low half.
    pub const QUEUE_DEVICE: usize = 0x0a0;
    /// SHMSel, the shared memory region of the next registers.
    pub const SHM_SEL: usize = 0x0ac;
    /// SHMLen, low half; all ones for a region that does not exist, like SHMBase.
    pub const SHM_LEN: usize = 0x0b0;
    /// SHMBase, low half.
    pub const SHM_BASE: usize = 0x0b8;
    /// QueueReset, with RING_RESET.
    pub const QUEUE_RESET: usize = 0x0c0;
    /// ConfigGeneration.
    pub const CONFIG_GENERATION: usize = 0x0fc;
    /// First byte of the device's configuration space.
    pub const CONFIG: usize = 0x100;
}

/// Bytes of a register block that are used, configuration space included.
pub const LEN: usize = 0x200;
/// MagicValue: "virt" as a little-endian number.
pub const MAGIC: u32 = 0x7472_6976;
/// The supported version of the register layout.
pub const VERSION: u32 = 2;
/// InterruptStatus: the device used a buffer.
pub const INTERRUPT_USED: u32 = 1;
/// InterruptStatus: the configuration changed, or the device needs a reset.
pub const INTERRUPT_CONFIG: u32 = 2;

/// Reads of the status after a reset before the device counts as stuck. A device that first
/// finishes its requests may need some time.
const RESET_POLLS: u32 = 1_000_000;
/// Reads of the configuration space before the device counts as broken.
const CONFIG_ATTEMPTS: u32 = 1_000;

/// One virtio-mmio device that answered with the right magic and version.
#[derive(Debug)]
pub struct Transport<R> {
    registers: R,
    device_id: u32,
    features: u64,
}

impl<R: Registers> Transport<R> {
    /// Looks for a device. `None` is an empty slot (DeviceID 0).
    ///
    /// # Errors
    ///
    /// [`Error::Magic`] and [`Error::Version`]; no other register is accessed then (§4.2.3.1.1).
    pub fn probe(registers: R) -> Result<Option<Self>, Error> {
        match registers.read(offset::MAGIC) {
            MAGIC => {}
            other => return Err(Error::Magic(other)),
        }
        match registers.read(offset::VERSION) {
            VERSION => {}
            other => return Err(Error::Version(other)),
        }
        let device_id = registers.read(offset::DEVICE_ID);
        Ok((device_id != crate::virtio::device::NONE).then_some(Self {
            registers,
            device_id,
            features: 0,
        }))
    }

    /// DeviceID (§5).
    pub fn device_id(&self) -> u32 {
        self.device_id
    }

    /// The registers, for tests that bypass the driver.
    pub fn registers(&self) -> &R {
        &self.registers
    }

    /// The device status field (§2.1).
    pub fn status(&self) -> u32 {
        self.registers.read(offset::STATUS)
    }

    /// The features agreed on; 0 before [`negotiate`](Self::negotiate).
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The features that the device offers.
    pub fn offered(&self) -> u64 {
        let half = |select| {
            self.registers.write(offset::DEVICE_FEATURES_SEL, select);
            u64::from(self.registers.read(offset::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Resets the device and waits until Status reads 0 (§4.2.3.1.1).
    ///
    /// # Errors
    ///
    /// [`Error::Reset`] when the status never becomes 0.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.features = 0;
        self.registers.write(offset::STATUS, 0);
        for _ in 0..RESET_POLLS {
            if self.status() == 0 {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        Err(Error::Reset(self.status()))
    }

    /// The first half of initialisation (§3.1.1 steps 1 to 6): resets the device and accepts those
    /// of the features `wanted` that it offers, and VERSION_1, which is always wanted.
    ///
    /// # Errors
    ///
    /// [`Error::Reset`], [`Error::Legacy`], [`Error::FeaturesRefused`]; the device is then marked
    /// FAILED.
    pub fn negotiate(&mut self, wanted: u64) -> Result<u64, Error> {
        self.reset()?;
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        let offered = self.offered();
        if offered & feature::VERSION_1 == 0 {
            self.add_status(status::FAILED);
            return Err(Error::Legacy(offered));
        }
        let features = offered & (wanted | feature::VERSION_1);
        self.accept(features)?;
        Ok(features)
    }

    /// Writes exactly `features` and sets FEATURES_OK. Called only by
    /// [`negotiate`](Self::negotiate) and by tests, which request invalid features.
    ///
    /// # Errors
    ///
    /// [`Error::FeaturesRefused`] if FEATURES_OK does not stay set.
    pub fn accept(&mut self, features: u64) -> Result<(), Error> {
        for (select, half) in [(0, low(features)), (1, high(features))] {
            self.registers.write(offset::DRIVER_FEATURES_SEL, select);
            self.registers.write(offset::DRIVER_FEATURES, half);
        }
        self.add_status(status::FEATURES_OK);
        if self.status() & status::FEATURES_OK == 0 {
            self.add_status(status::FAILED);
            return Err(Error::FeaturesRefused(features));
        }
        self.features = features;
        Ok(())
    }

    /// Sets up virtqueue `index` with at most `size` entries (§4.2.3.2), between
    /// [`negotiate`](Self::negotiate) and [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// [`Error::QueueUnavailable`] when the device has no such queue or it is in use;
    /// [`Error::OutOfDma`].
    pub fn queue(&mut self, index: u16, size: u16, dma: &mut Dma) -> Result<Queue, Error> {
        self.registers.write(offset::QUEUE_SEL, index.into());
        let ready = self.registers.read(offset::QUEUE_READY) != 0;
        let max = self.registers.read(offset::QUEUE_SIZE_MAX);
        let max = u16::try_from(max).unwrap_or(u16::MAX);
        if ready || max == 0 {
            return Err(Error::QueueUnavailable(index));
        }
        let queue = Queue::new(dma, index, size.min(max), self.features)?;
        self.registers
            .write(offset::QUEUE_SIZE, queue.size().into());
        for (area, address) in [
            (offset::QUEUE_DESC, queue.descriptor_area()),
            (offset::QUEUE_DRIVER, queue.driver_area()),
            (offset::QUEUE_DEVICE, queue.device_area()),
        ] {
            self.registers.write(area, low(address));
            self.registers.write(area + 4, high(address));
        }
        self.registers.write(offset::QUEUE_READY, 1);
        Ok(queue)
    }

    /// The end of initialisation: DRIVER_OK (§3.1.1 step 8).
    pub fn start(&mut self) {
        self.add_status(status::DRIVER_OK);
    }

    /// Kicks the device: virtqueue `index` has new chains (§4.2.3.3).
    pub fn notify(&self, index: u16) {
        self.registers.write(offset::QUEUE_NOTIFY, index.into());
    }

    /// Waits until the device has used all chains of `queue`, and forgets them.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::NeedsReset`]; the error that broke the queue.
    pub(crate) fn drain(&self, queue: &mut Queue, wait: &mut impl Wait) -> Result<(), Error> {
        loop {
            while queue.pop()?.is_some() {}
            if queue.in_flight() == 0 {
                return Ok(());
            }
            if !wait.wait() {
                self.alive()?;
                return Err(Error::Timeout);
            }
        }
    }

    /// Whether the device still works: DRIVER_OK set, DEVICE_NEEDS_RESET not.
    ///
    /// # Errors
    ///
    /// [`Error::NeedsReset`] when it does not.
    pub fn alive(&self) -> Result<(), Error> {
        let status = self.status();
        if status & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET) == status::DRIVER_OK {
            Ok(())
        } else {
            Err(Error::NeedsReset(status))
        }
    }

    /// Reads configuration space without tearing: `read` gets the registers and must use offsets
    /// from [`offset::CONFIG`] on. It is called again if the device has changed the configuration
    /// meanwhile (§2.5.1).
    ///
    /// # Errors
    ///
    /// [`Error::ConfigUnstable`] when the device never stops changing it.
    pub fn config<T>(&self, read: impl Fn(&R) -> T) -> Result<T, Error> {
        for _ in 0..CONFIG_ATTEMPTS {
            let before = self.registers.read(offset::CONFIG_GENERATION);
            let value = read(&self.registers);
            if self.registers.read(offset::CONFIG_GENERATION) == before {
                return Ok(value);
            }
        }
        Err(Error::ConfigUnstable)
    }

    /// The 64-bit configuration field at `field` bytes from [`offset::CONFIG`], as two 32-bit
    /// reads (§4.2.2.2).
    ///
    /// # Errors
    ///
    /// As [`config`](Self::config).
    pub fn config_u64(&self, field: usize) -> Result<u64, Error> {
        self.config(|registers| {
            let at = |half| u64::from(registers.read(offset::CONFIG + field + half));
            at(0) | at(4) << 32
        })
    }

    /// Sets one more status bit. Only a reset clears bits (§2.1.1).
    fn add_status(&mut self, bit: u32) {
        self.registers.write(offset::STATUS, self.status() | bit);
    }
}

/// Reads and acknowledges the causes of an interrupt of the device at `registers`: bits
/// [`INTERRUPT_USED`] and [`INTERRUPT_CONFIG`]. Not part of [`Transport`], since interrupt handlers
/// have no driver.
pub fn acknowledge(registers: &impl Registers) -> u32 {
    let pending = registers.read(offset::INTERRUPT_STATUS);
    if pending != 0 {
        registers.write(offset::INTERRUPT_ACK, pending);
    }
    pending
}

/// The low 32 bits.
#[allow(clippy::cast_possible_truncation, reason = "that is the purpose")]
pub(crate) fn low(value: u64) -> u32 {
    value as u32
}

/// The high 32 bits.
pub(crate) fn high(value: u64) -> u32 {
    low(value >> 32)
}

#[cfg(test)]
#[path = "mmio_test.rs"]
mod tests;
