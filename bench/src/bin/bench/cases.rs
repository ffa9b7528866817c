//! What is measured: the cases and tests.

use bench::protocol::{Kind, Test};

/// A VMM and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// The name of its template.
    pub(crate) vmm: &'static str,
    /// Whether the host has an AIA with guest interrupt files, or a PLIC.
    pub(crate) aia: bool,
    /// vCPUs. The host has one CPU, so more vCPUs show their cost, not their benefit.
    pub(crate) cpus: u32,
    /// Queues of the disk, if not one per vCPU. Only hartvisor has this option.
    pub(crate) queues: Option<u32>,
    /// Whether the guest's RAM uses 2 MiB pages.
    pub(crate) hugepages: bool,
    /// Whether the VMM keeps statistics. Only hartvisor has this option.
    pub(crate) stats: bool,
    /// The guest's network.
    pub(crate) net: Option<Net>,
}

/// What is behind the guest's network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    Tap,
    Passt,
}

const AIA: Case = Case {
    vmm: "hartvisor",
    aia: true,
    cpus: 1,
    queues: None,
    hugepages: false,
    stats: false,
    net: None,
};

impl Case {
    /// Returns its name in the table.
    pub(crate) fn name(&self) -> String {
        let host = if self.aia { "aia" } else { "plic" };
        let mut name = format!("{} {host}", self.vmm);
        if self.cpus > 1 {
            name += &format!(" {} vcpus", self.cpus);
        }
        if let Some(queues) = self.queues {
            let ending = if queues == 1 { "" } else { "s" };
            name += &format!(" {queues} queue{ending}");
        }
        if self.hugepages {
            name += " hugepages";
        }
        if self.stats {
            name += " stats";
        }
        name += match self.net {
            None => "",
            Some(Net::Tap) => " tap",
            Some(Net::Passt) => " passt",
        };
        name
    }
}

/// Returns all cases, or those of a quick run.
pub(crate) fn all(quick: bool) -> Vec<Case> {
    let hosts = [AIA, Case { aia: false, ..AIA }];
    if quick {
        return hosts.into();
    }
    let more = [
        Case { hugepages: true, ..AIA },
        Case { cpus: 2, ..AIA },
        Case { cpus: 4, ..AIA },
    ];
    let cases = hosts.into_iter().chain(more);
    let cases =
        cases.flat_map(|case| ["hartvisor", "qemu", "kvmtool"].map(|vmm| Case { vmm, ..case }));
    let one_queue = Case { cpus: 4, queues: Some(1), ..AIA };
    let counted = Case { stats: true, ..AIA };
    cases.chain([one_queue, counted]).collect()
}

/// Returns the cases with a network. kvmtool has no passt, and its guest's streams stop on a host
/// with AIA.
pub(crate) fn networks() -> Vec<Case> {
    let tap = Case { net: Some(Net::Tap), ..AIA };
    let passt = Case { net: Some(Net::Passt), ..AIA };
    let plic = Case { aia: false, ..tap };
    let cases = [tap, plic, passt];
    let cases = cases.into_iter();
    let cases = cases.flat_map(|case| ["hartvisor", "qemu"].map(|vmm| Case { vmm, ..case }));
    cases.chain([Case { vmm: "kvmtool", ..plic }]).collect()
}

/// The guest's tests with a network.
pub(crate) fn transfers(case: &Case) -> Vec<Test> {
    let network = [
        (Kind::Null, 1),
        // Before the first transfer: the kernel's neighbour table asks again after some seconds.
        (Kind::Idle, 10),
        (Kind::TcpSend, 8),
        (Kind::TcpReceive, 8),
        (Kind::UdpSend64, 1024),
        (Kind::UdpReceive64, 1024),
        (Kind::UdpSend1400, 1024),
        (Kind::UdpReceive1400, 1024),
        (Kind::UdpEcho, 256),
    ];
    let sockets = [(Kind::VsockSend, 8), (Kind::VsockReceive, 8)];
    let has_sockets = case.vmm == "hartvisor" && case.net == Some(Net::Tap);
    let sockets = sockets.into_iter().filter(|_| has_sockets);
    let tests = network.into_iter().chain(sockets);
    tests
        .map(|(kind, operations)| Test { kind, operations })
        .collect()
}

/// The guest's tests if only start, memory and exit are measured.
pub(crate) fn nothing() -> Vec<Test> {
    vec![Test { kind: Kind::Null, operations: 1 }]
}

/// The guest's tests without a network, in each start.
pub(crate) fn tests(quick: bool) -> Vec<Test> {
    let count = |kind| match kind {
        Kind::Null => 1,
        Kind::Read4kDeep | Kind::Write4kDeep => 1024,
        Kind::Read1m | Kind::Write1m => 16,
        Kind::Sync4k => 128,
        Kind::Console4k => 64,
        _ => 256,
    };
    let part = if quick { 2 } else { 1 };
    let test = |kind| Test { kind, operations: usize::max(count(kind) / part, 1) };
    Kind::LOCAL.map(test).into()
}
