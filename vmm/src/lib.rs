//! Hartvisor, a microVM monitor for RISC-V: boots a guest on Linux KVM, or the same guest under
//! QEMU.
//!
//! ```text
//!   main ── cli ── config ───────────────── parses the arguments; their content as plain values
//!    │
//!    ├── run ─┬─ machine ─┬─ loader           kernel and initrd: opened, checked, placed
//!    │        │           ├─ host             disks and other files, sockets, the terminal
//!    │        │           ├─ dtb              a device tree from the user
//!    │        │           └─ layout           the address map
//!    │        ├─ control_loop ─ control       the main thread: requests, reboots
//!    │        │    vm ──────┬─ kvm ─ vcpu     the run loop: handles each exit
//!    │        │  (riscv64)  ├─ hart           exceptions that KVM leaves to user space
//!    │        │             ├─ board, sbi     devices in their slots; the SBI consoles
//!    │        │             ├─ fdt            the device tree
//!    │        │             ├─ platform       serial port, clock, finisher
//!    │        │             └─ consoles ─ host  the back ends of the consoles
//!    │        ├─ story                        what a run consists of, in the log
//!    │        ├─ qemu                         the same machine as a QEMU command
//!    │        └─ observe                      interface for observers; the crate observe records
//!    ├── vhost_user                           one device on a socket
//!    ├── external                             starts hartvisor-compare
//!    └── check                                what this host offers
//! ```
//!
//! Imports go downward only. KVM returns exits to this process, while QEMU has its own vCPUs, RAM
//! and bus. So both share only `run(&Machine) -> Result<End, Error>`, and `run` chooses between
//! them.

pub mod board;
pub mod check;
pub mod cli;
pub mod config;
pub mod consoles;
pub mod control;
#[cfg(target_arch = "riscv64")]
pub mod control_loop;
pub mod csr;
pub mod dtb;
pub mod error;
pub mod external;
pub mod fdt;
pub mod hart;
pub mod heap;
pub mod host;
pub mod isa;
#[cfg(target_arch = "riscv64")]
pub mod kvm;
#[cfg(not(target_arch = "riscv64"))]
#[path = "no_kvm.rs"]
pub mod kvm;
#[cfg(not(target_arch = "riscv64"))]
pub use kvm as control_loop;
pub mod layout;
pub mod loader;
pub mod logger;
pub mod machine;
pub mod observe;
pub mod platform;
pub mod qemu;
pub mod run;
pub mod sbi;
pub mod show;
pub mod shutdown;
pub mod signals;
pub mod size;
pub mod stderr;
pub mod story;
pub mod vcpu;
pub mod vhost_user;
#[cfg(target_arch = "riscv64")]
pub mod vm;
