//! A front end: the part of QEMU that uses a vhost-user device, in a few lines. To a driver it is a
//! register page. To the device it speaks the protocol, with the client of the crate `vhost`.
//!
//! ```text
//!   driver ── FrontEnd (Registers) ── messages ──▶ VhostUser ── worker ── device
//!      │             kick ───────────────────────────────────────▶│
//!      │             call ◀───────────────────────────────────────┤
//!      └──── Dma ────▶ Ram: a file, mapped by both ◀──────────────┘
//! ```

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use devices::transport::vhost_user::{Error, VhostUser};
use devices::virtio::VirtioDevice;
use guest::mmio::offset;
use guest::virtio::{feature, status};
use guest::{Registers, Transport};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::support::{RAM, RAM_LEN, Ram};

/// The address at which the front end claims to have mapped the guest's memory.
pub(crate) const USER: u64 = 0x7f12_3400_0000;
/// VHOST_USER_F_PROTOCOL_FEATURES.
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// A device that waits for front ends.
pub(crate) struct Service(Arc<VhostUser>);

/// How serving a front end ended.
pub(crate) type Served = JoinHandle<Result<usize, Error>>;

impl Service {
    pub(crate) fn new(device: impl VirtioDevice + 'static) -> Self {
        Service(Arc::new(VhostUser::new(Box::new(device)).unwrap()))
    }

    /// Connects to the device, and starts the thread that serves the connection.
    pub(crate) fn connect(&self) -> (UnixStream, Served) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let service = Arc::clone(&self.0);
        (ours, thread::spawn(move || service.serve(theirs)))
    }

    /// A front end with `ram`, which it sends to the device on DRIVER_OK.
    pub(crate) fn front_end(&self, ram: &Ram, id: u32) -> FrontEnd {
        let (stream, served) = self.connect();
        FrontEnd::new(stream, served, ram, id)
    }
}

/// A register page for a vhost-user device.
#[derive(Clone)]
pub(crate) struct FrontEnd(Arc<Mutex<State>>);

pub(crate) struct State {
    /// The client, for messages that have no register.
    pub(crate) client: Frontend,
    pub(crate) rings: Vec<Ring>,
    memory: VhostUserMemoryRegionInfo,
    served: Option<Served>,
    id: u32,
    offered: u64,
    accepted: u64,
    offered_sel: u32,
    accepted_sel: u32,
    queue_sel: usize,
    status: u32,
    interrupt: u32,
}

pub(crate) struct Ring {
    pub(crate) size: u16,
    ready: bool,
    areas: [u64; 3],
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    pub(crate) error: EventFd,
}

impl FrontEnd {
    fn new(stream: UnixStream, served: Served, ram: &Ram, id: u32) -> FrontEnd {
        let mut client = Frontend::from_stream(stream, 16);
        let offered = client.get_features().unwrap();
        assert_ne!(offered & PROTOCOL_FEATURES, 0);
        let protocol = client.get_protocol_features().unwrap();
        client.set_protocol_features(protocol).unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK));
        // From here on every message has a reply, so it has taken effect when its call returns.
        client.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        client.set_owner().unwrap();
        let count = client.get_queue_num().unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let ring = |_| Ring {
            size: 0,
            ready: false,
            areas: [0; 3],
            kick: event(),
            call: event(),
            error: event(),
        };
        FrontEnd(Arc::new(Mutex::new(State {
            client,
            rings: (0..count).map(ring).collect(),
            memory: region(ram),
            served: Some(served),
            id,
            offered,
            accepted: 0,
            offered_sel: 0,
            accepted_sel: 0,
            queue_sel: 0,
            status: 0,
            interrupt: 0,
        })))
    }

    pub(crate) fn probe(&self) -> Transport<FrontEnd> {
        Transport::probe(self.clone()).unwrap().unwrap()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Connects the registers of `self` to the device of `other`, while a driver runs.
    pub(crate) fn adopt(&self, other: &FrontEnd, base: u16) {
        let (mut state, mut other) = (self.state(), other.state());
        state.client = other.client.clone();
        state.served = other.served.take();
        let _ = state.rings[0].kick.read();
        state
            .client
            .set_features(state.accepted | PROTOCOL_FEATURES)
            .unwrap();
        state.client.set_mem_table(&[state.memory]).unwrap();
        state.start_ring(0, base);
    }

    /// Disconnects, even if there are clones. Returns the result of `serve`.
    pub(crate) fn hang_up(&self) -> Result<usize, Error> {
        let mut state = self.state();
        let (nobody, _) = UnixStream::pair().unwrap();
        state.client = Frontend::from_stream(nobody, 16);
        state.served.take().unwrap().join().unwrap()
    }
}

/// All of RAM.
pub(crate) fn region(ram: &Ram) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: RAM,
        memory_size: RAM_LEN as u64,
        userspace_addr: USER,
        mmap_offset: 0,
        mmap_handle: ram.file().as_raw_fd(),
    }
}

/// Translates guest address `address` to a front-end address.
fn user(address: u64) -> u64 {
    address - RAM + USER
}

impl State {
    fn selected(&mut self) -> Option<&mut Ring> {
        self.rings.get_mut(self.queue_sel)
    }

    fn start(&mut self) {
        self.client
            .set_features(self.accepted | PROTOCOL_FEATURES)
            .unwrap();
        self.client.set_mem_table(&[self.memory]).unwrap();
        let ready = |ring: &usize| self.rings[*ring].ready;
        for index in (0..self.rings.len()).filter(ready) {
            self.start_ring(index, 0);
        }
    }

    /// Sends ring `index` to the device, to start at available index `base`.
    pub(crate) fn start_ring(&self, index: usize, base: u16) {
        let (client, ring) = (&self.client, &self.rings[index]);
        client.set_vring_num(index, ring.size).unwrap();
        client.set_vring_base(index, base).unwrap();
        client
            .set_vring_addr(index, &self.addresses(index))
            .unwrap();
        client.set_vring_call(index, &ring.call).unwrap();
        client.set_vring_err(index, &ring.error).unwrap();
        client.set_vring_kick(index, &ring.kick).unwrap();
        self.client.clone().set_vring_enable(index, true).unwrap();
    }

    pub(crate) fn addresses(&self, index: usize) -> VringConfigData {
        let ring = &self.rings[index];
        let [descriptors, driver, device] = ring.areas.map(user);
        VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: descriptors,
            used_ring_addr: device,
            avail_ring_addr: driver,
            log_addr: None,
        }
    }

    fn reset(&mut self) {
        for index in 0..self.rings.len() {
            if self.status & status::DRIVER_OK != 0 && self.rings[index].ready {
                self.client.get_vring_base(index).unwrap();
            }
            let ring = &mut self.rings[index];
            ring.ready = false;
            // Drops calls that were meant for the previous driver.
            let _ = (ring.kick.read(), ring.call.read(), ring.error.read());
        }
        (self.status, self.interrupt, self.accepted) = (0, 0, 0);
    }

    fn poll(&mut self) {
        for ring in &self.rings {
            if ring.call.read().is_ok() {
                self.interrupt |= 1;
            }
        }
    }

    fn config(&mut self, offset: usize, len: usize) -> Vec<u8> {
        let from = u32::try_from(offset - offset::CONFIG).unwrap();
        let flags = VhostUserConfigFlags::empty();
        let zeroes = vec![0; len];
        let len = u32::try_from(len).unwrap();
        let read = self.client.get_config(from, len, flags, &zeroes);
        read.unwrap().1
    }
}

impl Registers for FrontEnd {
    fn read(&self, register: usize) -> u32 {
        let mut state = self.state();
        match register {
            offset::MAGIC => guest::mmio::MAGIC,
            offset::VERSION => guest::mmio::VERSION,
            offset::DEVICE_ID => state.id,
            offset::DEVICE_FEATURES => match state.offered_sel {
                0 => (state.offered & 0xffff_ffff & !PROTOCOL_FEATURES) as u32,
                1 => (state.offered >> 32) as u32,
                _ => 0,
            },
            offset::QUEUE_SIZE_MAX if state.selected().is_some() => 256,
            offset::QUEUE_READY => state.selected().is_some_and(|ring| ring.ready).into(),
            offset::STATUS => state.status,
            offset::INTERRUPT_STATUS => {
                state.poll();
                state.interrupt
            }
            offset::CONFIG.. => u32::from_le_bytes(state.config(register, 4).try_into().unwrap()),
            _ => 0,
        }
    }

    fn write(&self, register: usize, value: u32) {
        let mut state = self.state();
        match register {
            offset::DEVICE_FEATURES_SEL => state.offered_sel = value,
            offset::DRIVER_FEATURES_SEL => state.accepted_sel = value,
            offset::DRIVER_FEATURES => {
                let half = 32 * state.accepted_sel;
                state.accepted = state.accepted & !(0xffff_ffff << half) | u64::from(value) << half;
            }
            offset::QUEUE_SEL => state.queue_sel = value as usize,
            offset::QUEUE_NOTIFY => state.rings[value as usize].kick.write(1).unwrap(),
            offset::INTERRUPT_ACK => state.interrupt &= !value,
            offset::STATUS if value == 0 => state.reset(),
            offset::STATUS => {
                let before = state.status;
                let good = state.accepted & !state.offered == 0
                    && state.accepted & feature::VERSION_1 != 0;
                let refused = if good { 0 } else { status::FEATURES_OK };
                state.status |= value & !refused;
                if !before & value & status::DRIVER_OK != 0 {
                    state.start();
                }
            }
            _ => {
                let Some(ring) = state.selected() else {
                    return;
                };
                let mut area = |index: usize, shift: u32| {
                    ring.areas[index] &= !(0xffff_ffff << shift);
                    ring.areas[index] |= u64::from(value) << shift;
                };
                match register {
                    offset::QUEUE_SIZE => ring.size = value.try_into().unwrap(),
                    offset::QUEUE_READY => ring.ready = value == 1,
                    offset::QUEUE_DESC => area(0, 0),
                    0x084 => area(0, 32),
                    offset::QUEUE_DRIVER => area(1, 0),
                    0x094 => area(1, 32),
                    offset::QUEUE_DEVICE => area(2, 0),
                    0x0a4 => area(2, 32),
                    _ => {}
                }
            }
        }
    }

    fn read_u8(&self, register: usize) -> u8 {
        self.state().config(register, 1)[0]
    }

    fn read_u16(&self, register: usize) -> u16 {
        u16::from_le_bytes(self.state().config(register, 2).try_into().unwrap())
    }
}
