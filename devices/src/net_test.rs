use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;

use super::*;
use crate::rig::{DATA, Rig, WRITE};

const MAC: Mac = Mac([2, 0, 0, 1, 2, 3]);

/// A cable whose other end is a test. A datagram is a frame, as in a tap interface.
struct Cable {
    socket: UnixDatagram,
    offloads: u64,
    set: Arc<AtomicU64>,
    /// Errors of the next sends.
    errors: VecDeque<i32>,
    up: bool,
}

impl BackEnd for Cable {
    fn offloads(&self) -> u64 {
        self.offloads
    }

    fn set_offloads(&mut self, features: u64) {
        self.set.store(features, Ordering::SeqCst);
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        let socket = self.socket.as_fd();
        vec![(socket, Ready::Read), (socket, Ready::Write)]
    }

    /// A third file: each event of it changes the link.
    fn ready(&mut self, index: usize) -> Option<bool> {
        (index == 2).then(|| {
            self.up = !self.up;
            self.up
        })
    }

    fn receive(&mut self, to: &mut Writable, rest: &mut [u8]) -> io::Result<usize> {
        to.read_from_with(self.socket.as_fd(), rest)
    }

    fn send(&mut self, frame: &mut Readable) -> io::Result<()> {
        match self.errors.pop_front() {
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => frame.write_to(self.socket.as_fd()).map(drop),
        }
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EBADFD)
    }
}

/// A device with one queue, and the other end of its cable.
struct Bench {
    rig: Rig,
    net: Net,
    index: usize,
    queues: Queues,
    far: UnixDatagram,
    set: Arc<AtomicU64>,
}

impl Bench {
    fn new(index: usize, size: u16, features: u64, errors: &[i32]) -> Bench {
        let (near, far) = UnixDatagram::pair().unwrap();
        for socket in [&near, &far] {
            socket.set_nonblocking(true).unwrap();
        }
        let set = Arc::new(AtomicU64::new(0));
        let cable = Cable {
            socket: near,
            offloads: feature::HOST | feature::GUEST,
            set: Arc::clone(&set),
            errors: errors.iter().copied().collect(),
            up: true,
        };
        let mut net = Net::new(Box::new(cable), MAC, Some(1500), true);
        let rig = Rig::new(size);
        net.activate(features, &rig.memory);
        let mut queues = vec![None, None];
        queues[index] = Some(rig.queue(0));
        Bench { net, index, queues: Queues::new(queues), rig, far, set }
    }

    /// Offers a buffer of the driver: descriptor `index`, `len` bytes at 4096 · `index`.
    fn offer(&self, index: u16, len: u32) {
        let buffer = (DATA + 4096 * u64::from(index), len);
        self.rig.descriptor(index, buffer, WRITE, 0);
        self.rig.offer(index);
    }

    fn serve(&mut self) {
        self.net
            .process_queue(self.index, &mut self.queues)
            .unwrap();
    }

    fn arrives(&mut self, frame: &[u8]) {
        self.far.send(frame).unwrap();
        self.net.handle_event(READABLE, &mut self.queues).unwrap();
    }

    /// The bytes of buffer `index`.
    fn read(&self, index: u16, len: usize) -> Vec<u8> {
        self.rig.read(DATA + 4096 * u64::from(index), len)
    }
}

/// A frame with a header whose num_buffers is garbage, as from a tap interface.
fn frame(len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..=250).cycle().take(len).collect();
    frame[..NUM_BUFFERS].fill(0);
    frame[NUM_BUFFERS..HEADER].fill(0xff);
    frame
}

/// The frame as the driver gets it, in this many buffers.
fn delivered(len: usize, buffers: u8) -> Vec<u8> {
    let mut frame = frame(len);
    frame[NUM_BUFFERS..HEADER].copy_from_slice(&[buffers, 0]);
    frame
}

#[test]
fn a_frame_that_fits_into_a_buffer_arrives_with_num_buffers_1() {
    for features in [0, feature::MRG_RXBUF] {
        let mut bench = Bench::new(RECEIVE, 8, features, &[]);
        bench.offer(3, 1526);
        bench.serve();
        assert_eq!(bench.rig.used_idx(), 0);
        bench.arrives(&frame(100));
        assert_eq!((bench.rig.used_idx(), bench.rig.used(0)), (1, (3, 100)));
        assert_eq!(bench.read(3, 100), delivered(100, 1));
        assert_eq!(bench.read(3, 101)[100], 0);
    }
}

#[test]
fn a_long_frame_fills_several_buffers_which_the_driver_sees_together() {
    let mut bench = Bench::new(RECEIVE, 8, feature::MRG_RXBUF, &[]);
    bench.offer(0, 400);
    bench.offer(1, 400);
    bench.arrives(&frame(1000));
    assert_eq!(bench.rig.used_idx(), 0);
    let queue = bench.queues.get(RECEIVE).unwrap();
    assert_eq!(queue.next_available(), 0, "the group is not served yet");
    bench.offer(2, 400);
    bench.offer(3, 400);
    bench.serve();
    assert_eq!(bench.rig.used_idx(), 3);
    let used = [0, 1, 2].map(|index| bench.rig.used(index));
    assert_eq!(used, [(0, 400), (1, 400), (2, 200)]);
    let all = [bench.read(0, 400), bench.read(1, 400), bench.read(2, 200)].concat();
    assert!(all == delivered(1000, 3));
    bench.arrives(&frame(50));
    assert_eq!(bench.rig.used(3), (3, 50));
    let queue = bench.queues.get(RECEIVE).unwrap();
    assert_eq!(queue.next_available(), 4);
}

/// Not copied from where it would have been read otherwise. An attempt that finds no frame before
/// it changes nothing.
#[test]
fn the_next_long_frame_is_read_into_all_its_buffers() {
    let mut bench = Bench::new(RECEIVE, 16, feature::MRG_RXBUF, &[]);
    for index in 0..9 {
        bench.offer(index, 400);
    }
    bench.arrives(&frame(1000));
    bench.serve();
    assert_eq!(bench.rig.used_idx(), 3);
    bench.net.rest.bytes.fill(0);
    bench.arrives(&frame(1100));
    assert_eq!(bench.rig.used_idx(), 6);
    let all = [bench.read(3, 400), bench.read(4, 400), bench.read(5, 300)].concat();
    assert!(all == delivered(1100, 3));
    assert!(bench.net.rest.bytes.iter().all(|&byte| byte == 0));
    // One that takes fewer buffers, and then one that takes more.
    bench.arrives(&frame(300));
    assert_eq!(bench.rig.used(6), (6, 300));
    assert_eq!(bench.read(6, 300), delivered(300, 1));
    bench.offer(9, 400);
    bench.arrives(&frame(1200));
    assert_eq!(bench.rig.used_idx(), 10);
    let all = [bench.read(7, 400), bench.read(8, 400), bench.read(9, 400)].concat();
    assert!(all == delivered(1200, 3));
}

#[test]
fn num_buffers_may_lie_in_two_descriptors() {
    let mut bench = Bench::new(RECEIVE, 8, feature::MRG_RXBUF, &[]);
    let buffers = [(DATA, 11, WRITE), (DATA + 4096, 20, WRITE)];
    bench.rig.chain(0, &buffers);
    bench.rig.offer(0);
    bench.offer(2, 4096);
    bench.arrives(&frame(2000));
    let all = [bench.read(0, 11), bench.read(1, 20), bench.read(2, 1969)].concat();
    assert!(all == delivered(2000, 2));
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_dropped_and_counted() {
    let mut bench = Bench::new(RECEIVE, 8, 0, &[]);
    bench.offer(0, 500);
    bench.offer(1, 500);
    bench.arrives(&frame(501));
    bench.arrives(&frame(500));
    assert_eq!(bench.rig.used(0), (0, 0));
    assert_eq!(bench.rig.used(1), (1, 500));
    assert_eq!(bench.net.link().dropped(), 1);
}

#[test]
fn a_buffer_without_room_for_a_header_goes_back_empty() {
    let mut bench = Bench::new(RECEIVE, 8, feature::MRG_RXBUF, &[]);
    bench.offer(0, 11);
    bench.offer(1, 1526);
    bench.arrives(&frame(60));
    assert_eq!([bench.rig.used(0), bench.rig.used(1)], [(0, 0), (1, 60)]);
}

#[test]
fn a_ring_that_cannot_hold_a_frame_gets_its_beginning_and_goes_on() {
    let mut bench = Bench::new(RECEIVE, 2, feature::MRG_RXBUF, &[]);
    bench.offer(0, 30);
    bench.offer(1, 30);
    bench.arrives(&frame(1000));
    assert_eq!(bench.rig.used_idx(), 2);
    let all = [bench.read(0, 30), bench.read(1, 30)].concat();
    assert!(all == delivered(1000, 2)[..60]);
    bench.offer(0, 200);
    bench.arrives(&frame(100));
    assert_eq!(bench.read(0, 100), delivered(100, 1));
}

/// Firecracker's issues 293 and 2057: reception stopped for ever if the ring was full at the only
/// edge of the tap interface.
#[test]
fn frames_that_found_no_buffer_arrive_when_there_is_one() {
    let mut bench = Bench::new(RECEIVE, 8, 0, &[]);
    for len in [60, 70, 80] {
        bench.far.send(&frame(len)).unwrap();
    }
    bench.net.handle_event(READABLE, &mut bench.queues).unwrap();
    for (index, len) in [(0, 60), (1, 70), (2, 80)] {
        bench.offer(index, 1526);
        // No event of the file: only the driver's kick.
        bench.serve();
        assert_eq!(bench.rig.used(index), (index.into(), len));
    }
}

#[test]
fn a_reset_forgets_the_rest_of_a_frame() {
    for by_queue in [true, false] {
        let mut bench = Bench::new(RECEIVE, 8, feature::MRG_RXBUF, &[]);
        bench.offer(0, 100);
        bench.arrives(&frame(300));
        if by_queue {
            bench.net.queue_reset(RECEIVE);
        } else {
            bench.net.reset();
            bench.net.activate(feature::MRG_RXBUF, &bench.rig.memory);
        }
        let rig = Rig::new(8);
        bench.queues = Queues::new(vec![Some(rig.queue(0)), None]);
        bench.rig = rig;
        bench.offer(0, 100);
        bench.arrives(&frame(80));
        assert_eq!(bench.rig.used(0), (0, 80));
        assert_eq!(bench.read(0, 80), delivered(80, 1));
    }
}

fn transmits(bench: &mut Bench, len: u32) {
    bench.rig.write(DATA, &frame(2000)[..len as usize]);
    let half = len / 2;
    let buffers = [(DATA, half, 0), (DATA + u64::from(half), len - half, 0)];
    bench.rig.chain(0, &buffers);
    bench.rig.offer(0);
    bench.serve();
}

fn arrived(bench: &Bench) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let count = bench.far.recv(&mut bytes).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

#[test]
fn a_frame_is_sent_as_the_driver_wrote_it() {
    let mut bench = Bench::new(TRANSMIT, 8, 0, &[]);
    transmits(&mut bench, 100);
    assert_eq!(bench.rig.used(0), (0, 0));
    assert_eq!(arrived(&bench).unwrap(), frame(100));
}

#[test]
fn a_frame_without_addresses_is_dropped_and_counted() {
    let mut bench = Bench::new(TRANSMIT, 8, 0, &[]);
    transmits(&mut bench, 25);
    assert_eq!(bench.rig.used(0), (0, 0));
    assert_eq!((arrived(&bench), bench.net.link().dropped()), (None, 1));
}

#[test]
fn a_frame_waits_while_the_back_end_is_full() {
    let mut bench = Bench::new(TRANSMIT, 8, 0, &[libc::EAGAIN]);
    transmits(&mut bench, 100);
    assert_eq!(bench.rig.used_idx(), 0);
    bench.net.handle_event(1, &mut bench.queues).unwrap();
    assert_eq!(bench.rig.used_idx(), 1);
    assert_eq!(arrived(&bench).unwrap(), frame(100));
}

/// cloud-hypervisor's issues 8722 and 8723: the monitor ended when a tap interface was down.
#[test]
fn frames_to_an_interface_that_is_down_are_dropped_until_it_is_up() {
    let mut bench = Bench::new(TRANSMIT, 8, 0, &[libc::EIO, libc::ENOBUFS]);
    for dropped in [1, 2, 2] {
        transmits(&mut bench, 100);
        assert_eq!(bench.net.link().dropped(), dropped);
    }
    assert_eq!(bench.rig.used_idx(), 3);
    assert_eq!(arrived(&bench).unwrap(), frame(100));
    assert_eq!(status(&bench.net), 1);
}

fn status(net: &Net) -> u8 {
    let mut config = [0; 12];
    net.config().read(0, &mut config);
    config[6]
}

#[test]
fn a_deleted_interface_takes_the_link_down_once() {
    let mut bench = Bench::new(TRANSMIT, 8, 0, &[libc::EBADFD, libc::EBADFD]);
    let changes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&changes);
    bench.net.link().on_change(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(status(&bench.net), 1);
    for _ in 0..2 {
        transmits(&mut bench, 100);
    }
    assert_eq!(status(&bench.net), 0);
    assert_eq!(changes.load(Ordering::SeqCst), 1);
    assert_eq!(bench.rig.used_idx(), 2);
}

#[test]
fn the_link_follows_the_interface_and_each_change_is_told() {
    let mut bench = Bench::new(TRANSMIT, 8, 0, &[libc::EIO]);
    let changes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&changes);
    bench.net.link().on_change(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    for (expected, up) in [(1, 0), (2, 1)] {
        bench.net.handle_event(2, &mut bench.queues).unwrap();
        assert_eq!(status(&bench.net), up);
        assert_eq!(changes.load(Ordering::SeqCst), expected);
    }
    transmits(&mut bench, 100);
    transmits(&mut bench, 100);
    assert_eq!(arrived(&bench).unwrap(), frame(100));
}

#[test]
fn the_configuration_has_address_status_and_mtu() {
    let bench = Bench::new(RECEIVE, 8, 0, &[]);
    let mut config = [0xaa; 14];
    bench.net.config().read(0, &mut config);
    assert_eq!(config, [2, 0, 0, 1, 2, 3, 1, 0, 1, 0, 0xdc, 5, 0, 0]);
    let features = bench.net.features();
    for feature in [
        feature::MAC,
        feature::STATUS,
        feature::MTU,
        feature::MRG_RXBUF,
    ] {
        assert!(features & feature != 0);
    }
}

/// cloud-hypervisor's pull request 2532: offloads that were set before the negotiation broke
/// guests.
#[test]
fn the_back_end_gets_the_accepted_offloads_and_none_after_a_reset() {
    let accepted = feature::GUEST_CSUM | feature::CSUM;
    let mut bench = Bench::new(RECEIVE, 8, accepted | feature::MAC, &[]);
    assert_eq!(bench.set.load(Ordering::SeqCst), accepted);
    bench.net.reset();
    assert_eq!(bench.set.load(Ordering::SeqCst), 0);
}

proptest! {
    /// Any buffers that hold a frame get it whole.
    #[test]
    fn a_frame_arrives_whole_in_any_buffers(
        len in HEADER..3000_usize,
        sizes in prop::collection::vec(12..700_u32, 1..8),
    ) {
        let mut bench = Bench::new(RECEIVE, 8, feature::MRG_RXBUF, &[]);
        for (index, size) in (0..).zip(&sizes) {
            bench.offer(index, *size);
        }
        bench.arrives(&frame(len));
        let room: usize = sizes.iter().map(|size| *size as usize).sum();
        let used = bench.rig.used_idx();
        if room < len {
            prop_assert_eq!(used, 0);
        } else {
            let mut all = Vec::new();
            for index in 0..used {
                let (head, written) = bench.rig.used(index);
                prop_assert_eq!(head, u32::from(index));
                all.extend(bench.read(index, written as usize));
            }
            prop_assert!(all == delivered(len, u8::try_from(used).unwrap()));
        }
    }

    /// Also if the device has taken buffers ahead, because of the frames before.
    #[test]
    fn frames_arrive_whole_one_after_another(
        frames in prop::collection::vec((HEADER..1500_usize, 0..3_u16), 1..6),
        size in 100..700_u32,
    ) {
        let mut bench = Bench::new(RECEIVE, 128, feature::MRG_RXBUF, &[]);
        let (mut offered, mut used) = (0, 0);
        for (len, more) in frames {
            let buffers = u16::try_from(len.div_ceil(size as usize)).unwrap();
            for _ in 0..(used + buffers + more).saturating_sub(offered) {
                bench.offer(offered, size);
                offered += 1;
            }
            bench.arrives(&frame(len));
            prop_assert_eq!(bench.rig.used_idx(), used + buffers);
            let mut all = Vec::new();
            for index in used..used + buffers {
                let (head, written) = bench.rig.used(index);
                prop_assert_eq!(head, u32::from(index));
                all.extend(bench.read(index, written as usize));
            }
            prop_assert!(all == delivered(len, u8::try_from(buffers).unwrap()));
            used += buffers;
        }
        let queue = bench.queues.get(RECEIVE).unwrap();
        prop_assert_eq!(queue.next_available(), used);
    }
}
