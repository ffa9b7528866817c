//! The bare-metal guest on every kind of host, with each interrupt controller of the host, on 1, 2
//! and 4 vCPUs, which is more than the host has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::File;

mod support;

use support::lab::{self, guest, hartvisor, run, text};
use support::tap;
use support::tested::Row;

const PLIC: &str = "# PLIC: ";
const AIA: &str = "# APLIC (MSI) and IMSIC: ";
/// Marks the start of a run's output.
const MARK: &str = "matrix: ";

/// Runs the guest's test mode on a host with each of these values of `--irqchip`, and asserts that
/// it finds the expected controller.
fn matrix(host: &[&str], irqchips: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let runs: Vec<_> = irqchips
        .iter()
        .flat_map(|(irqchip, found)| ["1", "2", "4"].map(|vcpus| (*irqchip, *found, vcpus)))
        .collect();
    // All runs share one start of the host.
    let mut script = String::new();
    for (irqchip, _, vcpus) in &runs {
        script += &format!(
            "echo '{MARK}{irqchip} {vcpus}'
             echo typed | {} run --accel kvm --kernel {} --disk {} --irqchip {irqchip} --cpus {vcpus} --cmdline test 2>&1
             echo status=$?
            ",
            hartvisor().display(),
            guest().display(),
            disk.display(),
        );
    }
    let mut command = lab::lab(host, &[folder.path()]);
    let output = run(command.args(["sh", "-c", &script]), b"");
    let text = text(&output);
    for (irqchip, found, vcpus) in runs {
        let _row = Row::begin("our bare-metal guest", "ELF", host, irqchip, vcpus);
        let run = text
            .split(MARK)
            .find(|run| run.starts_with(&format!("{irqchip} {vcpus}\n")))
            .expect(&text);
        assert!(run.contains(found), "{found:?} is not in {run}");
        let skips: &[&str] = match vcpus {
            "1" => &["read-only", "one hart"],
            _ => &["read-only"],
        };
        tap::assert_passed(run, skips);
        assert!(run.contains("status=0"), "{run}");
    }
}

#[test]
fn the_guest_passes_on_a_host_without_aia() {
    matrix(&[], &[("auto", PLIC), ("plic", PLIC)]);
}

#[test]
fn the_guest_passes_on_a_host_with_aia() {
    matrix(&["--aia"], &[("aia", AIA), ("plic", PLIC)]);
}

#[test]
fn the_guest_passes_on_a_host_with_guest_interrupt_files() {
    matrix(&["--aia-guests", "4"], &[("auto", AIA), ("plic", PLIC)]);
}
