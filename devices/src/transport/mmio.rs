//! The virtio-mmio transport, version 2 (§ 4.2): a page of registers.
//!
//! The driver reads a page of memory ([`Registers`]), which this module and the device's thread
//! keep up to date. There are two groups of stores. QueueNotify and InterruptACK come with every
//! request and never wait for a lock: QueueNotify writes an eventfd, or serves the queue inline if
//! the device is idle; InterruptACK uses atomics. All others set the device up, and take a lock.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use log::debug;
use vmm_sys_util::eventfd::EventFd;

use super::backend::{Backend, InProcess};
use super::interrupt::Interrupt;
use super::registers::{CONFIG_MAX, Registers};
use super::remote::Remote;
use crate::irq::IrqLine;
use crate::memory::Memory;
use crate::platform::bus::BusDevice;
use crate::sync::{event, lock};
use crate::virtio::lifecycle::Lifecycle;
use crate::virtio::queue::{self, QueueConfig};
use crate::virtio::worker::Inline;
use crate::virtio::{ConfigSpace, DeviceId, Notify, VirtioDevice, features, status};

mod register;

/// Bytes of one device's registers.
pub const SIZE: u64 = 0x1000;

/// "virt" (§ 4.2.2.1).
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "QEMU": some drivers (xv6's, for example) accept no other.
const VENDOR: u32 = 0x554d_4551;

/// Offset of QueueNotify. The VMM makes KVM turn a store of a queue's index into its event of
/// [`Mmio::kicks`] (ioeventfd).
pub const QUEUE_NOTIFY: u64 = 0x050;

/// One virtio device behind virtio-mmio registers.
pub struct Mmio {
    id: DeviceId,
    offered: u64,
    config: Arc<dyn ConfigSpace>,
    kicks: Arc<[EventFd]>,
    inline: Option<InlineQueues>,
    registers: Arc<Registers>,
    interrupt: Arc<Interrupt>,
    setup: Mutex<Setup>,
}

/// What the driver wrote to set the device up, except the status, which is in the registers only.
struct Setup {
    offered_sel: u32,
    accepted: u64,
    accepted_sel: u32,
    queue_sel: u32,
    queues: Vec<QueueConfig>,
    device: Box<dyn Backend>,
}

/// A device as its driver sees it, before the negotiation.
struct Face {
    id: DeviceId,
    /// Its feature bits, with those of the rings.
    offered: u64,
    config: Arc<dyn ConfigSpace>,
    /// The maximum size of each queue.
    sizes: Vec<u16>,
}

impl Mmio {
    /// Starts `device`'s thread. The driver's buffers are in `memory`; `line` interrupts the
    /// driver.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left, or the device's configuration space does not
    /// fit into the page.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        line: Box<dyn IrqLine>,
    ) -> io::Result<Mmio> {
        let face = Face {
            id: device.id(),
            offered: device.features() | queue::FEATURES | features::RING_RESET,
            config: device.config(),
            sizes: device.queues().to_vec(),
        };
        let which = (0..face.sizes.len()).map(|index| device.inline_notify(index));
        let which = which.collect();
        Mmio::with(face, line, |kicks, notify| {
            let device = Lifecycle::new(device, kicks, Arc::clone(&notify), None)?;
            let inline = InlineQueues { which, server: device.inline() };
            Ok((
                Box::new(InProcess::new(device, memory, notify)),
                Some(inline),
            ))
        })
    }

    /// A device that the process behind `remote` serves. The driver's buffers are in `memory`,
    /// which that process maps; `line` interrupts the driver.
    ///
    /// # Errors
    /// As those of [`new`](Self::new).
    pub fn remote(
        remote: &Arc<Remote>,
        memory: Memory,
        line: Box<dyn IrqLine>,
    ) -> io::Result<Mmio> {
        let kind = remote.kind();
        let face = Face {
            id: kind.id,
            offered: remote.features(),
            config: remote.config(),
            sizes: kind.queues.clone(),
        };
        Mmio::with(face, line, |kicks, notify| {
            Ok((Box::new(remote.attach(memory, kicks, notify)), None))
        })
    }

    fn with(
        face: Face,
        line: Box<dyn IrqLine>,
        start: impl FnOnce(Arc<[EventFd]>, Arc<dyn Notify>) -> io::Result<Started>,
    ) -> io::Result<Mmio> {
        let Face { id, offered, config, sizes } = face;
        let kicks: io::Result<Arc<[EventFd]>> = sizes.iter().map(|_| event()).collect();
        let kicks = kicks?;
        let registers = Arc::new(Registers::default());
        let interrupt = Arc::new(Interrupt::with_registers(Arc::clone(&registers), line));
        if config.len() > CONFIG_MAX {
            return Err(io::Error::other("the configuration space is too long"));
        }
        let notify: Arc<dyn Notify> = interrupt.clone();
        let (device, inline) = start(Arc::clone(&kicks), notify)?;
        let mmio = Mmio {
            id,
            offered: offered | features::VERSION_1,
            config,
            kicks,
            inline,
            interrupt,
            registers,
            setup: Mutex::new(Setup {
                offered_sel: 0,
                accepted: 0,
                accepted_sel: 0,
                queue_sel: 0,
                queues: sizes.iter().map(|&max| QueueConfig::new(max)).collect(),
                device,
            }),
        };
        mmio.init_registers();
        mmio.sync_registers(&mmio.setup());
        mmio.sync_config();
        Ok(mmio)
    }

    /// The registers that the driver reads, for mapping them to the guest.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The queues, by index, that may be notified by an event instead of a store to QueueNotify.
    /// Queues that the notifying vCPU serves are not among them.
    pub fn kicks(&self) -> impl Iterator<Item = (u32, &EventFd)> {
        let queues = (0..).zip(self.kicks.iter());
        queues.filter(|&(index, _)| self.inline(index as usize).is_none())
    }

    /// Called after a change of the device's configuration space. Notifies the driver if the device
    /// is live.
    pub fn config_changed(&self) {
        let _setup = self.setup();
        // Before and after: a driver that reads parts of both versions sees the generation change
        // (§ 2.5.1).
        self.new_generation();
        self.sync_config();
        self.new_generation();
        if self.status() & status::DRIVER_OK != 0 {
            self.interrupt.config_changed();
        }
    }

    fn new_generation(&self) {
        let old = self.registers.get(register::CONFIG_GENERATION);
        self.registers
            .set(register::CONFIG_GENERATION, old.wrapping_add(1));
    }

    /// Stops the device for good. When this returns, no request is in progress.
    pub fn stop(&self) {
        self.reset(&mut self.setup());
    }

    /// Pauses a live device until [`resume`](Self::resume). When this returns, no request is in
    /// progress. No vCPU may run meanwhile.
    pub fn pause(&self) {
        self.setup().device.pause();
    }

    /// Resumes a paused device.
    pub fn resume(&self) {
        self.setup().device.resume();
    }

    /// What serves queue `index` in the vCPU that notifies it, if that is to serve it.
    fn inline(&self, index: usize) -> Option<&Inline> {
        let inline = self.inline.as_ref()?;
        (inline.which.get(index) == Some(&true)).then_some(&inline.server)
    }

    fn setup(&self) -> MutexGuard<'_, Setup> {
        lock(&self.setup)
    }

    /// Sets the constant registers.
    fn init_registers(&self) {
        let constants = [
            (register::MAGIC_VALUE, MAGIC),
            (register::VERSION, VERSION),
            (register::DEVICE_ID, self.id as u32),
            (register::VENDOR_ID, VENDOR),
            // No shared memory region, whatever SHMSel is: length and base are all ones (§ 4.2.2).
            (register::SHM_LEN_LOW, u32::MAX),
            (register::SHM_LEN_HIGH, u32::MAX),
            (register::SHM_BASE_LOW, u32::MAX),
            (register::SHM_BASE_HIGH, u32::MAX),
        ];
        for (offset, value) in constants {
            self.registers.set(offset, value);
        }
    }

    /// Updates the registers that depend on the set-up. Those of an absent queue read as 0.
    fn sync_registers(&self, setup: &Setup) {
        let queue = setup.queues.get(setup.queue_sel as usize);
        let max = queue.map_or(0, |queue| queue.max.into());
        let ready = queue.map_or(0, |queue| queue.ready.into());
        let offered = half(self.offered, setup.offered_sel);
        self.registers.set(register::DEVICE_FEATURES, offered);
        self.registers.set(register::QUEUE_SIZE_MAX, max);
        self.registers.set(register::QUEUE_READY, ready);
    }

    /// Copies the configuration space to the registers. The caller holds the lock, so that an older
    /// copy never overwrites a newer one.
    fn sync_config(&self) {
        let mut config = [0; CONFIG_MAX];
        let config = config.get_mut(..self.config.len().next_multiple_of(8));
        let config = config.unwrap_or_default();
        self.config.read(0, config);
        self.registers.set_config(config);
    }

    /// The Status register, without DEVICE_NEEDS_RESET.
    fn status(&self) -> u8 {
        let [status, ..] = self.registers.get(register::STATUS).to_le_bytes();
        status & !status::DEVICE_NEEDS_RESET
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            register::QUEUE_NOTIFY => self.notified(value as usize),
            register::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            _ => {
                let mut setup = self.setup();
                self.write_setup(offset, value, &mut setup);
                self.sync_registers(&setup);
            }
        }
    }

    /// The driver has notified queue `index`.
    fn notified(&self, index: usize) {
        if let Some(server) = self.inline(index)
            && server.try_serve(index)
        {
            return;
        }
        if let Some(kick) = self.kicks.get(index) {
            // Fails only when 2^64 kicks are outstanding: one of them will do.
            let _ = kick.write(1);
        }
    }

    fn write_setup(&self, offset: u64, value: u32, setup: &mut Setup) {
        match offset {
            register::STATUS => {
                self.write_status(value, setup);
                // Negotiation and reset may change the configuration space.
                self.sync_config();
            }
            register::QUEUE_READY => self.write_queue_ready(value & 1 != 0, setup),
            register::QUEUE_RESET if value == 1 => self.reset_queue(setup),
            register::DEVICE_FEATURES_SEL => setup.offered_sel = value,
            register::DRIVER_FEATURES_SEL => setup.accepted_sel = value,
            register::QUEUE_SEL => setup.queue_sel = value,
            // FEATURES_OK ends the negotiation (§ 3.1.1).
            register::DRIVER_FEATURES if self.status() & status::FEATURES_OK == 0 => {
                set_half(&mut setup.accepted, setup.accepted_sel, value);
            }
            _ => {
                // The registers of a queue that is ready are frozen: the device uses them.
                let queue = setup.queues.get_mut(setup.queue_sel as usize);
                if let Some(queue) = queue.filter(|queue| !queue.ready) {
                    write_queue(offset, value, queue);
                }
            }
        }
    }

    /// § 2.1 and § 3.1: a driver sets the bits of [`STEPS`] in order, or writes 0.
    fn write_status(&self, value: u32, setup: &mut Setup) {
        if value == 0 {
            return self.reset(setup);
        }
        let bits = u8::try_from(value & 0xff).unwrap_or(0);
        self.add_status(bits & FREE);
        for (before, bit) in STEPS {
            let allowed = self.status() & !FREE == before && bits & bit != 0;
            if !allowed {
                continue;
            }
            if bit == status::FEATURES_OK && !self.accepts(setup.accepted) {
                debug!("{:?}: refused features {:#x}", self.id, setup.accepted);
                return;
            }
            self.add_status(bit);
            match bit {
                status::FEATURES_OK => setup.device.activate(setup.accepted),
                status::DRIVER_OK => setup.device.start(&setup.queues),
                _ => {}
            }
        }
    }

    fn add_status(&self, bits: u8) {
        self.registers.add(register::STATUS, bits.into());
    }

    fn accepts(&self, accepted: u64) -> bool {
        accepted & !self.offered == 0 && accepted & features::VERSION_1 != 0
    }

    /// § 4.2.2.2: while QueueReady is 0, the device does not access the queue. In a live device the
    /// queue stops here. When it is enabled again, it starts from the registers' values at that
    /// time.
    fn write_queue_ready(&self, ready: bool, setup: &mut Setup) {
        let index = setup.queue_sel as usize;
        let queue = setup.queues.get_mut(index);
        if let Some(queue) = queue.filter(|queue| queue.ready != ready) {
            queue.ready = ready;
            setup.device.replace_queue(index, queue);
        }
    }

    /// § 2.6.1: resets the queue to its initial state, and discards the request in progress.
    fn reset_queue(&self, setup: &mut Setup) {
        let index = setup.queue_sel as usize;
        if setup.accepted & features::RING_RESET == 0 {
            return;
        }
        if let Some(queue) = setup.queues.get_mut(index) {
            *queue = QueueConfig::new(queue.max);
            // Another vCPU may read it meanwhile.
            self.registers.set(register::QUEUE_RESET, 1);
            setup.device.replace_queue(index, queue);
            self.registers.set(register::QUEUE_RESET, 0);
        }
    }

    /// § 2.4: when the driver reads status 0, the device uses nothing that the driver set up.
    fn reset(&self, setup: &mut Setup) {
        setup.device.reset();
        for queue in &mut setup.queues {
            *queue = QueueConfig::new(queue.max);
        }
        (setup.offered_sel, setup.accepted) = (0, 0);
        (setup.accepted_sel, setup.queue_sel) = (0, 0);
        self.interrupt.reset();
        self.sync_registers(setup);
        // Last, as a driver on another vCPU may wait for it.
        self.registers.set(register::STATUS, 0);
    }
}

/// The queues that the notifying vCPU serves, by index, and what serves them.
struct InlineQueues {
    which: Vec<bool>,
    server: Inline,
}

/// A device, and those of its queues that vCPUs serve.
type Started = (Box<dyn Backend>, Option<InlineQueues>);

/// The valid transitions: the status without [`FREE`] bits, and the bit that may be set.
const STEPS: [(u8, u8); 3] = {
    use status::{DRIVER, DRIVER_OK, FEATURES_OK};
    [
        (0, DRIVER),
        (DRIVER, FEATURES_OK),
        (DRIVER | FEATURES_OK, DRIVER_OK),
    ]
};

/// Bits that a driver may set at any time, as nothing depends on them. U-Boot 2025.01 does not set
/// ACKNOWLEDGE after a reset.
const FREE: u8 = status::ACKNOWLEDGE | status::FAILED;

fn write_queue(offset: u64, value: u32, queue: &mut QueueConfig) {
    match offset {
        // Larger values become 0, which activation rejects.
        register::QUEUE_SIZE => queue.size = u16::try_from(value).unwrap_or(0),
        register::QUEUE_DESC_LOW => set_half(&mut queue.descriptors, 0, value),
        register::QUEUE_DESC_HIGH => set_half(&mut queue.descriptors, 1, value),
        register::QUEUE_DRIVER_LOW => set_half(&mut queue.driver, 0, value),
        register::QUEUE_DRIVER_HIGH => set_half(&mut queue.driver, 1, value),
        register::QUEUE_DEVICE_LOW => set_half(&mut queue.device, 0, value),
        register::QUEUE_DEVICE_HIGH => set_half(&mut queue.device, 1, value),
        _ => {}
    }
}

/// Bits 32·`sel` to 32·`sel` + 31 of `value`.
fn half(value: u64, sel: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "one half of it")]
    match sel {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, sel: u32, half: u32) {
    match sel {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}

impl BusDevice for Mmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let _setup = self.setup();
            self.config.write(offset, data);
            self.sync_config();
        } else if let Ok(data) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

#[cfg(test)]
#[path = "mmio_test.rs"]
mod tests;
