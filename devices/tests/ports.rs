//! A console with several ports (MULTIPORT, § 5.3.6) against a driver written here, message by
//! message.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use devices::console::{Console, Link, Window};
use devices::virtio::VirtioDevice;
use guest::console::{emergency_write, features};
use guest::mmio::offset;
use guest::{Dma, Head, Queue, Region, Registers, Segment, Transport};
use support::{Page, Ram, TIMEOUT, wait_for};

const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Entries of every queue, and bytes of every buffer.
const ENTRIES: u16 = 16;
const BUFFER: usize = 256;

/// A console device with `further` ports, called org.example.1 and so on, and the host side of
/// each.
struct Host {
    ram: Ram,
    page: Page,
    far: Vec<UnixStream>,
    /// The device's ends, for filling them up.
    near: Vec<UnixStream>,
    links: Vec<Arc<Link>>,
    window: Arc<Window>,
}

fn host(further: usize) -> Host {
    let ram = Ram::new();
    let (mut far, mut near) = (Vec::new(), Vec::new());
    let mut ends = || {
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(TIMEOUT)).unwrap();
        let file = || File::from(OwnedFd::from(ours.try_clone().unwrap()));
        let files = (file(), file());
        far.push(theirs);
        near.push(ours);
        files
    };
    let window = Arc::new(Window::new(80, 24).unwrap());
    let (input, output) = ends();
    let mut console = Console::new(input, output).in_window(Arc::clone(&window));
    let mut links = Vec::new();
    for port in 1..=further {
        let (input, output) = ends();
        let link = Arc::new(Link::new().unwrap());
        links.push(Arc::clone(&link));
        console = console.with_port(&format!("org.example.{port}"), input, output, Some(link));
    }
    assert_eq!(
        console.queues().len(),
        if further == 0 { 2 } else { 4 + 2 * further }
    );
    Host { page: Page::new(&ram, console), ram, far, near, links, window }
}

/// A driver of all queues, with one buffer per entry.
struct Driver {
    page: Page,
    transport: Transport<Page>,
    queues: Vec<Queue>,
    buffers: Vec<Vec<Region>>,
    heads: Vec<Vec<Option<Head>>>,
}

impl Driver {
    fn new(host: &Host, wanted: u64) -> Driver {
        let mut transport = host.page.probe();
        transport.negotiate(wanted).unwrap();
        let mut dma: Dma = host.ram.dma();
        let (mut queues, mut buffers) = (Vec::new(), Vec::new());
        for index in 0.. {
            host.page.write(offset::QUEUE_SEL, index);
            if host.page.read(offset::QUEUE_SIZE_MAX) == 0 {
                break;
            }
            let index = u16::try_from(index).unwrap();
            queues.push(transport.queue(index, ENTRIES, &mut dma).unwrap());
            let all = dma.alloc(BUFFER * usize::from(ENTRIES)).unwrap();
            let part = |n: usize| all.slice(BUFFER * n..BUFFER * (n + 1));
            buffers.push((0..usize::from(ENTRIES)).map(part).collect());
        }
        transport.start();
        Driver {
            page: host.page.clone(),
            transport,
            heads: queues
                .iter()
                .map(|_| vec![None; usize::from(ENTRIES)])
                .collect(),
            queues,
            buffers,
        }
    }

    /// A driver that has set up every port, and opened all but the console.
    fn set_up(host: &Host) -> Driver {
        let mut driver = Driver::new(host, !features::SIZE);
        driver.post(CONTROL_RECEIVE, ENTRIES);
        driver.send_control(0, DEVICE_READY, 1);
        for id in 0..host.far.len() {
            let id = u32::try_from(id).unwrap();
            assert_eq!(driver.message(), (id, PORT_ADD, 1, vec![]));
        }
        driver
    }

    /// Makes the first free buffer of queue `index` available.
    fn put(&mut self, index: u16, bytes: Option<&[u8]>) {
        let queue = usize::from(index);
        let free = self.heads[queue].iter().position(Option::is_none).unwrap();
        let buffer = &self.buffers[queue][free];
        let segment = match bytes {
            Some(bytes) => {
                let part = buffer.slice(0..bytes.len());
                part.write(0, bytes);
                Segment::readable(&part)
            }
            None => Segment::writable(buffer),
        };
        let head = self.queues[queue].add(&[segment]).unwrap();
        self.heads[queue][free] = Some(head);
        let _ = self.queues[queue].publish();
        self.page.write(offset::QUEUE_NOTIFY, index.into());
    }

    fn post(&mut self, queue: u16, count: u16) {
        (0..count).for_each(|_| self.put(queue, None));
    }

    /// The contents of the next used buffer.
    fn used(&mut self, index: u16) -> Vec<u8> {
        let queue = usize::from(index);
        let mut used = None;
        wait_for("a buffer", || {
            used = self.queues[queue].pop().unwrap();
            used.is_some()
        });
        let used = used.unwrap();
        let place = self.heads[queue]
            .iter()
            .position(|it| *it == Some(used.head));
        let place = place.unwrap();
        self.heads[queue][place] = None;
        let mut bytes = vec![0; usize::try_from(used.written).unwrap()];
        self.buffers[queue][place].read(0, &mut bytes);
        bytes
    }

    fn send_control_bytes(&mut self, bytes: &[u8]) {
        self.put(CONTROL_TRANSMIT, Some(bytes));
        assert_eq!(self.used(CONTROL_TRANSMIT), b"");
    }

    fn send_control(&mut self, id: u32, event: u16, value: u16) {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        self.send_control_bytes(&bytes);
    }

    /// The device's next message: port, event, value, data. Its buffer is made available again.
    fn message(&mut self) -> (u32, u16, u16, Vec<u8>) {
        let bytes = self.used(CONTROL_RECEIVE);
        self.post(CONTROL_RECEIVE, 1);
        let (message, more) = bytes.split_first_chunk::<8>().unwrap();
        let [a, b, c, d, e, f, g, h] = *message;
        (
            u32::from_le_bytes([a, b, c, d]),
            u16::from_le_bytes([e, f]),
            u16::from_le_bytes([g, h]),
            more.to_vec(),
        )
    }

    /// Makes port `id` ready, receives its messages, and opens it.
    fn open(&mut self, id: u32) {
        self.send_control(id, PORT_READY, 1);
        for _ in 0..if id == 0 { 3 } else { 2 } {
            assert_eq!(self.message().0, id);
        }
        self.send_control(id, PORT_OPEN, 1);
    }

    fn send(&mut self, port: u16, bytes: &[u8]) {
        let queue = if port == 0 { 1 } else { 2 * port + 3 };
        self.put(queue, Some(bytes));
        assert_eq!(self.used(queue), b"");
    }
}

fn receive_queue(port: u16) -> u16 {
    if port == 0 { 0 } else { 2 * port + 2 }
}

fn read(mut from: &UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

/// Fills a socket until it accepts no more.
fn clog(mut near: &UnixStream) -> usize {
    let mut clogged = 0;
    loop {
        match near.write(&[b'#'; 4096]) {
            Ok(count) => clogged += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return clogged,
            Err(error) => unreachable!("filling a socket: {error}"),
        }
    }
}

#[test]
fn every_port_is_announced_and_described() {
    let host = host(2);
    let mut driver = Driver::set_up(&host);
    assert_eq!(host.page.read(offset::CONFIG + 4), 3, "max_nr_ports");
    driver.send_control(0, PORT_READY, 1);
    assert_eq!(driver.message(), (0, CONSOLE_PORT, 1, vec![]));
    assert_eq!(driver.message(), (0, RESIZE, 1, vec![80, 0, 24, 0]));
    assert_eq!(driver.message(), (0, PORT_OPEN, 1, vec![]));
    host.links[1].set(true);
    for (id, open) in [(1, 0), (2, 1)] {
        driver.send_control(id, PORT_READY, 1);
        assert_eq!(driver.message(), (id, PORT_OPEN, open, vec![]));
        let name = format!("org.example.{id}").into_bytes();
        assert_eq!(driver.message(), (id, PORT_NAME, 1, name));
    }
    // A second DEVICE_READY does not add a port again.
    driver.send_control(0, DEVICE_READY, 1);
    host.links[0].set(true);
    assert_eq!(driver.message(), (1, PORT_OPEN, 1, vec![]));
    host.links[0].set(false);
    assert_eq!(driver.message(), (1, PORT_OPEN, 0, vec![]));
    assert!(host.window.set(132, 50));
    assert_eq!(driver.message(), (0, RESIZE, 1, vec![132, 0, 50, 0]));
}

#[test]
fn bytes_pass_both_ways_on_every_port() {
    let host = host(3);
    let mut driver = Driver::set_up(&host);
    for (port, mut far) in (0_u16..).zip(&host.far) {
        driver.open(port.into());
        driver.post(receive_queue(port), 2);
        let words = [format!("to {port}"), format!("from {port}")];
        far.write_all(words[0].as_bytes()).unwrap();
        assert_eq!(driver.used(receive_queue(port)), words[0].as_bytes());
        driver.send(port, words[1].as_bytes());
        assert_eq!(read(far, words[1].len()), words[1].as_bytes());
    }
}

#[test]
fn input_waits_until_its_port_is_opened_and_again_when_it_is_closed() {
    let host = host(1);
    let mut driver = Driver::set_up(&host);
    driver.post(receive_queue(1), 4);
    (&host.far[1]).write_all(b"early").unwrap();
    // The device has handled this once it answers the next message.
    driver.send_control(1, PORT_READY, 1);
    assert_eq!(
        driver.queues[usize::from(receive_queue(1))].pop().unwrap(),
        None
    );
    driver.send_control(1, PORT_OPEN, 1);
    assert_eq!(driver.used(receive_queue(1)), b"early");
    driver.send_control(1, PORT_OPEN, 0);
    (&host.far[1]).write_all(b"late").unwrap();
    driver.send_control(1, DEVICE_READY, 1);
    assert_eq!(
        driver.queues[usize::from(receive_queue(1))].pop().unwrap(),
        None
    );
    driver.send_control(1, PORT_OPEN, 1);
    assert_eq!(driver.used(receive_queue(1)), b"late");
}

#[test]
fn a_port_whose_reader_stops_stalls_no_other_and_loses_nothing() {
    let host = host(2);
    let mut driver = Driver::set_up(&host);
    (0..3).for_each(|port| driver.open(port));
    let clogged = clog(&host.near[1]);
    driver.put(5, Some(b"late, not lost"));
    for round in 0..100 {
        let word = format!("{round:04}");
        driver.send(2, word.as_bytes());
        assert_eq!(read(&host.far[2], 4), word.as_bytes());
        driver.send(0, word.as_bytes());
        assert_eq!(read(&host.far[0], 4), word.as_bytes());
    }
    assert_eq!(driver.queues[5].pop().unwrap(), None, "it still waits");
    // Its other direction works too.
    driver.post(receive_queue(1), 1);
    (&host.far[1]).write_all(b"typed").unwrap();
    assert_eq!(driver.used(receive_queue(1)), b"typed");
    let seen = read(&host.far[1], clogged + 14);
    assert_eq!(&seen[clogged..], b"late, not lost");
    assert_eq!(driver.used(5), b"");
}

#[test]
fn messages_do_not_pile_up_for_a_driver_without_buffers() {
    let host = host(2);
    let mut driver = Driver::new(&host, features::MULTIPORT);
    for round in 0..1000 {
        driver.send_control(0, DEVICE_READY, 1);
        host.links[0].set(round % 2 == 0);
        host.window.set(round, 1);
    }
    driver.post(CONTROL_RECEIVE, ENTRIES);
    for id in 0..3 {
        assert_eq!(driver.message(), (id, PORT_ADD, 1, vec![]));
    }
    // The next message is an answer, not one of a thousand.
    driver.send_control(2, PORT_READY, 1);
    assert_eq!(driver.message(), (2, PORT_OPEN, 0, vec![]));
}

#[test]
fn invalid_messages_are_ignored() {
    let host = host(1);
    let mut driver = Driver::new(&host, features::MULTIPORT);
    // Before any port was added.
    driver.send_control(1, PORT_READY, 1);
    driver.send_control(1, PORT_OPEN, 1);
    driver.send_control(0, DEVICE_READY, 0);
    driver.post(CONTROL_RECEIVE, ENTRIES - 1);
    driver.send_control(0, DEVICE_READY, 1);
    assert_eq!(driver.message().1, PORT_ADD);
    assert_eq!(driver.message().1, PORT_ADD);
    for id in [2, 31, 0x8000_0000, u32::MAX] {
        for event in 0..9 {
            if event != DEVICE_READY {
                driver.send_control(id, event, 1);
            }
        }
    }
    for event in [PORT_ADD, 2, CONSOLE_PORT, RESIZE, PORT_NAME, 8, u16::MAX] {
        driver.send_control(1, event, 1);
    }
    driver.send_control(1, PORT_READY, 0);
    driver.send_control_bytes(&[0]);
    driver.send_control_bytes(&[0xff; 7]);
    driver.send_control_bytes(&[0xff; 200]);
    // A readable buffer on the receive queue, and a writable one on the transmit queue.
    driver.put(CONTROL_RECEIVE, Some(b"to be written"));
    driver.put(CONTROL_TRANSMIT, None);
    assert_eq!(driver.used(CONTROL_TRANSMIT), b"");
    driver.send_control(1, PORT_READY, 1);
    assert_eq!(driver.message(), (1, PORT_OPEN, 0, vec![]));
    driver.transport.alive().unwrap();
}

#[test]
fn without_the_feature_there_is_only_the_console() {
    let host = host(2);
    let mut driver = Driver::new(&host, 0);
    driver.put(CONTROL_TRANSMIT, Some(&[0, 0, 0, 0, 0, 0, 1, 0]));
    driver.put(5, Some(b"nothing"));
    driver.post(receive_queue(1), 1);
    (&host.far[1]).write_all(b"nothing").unwrap();
    driver.post(0, 1);
    (&host.far[0]).write_all(b"typed").unwrap();
    assert_eq!(driver.used(0), b"typed");
    driver.send(0, b"seen");
    assert_eq!(read(&host.far[0], 4), b"seen");
    for queue in [CONTROL_RECEIVE, CONTROL_TRANSMIT, receive_queue(1), 5] {
        assert_eq!(driver.queues[usize::from(queue)].pop().unwrap(), None);
    }
}

#[test]
fn after_a_reset_the_ports_are_announced_again() {
    let host = host(1);
    for _ in 0..2 {
        let mut driver = Driver::set_up(&host);
        driver.open(1);
        driver.send(1, b"hello");
        assert_eq!(read(&host.far[1], 5), b"hello");
        driver.transport.reset().unwrap();
    }
}

#[test]
fn emergency_output_works_in_every_state_and_never_waits() {
    let mut host = host(0);
    let offered = host.page.probe().offered();
    assert_eq!(
        offered & features::MULTIPORT,
        0,
        "one port does not need it"
    );
    assert_ne!(offered & features::EMERG_WRITE, 0);
    let far = host.far.remove(0);
    emergency_write(&host.page.probe(), b'1');
    assert_eq!(read(&far, 1), b"1");
    let mut driver = Driver::new(&host, features::EMERG_WRITE);
    emergency_write(&driver.transport, b'2');
    assert_eq!(read(&far, 1), b"2");
    driver.send(0, b"3");
    assert_eq!(read(&far, 1), b"3");
    // The device needs a reset.
    let avail = driver.queues[1].driver_area() + 2;
    host.ram.write(avail, &[0xff, 0x7f]);
    host.page.write(offset::QUEUE_NOTIFY, 1);
    wait_for("DEVICE_NEEDS_RESET", || driver.transport.alive().is_err());
    emergency_write(&driver.transport, b'4');
    assert_eq!(read(&far, 1), b"4");
    let clogged = clog(&host.near[0]);
    emergency_write(&driver.transport, b'5');
    assert_eq!(read(&far, clogged), vec![b'#'; clogged]);
    emergency_write(&driver.transport, b'6');
    assert_eq!(read(&far, 1), b"6");
}
