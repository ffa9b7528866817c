//! The conformance guest on Hartvisor's devices and, for `make conform`, also on QEMU's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::conform::{
    Column, KVM, KVM_AIA, QEMU, Results, VHOST_USER, Verdict, counts, run, table, write,
};

/// Number of tests of the conformance guest.
const TESTS: usize = 432;

/// The tests that are skipped on our devices on KVM: the console of the run is no terminal. A device
/// that is not found would skip more.
const SKIPPED: [&str; 1] = ["5.3.4 SIZE: columns and rows can be read, also before FEATURES_OK"];

/// Asserts that all tests ran, none failed, and no others were skipped than expected.
fn assert_conforms(column: &Column, results: &Results) {
    let failed = results.iter().filter(|(_, (_, it))| !it.is_well());
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{}: {failed:#?}", column.name);
    assert_eq!(results.len(), TESTS, "{}", column.name);
    let skipped = results
        .values()
        .filter(|(_, it)| matches!(it, Verdict::Skip(_)));
    let skipped: Vec<_> = skipped.map(|(name, _)| name.as_str()).collect();
    assert_eq!(skipped, SKIPPED, "{}", column.name);
}

#[test]
fn our_devices_conform_on_kvm() {
    let results = run(&KVM);
    assert_conforms(&KVM, &results);
}

/// `make conform`: the table of all columns, written to docs/conformance.md if HARTVISOR_WRITE_DOCS
/// is set.
#[test]
#[ignore = "a table for people: make conform"]
fn every_column() {
    let aia = std::env::var_os("HARTVISOR_CONFORM_AIA").is_some();
    let columns = [if aia { &KVM_AIA } else { &KVM }, &QEMU, &VHOST_USER];
    let columns = columns.map(|column| (column, run(column)));
    let table = table(&columns);
    println!("{table}");
    if std::env::var_os("HARTVISOR_WRITE_DOCS").is_some() {
        write(&table);
    }
    for (column, results) in &columns {
        let [ok, failed, skipped] = counts(results);
        println!(
            "{}: {ok} ok, {failed} failed, {skipped} skipped",
            column.name
        );
        if column.ours {
            assert_conforms(column, results);
        }
    }
}
