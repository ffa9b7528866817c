//! A relay with a socket, and one with a pseudo-terminal.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

struct Rig {
    folder: tempfile::TempDir,
    /// Where the guest's devices read and write.
    guest: Option<UnixStream>,
    relay: Option<Relay>,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::listen("--port", &folder.path().join("socket")).unwrap();
    let (guest, theirs) = UnixStream::pair().unwrap();
    guest
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    Rig { folder, guest: Some(guest), relay: Some(Relay::start(theirs, peer).unwrap()) }
}

impl Rig {
    fn guest(&self) -> &UnixStream {
        self.guest.as_ref().unwrap()
    }

    /// A client known to the relay: its first byte has arrived.
    fn client(&self) -> UnixStream {
        let mut client = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client.write_all(b"!").unwrap();
        assert_eq!(self.receive(1), b"!");
        client
    }

    fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.guest().read_exact(&mut bytes).unwrap();
        bytes
    }
}

fn read(mut from: impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn both_directions_arrive_whole() {
    let rig = rig();
    let client = rig.client();
    let sent: Vec<u8> = (0..1_u32 << 20)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    for (mut from, to) in [(rig.guest(), &client), (&client, rig.guest())] {
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(&sent).unwrap());
            assert!(read(to, sent.len()) == sent);
        });
    }
}

#[test]
fn without_a_client_output_is_dropped_and_the_next_client_is_served() {
    let rig = rig();
    for _ in 0..3 {
        // More than all buffers on the way hold: it would block if nobody read it.
        rig.guest().write_all(&vec![b'.'; 1 << 20]).unwrap();
        let client = rig.client();
        rig.guest().write_all(b"here").unwrap();
        // Output in transit when the client connected may come first.
        let mut seen = Vec::new();
        while !seen.ends_with(b"here") {
            seen.extend(read(&client, 1));
        }
        drop(client);
    }
}

#[test]
fn a_second_client_is_turned_away_while_the_first_is_there() {
    let rig = rig();
    let first = rig.client();
    let second = UnixStream::connect(rig.folder.path().join("socket")).unwrap();
    second
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!((&second).read(&mut [0]).unwrap(), 0);
    rig.guest().write_all(b"first").unwrap();
    assert_eq!(read(&first, 5), b"first");
}

#[test]
fn a_client_that_has_sent_all_still_reads() {
    let rig = rig();
    let client = rig.client();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    rig.guest().write_all(b"answer").unwrap();
    assert_eq!(read(&client, 6), b"answer");
}

#[test]
fn the_last_output_arrives_and_the_socket_is_removed() {
    let mut rig = rig();
    let client = rig.client();
    rig.guest().write_all(b"goodbye").unwrap();
    drop(rig.guest.take());
    drop(rig.relay.take());
    let mut seen = Vec::new();
    (&client).read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"goodbye");
    assert!(!rig.folder.path().join("socket").exists());
}

#[test]
fn a_pseudo_terminal_serves_whoever_opens_it() {
    let (peer, name) = Peer::pty().unwrap();
    let (mut guest, theirs) = UnixStream::pair().unwrap();
    guest
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let _relay = Relay::start(theirs, peer).unwrap();
    guest.write_all(&vec![b'.'; 1 << 20]).unwrap();
    for round in 0..2 {
        let mut client = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags_noctty()
            .open(&name)
            .unwrap();
        client.write_all(b"\x03typed\r").unwrap();
        assert_eq!(read(&guest, 7), b"\x03typed\r", "round {round}");
        guest.write_all(b"a\n").unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"a\n") {
            seen.extend(read(&client, 1));
        }
    }
    // Opened, written and closed at once.
    let mut client = OpenOptions::new()
        .write(true)
        .custom_flags_noctty()
        .open(&name)
        .unwrap();
    client.write_all(b"short").unwrap();
    drop(client);
    assert_eq!(read(&guest, 5), b"short");
}

trait NoCtty {
    fn custom_flags_noctty(&mut self) -> &mut Self;
}

impl NoCtty for OpenOptions {
    fn custom_flags_noctty(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, nix::libc::O_NOCTTY)
    }
}
