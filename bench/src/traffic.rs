//! Transfers between guest and host. Both sides run this code, in opposite roles, and verify what
//! they have received after the clock has stopped.
//!
//! ```text
//!   receiver ── credit ──▶ sender ── data ──▶ receiver ── credit ──▶ …
//! ```
//! The receiver sends a byte, the credit, before the data and after it: so a transfer starts and
//! ends on both sides. Of datagrams, each `WINDOW` needs a credit, so that no queue overflows.

use std::io::{self, Read, Write};
use std::net::UdpSocket;

use crate::pattern::{self, BLOCK};
use crate::protocol::{Direction, Kind, Test};

/// The host's address.
pub const HOST: &str = "192.0.2.1";

/// The guest's address and the length of its prefix.
pub const GUEST: &str = "192.0.2.2/24";

/// Datagrams per credit: as many as fit into a socket's buffer (net.core.rmem_default) if each takes
/// a page and more.
const WINDOW: usize = 32;

/// Bytes per write to a stream.
const PART: usize = 128 << 10;

/// The port of a test, which it has for itself.
pub fn port(kind: Kind) -> u16 {
    let index = Kind::ALL.iter().position(|&it| it == kind).unwrap_or(0);
    5000 + u16::try_from(index).unwrap_or(0)
}

/// A stream socket of any kind.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A connected socket.
pub enum Socket {
    /// Of a stream.
    Stream(Box<dyn Stream>),
    /// Of datagrams.
    Datagrams(UdpSocket),
}

/// One side of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest's.
    Guest,
    /// The host's.
    Host,
}

enum Role {
    Send,
    Receive,
    Ask,
    Answer,
}

/// The work of one side in a test. All memory is allocated before it starts.
pub struct Job {
    socket: Socket,
    role: Role,
    /// Bytes of a datagram.
    length: usize,
    /// What is sent, by whichever side.
    data: Vec<u8>,
    received: Vec<u8>,
}

impl Job {
    /// The work of `side`; `None` if the test transfers nothing.
    pub fn new(test: Test, socket: Socket, side: Side) -> Option<Job> {
        let length = test.kind.transfer()?.length;
        let role = match (test.kind.direction(), side) {
            (Direction::ToHost, Side::Guest) | (Direction::ToGuest, Side::Host) => Role::Send,
            (Direction::ToHost, Side::Host) | (Direction::ToGuest, Side::Guest) => Role::Receive,
            (Direction::Both, Side::Guest) => Role::Ask,
            (Direction::Both, Side::Host) => Role::Answer,
        };
        let total = length * test.operations;
        let mut data = vec![0; total.next_multiple_of(BLOCK)];
        pattern::fill(&mut data, 0, 1);
        data.truncate(total);
        // Not zero, so that the pages are allocated.
        Some(Job { socket, role, length, data, received: vec![0xaa; total] })
    }

    /// Transfers the data.
    ///
    /// # Errors
    /// Of the socket; `WouldBlock` if it has a time limit and a datagram is lost.
    pub fn run(&mut self) -> io::Result<()> {
        let Job { socket, role, length, data, received } = self;
        match (socket, role) {
            (Socket::Stream(stream), Role::Send | Role::Ask) => {
                stream.read_exact(&mut [0])?;
                for part in data.chunks(PART) {
                    stream.write_all(part)?;
                }
                stream.read_exact(&mut [0])
            }
            (Socket::Stream(stream), Role::Receive | Role::Answer) => {
                stream.write_all(&[0])?;
                stream.read_exact(received)?;
                stream.write_all(&[0])
            }
            (Socket::Datagrams(udp), Role::Send) => {
                for (index, datagram) in data.chunks(*length).enumerate() {
                    if index % WINDOW == 0 {
                        receive(udp, &mut [0])?;
                    }
                    udp.send(datagram)?;
                }
                receive(udp, &mut [0])
            }
            (Socket::Datagrams(udp), Role::Receive) => {
                for (index, datagram) in received.chunks_mut(*length).enumerate() {
                    if index % WINDOW == 0 {
                        udp.send(&[0])?;
                    }
                    receive(udp, datagram)?;
                }
                udp.send(&[0]).map(drop)
            }
            (Socket::Datagrams(udp), Role::Ask) => {
                let datagrams = data.chunks(*length).zip(received.chunks_mut(*length));
                for (question, answer) in datagrams {
                    udp.send(question)?;
                    receive(udp, answer)?;
                }
                Ok(())
            }
            (Socket::Datagrams(udp), Role::Answer) => {
                for datagram in received.chunks_mut(*length) {
                    receive(udp, datagram)?;
                    udp.send(datagram)?;
                }
                Ok(())
            }
        }
    }

    /// Whether what was received is what was sent.
    pub fn is_intact(&self) -> bool {
        matches!(self.role, Role::Send) || self.received == self.data
    }
}

/// Receives a datagram of exactly this length.
fn receive(udp: &UdpSocket, datagram: &mut [u8]) -> io::Result<()> {
    match udp.recv(datagram)? {
        length if length == datagram.len() => Ok(()),
        length => Err(io::Error::other(format!(
            "a datagram of {length} bytes came, not of {}",
            datagram.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::protocol::{Kind, Over};

    fn pair(over: Over) -> [Socket; 2] {
        if over != Over::Udp {
            let (guest, host) = UnixStream::pair().unwrap();
            return [guest, host].map(|it| Socket::Stream(Box::new(it)));
        }
        let [guest, host] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        guest.connect(host.local_addr().unwrap()).unwrap();
        host.connect(guest.local_addr().unwrap()).unwrap();
        [guest, host].map(Socket::Datagrams)
    }

    #[test]
    fn each_transfer_is_intact_on_both_sides() {
        let transfers = Kind::ALL
            .into_iter()
            .filter(|kind| kind.transfer().is_some());
        for kind in transfers {
            let test = Test { kind, operations: 3 };
            let [guest, host] = pair(kind.transfer().unwrap().over);
            let mut jobs = [(guest, Side::Guest), (host, Side::Host)]
                .map(|(socket, side)| Job::new(test, socket, side).unwrap());
            thread::scope(|scope| {
                for job in &mut jobs {
                    scope.spawn(|| job.run().unwrap());
                }
            });
            assert!(jobs.iter().all(Job::is_intact), "{test}");
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let test = Test { kind: Kind::UdpSend64, operations: 1 };
        let [guest, host] = pair(Over::Udp);
        let mut guest = Job::new(test, guest, Side::Guest).unwrap();
        let mut host = Job::new(test, host, Side::Host).unwrap();
        guest.data[63] ^= 1;
        thread::scope(|scope| {
            scope.spawn(|| guest.run().unwrap());
            host.run().unwrap();
        });
        assert!(!host.is_intact());
    }

    #[test]
    fn each_kind_has_its_own_port() {
        let ports: BTreeSet<u16> = Kind::ALL.into_iter().map(port).collect();
        assert_eq!(ports.len(), Kind::ALL.len());
    }
}
