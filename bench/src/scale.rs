//! How costs grow with VMs, disks, memory and vCPUs: the input of `meter scale`, and the evaluation
//! of its results.

use serde::{Deserialize, Serialize};

use crate::metrics::{Metrics, name};
use crate::record::Counts;
use crate::smaps::Memory;

/// How long idle guests are observed, in seconds of the host's clock.
pub const IDLE: u64 = 5;

/// One point of a curve: some VMs of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// The name in tables.
    pub name: String,
    /// Program and arguments of each VM.
    pub command: Vec<String>,
    /// The number of rounds, one after another.
    pub rounds: u64,
    /// The number of concurrent VMs per round.
    pub vms: u64,
    /// The RAM of each in KiB.
    pub ram: u64,
    /// The dialog with a waiting guest. Without it guests exit on their own.
    pub waits: Option<Waits>,
}

/// The dialog with a waiting guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// What the guest prints when it starts to wait.
    pub ready: String,
    /// The input that makes it power off.
    pub go: String,
}

/// The output of `meter` for a scene: nanoseconds of the host's clock, sums over all VMs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// From the first exec to the first KVM_RUN of any VM.
    pub run: u64,
    /// From the first exec until the last guest is ready.
    pub ready: u64,
    /// From the first exec of the first round to the last exit of the last round.
    pub total: u64,
    /// From the exit of the last guest's power-off request to the exit of the last VMM.
    pub exit: u64,
    /// Memory of the VMMs without their guests' RAM.
    pub memory: Memory,
    /// PSS including the guests' RAM that was touched, in KiB. Neither includes the kernel's memory
    /// for a VM.
    pub with_ram: u64,
    /// Counts in [`IDLE`] seconds of waiting.
    pub idle: Counts,
}

/// Names of the metrics that only scenes have.
pub mod metric {
    /// First exec to last exit, per VM.
    pub const EACH: &str = "exec to exit, each VM, ms";
    /// First exec to last exit, all VMs.
    pub const ALL: &str = "exec to exit, all VMs, ms";
    /// Exec to the last guest's ready line.
    pub const READY: &str = "exec to guest waits, all VMs, ms";
    /// PSS with the guest's RAM.
    pub const WITH_RAM: &str = "memory: PSS with RAM, KiB";
}

/// Returns the names of the metrics that only scenes have, in the order of the table.
pub fn order() -> Vec<String> {
    let names = [metric::ALL, metric::EACH, metric::READY, metric::WITH_RAM];
    let idle = Counts::default().named().map(|(name, _)| idle(name));
    names.map(str::to_owned).into_iter().chain(idle).collect()
}

fn idle(count: &str) -> String {
    format!("{IDLE} s idle: {count}")
}

/// Evaluates the `sample` of `scene`: times of all VMs, memory and counts per VM.
pub fn summarize(scene: &Scene, sample: &Sample) -> Metrics {
    let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    let each = |sum: u64| sum as f64 / scene.vms.max(1) as f64;
    let mut metrics = Metrics::new();
    let mut add = |name: &str, value| metrics.insert(name.to_owned(), value);
    if scene.waits.is_none() {
        let starts = scene.rounds.max(1) * scene.vms.max(1);
        add(metric::ALL, milliseconds(sample.total));
        add(metric::EACH, milliseconds(sample.total) / starts as f64);
        return metrics;
    }
    add(name::RUN, milliseconds(sample.run));
    add(name::EXIT, milliseconds(sample.exit));
    add(metric::READY, milliseconds(sample.ready));
    add(name::PSS, each(sample.memory.pss));
    add(name::ANONYMOUS, each(sample.memory.anonymous));
    add(metric::WITH_RAM, each(sample.with_ram));
    for (name, count) in sample.idle.named() {
        add(&idle(name), each(count));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(rounds: u64, vms: u64, waits: bool) -> Scene {
        let waits = waits.then(|| Waits { ready: "ready".into(), go: "go".into() });
        Scene {
            name: "some".into(),
            command: vec!["vmm".into()],
            rounds,
            vms,
            ram: 1 << 18,
            waits,
        }
    }

    #[test]
    fn starts_share_the_time_of_all() {
        let sample = Sample { total: 4_000_000_000, ..Sample::default() };
        let metrics = summarize(&scene(100, 1, false), &sample);
        assert_eq!(
            (metrics[metric::ALL], metrics[metric::EACH]),
            (4000.0, 40.0)
        );
        let metrics = summarize(&scene(1, 20, false), &sample);
        assert_eq!(metrics[metric::EACH], 200.0);
        assert!(!metrics.contains_key(name::PSS));
    }

    #[test]
    fn memory_and_counts_are_of_one_vm_and_times_of_all() {
        let sample = Sample {
            run: 20_000_000,
            ready: 500_000_000,
            memory: Memory { pss: 9_000, anonymous: 2_000 },
            with_ram: 30_000,
            idle: Counts { exits: 50, ..Counts::default() },
            ..Sample::default()
        };
        let metrics = summarize(&scene(1, 10, true), &sample);
        assert_eq!((metrics[name::RUN], metrics[metric::READY]), (20.0, 500.0));
        assert_eq!(
            (metrics[name::PSS], metrics[name::ANONYMOUS]),
            (900.0, 200.0)
        );
        assert_eq!(
            (metrics[metric::WITH_RAM], metrics["5 s idle: exits"]),
            (3000.0, 5.0)
        );
    }

    #[test]
    fn every_metric_has_its_place_in_the_order() {
        let shared = [name::RUN, name::EXIT, name::PSS, name::ANONYMOUS];
        let order: Vec<_> = order()
            .into_iter()
            .chain(shared.map(str::to_owned))
            .collect();
        for waits in [false, true] {
            let metrics = summarize(&scene(1, 1, waits), &Sample::default());
            assert!(metrics.keys().all(|name| order.contains(name)));
        }
    }
}
