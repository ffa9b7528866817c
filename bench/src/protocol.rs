//! The messages between `load`, in the guest, and `meter`, in the host, over the guest's console.
//!
//! ```text
//!   load:  @@ init                   it runs, and the console works
//!   load:  @@ ready read4k           the test is prepared; it waits
//!   meter: go
//!   load:  @@ done read4k 256 18944000 256 0   operations, nanoseconds, interrupts of devices,
//!                                    frames of the network; data is verified after that
//!   load:  @@ bye                    it waits, and powers off at the next "go"
//!   load:  @@ fail TEXT              an error; it powers off
//! ```
//! A console test prints its [`crate::pattern::lines`] between "go" and "done".

use std::fmt;
use std::str::FromStr;

/// Prefix of every line of `load`.
pub const MARK: &str = "@@ ";

/// The reply of `meter`.
pub const GO: &str = "go\n";

/// A line of `load`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The guest's init runs.
    Init,
    /// The test of this name is prepared.
    Ready(String),
    /// The test is complete.
    Done(Outcome),
    /// All tests are complete.
    Bye,
    /// An error.
    Fail(String),
}

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// The number of operations.
    pub operations: u64,
    /// Nanoseconds of the guest's clock for all of them.
    pub nanoseconds: u64,
    /// The guest's interrupts from virtio devices.
    pub interrupts: u64,
    /// Frames that its network card sent and received.
    pub frames: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{MARK}")?;
        match self {
            Line::Init => write!(out, "init"),
            Line::Ready(name) => write!(out, "ready {name}"),
            Line::Done(Outcome { name, operations, nanoseconds, interrupts, frames }) => {
                write!(
                    out,
                    "done {name} {operations} {nanoseconds} {interrupts} {frames}"
                )
            }
            Line::Bye => write!(out, "bye"),
            Line::Fail(text) => write!(out, "fail {text}"),
        }
    }
}

impl FromStr for Line {
    type Err = ();

    /// Parses a line without its newline. Anything else on the console, such as the kernel's log,
    /// is an error.
    fn from_str(line: &str) -> Result<Line, ()> {
        let (kind, rest) = match line.strip_prefix(MARK).ok_or(())?.split_once(' ') {
            Some((kind, rest)) => (kind, rest),
            None => (line.strip_prefix(MARK).ok_or(())?, ""),
        };
        let words: Vec<&str> = rest.split(' ').collect();
        match (kind, words.as_slice()) {
            ("init", [""]) => Ok(Line::Init),
            ("bye", [""]) => Ok(Line::Bye),
            ("ready", &[name]) if !name.is_empty() => Ok(Line::Ready(name.to_owned())),
            ("done", &[name, ref numbers @ ..]) => {
                let numbers: Result<Vec<u64>, _> = numbers.iter().map(|it| it.parse()).collect();
                match numbers.map_err(drop)?.as_slice() {
                    &[operations, nanoseconds, interrupts, frames] => Ok(Line::Done(Outcome {
                        name: name.to_owned(),
                        operations,
                        nanoseconds,
                        interrupts,
                        frames,
                    })),
                    _ => Err(()),
                }
            }
            ("fail", _) => Ok(Line::Fail(rest.to_owned())),
            _ => Err(()),
        }
    }
}

/// A test of `load`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its kind.
    pub kind: Kind,
    /// The number of operations.
    pub operations: usize,
}

/// The operation of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: the cost of the protocol.
    Null,
    /// A random 4 KiB read, one in flight.
    Read4k,
    /// A random 4 KiB write, one in flight.
    Write4k,
    /// A random 4 KiB read, 32 in flight.
    Read4kDeep,
    /// A random 4 KiB write, 32 in flight.
    Write4kDeep,
    /// A sequential 1 MiB read.
    Read1m,
    /// A sequential 1 MiB write.
    Write1m,
    /// A 4 KiB write and a flush.
    Sync4k,
    /// A random 4 KiB read, one in flight from each vCPU at the same time.
    Read4kEach,
    /// A 4 KiB write to the console.
    Console4k,
    /// A line of 64 bytes to the console.
    Console64,
    /// 1 MiB by TCP from the guest to the host.
    TcpSend,
    /// 1 MiB by TCP from the host to the guest.
    TcpReceive,
    /// A datagram of 64 bytes from the guest to the host.
    UdpSend64,
    /// A datagram of 64 bytes from the host to the guest.
    UdpReceive64,
    /// A datagram of 1400 bytes from the guest to the host.
    UdpSend1400,
    /// A datagram of 1400 bytes from the host to the guest.
    UdpReceive1400,
    /// A datagram of 1 byte to the host and back.
    UdpEcho,
    /// A second in which nothing is sent.
    Idle,
    /// 1 MiB from a socket of the guest (AF_VSOCK) to a Unix socket of the host.
    VsockSend,
    /// 1 MiB from a Unix socket of the host to a socket of the guest.
    VsockReceive,
}

impl Kind {
    /// All kinds, in the order of the table.
    pub const ALL: [Kind; 21] = [
        Kind::Null,
        Kind::Read4k,
        Kind::Write4k,
        Kind::Read4kDeep,
        Kind::Write4kDeep,
        Kind::Read1m,
        Kind::Write1m,
        Kind::Sync4k,
        Kind::Read4kEach,
        Kind::Console4k,
        Kind::Console64,
        Kind::TcpSend,
        Kind::TcpReceive,
        Kind::UdpSend64,
        Kind::UdpReceive64,
        Kind::UdpSend1400,
        Kind::UdpReceive1400,
        Kind::UdpEcho,
        Kind::Idle,
        Kind::VsockSend,
        Kind::VsockReceive,
    ];

    /// Those of the disk and the console, in the order in which they run.
    pub const LOCAL: [Kind; 11] = *Kind::ALL.first_chunk().unwrap();

    /// Returns its name in lines, tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Read4k => "read4k",
            Kind::Write4k => "write4k",
            Kind::Read4kDeep => "read4k-32",
            Kind::Write4kDeep => "write4k-32",
            Kind::Read1m => "read1m",
            Kind::Write1m => "write1m",
            Kind::Sync4k => "sync4k",
            Kind::Read4kEach => "read4k-each",
            Kind::Console4k => "console4k",
            Kind::Console64 => "console64",
            Kind::TcpSend => "tcp-send",
            Kind::TcpReceive => "tcp-receive",
            Kind::UdpSend64 => "udp64-send",
            Kind::UdpReceive64 => "udp64-receive",
            Kind::UdpSend1400 => "udp1400-send",
            Kind::UdpReceive1400 => "udp1400-receive",
            Kind::UdpEcho => "udp-echo",
            Kind::Idle => "idle",
            Kind::VsockSend => "vsock-send",
            Kind::VsockReceive => "vsock-receive",
        }
    }

    /// Returns the transfer between guest and host that the operation is.
    pub fn transfer(self) -> Option<Transfer> {
        let stream = |over| Transfer { over, length: MIB };
        let datagram = |length| Transfer { over: Over::Udp, length };
        match self {
            Kind::TcpSend | Kind::TcpReceive => Some(stream(Over::Tcp)),
            Kind::VsockSend | Kind::VsockReceive => Some(stream(Over::Vsock)),
            Kind::UdpSend64 | Kind::UdpReceive64 => Some(datagram(64)),
            Kind::UdpSend1400 | Kind::UdpReceive1400 => Some(datagram(1400)),
            Kind::UdpEcho => Some(datagram(1)),
            _ => None,
        }
    }

    /// Returns the direction of its transfer.
    pub fn direction(self) -> Direction {
        match self {
            Kind::TcpReceive | Kind::UdpReceive64 | Kind::UdpReceive1400 | Kind::VsockReceive => {
                Direction::ToGuest
            }
            Kind::UdpEcho => Direction::Both,
            _ => Direction::ToHost,
        }
    }

    /// Whether its speed is given in MiB/s: an operation is 1 MiB.
    pub fn is_stream(self) -> bool {
        let length = self.transfer().map(|transfer| transfer.length);
        matches!(self, Kind::Read1m | Kind::Write1m) || length == Some(MIB)
    }

    /// Returns the bytes that an operation prints on the console.
    pub fn prints(self) -> Option<usize> {
        match self {
            Kind::Console4k => Some(4096),
            Kind::Console64 => Some(64),
            _ => None,
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Kind, ()> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.kind.name(), self.operations)
    }
}

impl FromStr for Test {
    type Err = ();

    /// Parses `NAME:OPERATIONS`.
    fn from_str(text: &str) -> Result<Test, ()> {
        let (name, operations) = text.split_once(':').ok_or(())?;
        Ok(Test { kind: name.parse()?, operations: operations.parse().map_err(drop)? })
    }
}

/// Bytes of an operation of a stream.
pub const MIB: usize = 1 << 20;

/// What an operation transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The kind of socket.
    pub over: Over,
    /// Bytes of an operation.
    pub length: usize,
}

/// The socket of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// The socket device.
    Vsock,
}

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest.
    ToHost,
    /// From the host.
    ToGuest,
    /// The host sends back what the guest sends.
    Both,
}

/// Modules of the guest's kernel, in the order in which they can be loaded. Those of the network
/// and of the socket device follow the first [`ALWAYS`].
pub const MODULES: [&str; 8] = [
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

/// The number of modules that every guest has.
pub const ALWAYS: usize = 2;

/// The kernel's command line passes the work of `load` as environment variables of init: the seed,
/// and the tests separated by commas.
pub const SEED: &str = "BENCH_SEED";
/// See [`SEED`].
pub const TESTS: &str = "BENCH_TESTS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_it_was_written() {
        let done = Outcome {
            name: "read4k".to_owned(),
            operations: 256,
            nanoseconds: 18_944_000,
            interrupts: 257,
            frames: 2,
        };
        for line in [
            Line::Init,
            Line::Ready("read4k".to_owned()),
            Line::Done(done),
            Line::Bye,
            Line::Fail("block 3 is not what was written".to_owned()),
        ] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
    }

    #[test]
    fn what_is_no_line_of_load_is_refused() {
        for text in [
            "",
            "@@ ",
            "@@ ready",
            "@@ done read4k 1",
            "@@ done a 1 2 3",
            "@@ done a 1 2 3 b",
            "@@ done a 1 2 3 4 5",
            "@@ initial",
            "[    0.0] @@ init",
        ] {
            assert_eq!(text.parse::<Line>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn every_test_has_a_name_that_leads_back_to_it() {
        for kind in Kind::ALL {
            let test = Test { kind, operations: 3 };
            assert_eq!(test.to_string().parse(), Ok(test));
        }
        assert_eq!("nothing:3".parse::<Test>(), Err(()));
        assert_eq!("null".parse::<Test>(), Err(()));
    }
}
