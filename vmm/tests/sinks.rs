//! Guests on RISC-V KVM in the emulated host whose output nobody accepts: a full disk, and a reader
//! that has stopped. They continue, and end when they are told to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::kernel::Elf;
use support::lab::{self, guest, hartvisor, run, text};

/// A kernel that writes to the serial port for ever, whether that is busy or not.
const SERIAL: [u32; 4] = [
    0x1000_0537, // lui  a0, 0x10000
    0x02e0_0593, // li   a1, '.'
    0x00b5_0023, // sb   a1, 0(a0)
    0xffdf_f06f, // j    to the store
];

/// A kernel that writes bytes to the SBI debug console for ever.
const SBI: [u32; 6] = [
    0x4442_48b7, // lui  a7, 0x44424
    0x34e8_8893, // addi a7, a7, 0x34e: DBCN
    0x0020_0813, // li   a6, 2: write a byte
    0x02e0_0513, // li   a0, '.'
    0x0000_0073, // ecall
    0xff9f_f06f, // j    to the second li
];

#[test]
fn a_reader_that_has_stopped_loses_output_and_delays_no_end() {
    let folder = tempfile::tempdir().unwrap();
    for (name, code) in [("serial", &SERIAL[..]), ("sbi", &SBI[..])] {
        let code: Vec<_> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        let kernel = Elf::new(0x8020_0000, &code).bytes();
        std::fs::write(folder.path().join(name), kernel).unwrap();
    }
    // Both FIFOs are full, and stay open.
    let script = format!(
        r#"mkfifo /tmp/fifo /tmp/pipe
        exec 8<>/tmp/fifo 9<>/tmp/pipe
        timeout 1 yes >&8; timeout 1 yes >&9
        lose() {{
            name=$1; shift
            {vmm} run --accel kvm --pidfile "/tmp/$name.pid" --stats "/tmp/$name.stats" "$@" </dev/null & run=$!
            until [ -s "/tmp/$name.pid" ]; do sleep 0.1; done
            until grep -q '"output"' "/tmp/$name.stats"; do kill -USR1 $run; sleep 0.2; done
            kill -TERM $run; wait $run; echo "$name: status=$?"
        }}
        lose fifo --kernel {folder}/serial --console null --serial file:/tmp/fifo
        lose serial --kernel {folder}/serial >&9
        lose sbi --kernel {folder}/sbi >&9
        "#,
        vmm = hartvisor().display(),
        folder = folder.path().display(),
    );
    // The shell's own output must not go to the FIFO.
    let script = script.replace("echo \"$name", "echo >&2 \"$name");
    let lab = &mut lab::lab(&[], &[folder.path()]);
    let text = text(&run(lab.args(["sh", "-c", &script]), b""));
    for name in ["fifo", "serial", "sbi"] {
        assert!(text.contains(&format!("{name}: status=143")), "{text}");
    }
}

#[test]
fn a_full_disk_behind_the_console_costs_one_warning_and_the_output() {
    let script = format!(
        "{} run --accel kvm --kernel {} --console file:/dev/full --stats - </dev/null
         echo status=$?",
        hartvisor().display(),
        guest().display()
    );
    let output = run(lab::lab(&[], &[]).args(["sh", "-c", &script]), b"");
    let text = text(&output);
    assert!(text.contains("status=0"), "{text}");
    let warning = "cannot write to --console file:/dev/full: No space left";
    assert_eq!(text.matches(warning).count(), 1, "{text}");
    assert!(
        text.contains("bytes of output to --console file:/dev/full"),
        "{text}"
    );
}
