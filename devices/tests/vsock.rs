//! The guest's socket driver against the socket device, in one process.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use devices::vsock::{Listener, Vsock};
use guest::Error;
use guest::virtio::feature;
use guest::vsock::{self, STREAMS_MAX, Stream, WANTED};
use support::{Page, Ram, TIMEOUT, timeout};
use tempfile::TempDir;

const RINGS: [u64; 4] = [
    0,
    feature::INDIRECT_DESC,
    feature::EVENT_IDX,
    feature::INDIRECT_DESC | feature::EVENT_IDX,
];

/// More bytes than all buffers in between hold together.
const MUCH: usize = 1 << 20;

struct Socket(UnixListener);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener for Socket {
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.0.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A device with its driver, and the directory of its sockets.
struct Rig {
    _page: Page,
    vsock: vsock::Vsock<Page>,
    folder: TempDir,
}

impl Rig {
    fn new(ram: &Ram, wanted: u64) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let page = Page::new(
            ram,
            Vsock::new(5, Arc::new(Socket(listener)), path).unwrap(),
        );
        let vsock = vsock::Vsock::new(page.probe(), &mut ram.dma(), wanted).unwrap();
        Rig { _page: page, vsock, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// The host's listener for a port.
    fn serve(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("s_{port}"))).unwrap()
    }

    /// Connects the guest to the host.
    fn dial(&mut self, port: u32) -> (Stream, UnixStream) {
        let listener = self.serve(port);
        let stream = self.vsock.connect(port, &mut timeout()).unwrap();
        let far = listener.accept().unwrap().0;
        far.set_read_timeout(Some(TIMEOUT)).unwrap();
        far.set_write_timeout(Some(TIMEOUT)).unwrap();
        (stream, far)
    }

    fn receive(&mut self, stream: &Stream, len: usize) -> Vec<u8> {
        let mut got = vec![0; len];
        let mut at = 0;
        while at < len {
            let count = self.vsock.receive(stream, &mut got[at..], &mut timeout());
            assert_ne!(count, Ok(0), "the end after {at} of {len} bytes");
            at += count.unwrap();
        }
        got
    }
}

/// Bytes that show every loss and every swap.
fn text(len: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes());
    words.take(len).collect()
}

#[test]
fn bytes_pass_in_both_directions_with_each_ring() {
    for ring in RINGS {
        let ram = Ram::new();
        let mut rig = Rig::new(&ram, ring);
        assert_eq!(rig.vsock.cid(), 5);
        let (stream, mut far) = rig.dial(52);
        let sent = text(100_000);
        for len in [1, 44, 4052, 4053, 65_536] {
            rig.vsock
                .send(&stream, &sent[..len], &mut timeout())
                .unwrap();
            let mut got = vec![0; len];
            far.read_exact(&mut got).unwrap();
            assert!(got == sent[..len], "{len} bytes of the guest");
            far.write_all(&sent[..len]).unwrap();
            assert!(
                rig.receive(&stream, len) == sent[..len],
                "{len} bytes of the host"
            );
        }
        rig.vsock.close(stream, &mut timeout()).unwrap();
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_connection_of_the_host_is_accepted_and_each_side_ends_its_data() {
    let ram = Ram::new();
    let mut rig = Rig::new(&ram, WANTED);
    rig.vsock.listen(1234);
    let mut far = UnixStream::connect(rig.path()).unwrap();
    far.set_read_timeout(Some(TIMEOUT)).unwrap();
    far.write_all(b"CONNECT 1234\nquestion").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let stream = rig.vsock.accept(&mut timeout()).unwrap();
    assert_eq!(rig.receive(&stream, 8), b"question");
    let end = rig.vsock.receive(&stream, &mut [0; 8], &mut timeout());
    assert_eq!(end, Ok(0));
    rig.vsock.send(&stream, b"answer", &mut timeout()).unwrap();
    rig.vsock.shutdown_send(&stream, &mut timeout()).unwrap();
    let mut answer = String::new();
    far.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "OK 1073741824\nanswer");
    rig.vsock.close(stream, &mut timeout()).unwrap();

    // Another port is refused.
    let mut far = UnixStream::connect(rig.path()).unwrap();
    far.set_read_timeout(Some(TIMEOUT)).unwrap();
    far.write_all(b"CONNECT 1235\n").unwrap();
    let refused = thread::scope(|scope| {
        let reads = scope.spawn(|| far.read(&mut [0]).unwrap());
        while !reads.is_finished() {
            // The driver acts when it is called.
            let nobody = rig.vsock.accept(&mut || false);
            assert_eq!(nobody, Err(Error::Timeout));
            thread::yield_now();
        }
        reads.join().unwrap()
    });
    assert_eq!(refused, 0);
}

#[test]
fn a_port_without_a_listener_is_refused_as_often_as_it_is_tried() {
    let ram = Ram::new();
    let mut rig = Rig::new(&ram, WANTED);
    for port in 0..200 {
        let refused = rig.vsock.connect(port, &mut timeout());
        assert_eq!(refused, Err(Error::ConnectionReset));
    }
}

#[test]
fn a_stream_stops_when_the_host_takes_nothing_and_goes_on_when_it_does() {
    let ram = Ram::new();
    let mut rig = Rig::new(&ram, WANTED);
    let (stream, mut far) = rig.dial(52);
    let much = text(MUCH);
    let mut sent = 0;
    let mut wait = timeout();
    let mut idle = 0;
    // At least what the device keeps, and until it seems to give no more credit.
    while idle < 1000 || sent < 64 << 10 {
        let count = rig.vsock.send_some(&stream, &much[sent..], &mut timeout());
        let count = count.unwrap();
        sent += count;
        idle = if count > 0 { 0 } else { idle + 1 };
        assert!(wait(), "{sent} bytes were taken");
    }
    assert!(sent < MUCH);
    let mut got = vec![0; MUCH];
    thread::scope(|scope| {
        scope.spawn(|| far.read_exact(&mut got).unwrap());
        rig.vsock
            .send(&stream, &much[sent..], &mut timeout())
            .unwrap();
    });
    assert!(got == much);
}

#[test]
fn the_device_sends_no_more_than_the_driver_has_room_for() {
    let ram = Ram::new();
    let mut rig = Rig::new(&ram, WANTED);
    let (stream, mut far) = rig.dial(52);
    let (other, mut beside) = rig.dial(53);
    let much = text(MUCH);
    thread::scope(|scope| {
        scope.spawn(|| far.write_all(&much).unwrap());
        // The driver would reset the stream, but its neighbour goes on.
        for _ in 0..20 {
            beside.write_all(b"?").unwrap();
            assert_eq!(rig.receive(&other, 1), b"?");
        }
        assert!(rig.receive(&stream, MUCH) == much);
    });
}

#[test]
fn places_are_free_again_after_streams_of_either_side_have_ended() {
    let ram = Ram::new();
    let mut rig = Rig::new(&ram, WANTED);
    for round in 0..50 {
        let mut streams: Vec<_> = (0..STREAMS_MAX)
            .map(|nth| rig.dial(u32::try_from(100 * round + nth).unwrap()))
            .collect();
        let full = rig.vsock.connect(1, &mut timeout());
        assert_eq!(full, Err(Error::Streams));
        // The host ends the first, the guest the others.
        let (stream, far) = streams.remove(0);
        drop(far);
        let end = rig.vsock.receive(&stream, &mut [0; 1], &mut timeout());
        assert_eq!(end, Ok(0));
        rig.vsock.close(stream, &mut timeout()).unwrap();
        for (stream, mut far) in streams {
            rig.vsock.close(stream, &mut timeout()).unwrap();
            assert_eq!(far.read(&mut [0]).unwrap(), 0);
        }
    }
}

#[test]
fn a_reset_of_the_device_ends_all_connections() {
    let ram = Ram::new();
    let mut rig = Rig::new(&ram, WANTED);
    let (_stream, mut far) = rig.dial(52);
    let mut transport = rig.vsock.into_transport();
    transport.reset().unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    let mut vsock = vsock::Vsock::new(transport, &mut ram.dma(), WANTED).unwrap();
    let mut wait = timeout();
    // Its listener has not gone, but its path is taken.
    let path = rig.folder.path().join("s_54");
    let listener = UnixListener::bind(path).unwrap();
    let stream = vsock.connect(54, &mut wait).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    vsock.send(&stream, b"again", &mut wait).unwrap();
    let mut got = [0; 5];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"again");
}
