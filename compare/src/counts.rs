//! What hartvisor counts in a run (`--stats`), as lines of a table: the counts that distinguish one
//! way from another.

use observe::stats::report::{Device, Histogram, Queue, Report, Vcpu};

use crate::plan::Counts;

/// A count, or several of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// What is counted, with its unit.
    pub label: String,
    /// How much.
    pub text: String,
}

/// The statistics of a counting run, if hartvisor wrote them.
pub fn stats(counts: &Counts) -> Option<Report> {
    serde_json::from_value(counts.stats.clone()?).ok()
}

/// The lines of one way.
pub fn lines(counts: &Counts) -> Vec<Count> {
    let mut lines = Vec::new();
    let mut line = |label: &str, text: String| {
        lines.push(Count { label: label.into(), text });
    };
    if let Some(memory) = counts.memory {
        line("VMM memory beside RAM, KiB", grouped(memory.pss));
    }
    let Some(stats) = stats(counts) else {
        return lines;
    };
    let registers = || stats.registers.iter().flatten();
    for (kind, count) in exits(&stats) {
        line(&format!("exits to the VMM: {kind}"), grouped(count));
    }
    if stats.registers.is_some() {
        let [loads, stores] = [
            registers().map(|it| it.reads).sum(),
            registers().map(|it| it.writes).sum::<u64>(),
        ];
        line(
            "registers read / written",
            format!("{} / {}", grouped(loads), grouped(stores)),
        );
    }
    if let Some(kvm) = &stats.kvm {
        let exits = kvm.vcpus.iter().filter_map(|vcpu| vcpu.get("exits")).sum();
        line("exits to the kernel", grouped(exits));
    }
    for device in &stats.devices {
        let name = &device.name;
        let sum = |of: fn(&Queue) -> u64| device.queues.iter().map(of).sum();
        let (requests, kicks) = (sum(|it| it.requests), sum(|it| it.kicks));
        // The guest has no driver for it, or does not use it.
        if requests == 0 {
            continue;
        }
        line(&format!("{name}: requests"), grouped(requests));
        let [to, from] = [sum(|it| it.bytes_to_guest), sum(|it| it.bytes_from_guest)];
        line(
            &format!("{name}: bytes read / written"),
            format!("{} / {}", grouped(to), grouped(from)),
        );
        line(&format!("{name}: notifications"), grouped(kicks));
        if let Some(interrupts) = device.interrupts {
            line(&format!("{name}: interrupts"), grouped(interrupts));
        }
        if let Some(latency) = latency(device) {
            line(
                &format!("{name}: latency p50 / p99, µs"),
                percentiles(latency),
            );
        }
    }
    lines
}

/// The exits of vCPUs to the VMM, by kind, without zeroes; nothing if the VMM has no vCPUs.
pub fn exits(stats: &Report) -> Vec<(&'static str, u64)> {
    let Some(vcpus) = &stats.vcpus else {
        return Vec::new();
    };
    let sum = |of: fn(&Vcpu) -> u64| vcpus.iter().map(of).sum();
    let sums = [
        ("all", sum(Vcpu::total)),
        ("MMIO loads", sum(|it| it.mmio_read)),
        ("MMIO stores", sum(|it| it.mmio_write)),
        ("SBI", sum(|it| it.sbi)),
        ("CSR", sum(|it| it.csr)),
    ];
    sums.into_iter().filter(|(_, sum)| *sum > 0).collect()
}

/// The latency of a disk's requests, most of which use its first queue. The queues of a console
/// wait for input, which is not a latency.
pub fn latency(device: &Device) -> Option<&Histogram> {
    let queues = device.queues.iter().filter(|_| device.kind == "block");
    queues
        .map(|queue| &queue.latency)
        .filter(|latency| latency.count > 0)
        .max_by_key(|latency| latency.count)
}

fn percentiles(latency: &Histogram) -> String {
    let micros = |share| {
        let nanos = latency.quantile(share).unwrap_or_default();
        format!("{:.1}", nanos as f64 / 1000.0)
    };
    format!("{} / {}", micros(0.5), micros(0.99))
}

/// A number with thousands separated.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
