//! The host's kernel as a back end: vhost-net, which moves the frames of a tap interface by itself
//! (include/uapi/linux/vhost.h).

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::ioctl::{Opcode, opcode};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use super::connection::{Peer, Places};
use super::kind::Kind;
use crate::memory::Memory;
use crate::net::BackEnd;
use crate::net::tap::Tap;
use crate::virtio::features;
use crate::virtio::queue::QueueConfig;

/// What opens vhost-net.
pub const DEVICE: &str = "/dev/vhost-net";

/// VHOST_VIRTIO, the type of all these requests.
const VHOST: u8 = 0xaf;

/// A request, and the type that the kernel reads or writes with it.
struct Request<T>(Opcode, PhantomData<T>);

const GET_FEATURES: Request<u64> = Request(opcode::read::<u64>(VHOST, 0x00), PhantomData);
const SET_FEATURES: Request<u64> = Request(opcode::write::<u64>(VHOST, 0x00), PhantomData);
const SET_OWNER: Request<()> = Request(opcode::none(VHOST, 0x01), PhantomData);
/// The number has the size of the header alone.
const SET_MEM_TABLE: Request<Regions> = Request(opcode::write::<u64>(VHOST, 0x03), PhantomData);
const SET_NUM: Request<State> = Request(opcode::write::<State>(VHOST, 0x10), PhantomData);
const SET_ADDR: Request<Addresses> = Request(opcode::write::<Addresses>(VHOST, 0x11), PhantomData);
const SET_BASE: Request<State> = Request(opcode::write::<State>(VHOST, 0x12), PhantomData);
const GET_BASE: Request<State> = Request(opcode::read_write::<State>(VHOST, 0x12), PhantomData);
const SET_KICK: Request<Descriptor> =
    Request(opcode::write::<Descriptor>(VHOST, 0x20), PhantomData);
const SET_CALL: Request<Descriptor> =
    Request(opcode::write::<Descriptor>(VHOST, 0x21), PhantomData);
const SET_BACKEND: Request<Descriptor> =
    Request(opcode::write::<Descriptor>(VHOST, 0x30), PhantomData);

/// The most regions of guest memory. Hartvisor's guests have one.
const REGIONS_MAX: usize = 8;

/// struct vhost_memory.
#[repr(C)]
struct Regions {
    count: u32,
    padding: u32,
    regions: [Region; REGIONS_MAX],
}

/// struct vhost_memory_region.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest: u64,
    size: u64,
    user: u64,
    flags: u64,
}

/// struct vhost_vring_state.
#[repr(C)]
struct State {
    index: u32,
    number: u32,
}

/// struct vhost_vring_addr.
#[repr(C)]
struct Addresses {
    index: u32,
    flags: u32,
    descriptors: u64,
    device: u64,
    driver: u64,
    log: u64,
}

/// struct vhost_vring_file.
#[repr(C)]
struct Descriptor {
    index: u32,
    fd: RawFd,
}

/// An open vhost-net, and its tap interface.
pub(super) struct Kernel {
    vhost: File,
    tap: Tap,
    offered: u64,
    shared: bool,
}

impl Kernel {
    /// Opens vhost-net for frames of `tap`.
    ///
    /// # Errors
    /// Of open(2) for [`DEVICE`], or of the first requests.
    pub(super) fn open(tap: Tap) -> io::Result<Kernel> {
        let vhost = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        let mut kernel = Kernel { vhost, offered: tap.offloads(), tap, shared: false };
        kernel.request(&SET_OWNER, ())?;
        kernel.offered |= kernel.request(&GET_FEATURES, 0)?;
        Ok(kernel)
    }

    /// Makes a request. Returns its argument, which the kernel may have changed.
    ///
    /// The addresses in it are those of guest memory. The VM keeps that mapped until the queues have
    /// stopped.
    fn request<T>(&self, request: &Request<T>, mut argument: T) -> io::Result<T> {
        let vhost = self.vhost.as_raw_fd();
        // SAFETY: the constants above have the type of each request, and it keeps no pointer to it.
        match unsafe { libc::ioctl(vhost, request.0 as _, &raw mut argument) } {
            0.. => Ok(argument),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn share(&mut self, memory: &Memory) -> io::Result<()> {
        let mut regions = [Region::default(); REGIONS_MAX];
        let mut count = 0;
        for (place, region) in regions.iter_mut().zip(memory.ram().iter()) {
            *place = Region {
                guest: region.start_addr().0,
                size: region.len(),
                user: region.as_ptr().addr() as u64,
                flags: 0,
            };
            count += 1;
        }
        let table = Regions { count, padding: 0, regions };
        self.request(&SET_MEM_TABLE, table)?;
        self.shared = true;
        Ok(())
    }

    /// Gives queue `index` its tap interface, or takes it away.
    fn connect(&self, index: u32, tap: bool) -> io::Result<()> {
        let fd = if tap {
            self.tap.as_fd().as_raw_fd()
        } else {
            -1
        };
        self.request(&SET_BACKEND, Descriptor { index, fd })
            .map(drop)
    }

    fn try_start(
        &self,
        index: u32,
        config: &QueueConfig,
        places: &Places,
        [call, kick]: [&EventFd; 2],
    ) -> io::Result<()> {
        let state = |number| State { index, number };
        let file = |event: &EventFd| Descriptor { index, fd: event.as_raw_fd() };
        let addresses = Addresses {
            index,
            flags: 0,
            descriptors: places.descriptors,
            device: places.device,
            driver: places.driver,
            log: 0,
        };
        self.request(&SET_NUM, state(config.size.into()))?;
        self.request(&SET_BASE, state(config.resume.unwrap_or(0).into()))?;
        self.request(&SET_ADDR, addresses)?;
        self.request(&SET_CALL, file(call))?;
        self.request(&SET_KICK, file(kick))?;
        self.connect(index, true)
    }

    fn try_stop(&self, index: u32) -> io::Result<u32> {
        self.connect(index, false)?;
        let state = self.request(&GET_BASE, State { index, number: 0 })?;
        Ok(state.number)
    }
}

impl Peer for Kernel {
    fn offered(&self) -> u64 {
        self.offered
    }

    fn config(&mut self, _: u32) -> Result<Vec<u8>, Error> {
        Err(Error::Lacks("a configuration space"))
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn unshare(&mut self) {
        self.shared = false;
    }

    fn prepare(&mut self, accepted: u64, memory: &Memory, _: &Kind) -> Result<(), Error> {
        self.tap.set_offloads(accepted);
        // Those of the interface are not vhost-net's.
        let own = accepted & !self.tap.offloads() | features::VERSION_1;
        self.request(&SET_FEATURES, own)
            .and_then(|_| match self.shared {
                true => Ok(()),
                false => self.share(memory),
            })
            .map_err(Error::Kernel)
    }

    fn start(
        &mut self,
        index: usize,
        config: &QueueConfig,
        places: &Places,
        events: [&EventFd; 2],
    ) -> Result<(), Error> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let started = self.try_start(index, config, places, events);
        started.map_err(Error::Kernel)
    }

    fn stop(&mut self, index: usize) -> Result<u32, Error> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.try_stop(index).map_err(Error::Kernel)
    }
}
