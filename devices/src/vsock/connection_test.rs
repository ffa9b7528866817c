use std::io::Read;

use vm_memory::Bytes;

use super::*;
use crate::rig::{DATA, Rig, WRITE};
use crate::virtio::chain::Chain;

/// A chain of one buffer.
fn chain(rig: &Rig, len: u32, flags: u16) -> Chain {
    rig.descriptor(0, (DATA, len), flags, 0);
    rig.offer(0);
    rig.queue(0).pop().unwrap().unwrap()
}

/// The counters of § 5.10.6.3 are free-running.
#[test]
fn credit_is_right_when_the_counters_wrap() {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut connection = Connection::new(near, Phase::Open, Ports::default());
    let before = u32::MAX - 100;
    (connection.sent, connection.guest_forwarded) = (before, before - 50);
    connection.guest_alloc = 1050;
    assert_eq!(connection.credit(), 1000);
    far.write_all(&[7; 3000]).unwrap();
    let mut to = chain(&Rig::new(8), 4096, WRITE);
    let packet = connection.next_packet(to.writable());
    assert_eq!(packet, Some((op::RW, 0, 1000)));
    assert_eq!((connection.sent, connection.credit()), (899, 0));
    let header = Header { buf_alloc: 1050, fwd_cnt: 899, ..Header::default() };
    connection.update_credit(&header);
    assert_eq!(connection.credit(), 1050);

    (connection.forwarded, connection.announced) = (u32::MAX - 9, u32::MAX - BUFFER / 2 + 20);
    let rig = Rig::new(8);
    rig.ram
        .write_slice(&[1; 30], vm_memory::GuestAddress(DATA))
        .unwrap();
    let mut data = chain(&rig, 30, 0);
    assert!(!connection.owes_credit);
    assert_eq!(connection.receive(data.readable()), Some(()));
    assert!(connection.owes_credit);
    assert_eq!(connection.announce(), (BUFFER, 20));
    let mut got = [0; 30];
    far.read_exact(&mut got).unwrap();
    assert_eq!(got, [1; 30]);
}
