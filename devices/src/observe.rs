//! Events of a device, reported to an observer: statistics, a trace, a recording of rings.
//!
//! The thread that does the work calls the [`DeviceObserver`], which must be quick. A device is
//! observed if it is wrapped in an [`Observed`](observed::Observed). For any other device the cost
//! is a branch that is never taken.

use std::sync::Arc;

use rings::View;

pub mod observed;
pub mod rings;

/// The most descriptors of a chain that are reported.
pub const DESCRIPTORS_MAX: usize = 32;

/// An event in a device. The observer takes the time itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A thread starts to serve a queue that the driver notified, or that was left unfinished. It
    /// is the device's thread, or the vCPU's for a queue with
    /// [`inline_notify`](crate::virtio::VirtioDevice::inline_notify).
    Kicked {
        /// The queue's index.
        queue: u16,
    },
    /// The device's thread starts to serve a host file that has become ready.
    Ready {
        /// Its index in [`VirtioDevice::files`](crate::virtio::VirtioDevice::files).
        file: u16,
    },
    /// The work that began last is done.
    Idle,
    /// The work that began last ended because the ring is invalid.
    QueueError,
    /// A chain was taken from the available ring.
    Popped {
        /// The queue's index.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
        /// Its number of descriptors.
        descriptors: u32,
        /// Bytes that the device may read.
        readable: u64,
        /// Bytes that the device may write.
        writable: u64,
        /// Chains that were available, including this one.
        waiting: u16,
    },
    /// One of the last chain's first [`DESCRIPTORS_MAX`] descriptors, if the observer [wants
    /// them](DeviceObserver::wants_descriptors).
    Descriptor {
        /// Its index in its table.
        index: u16,
        /// Guest address of its buffer.
        address: u64,
        /// Length of the buffer in bytes.
        len: u32,
        /// NEXT is 1, WRITE is 2, INDIRECT is 4.
        flags: u16,
    },
    /// A chain was written to the used ring. The driver does not see it yet.
    Used {
        /// The queue's index.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
        /// Bytes that the device wrote.
        written: u32,
    },
    /// The used index was stored: the driver sees the chains.
    Published {
        /// The queue's index.
        queue: u16,
        /// The new used index.
        index: u16,
        /// Chains published by this store.
        count: u16,
        /// Whether the driver wants an interrupt for it.
        interrupt: bool,
    },
    /// The device starts a system call on its file.
    Host {
        /// The kind of call.
        call: HostCall,
        /// Byte offset in the file.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The call has returned.
    HostDone {
        /// Whether it succeeded.
        ok: bool,
    },
    /// A request failed.
    Failed {
        /// The status that the driver reads, in the device's own encoding.
        status: u8,
    },
    /// The interrupt line was driven high. Any thread may report it.
    Raised,
}

/// What a device does with its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCall {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Makes earlier writes durable.
    Sync,
    /// Discards a range, or fills it with zeroes.
    Forget,
}

/// Observes a device.
///
/// Every event except [`Event::Raised`] comes from the thread that holds the device, so from one
/// thread at a time.
pub trait DeviceObserver: Send + Sync {
    /// Called when `event` happens.
    fn see(&self, event: Event);

    /// Whether to report each descriptor of a chain, which loads it a second time. Called once per
    /// queue.
    fn wants_descriptors(&self) -> bool {
        false
    }

    /// Whether to report the rings whenever a queue is kicked.
    fn wants_rings(&self) -> bool {
        false
    }

    /// The device's own figures, for reports. Called before the device is offered.
    fn figures(&self, figures: Arc<dyn Figures>) {
        let _ = figures;
    }

    /// The rings of a queue that was kicked and is about to be served. Called if
    /// [`wants_rings`](Self::wants_rings) returns true.
    fn rings(&self, queue: u16, view: View) {
        let _ = (queue, view);
    }
}

/// Figures that only one kind of device has.
pub trait Figures: Send + Sync {
    /// The name and the present value of each that is known. A name ends with its unit.
    fn figures(&self) -> Vec<(&'static str, u64)>;
}

/// The observer of one queue.
pub(crate) struct QueueObserver {
    pub(crate) observer: Arc<dyn DeviceObserver>,
    /// The queue's index.
    pub(crate) queue: u16,
    /// Whether the observer wants each descriptor.
    pub(crate) descriptors: bool,
}
