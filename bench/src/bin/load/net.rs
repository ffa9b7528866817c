//! The guest's end of the network and of the socket device, and what the guest counts.

use std::fs::{self, File};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench::protocol::{Over, Test};
use bench::traffic::{GUEST, HOST, Job, Side, Socket, port};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// Sets the interface's address. It is in the initramfs only if there is a network.
pub(crate) const BUSYBOX: &str = "/busybox";

const CARD: &str = "eth0";

/// The host's number (VMADDR_CID_HOST).
const HOST_CID: u32 = 2;

/// Sets up the network card. It carries only what tests send: no IPv6, which speaks by itself.
pub(crate) fn start() -> Result<()> {
    fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
    for arguments in [
        ["ip", "addr", "add", GUEST, "dev", CARD].as_slice(),
        &["ip", "link", "set", CARD, "up"],
    ] {
        let status = Command::new(BUSYBOX).args(arguments).status()?;
        ensure!(status.success(), "{arguments:?} ended with {status}");
    }
    Ok(())
}

/// Connects to the host and prepares the guest's side; `None` if the test transfers nothing.
pub(crate) fn prepare(test: Test) -> Result<Option<Job>> {
    let Some(transfer) = test.kind.transfer() else {
        return Ok(None);
    };
    let port = port(test.kind);
    let socket = match transfer.over {
        Over::Tcp => {
            let stream = TcpStream::connect((HOST, port)).context("connect to the host")?;
            stream.set_nodelay(true)?;
            Socket::Stream(Box::new(stream))
        }
        Over::Udp => {
            let udp = UdpSocket::bind("0.0.0.0:0")?;
            udp.connect((HOST, port))?;
            // This tells the host our address.
            udp.send(&[0])?;
            Socket::Datagrams(udp)
        }
        Over::Vsock => {
            let none = SockFlag::empty();
            let vsock = socket(AddressFamily::Vsock, SockType::Stream, none, None)?;
            let host = VsockAddr::new(HOST_CID, port.into());
            connect(vsock.as_raw_fd(), &host).context("connect to the host's socket")?;
            Socket::Stream(Box::new(File::from(vsock)))
        }
    };
    Ok(Job::new(test, socket, Side::Guest))
}

/// Counts since the start: interrupts of virtio devices, and frames of the network card.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) interrupts: u64,
    pub(crate) frames: u64,
}

impl Seen {
    pub(crate) fn now() -> Result<Seen> {
        let interrupts = fs::read_to_string("/proc/interrupts").context("/proc/interrupts")?;
        let network = fs::read_to_string("/proc/net/dev").context("/proc/net/dev")?;
        Ok(Seen { interrupts: of_virtio(&interrupts), frames: of_card(&network) })
    }
}

/// The first line names the CPUs. In the others, a number for each of them follows the interrupt's,
/// and the device's name is the last word.
fn of_virtio(interrupts: &str) -> u64 {
    let cpus = interrupts
        .lines()
        .next()
        .map_or(0, |line| line.split_whitespace().count());
    let lines = interrupts.lines().filter(|line| {
        line.split(' ')
            .next_back()
            .is_some_and(|name| name.starts_with("virtio"))
    });
    lines
        .flat_map(|line| line.split_whitespace().skip(1).take(cpus))
        .filter_map(|number| number.parse::<u64>().ok())
        .sum()
}

/// After the interface's name: 8 numbers about what was received, then those about what was sent.
/// Of each, the second is that of packets.
fn of_card(network: &str) -> u64 {
    let line = network
        .lines()
        .find_map(|line| line.trim().strip_prefix(CARD)?.strip_prefix(':'));
    let numbers = line
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .step_by(8)
        .take(2);
    numbers
        .filter_map(|number| number.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interrupts_of_virtio_devices_count() {
        let text = "           CPU0       CPU1       \n \
                    10:       1000       2000  RISC-V INTC   5 Edge      riscv-timer\n \
                    12:         30          4  APLIC-MSI-0000:00   1 Level     virtio0\n \
                    13:        500          0  APLIC-MSI-0000:00   2 Level     virtio1\n\
                    IPI0:         9          9  Rescheduling interrupts\n";
        assert_eq!(of_virtio(text), 534);
        assert_eq!(of_virtio(""), 0);
    }

    #[test]
    fn frames_of_the_card_count_in_both_directions() {
        let text = "Inter-|   Receive                        |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n    \
                    lo:      84       1    0    0    0     0          0         0       84       1    0\n  \
                    eth0:  1000      20    0    0    0     0          0         0     2000       3    0\n";
        assert_eq!(of_card(text), 23);
        assert_eq!(of_card(""), 0);
    }
}
