//! The bare-metal guest. The first word of the boot arguments that names a mode decides:
//!
//! - `test` (default): tests machine and devices, prints TAP, and powers off with reason 0 if
//!   nothing failed, else 1. A network card is tested with `ip=ADDRESS/PREFIX,GATEWAY`, or without
//!   that by DHCP; `udp=ADDRESS:PORT` names a host that sends a datagram back. Sockets are tested
//!   with `vsock=PORT`, a port of the host that sends all back, and `vsock-listen=PORT`, a port of
//!   this machine to which the host connects.
//! - `echo`: sends the console's input back, until Ctrl-d. With `ip=ADDRESS/PREFIX,GATEWAY` the
//!   network card answers pings meanwhile.
//! - `bench traps`: moves the same bytes in several ways and prints the times; `method=NAME`
//!   selects one.
//! - `faults`: executes instructions that trap, and prints the results.
//! - `poweroff`: powers off at once.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod echo;
#[cfg(target_os = "none")]
mod faults;
#[cfg(target_os = "none")]
mod modes;
#[cfg(target_os = "none")]
mod test;
#[cfg(target_os = "none")]
mod traps;

#[cfg(target_os = "none")]
guest::entry!(modes::main);

#[cfg(not(target_os = "none"))]
#[expect(clippy::print_stderr, reason = "a hint for a terminal")]
fn main() -> std::process::ExitCode {
    eprintln!(
        "guest: this is a bare-metal RISC-V program; build it for riscv64gc-unknown-none-elf \
         and start it as a kernel: hartvisor run --kernel …/guest"
    );
    std::process::ExitCode::from(2)
}
