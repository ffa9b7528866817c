//! What devices do, told to whoever wants to know it: statistics, a trace.
//!
//! A [`Watch`] is told by the thread that does it, as it happens, and must be quick. A device behind a [`Watched`] is
//! watched; one that is not pays for it with a branch that is never taken.
//!
//! [`Watched`]: crate::watched::Watched

use std::sync::Arc;

use crate::rings::View;

/// Of a chain's descriptors, so many are told.
pub const DESCRIPTORS_TOLD: usize = 32;

/// What happens in a device. Times are the watch's own business.
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
    /// One of the last chain's first [`DESCRIPTORS_TOLD`] descriptors, where [`Watch::wants_descriptors`].
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
    /// The interrupt wire was driven high. Told by any thread.
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

/// Who wants to know.
///
/// Everything but [`Event::Raised`] comes from the thread that has the device at that time, so from one at a time.
pub trait Watch: Send + Sync {
    /// `event` happens now.
    fn see(&self, event: Event);

    /// Whether each descriptor of a chain is of interest. It costs to load them twice. Asked once a queue.
    fn wants_descriptors(&self) -> bool {
        false
    }

    /// Whether the rings are of interest whenever a queue is kicked.
    fn wants_rings(&self) -> bool {
        false
    }

    /// The rings of a queue that was kicked and is about to be served, where [`wants_rings`](Self::wants_rings).
    fn rings(&self, queue: u16, view: View) {
        let _ = (queue, view);
    }
}

/// One queue's side of it.
pub(crate) struct QueueWatch {
    pub(crate) watch: Arc<dyn Watch>,
    /// The queue's index.
    pub(crate) queue: u16,
    /// Whether it wants descriptors.
    pub(crate) descriptors: bool,
}
