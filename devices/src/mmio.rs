//! The virtio-mmio transport, version 2 (§ 4.2): a page of registers.
//!
//! The registers fall in three groups. QueueNotify and the interrupt registers are touched on every request: they are
//! an eventfd and atomics. The configuration space is shared with the device. The rest sets the device up, behind a lock.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{debug, error};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::irq::{Interrupt, IrqLine};
use crate::memory::Memory;
use crate::queue::{self, Broken, Queue, QueueConfig};
use crate::virtio::{ConfigSpace, DeviceId, Queues, VirtioDevice, features, status};
use crate::worker::Worker;

/// Bytes of one device's registers.
pub const SIZE: u64 = 0x1000;

/// "virt" (§ 4.2.2.1).
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "QEMU": some drivers (xv6's, for one) accept no other.
const VENDOR: u32 = 0x554d_4551;

/// Register offsets (§ 4.2.2).
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = super::QUEUE_NOTIFY;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const QUEUE_RESET: u64 = 0x0c0;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// The features that the transport itself has.
const FEATURES: u64 = features::VERSION_1 | features::RING_RESET;

/// Where a driver notifies: the VMM lets KVM turn a store of `i` here straight into [`Mmio::kicks`]`[i]`.
pub const QUEUE_NOTIFY: u64 = 0x050;

/// One virtio device behind virtio-mmio registers.
pub struct Mmio {
    id: DeviceId,
    offered: u64,
    config: Arc<dyn ConfigSpace>,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
    memory: Memory,
    setup: Mutex<Setup>,
}

/// The registers that set the device up.
struct Setup {
    status: u8,
    offered_sel: u32,
    accepted: u64,
    accepted_sel: u32,
    queue_sel: u32,
    queues: Vec<QueueConfig>,
    device: State,
}

enum State {
    Offered(Box<dyn VirtioDevice>),
    Live(Worker),
    /// The host could not run it. It needs a reset, and a reset does not help.
    Lost,
}

impl Mmio {
    /// Registers for `device`, which reaches its driver's buffers in `memory` and interrupts it by `line`.
    ///
    /// # Errors
    /// The host has no file descriptor left for the notifications.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        line: Box<dyn IrqLine>,
    ) -> io::Result<Mmio> {
        let sizes = device.queues();
        let kicks: io::Result<Vec<_>> = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect();
        Ok(Mmio {
            id: device.id(),
            offered: device.features() | queue::FEATURES | FEATURES,
            config: device.config(),
            kicks: kicks?.into(),
            interrupt: Arc::new(Interrupt::new(line)),
            memory,
            setup: Mutex::new(Setup {
                status: 0,
                offered_sel: 0,
                accepted: 0,
                accepted_sel: 0,
                queue_sel: 0,
                queues: sizes.iter().map(|&max| QueueConfig::new(max)).collect(),
                device: State::Offered(device),
            }),
        })
    }

    /// The notifications of each queue.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The device's configuration space has changed: the driver is told, if the device is live.
    pub fn config_changed(&self) {
        if self.setup().status & status::DRIVER_OK != 0 {
            self.interrupt.config_changed();
        }
    }

    /// Stops the device for good: when this returns it has finished what it had begun.
    pub fn stop(&self) {
        self.reset(&mut self.setup());
    }

    fn setup(&self) -> MutexGuard<'_, Setup> {
        // Nothing behind the lock panics; were it to, the registers would still be plain values.
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.id as u32,
            register::VENDOR_ID => VENDOR,
            register::INTERRUPT_STATUS => self.interrupt.status(),
            register::CONFIG_GENERATION => self.config.generation(),
            // No region of shared memory, whichever SHMSel names: all ones, length and base (§ 4.2.2).
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            _ => self.read_setup(offset, &self.setup()),
        }
    }

    fn read_setup(&self, offset: u64, setup: &Setup) -> u32 {
        let queue = setup.queues.get(setup.queue_sel as usize);
        match offset {
            register::DEVICE_FEATURES => half(self.offered, setup.offered_sel),
            // Everything that can be read of an absent queue is 0. So is QueueReset of any: a reset is complete before the
            // store that asks for it returns, and a load by another vCPU waits for that.
            register::QUEUE_SIZE_MAX => queue.map_or(0, |queue| queue.max.into()),
            register::QUEUE_READY => queue.map_or(0, |queue| queue.ready.into()),
            register::STATUS => {
                let lost = match self.interrupt.is_reset_needed() {
                    true => status::DEVICE_NEEDS_RESET,
                    false => 0,
                };
                u32::from(setup.status | lost)
            }
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            register::QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(value as usize) {
                    // Fails only when 2^64 kicks are outstanding: one of them will do.
                    let _ = kick.write(1);
                }
            }
            register::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            register::STATUS => self.write_status(value, &mut self.setup()),
            register::QUEUE_READY => self.write_queue_ready(value & 1 != 0, &mut self.setup()),
            register::QUEUE_RESET if value == 1 => self.reset_queue(&mut self.setup()),
            _ => write_setup(offset, value, &mut self.setup()),
        }
    }

    /// § 2.1 and § 3.1: a driver adds the bits of [`STEPS`] in their order, or writes 0.
    fn write_status(&self, value: u32, setup: &mut Setup) {
        if value == 0 {
            return self.reset(setup);
        }
        let wanted = u8::try_from(value & 0xff).unwrap_or(0);
        setup.status |= wanted & FREE;
        for (before, bit) in STEPS {
            let allowed = setup.status & !FREE == before && wanted & bit != 0;
            if !allowed {
                continue;
            }
            if bit == status::FEATURES_OK && !self.accepts(setup.accepted) {
                debug!("{:?}: refused features {:#x}", self.id, setup.accepted);
                return;
            }
            setup.status |= bit;
            if let (status::FEATURES_OK, State::Offered(device)) = (bit, &mut setup.device) {
                device.activate(setup.accepted);
            }
            if bit == status::DRIVER_OK {
                self.go_live(setup);
            }
        }
    }

    fn accepts(&self, accepted: u64) -> bool {
        accepted & !self.offered == 0 && accepted & features::VERSION_1 != 0
    }

    fn go_live(&self, setup: &mut Setup) {
        let state = std::mem::replace(&mut setup.device, State::Lost);
        let State::Offered(device) = state else {
            setup.device = state;
            return self.interrupt.needs_reset();
        };
        let activate = |config| self.activate(config, setup.accepted);
        let queues: Result<Vec<_>, Broken> = setup.queues.iter().map(activate).collect();
        match queues {
            Ok(queues) => setup.device = self.start(device, Queues::new(queues)),
            Err(broken) => {
                setup.device = State::Offered(device);
                self.broken(&broken);
            }
        }
    }

    /// The running queue that `config` describes; `None` if it is not enabled.
    fn activate(&self, config: &QueueConfig, accepted: u64) -> Result<Option<Queue>, Broken> {
        let activate = || config.activate(&self.memory, accepted, Arc::clone(&self.interrupt));
        config.ready.then(activate).transpose()
    }

    /// The driver set up a queue that cannot be.
    fn broken(&self, broken: &Broken) {
        debug!("{:?}: {broken}", self.id);
        self.interrupt.needs_reset();
    }

    fn start(&self, device: Box<dyn VirtioDevice>, queues: Queues) -> State {
        let kicks = Arc::clone(&self.kicks);
        match Worker::start(device, queues, kicks, Arc::clone(&self.interrupt)) {
            Ok(worker) => State::Live(worker),
            Err(error) => {
                error!("cannot start the {:?} device's thread: {error}", self.id);
                self.interrupt.needs_reset();
                State::Lost
            }
        }
    }

    /// Takes device and queues back from a worker.
    fn stopped(&self, worker: Worker) -> Option<(Box<dyn VirtioDevice>, Queues)> {
        worker
            .stop()
            .map_err(|error| error!("the {:?} device is lost: {error}", self.id))
            .ok()
    }

    /// § 4.2.2.2: while QueueReady is 0 the device touches nothing of the queue. In a live device the queue stops here,
    /// and begins anew, with what its registers say then, when it is enabled again.
    fn write_queue_ready(&self, ready: bool, setup: &mut Setup) {
        let index = setup.queue_sel as usize;
        let queue = setup.queues.get_mut(index);
        if let Some(queue) = queue.filter(|queue| queue.ready != ready) {
            queue.ready = ready;
            self.replace_queue(index, setup);
        }
    }

    /// § 2.6.1: the queue is as it was before the driver set it up, and what it was working on is forgotten.
    fn reset_queue(&self, setup: &mut Setup) {
        let index = setup.queue_sel as usize;
        if setup.accepted & features::RING_RESET == 0 {
            return;
        }
        if let Some(queue) = setup.queues.get_mut(index) {
            *queue = QueueConfig::new(queue.max);
            self.replace_queue(index, setup);
        }
    }

    /// Gives a live device the queue `index` that its registers describe now, in place of the one it had. The other
    /// queues go on where they were: what was kicked meanwhile is looked at when the worker starts again.
    fn replace_queue(&self, index: usize, setup: &mut Setup) {
        let state = std::mem::replace(&mut setup.device, State::Lost);
        let State::Live(worker) = state else {
            setup.device = state;
            return;
        };
        let Some((mut device, mut queues)) = self.stopped(worker) else {
            return self.interrupt.needs_reset();
        };
        let config = setup.queues.get(index);
        let queue = match config.map(|config| self.activate(config, setup.accepted)) {
            Some(Ok(queue)) => queue,
            Some(Err(broken)) => {
                self.broken(&broken);
                None
            }
            None => None,
        };
        queues.set(index, queue);
        device.queue_reset(index);
        setup.device = self.start(device, queues);
    }

    /// § 2.4: when the driver reads status 0, nothing of what it set up is in use.
    fn reset(&self, setup: &mut Setup) {
        let mut state = std::mem::replace(&mut setup.device, State::Lost);
        if let State::Live(worker) = state {
            let stopped = self.stopped(worker);
            state = stopped.map_or(State::Lost, |(device, _)| State::Offered(device));
        }
        if let State::Offered(device) = &mut state {
            device.reset();
        }
        let queues = setup.queues.iter().map(|queue| QueueConfig::new(queue.max));
        *setup = Setup {
            status: 0,
            offered_sel: 0,
            accepted: 0,
            accepted_sel: 0,
            queue_sel: 0,
            queues: queues.collect(),
            device: state,
        };
        self.interrupt.reset();
    }
}

/// The legal moves: in this status ([`FREE`] aside), this bit may be added.
const STEPS: [(u8, u8); 3] = {
    use status::{DRIVER, DRIVER_OK, FEATURES_OK};
    [
        (0, DRIVER),
        (DRIVER, FEATURES_OK),
        (DRIVER | FEATURES_OK, DRIVER_OK),
    ]
};

/// Bits that a driver may add at any time: nothing depends on them. U-Boot (2025.01) forgets ACKNOWLEDGE after a reset.
const FREE: u8 = status::ACKNOWLEDGE | status::FAILED;

fn write_setup(offset: u64, value: u32, setup: &mut Setup) {
    match offset {
        register::DEVICE_FEATURES_SEL => setup.offered_sel = value,
        register::DRIVER_FEATURES_SEL => setup.accepted_sel = value,
        register::QUEUE_SEL => setup.queue_sel = value,
        // Negotiation is over once FEATURES_OK stands (§ 3.1.1).
        register::DRIVER_FEATURES if setup.status & status::FEATURES_OK == 0 => {
            set_half(&mut setup.accepted, setup.accepted_sel, value);
        }
        _ => {
            // What stands in the registers of a queue that is ready is frozen: the device uses it, or is about to.
            let queue = setup.queues.get_mut(setup.queue_sel as usize);
            if let Some(queue) = queue.filter(|queue| !queue.ready) {
                write_queue(offset, value, queue);
            }
        }
    }
}

fn write_queue(offset: u64, value: u32, queue: &mut QueueConfig) {
    match offset {
        // No power of two is lost by this, and what is none is refused when the queue is activated.
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
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.config
                .read(usize::try_from(offset).unwrap_or(usize::MAX), data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.config
                .write(usize::try_from(offset).unwrap_or(usize::MAX), data);
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
