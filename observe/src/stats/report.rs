//! The statistics as they are written: the JSON form of `hartvisor run --stats FILE`, for programs
//! that read it back.
//!
//! A value that cannot be known is null: under QEMU no exits reach the monitor, and the console is
//! QEMU's own. Times are nanoseconds of the host's monotonic clock, sizes bytes where no unit is
//! named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format's version: it changes when a field changes its meaning or is removed, not when one is
/// added.
pub const VERSION: u32 = 1;

/// One report, of a run that has ended or, after SIGUSR1, of a running one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// What runs the guest: `kvm` or `qemu`.
    pub accel: String,
    /// Since the run began.
    pub nanoseconds: u64,
    /// How it ended: `power-off`, `reboot`, `failure`, `left`, `signal N`, `error`; null while it
    /// runs.
    pub end: Option<String>,
    /// How often the guest has rebooted. All counts continue across reboots.
    pub reboots: u64,
    /// The vCPUs by number.
    pub vcpus: Option<Vec<Vcpu>>,
    /// Device registers that were accessed, in the order of their addresses. An access that KVM
    /// answers itself (QueueNotify by ioeventfd, the in-kernel AIA) is not among them.
    pub registers: Option<Vec<Register>>,
    /// SBI calls that came to us, by name.
    pub sbi: Option<BTreeMap<String, u64>>,
    /// Our devices in the order of their slots.
    pub devices: Vec<Device>,
    /// What KVM counts itself.
    pub kvm: Option<Kvm>,
    /// What the monitor takes beside the guest's RAM; null where /proc is absent.
    pub memory: Option<Memory>,
}

/// How often one vCPU left the guest for the monitor, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Loads from where no RAM is.
    pub mmio_read: u64,
    /// Stores to there.
    pub mmio_write: u64,
    /// SBI calls that KVM does not answer.
    pub sbi: u64,
    /// CSRs that KVM does not emulate.
    pub csr: u64,
    /// The guest's power-off, reboot or failure.
    pub ended: u64,
    /// A signal, or nothing.
    pub interrupted: u64,
    /// Instructions that KVM cannot execute.
    #[serde(default)]
    pub fault: u64,
}

impl Vcpu {
    /// All of them.
    pub fn total(&self) -> u64 {
        let answered = self.mmio_read + self.mmio_write + self.sbi + self.csr + self.fault;
        answered + self.ended + self.interrupted
    }
}

/// Accesses of all vCPUs to one register that exited to us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// `disk0`, `console`, `plic`, …
    pub device: String,
    /// As its specification names it.
    pub register: String,
    /// Loads.
    pub reads: u64,
    /// Stores.
    pub writes: u64,
}

/// One virtio device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// `console`, `disk0`, `disk1`, ….
    pub name: String,
    /// Its type: `block`, `console`, `entropy`.
    pub kind: String,
    /// Its queues by index.
    pub queues: Vec<Queue>,
    /// Files of the host that became ready, and woke its thread.
    pub ready: u64,
    /// Requests that it answered with an error.
    pub failed: u64,
    /// Rings that were broken.
    pub broken: u64,
    /// How often its interrupt went from low to high; null where the wire is not ours.
    pub interrupts: Option<u64>,
    /// What it did with the file behind it; null for one that has none.
    pub host: Option<Host>,
}

/// One queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Notifications that woke the device's thread, or were served at once by a vCPU's. Several in
    /// a row may be one.
    pub kicks: u64,
    /// Chains that were used.
    pub requests: u64,
    /// Bytes that the driver gave it to read, headers included.
    pub bytes_from_guest: u64,
    /// Bytes that it wrote, status bytes included.
    pub bytes_to_guest: u64,
    /// How often used chains were published: once a batch.
    pub batches: u64,
    /// Batches for which the driver wanted an interrupt. One that is raised already is not raised
    /// again.
    pub interrupts_wanted: u64,
    /// Batches for which it wanted none.
    pub interrupts_suppressed: u64,
    /// Chains that were available whenever one was taken, with that one.
    pub depth: Histogram,
    /// Nanoseconds from the taking of a chain to its place in the used ring. Where a queue waits
    /// for input that is the wait.
    pub latency: Histogram,
}

/// System calls of a device on the file behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Reads, of `bytes_read` together.
    pub reads: u64,
    /// Writes, of `bytes_written` together.
    pub writes: u64,
    /// Waits until what was written is durable.
    pub syncs: u64,
    /// Ranges that were discarded or zeroed.
    pub forgets: u64,
    /// Bytes.
    pub bytes_read: u64,
    /// Bytes.
    pub bytes_written: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Nanoseconds that each took.
    pub latency: Histogram,
}

/// How values are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest.
    pub max: u64,
    /// The largest value that belongs to a bucket, and how many do. A bucket is a quarter as wide
    /// as the power of two it begins at; empty ones are left out.
    pub buckets: Vec<(u64, u64)>,
}

impl Histogram {
    /// A value that the share `q` (0 to 1) of all does not exceed, up to a quarter too large.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let mut seen = 0;
        self.buckets
            .iter()
            .find(|(_, count)| {
                seen += count;
                seen as f64 >= q * self.count as f64
            })
            .map(|(last, _)| *last.min(&self.max))
    }

    /// The mean.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }
}

/// KVM's own counters, by the kernel's names (KVM_GET_STATS_FD); those of one value, cumulative.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kvm {
    /// Of the VM.
    pub vm: BTreeMap<String, u64>,
    /// Of each vCPU. `exits` are those from the guest to the kernel; `mmio_exit_kernel` those that
    /// an ioeventfd or an in-kernel device took.
    pub vcpus: Vec<BTreeMap<String, u64>>,
}

impl Kvm {
    /// Exits to the kernel for which it has no counter: stage-2 faults, and the host's own
    /// interrupts. On RISC-V KVM tells the two apart only in its trace.
    pub fn uncounted_exits(&self) -> Option<u64> {
        let total = |vcpu: &BTreeMap<String, u64>| {
            let all = vcpu.get("exits")?;
            let told = vcpu
                .iter()
                .filter(|(name, _)| name.contains("_exit") && !name.starts_with("halt"))
                .map(|(_, count)| count)
                .sum();
            Some(all.saturating_sub(told))
        };
        self.vcpus.iter().map(total).sum()
    }

    /// Adds another life's counts.
    pub(crate) fn add(&mut self, other: &Kvm) {
        merge(&mut self.vm, &other.vm);
        self.vcpus
            .resize_with(self.vcpus.len().max(other.vcpus.len()), BTreeMap::new);
        for (to, from) in self.vcpus.iter_mut().zip(&other.vcpus) {
            merge(to, from);
        }
    }
}

fn merge(to: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (name, count) in from {
        *to.entry(name.clone()).or_default() += count;
    }
}

/// Memory of the monitor's process (under QEMU, not QEMU's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its share of all its pages (PSS) beside the guest's RAM, in KiB.
    pub pss_kib: u64,
    /// The anonymous ones of them, in KiB: heap, stacks, written data.
    pub anonymous_kib: u64,
    /// What the guest's RAM takes of the host's (PSS), in KiB.
    pub guest_ram_kib: u64,
    /// Page faults of the process that needed no input, those included that KVM takes when the
    /// guest first touches a page.
    pub minor_faults: u64,
    /// Those that did.
    pub major_faults: u64,
}
