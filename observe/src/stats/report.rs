//! The JSON format of `hartvisor run --stats FILE`, also for programs that read it.
//!
//! A value that cannot be known is null: with QEMU no exits reach the monitor, and the console is
//! QEMU's own. Times are nanoseconds of the host's monotonic clock. Sizes are bytes unless a unit
//! is given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format's version. It changes when a field is removed or changes its meaning, not when one is
/// added.
pub const VERSION: u32 = 1;

/// One report, of a run that has ended or, after SIGUSR1, of a running one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// What runs the guest: `kvm` or `qemu`.
    pub accel: String,
    /// Nanoseconds since the run began.
    pub nanoseconds: u64,
    /// How it ended: `power-off`, `reboot`, `failure`, `left`, `signal N`, `error`; null while it
    /// runs.
    pub end: Option<String>,
    /// Reboots of the guest. All counts continue across reboots.
    pub reboots: u64,
    /// The vCPUs by number.
    pub vcpus: Option<Vec<Vcpu>>,
    /// Device registers that were accessed, in the order of their addresses. Accesses that KVM
    /// handles itself (QueueNotify by ioeventfd, the in-kernel AIA) are not counted.
    pub registers: Option<Vec<Register>>,
    /// SBI calls that exited to the monitor, by name.
    pub sbi: Option<BTreeMap<String, u64>>,
    /// Our devices in the order of their slots.
    pub devices: Vec<Device>,
    /// Consoles and ports that have lost output of the guest.
    #[serde(default)]
    pub lost: Vec<Lost>,
    /// KVM's own counters.
    pub kvm: Option<Kvm>,
    /// The monitor's memory without the guest's RAM; null if /proc is absent.
    pub memory: Option<Memory>,
}

/// Output that was not written: a full disk, or a reader that is gone or accepts nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// `stdout`, or the option and its target: `--serial file:log`.
    pub output: String,
    /// Bytes lost.
    pub bytes: u64,
}

/// Exits of one vCPU to the monitor, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Loads from addresses that are not RAM.
    pub mmio_read: u64,
    /// Stores to such addresses.
    pub mmio_write: u64,
    /// SBI calls that KVM does not handle.
    pub sbi: u64,
    /// CSRs that KVM does not emulate.
    pub csr: u64,
    /// The guest's power-off, reboot or failure.
    pub ended: u64,
    /// Signals, or no reason.
    pub interrupted: u64,
    /// Instructions that KVM cannot execute.
    #[serde(default)]
    pub fault: u64,
}

impl Vcpu {
    /// The sum.
    pub fn total(&self) -> u64 {
        let answered = self.mmio_read + self.mmio_write + self.sbi + self.csr + self.fault;
        answered + self.ended + self.interrupted
    }
}

/// Accesses of all vCPUs to one register that exited to the monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// `disk0`, `console`, `plic`, …
    pub device: String,
    /// The name in its specification.
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
    /// Host files that became ready and woke its thread.
    pub ready: u64,
    /// Requests that it answered with an error.
    pub failed: u64,
    /// Rings that were invalid.
    pub broken: u64,
    /// Rises of its interrupt; null if the line is outside the VMM.
    pub interrupts: Option<u64>,
    /// System calls on its file; null if it has none.
    pub host: Option<Host>,
    /// What only its kind has, by a name that ends with the unit: of a balloon, the target, what the
    /// guest says it has given up, what went back to the host, and the guest's last statistics.
    #[serde(default)]
    pub figures: BTreeMap<String, u64>,
}

/// One queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Notifications that woke the device's thread, or that a vCPU served inline. Several in a row
    /// may count as one.
    pub kicks: u64,
    /// Chains that were used.
    pub requests: u64,
    /// Bytes that the device could read, including headers.
    pub bytes_from_guest: u64,
    /// Bytes that it wrote, including status bytes.
    pub bytes_to_guest: u64,
    /// Batches of used chains that were published.
    pub batches: u64,
    /// Batches for which the driver wanted an interrupt. An interrupt that is already raised is not
    /// raised again.
    pub interrupts_wanted: u64,
    /// Batches for which it did not want one.
    pub interrupts_suppressed: u64,
    /// Chains available each time one was taken, including that one.
    pub depth: Histogram,
    /// Nanoseconds from taking a chain to writing it to the used ring. For a queue that waits for
    /// input, this includes the wait.
    pub latency: Histogram,
}

/// System calls of a device on its file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Reads, of `bytes_read` in total.
    pub reads: u64,
    /// Writes, of `bytes_written` in total.
    pub writes: u64,
    /// Syncs, which make earlier writes durable.
    pub syncs: u64,
    /// Ranges that were discarded or zeroed.
    pub forgets: u64,
    /// Bytes.
    pub bytes_read: u64,
    /// Bytes.
    pub bytes_written: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Nanoseconds per call.
    pub latency: Histogram,
}

/// A histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// The number of values.
    pub count: u64,
    /// The sum of the values.
    pub sum: u64,
    /// The largest value.
    pub max: u64,
    /// For each bucket that is not empty, its upper bound and its count. A bucket is a quarter as
    /// wide as the power of two at or below its start.
    pub buckets: Vec<(u64, u64)>,
}

impl Histogram {
    /// The quantile `q` (0 to 1), at most a quarter too large.
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

/// KVM's own counters, by the kernel's names (KVM_GET_STATS_FD): the cumulative ones of one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kvm {
    /// Counters of the VM.
    pub vm: BTreeMap<String, u64>,
    /// Counters of each vCPU. `exits` counts exits from the guest to the kernel; `mmio_exit_kernel`
    /// those that an ioeventfd or an in-kernel device handled.
    pub vcpus: Vec<BTreeMap<String, u64>>,
}

impl Kvm {
    /// Exits to the kernel that have no counter of their own: stage-2 faults, and the host's
    /// interrupts. On RISC-V only KVM's trace distinguishes the two.
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

    /// Adds the counts of another VM.
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

/// Memory of the monitor's process (with QEMU, not QEMU's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its share of its pages (PSS) without the guest's RAM, in KiB.
    pub pss_kib: u64,
    /// The anonymous part of it, in KiB: heap, stacks, written data.
    pub anonymous_kib: u64,
    /// The guest's RAM that is in use on the host (PSS), in KiB.
    pub guest_ram_kib: u64,
    /// Page faults of the process without input (minor), including those that KVM takes when the
    /// guest first accesses a page.
    pub minor_faults: u64,
    /// Page faults with input (major).
    pub major_faults: u64,
}
