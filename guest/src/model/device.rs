//! A virtio-mmio register file that checks the driver's behaviour, with a device as a closure.

use std::boxed::Box;
use std::cell::RefCell;
use std::fmt;
use std::vec::Vec;

use super::{Memory, Ring};
use crate::Registers;
use crate::mmio::{MAGIC, offset};
use crate::virtio::{feature, status};

/// The handler of a kick: gets the queue's index and ring.
type Handler<'m> = Box<dyn FnMut(u16, &mut Ring, &Memory) + 'm>;

/// The device's properties and faults; each test changes some.
pub(crate) struct State<'m> {
    pub(crate) magic: u32,
    pub(crate) version: u32,
    pub(crate) id: u32,
    pub(crate) offered: u64,
    pub(crate) queue_size_max: u32,
    pub(crate) config: Vec<u8>,
    /// FEATURES_OK does not stay set.
    pub(crate) refuse: bool,
    /// A reset takes effect after this many reads of the status.
    pub(crate) slow_reset: u32,
    /// The next reads of configuration space change it, this many times.
    pub(crate) torn_reads: u32,
    pub(crate) status: u32,
    pub(crate) accepted: u64,
    pub(crate) interrupt_status: u32,
    pub(crate) rings: [Ring; 3],
    pub(crate) ready: [bool; 3],
    pub(crate) notified: u32,
    /// All registers written, with their values.
    pub(crate) written: Vec<(usize, u32)>,
    generation: u32,
    select: [u32; 2],
    queue: usize,
    handler: Handler<'m>,
}

/// The register file.
pub(crate) struct Device<'m> {
    memory: &'m Memory,
    pub(crate) state: RefCell<State<'m>>,
}

impl<'m> Device<'m> {
    pub(crate) fn new(
        memory: &'m Memory,
        id: u32,
        offered: u64,
        handler: impl FnMut(u16, &mut Ring, &Memory) + 'm,
    ) -> Self {
        let state = State {
            magic: MAGIC,
            version: 2,
            id,
            offered: offered | feature::VERSION_1,
            queue_size_max: 256,
            config: std::vec![0; 64],
            refuse: false,
            slow_reset: 0,
            torn_reads: 0,
            status: 0,
            accepted: 0,
            interrupt_status: 0,
            rings: [Ring::default(); 3],
            ready: [false; 3],
            notified: 0,
            written: Vec::new(),
            generation: 0,
            select: [0; 2],
            queue: 0,
            handler: Box::new(handler),
        };
        Self { memory, state: RefCell::new(state) }
    }

    /// Makes the device serve a queue without a kick.
    pub(crate) fn run(&self, queue: u16) {
        let state = &mut *self.state.borrow_mut();
        let ring = &mut state.rings[usize::from(queue)];
        (state.handler)(queue, ring, self.memory);
        if state.accepted & feature::EVENT_IDX != 0 {
            // Ask for the next kick.
            ring.set_avail_event(self.memory, ring.next_avail);
        }
        state.interrupt_status |= 1;
    }
}

impl fmt::Debug for Device<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_list()
            .entries(&self.state.borrow().written)
            .finish()
    }
}

impl Registers for Device<'_> {
    fn read(&self, offset: usize) -> u32 {
        let state = &mut *self.state.borrow_mut();
        match offset {
            offset::MAGIC => state.magic,
            offset::VERSION => state.version,
            offset::DEVICE_ID => state.id,
            offset::VENDOR_ID => 0x554d_4551,
            offset::DEVICE_FEATURES => (state.offered >> (32 * state.select[0])) as u32,
            offset::QUEUE_SIZE_MAX if state.queue < 3 => state.queue_size_max,
            offset::QUEUE_SIZE_MAX => 0,
            offset::QUEUE_READY => state.ready[state.queue].into(),
            offset::INTERRUPT_STATUS => state.interrupt_status,
            offset::STATUS if state.status != 0 && state.slow_reset > 0 => {
                state.slow_reset -= 1;
                if state.slow_reset == 0 {
                    state.status = 0;
                    return 1;
                }
                state.status
            }
            offset::STATUS => state.status,
            offset::CONFIG_GENERATION => state.generation,
            offset::CONFIG.. => {
                if state.torn_reads > 0 {
                    state.torn_reads -= 1;
                    state.generation += 1;
                }
                let start = offset - offset::CONFIG;
                u32::from_le_bytes(state.config[start..start + 4].try_into().unwrap())
            }
            other => panic!("read of {other:#x}"),
        }
    }

    fn write(&self, offset: usize, value: u32) {
        let mut state = self.state.borrow_mut();
        let before = state.status;
        let (queue, select) = (state.queue, state.select[1]);
        state.written.push((offset, value));
        match offset {
            offset::DEVICE_FEATURES_SEL => state.select[0] = value,
            offset::DRIVER_FEATURES_SEL => state.select[1] = value,
            offset::DRIVER_FEATURES => {
                let state = &mut *state;
                assert_eq!(
                    state.status,
                    status::ACKNOWLEDGE | status::DRIVER,
                    "order (§3.1.1)"
                );
                let kept = state.accepted & !(0xffff_ffff << (32 * select));
                state.accepted = kept | u64::from(value) << (32 * select);
            }
            offset::STATUS if value == 0 => {
                if state.slow_reset == 0 {
                    state.status = 0;
                }
                state.ready = [false; 3];
                state.rings = [Ring::default(); 3];
                state.accepted = 0;
                state.interrupt_status = 0;
            }
            offset::STATUS => {
                assert_eq!(
                    value & state.status,
                    state.status,
                    "no bit is cleared (§2.1.1)"
                );
                let drop = if state.refuse { status::FEATURES_OK } else { 0 };
                state.status = value & !drop;
            }
            offset::QUEUE_SEL => state.queue = value as usize,
            offset::QUEUE_NOTIFY => {
                assert!(
                    before & status::DRIVER_OK != 0,
                    "kick before DRIVER_OK (§3.1.1)"
                );
                state.notified += 1;
                drop(state);
                self.run(u16::try_from(value).unwrap());
            }
            offset::INTERRUPT_ACK => state.interrupt_status &= !value,
            offset::CONFIG.. => {}
            _ => {
                assert!(
                    before & status::FEATURES_OK != 0,
                    "queue before FEATURES_OK (§3.1.1)"
                );
                assert!(
                    !state.ready[queue],
                    "{offset:#x} of a ready queue (§4.2.2.2)"
                );
                state.set_up(offset, value);
            }
        }
    }

    fn read_u8(&self, offset: usize) -> u8 {
        self.read(offset & !3).to_le_bytes()[offset & 3]
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.read_u8(offset), self.read_u8(offset + 1)])
    }
}

impl State<'_> {
    fn set_up(&mut self, offset: usize, value: u32) {
        let low = u64::from(value);
        let ring = &mut self.rings[self.queue];
        match offset {
            offset::QUEUE_SIZE => ring.size = u16::try_from(value).unwrap(),
            offset::QUEUE_READY => {
                assert!(ring.size.is_power_of_two());
                let areas = [(ring.descriptors, 16), (ring.driver, 2), (ring.device, 4)];
                assert!(
                    areas
                        .iter()
                        .all(|(area, align)| *area != 0 && area % align == 0)
                );
                self.ready[self.queue] = value == 1;
            }
            offset::QUEUE_DESC => ring.descriptors |= low,
            offset::QUEUE_DRIVER => ring.driver |= low,
            offset::QUEUE_DEVICE => ring.device |= low,
            0x084 => ring.descriptors |= low << 32,
            0x094 => ring.driver |= low << 32,
            0x0a4 => ring.device |= low << 32,
            other => panic!("write of {value:#x} to {other:#x}"),
        }
    }
}
