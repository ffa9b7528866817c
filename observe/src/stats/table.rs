//! A report for people: aligned columns, without values that are zero.

use std::fmt::Write;

use super::report::{Device, Histogram, Report};

/// The whole report, with a newline at the end.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let seconds = report.nanoseconds as f64 / 1e9;
    let end = report.end.as_deref().unwrap_or("running");
    let _ = writeln!(
        text,
        "hartvisor: statistics after {seconds:.3} s ({}, {end}, {} reboots)",
        report.accel, report.reboots
    );
    text.push_str(&table(&vcpus(report)));
    text.push_str(&table(&registers(report)));
    text.push_str(&table(&queues(&report.devices)));
    text.push_str(&table(&devices(&report.devices)));
    text.push_str(&table(&figures(&report.devices)));
    text.push_str(&table(&kvm(report)));
    for lost in &report.lost {
        let _ = writeln!(
            text,
            "lost: {} bytes of output to {}",
            lost.bytes, lost.output
        );
    }
    if let Some(memory) = &report.memory {
        let _ = writeln!(
            text,
            "memory: PSS {} KiB, {} KiB of it anonymous, beside {} KiB of the guest's RAM; {} page faults, {} with input",
            memory.pss_kib,
            memory.anonymous_kib,
            memory.guest_ram_kib,
            memory.minor_faults + memory.major_faults,
            memory.major_faults
        );
    }
    text
}

type Rows = Vec<Vec<String>>;

fn heading(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn vcpus(report: &Report) -> Rows {
    let mut rows = vec![heading(&[
        "exits to the VMM",
        "all",
        "mmio read",
        "mmio write",
        "sbi",
        "csr",
        "ended",
        "interrupted",
        "fault",
    ])];
    for (id, vcpu) in report.vcpus.iter().flatten().enumerate() {
        let mut row = vec![format!("vcpu{id}")];
        let counts = [
            vcpu.total(),
            vcpu.mmio_read,
            vcpu.mmio_write,
            vcpu.sbi,
            vcpu.csr,
            vcpu.ended,
            vcpu.interrupted,
            vcpu.fault,
        ];
        row.extend(counts.iter().map(u64::to_string));
        rows.push(row);
    }
    rows
}

fn registers(report: &Report) -> Rows {
    let mut rows = vec![heading(&["register or SBI call", "reads", "writes"])];
    for register in report.registers.iter().flatten() {
        rows.push(vec![
            format!("{} {}", register.device, register.register),
            register.reads.to_string(),
            register.writes.to_string(),
        ]);
    }
    for (name, count) in report.sbi.iter().flatten() {
        rows.push(vec![name.clone(), String::new(), count.to_string()]);
    }
    rows
}

fn queues(devices: &[Device]) -> Rows {
    let mut rows = vec![heading(&[
        "queue",
        "kicks",
        "requests",
        "from guest",
        "to guest",
        "batches",
        "irq wanted",
        "suppressed",
        "depth 50%",
        "max",
        "latency 50%",
        "99%",
        "max",
    ])];
    for device in devices {
        for (index, queue) in device.queues.iter().enumerate() {
            if queue.kicks == 0 && queue.requests == 0 {
                continue;
            }
            let mut row = vec![format!("{} {index}", device.name)];
            let counts = [
                queue.kicks,
                queue.requests,
                queue.bytes_from_guest,
                queue.bytes_to_guest,
                queue.batches,
                queue.interrupts_wanted,
                queue.interrupts_suppressed,
            ];
            row.extend(counts.iter().map(u64::to_string));
            let depth = &queue.depth;
            row.push(depth.quantile(0.5).unwrap_or(0).to_string());
            row.push(depth.max.to_string());
            row.extend(spread(&queue.latency));
            rows.push(row);
        }
    }
    rows
}

fn devices(devices: &[Device]) -> Rows {
    let mut rows = vec![heading(&[
        "device",
        "interrupts",
        "failed",
        "broken",
        "reads",
        "bytes read",
        "writes",
        "bytes written",
        "syncs",
        "forgets",
        "errors",
        "host 50%",
        "99%",
        "max",
    ])];
    for device in devices {
        let interrupts = device
            .interrupts
            .map_or("?".to_owned(), |it| it.to_string());
        let mut row = vec![device.name.clone(), interrupts];
        row.extend([device.failed, device.broken].map(|it| it.to_string()));
        if let Some(host) = &device.host {
            let counts = [
                host.reads,
                host.bytes_read,
                host.writes,
                host.bytes_written,
                host.syncs,
                host.forgets,
                host.errors,
            ];
            row.extend(counts.iter().map(u64::to_string));
            row.extend(spread(&host.latency));
        }
        rows.push(row);
    }
    rows
}

/// What only one kind of device has, one per line.
fn figures(devices: &[Device]) -> Rows {
    let mut rows = vec![heading(&["figure of a device", ""])];
    for device in devices {
        let line = |(name, value): (&String, &u64)| {
            vec![format!("{} {name}", device.name), value.to_string()]
        };
        rows.extend(device.figures.iter().map(line));
    }
    rows
}

/// KVM's counters that are not zero, one per line. Their names are the kernel's, and may change
/// with its version.
fn kvm(report: &Report) -> Rows {
    let mut rows = vec![heading(&["counted by KVM", ""])];
    let Some(kvm) = &report.kvm else {
        return rows;
    };
    let mut line = |name: String, count: u64| {
        if count > 0 {
            rows.push(vec![name, count.to_string()]);
        }
    };
    for (name, count) in &kvm.vm {
        line(format!("vm {name}"), *count);
    }
    for (id, vcpu) in kvm.vcpus.iter().enumerate() {
        for (name, count) in vcpu {
            line(format!("vcpu{id} {name}"), *count);
        }
    }
    let uncounted = kvm.uncounted_exits().unwrap_or(0);
    line(
        "stage-2 faults and the host's interrupts".to_owned(),
        uncounted,
    );
    rows
}

/// The median, the 99th percentile and the maximum.
fn spread(latency: &Histogram) -> [String; 3] {
    [0.5, 0.99, 1.0].map(|q| latency.quantile(q).map_or("-".to_owned(), time))
}

/// Nanoseconds, in the unit that leaves three digits or fewer before the point.
pub(crate) fn time(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{:.1}us", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}ms", value / 1e6),
        _ => format!("{:.1}s", value / 1e9),
    }
}

/// Formats a table: the first column is left-aligned, the others right-aligned. A table with only a
/// heading is empty.
fn table(rows: &Rows) -> String {
    if rows.len() < 2 {
        return String::new();
    }
    let mut text = String::new();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell: &String| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), column) in row.iter().zip(&widths).zip(0..) {
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
