//! What devices do, reported to an observer: statistics, a trace, a recording of rings.
//!
//! A [`DeviceObserver`] is called by the thread that does it, as it happens, and must be quick. A
//! device behind an [`Observed`](observed::Observed) is observed; any other pays for the possibility with a branch that
//! is never taken.

use std::sync::Arc;

use rings::View;

pub mod observed;
pub mod rings;

/// The descriptors of a chain that are reported, at most.
pub const DESCRIPTORS_MAX: usize = 32;

/// What happens in a device. Times are the observer's own business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A thread begins with a queue that the driver notified, or that was left unfinished: the device's own, or the vCPU's
    /// where a queue is [served at once](crate::virtio::VirtioDevice::inline_notify).
    Kicked {
        /// Which queue.
        queue: u16,
    },
    /// The device's thread begins with a file of the host that has become ready.
    Ready {
        /// Which, in the order of [`VirtioDevice::files`](crate::virtio::VirtioDevice::files).
        file: u16,
    },
    /// What began last is done.
    Idle,
    /// The ring is broken: what began last ended by that.
    QueueError,
    /// A chain was taken from the available ring.
    Popped {
        /// From which queue.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
        /// How many descriptors it has.
        descriptors: u32,
        /// Bytes for the device to read.
        readable: u64,
        /// Bytes for the device to write.
        writable: u64,
        /// Chains that were available, with this one.
        waiting: u16,
    },
    /// One of the last chain's first [`DESCRIPTORS_MAX`] descriptors, where [`DeviceObserver::wants_descriptors`].
    Descriptor {
        /// Its place in its table.
        index: u16,
        /// Guest address of its buffer.
        address: u64,
        /// Bytes.
        len: u32,
        /// NEXT is 1, WRITE is 2, INDIRECT is 4.
        flags: u16,
    },
    /// A chain was put into the used ring, where the driver does not see it yet.
    Used {
        /// Of which queue.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
        /// Bytes written to it.
        written: u32,
    },
    /// The driver can see what was used.
    Published {
        /// Of which queue.
        queue: u16,
        /// The used index that it sees.
        index: u16,
        /// How many chains that adds.
        count: u16,
        /// Whether it wants to be interrupted for that.
        interrupt: bool,
    },
    /// The device begins a system call on the file behind it.
    Host {
        /// What for.
        call: HostCall,
        /// Bytes from the file's start.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// That call has returned.
    HostDone {
        /// Without an error.
        ok: bool,
    },
    /// A request was answered with this status, which is not success.
    Failed {
        /// In the device's own numbers.
        status: u8,
    },
    /// The interrupt line was driven high. Reported by any thread.
    Raised,
}

/// What a device does with the file behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCall {
    /// Reads it.
    Read,
    /// Writes it.
    Write,
    /// Makes what was written durable.
    Sync,
    /// Gives space back, or fills it with zeroes.
    Forget,
}

/// Observes a device.
///
/// Everything but [`Event::Raised`] comes from the thread that has the device at that time, so from
/// one thread at a time.
pub trait DeviceObserver: Send + Sync {
    /// `event` happens now.
    fn see(&self, event: Event);

    /// Whether to report each descriptor of a chain, which loads it a second time. Asked once per queue.
    fn wants_descriptors(&self) -> bool {
        false
    }

    /// Whether to report the rings whenever a queue is kicked.
    fn wants_rings(&self) -> bool {
        false
    }

    /// The rings of a queue that was kicked and is about to be served, where [`wants_rings`](Self::wants_rings).
    fn rings(&self, queue: u16, view: View) {
        let _ = (queue, view);
    }
}

/// The observer of one queue.
pub(crate) struct QueueObserver {
    pub(crate) observer: Arc<dyn DeviceObserver>,
    /// The queue's index.
    pub(crate) queue: u16,
    /// Whether it wants each descriptor.
    pub(crate) descriptors: bool,
}
