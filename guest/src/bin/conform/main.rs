//! The conformance guest: checks the virtio-mmio devices of any machine against the specification
//! (virtio 1.3), with one TAP point per requirement that a driver can see, and then acts as a
//! hostile or broken driver.
//!
//! ```text
//!   conform                 all tests
//!   conform from=31         test 31 and all later ones: for use after test 30 killed the machine
//!   conform only=7,31       these tests
//!   conform list            their numbers, sections and names
//! ```
//!
//! It reports on the firmware's console. It overwrites a disk: the one with the serial number
//! `conform`, or else the only one. It powers off with reason 0 if nothing failed, else 1.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod device;
#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod plain;
#[cfg(target_os = "none")]
mod program;
#[cfg(target_os = "none")]
mod rig;
#[cfg(target_os = "none")]
mod tests;

#[cfg(target_os = "none")]
guest::entry!(program::main);

#[cfg(not(target_os = "none"))]
#[expect(clippy::print_stderr, reason = "a hint for a terminal")]
fn main() -> std::process::ExitCode {
    eprintln!(
        "conform: this is a bare-metal RISC-V program; build it for riscv64gc-unknown-none-elf \
         and start it as a kernel: hartvisor run --kernel …/conform --disk scratch.img,serial=conform"
    );
    std::process::ExitCode::from(2)
}
