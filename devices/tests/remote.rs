//! The guest's drivers against devices of back ends, through the vhost-user front end: first our
//! own back end, then some that end, lie or say nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "tests"
)]

#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "support/disks.rs"]
mod disks;
mod support;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use devices::rng::Rng;
use devices::transport::remote::{ANSWER_TIMEOUT, Error, Kind, Remote, Source};
use devices::transport::vhost_user::VhostUser;
use devices::virtio::VirtioDevice;
use disks::{OWN, RINGS, SECTORS, check_read, check_use, open, reset_in_flight};
use guest::block::{Request, SECTOR};
use guest::mmio::{acknowledge, offset};
use guest::virtio::status;
use guest::{Block, Region, Registers, Segment};
use support::{Page, RAM, Ram, block, image, timeout, wait_for};

/// A back end that is connected again after each [`restart`](Service::restart).
#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

struct State {
    device: Arc<VhostUser>,
    /// Our copy of its end of the connection, for ending that.
    connection: Option<UnixStream>,
    /// Whether it can be connected to.
    up: bool,
}

impl Service {
    fn new(device: impl VirtioDevice + 'static) -> Service {
        Service(Arc::new(Mutex::new(State {
            device: Arc::new(VhostUser::new(Box::new(device)).unwrap()),
            connection: None,
            up: true,
        })))
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let mut state = self.0.lock().unwrap();
        if !state.up {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        state.connection = Some(theirs.try_clone()?);
        let device = Arc::clone(&state.device);
        thread::spawn(move || device.serve(theirs));
        Ok(ours)
    }

    fn source(&self) -> Source {
        let service = self.clone();
        Source::Again(Box::new(move || service.connect()))
    }

    /// Ends the connection, once there is one, and refuses others until `start`.
    fn stop(&self) {
        wait_for("the connection", || {
            self.0.lock().unwrap().connection.is_some()
        });
        let mut state = self.0.lock().unwrap();
        state.up = false;
        let connection = state.connection.take().unwrap();
        connection.shutdown(std::net::Shutdown::Both).unwrap();
    }

    fn start(&self) {
        self.0.lock().unwrap().up = true;
    }
}

fn remote(kind: Kind, source: Source) -> Arc<Remote> {
    Arc::new(Remote::connect("device", kind, source).unwrap())
}

/// A disk of 256 sectors that our back end serves, its file, and RAM for its driver.
fn machine() -> (Ram, File, Service, Page) {
    let file = image(SECTORS);
    let service = Service::new(block(&file, false));
    let ram = Ram::new();
    let page = Page::remote(&ram, &remote(Kind::block(256), service.source()));
    (ram, file, service, page)
}

#[test]
fn a_driver_reads_and_writes_as_with_a_device_of_this_process() {
    for ring in RINGS {
        let (ram, file, _service, page) = machine();
        let mut block = open(&ram, &page, OWN | ring);
        check_use(&mut block, &file, ring);
    }
}

#[test]
fn after_a_reset_a_new_driver_is_served_and_the_old_rings_are_untouched() {
    for ring in RINGS {
        let (ram, _file, _service, page) = machine();
        for _ in 0..3 {
            reset_in_flight(&ram, page.probe(), ring);
        }
    }
}

#[test]
fn the_same_back_end_serves_one_machine_after_another() {
    let file = image(SECTORS);
    let service = Service::new(block(&file, false));
    let remote = remote(Kind::block(256), service.source());
    for _ in 0..3 {
        let ram = Ram::new();
        let page = Page::remote(&ram, &remote);
        check_read(&mut open(&ram, &page, OWN), 5);
    }
}

#[test]
fn a_paused_device_serves_nothing_until_it_is_resumed() {
    let (ram, _file, _service, page) = machine();
    let mut dma = ram.dma();
    let data = dma.alloc(SECTOR).unwrap();
    let mut block = Block::new(page.probe(), &mut dma, OWN, 64).unwrap();
    for sector in 0..5 {
        check_read(&mut block, sector);
        page.mmio.pause();
        let token = block.submit(Request::read(sector), &[Segment::writable(&data)]);
        block.kick();
        let used = block.queue().device_area() + 2;
        let before = ram.read(used, 2);
        page.mmio.pause();
        assert_eq!(ram.read(used, 2), before);
        page.mmio.resume();
        let token = token.unwrap();
        wait_for("the request", || block.poll(&token).unwrap().is_some());
    }
}

#[test]
fn a_back_end_that_is_restarted_while_the_device_is_paused_is_used_then() {
    let (ram, _file, service, page) = machine();
    let mut dma = ram.dma();
    let data = dma.alloc(8 * SECTOR).unwrap();
    let mut block = Block::new(page.probe(), &mut dma, OWN, 64).unwrap();
    check_read(&mut block, 1);
    page.mmio.pause();
    service.stop();
    service.start();
    wait_for("the new connection", || {
        service.0.lock().unwrap().connection.is_some()
    });
    page.mmio.resume();
    read_eight(&mut block, &data);
}

/// Makes eight reads at once, and waits for all.
fn read_eight(block: &mut Block<Page>, data: &Region) {
    let mut tokens: Vec<_> = (0..8)
        .map(|n| {
            let place = data.slice(n * SECTOR..(n + 1) * SECTOR);
            let data = [Segment::writable(&place)];
            block.submit(Request::read(n as u64), &data).unwrap()
        })
        .collect();
    block.kick();
    wait_for("eight reads", || {
        tokens.retain(|token| block.poll(token).unwrap().is_none());
        tokens.is_empty()
    });
}

/// A call may come while the device stops, when nobody is to be interrupted.
#[test]
fn a_request_that_ends_during_a_pause_interrupts_after_it() {
    let (ram, _file, _service, page) = machine();
    let mut dma = ram.dma();
    let data = dma.alloc(SECTOR).unwrap();
    let mut block = Block::new(page.probe(), &mut dma, OWN, 64).unwrap();
    for _ in 0..300 {
        let token = block.submit(Request::read(1), &[Segment::writable(&data)]);
        block.kick();
        page.mmio.pause();
        page.mmio.resume();
        let token = token.unwrap();
        wait_for("the interrupt of the request", || {
            page.wire.is_high() && {
                acknowledge(&page);
                block.poll(&token).unwrap().is_some()
            }
        });
    }
}

#[test]
fn a_restarted_back_end_continues_with_what_was_not_served() {
    for ring in RINGS {
        let (ram, _file, service, page) = machine();
        let mut dma = ram.dma();
        let data = dma.alloc(8 * SECTOR).unwrap();
        let mut block = Block::new(page.probe(), &mut dma, OWN | ring, 64).unwrap();
        for round in 0..3 {
            check_read(&mut block, round);
            service.stop();
            let later = service.clone();
            let back = thread::spawn(move || later.start());
            read_eight(&mut block, &data);
            back.join().unwrap();
        }
    }
}

#[test]
fn a_driver_that_starts_or_ends_while_there_is_no_back_end_is_served_later() {
    let (ram, _file, service, page) = machine();
    let block = open(&ram, &page, OWN);
    service.stop();
    let mut transport = block.into_transport();
    transport.reset().unwrap();
    let mut dma = ram.dma();
    let data = dma.alloc(SECTOR).unwrap();
    let mut block = Block::new(transport, &mut dma, OWN, 64).unwrap();
    let token = block.submit(Request::read(9), &[Segment::writable(&data)]);
    block.kick();
    service.start();
    let token = token.unwrap();
    wait_for("the request", || block.poll(&token).unwrap().is_some());
}

/// Makes a device live by hand, with queue 0 of 8 entries whose areas are at `address`.
fn go_live(page: &Page, address: u64) {
    let add = |bits| page.write(offset::STATUS, page.read(offset::STATUS) | bits);
    add(status::ACKNOWLEDGE);
    add(status::DRIVER);
    page.write(offset::DRIVER_FEATURES_SEL, 1);
    page.write(offset::DRIVER_FEATURES, 1);
    add(status::FEATURES_OK);
    page.write(offset::QUEUE_SIZE, 8);
    let areas = [
        offset::QUEUE_DESC,
        offset::QUEUE_DRIVER,
        offset::QUEUE_DEVICE,
    ];
    for (area, at) in areas.into_iter().zip([0, 0x100, 0x200]) {
        page.write(area, (address + at) as u32);
    }
    page.write(offset::QUEUE_READY, 1);
    add(status::DRIVER_OK);
}

fn needs_reset(page: &Page) -> bool {
    page.read(offset::STATUS) & status::DEVICE_NEEDS_RESET != 0
}

#[test]
fn a_queue_at_an_address_without_memory_stops_the_device_alone() {
    let (ram, _file, _service, page) = machine();
    go_live(&page, 0x1000);
    assert!(needs_reset(&page));
    page.write(offset::STATUS, 0);
    check_read(&mut open(&ram, &page, OWN), 3);
}

#[test]
fn devices_without_a_configuration_need_no_message_for_it() {
    let service = Service::new(Rng::default());
    let ram = Ram::new();
    let page = Page::remote(&ram, &remote(Kind::rng(8), service.source()));
    go_live(&page, RAM);
    // One descriptor of 64 bytes that the device may write.
    ram.write(RAM, &(RAM + 0x1000).to_le_bytes());
    ram.write(RAM + 8, &[64, 0, 0, 0, 2, 0, 0, 0]);
    ram.write(RAM + 0x100, &[0, 0, 1, 0]);
    page.write(offset::QUEUE_NOTIFY, 0);
    wait_for("the interrupt", || page.wire.is_high());
    assert_eq!(
        ram.read(RAM + 0x200, 12),
        [0, 0, 1, 0, 0, 0, 0, 0, 64, 0, 0, 0]
    );
    assert_ne!(ram.read(RAM + 0x1000, 64), [0; 64]);
}

#[test]
fn a_back_end_of_one_connection_that_ends_leaves_a_device_that_needs_a_reset() {
    let file = image(SECTORS);
    let service = Service::new(block(&file, false));
    let stream = service.connect().unwrap();
    let ram = Ram::new();
    let page = Page::remote(&ram, &remote(Kind::block(256), Source::Once(stream)));
    let mut block = open(&ram, &page, OWN);
    check_read(&mut block, 1);
    service.stop();
    wait_for("DEVICE_NEEDS_RESET", || needs_reset(&page));
    assert!(page.wire.is_high());
    block.into_transport().reset().unwrap();
    assert_eq!(page.read(offset::STATUS), 0);
}

/// Header and body of a reply to a request of type `code`.
fn reply(code: u32, body: &[u8]) -> Vec<u8> {
    // Version 1, and a reply.
    let head = [code, 1 | 4, body.len() as u32];
    [&head.map(u32::to_le_bytes).concat(), body].concat()
}

/// A back end that answers each request as `answer` says, until that is `None`.
fn liar(answer: impl Fn(u32) -> Option<Vec<u8>> + Send + 'static) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut head = [0; 12];
        while theirs.read_exact(&mut head).is_ok() {
            let word = |n: usize| u32::from_le_bytes(head[4 * n..][..4].try_into().unwrap());
            let mut body = vec![0; word(2) as usize];
            if theirs.read_exact(&mut body).is_err() {
                return;
            }
            match answer(word(0)) {
                Some(bytes) => theirs.write_all(&bytes).unwrap_or(()),
                None => return,
            }
        }
    });
    ours
}

const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GOOD: u64 = 1 << 32 | 1 << 30;

/// What an honest back end answers that offers `features` and no protocol feature.
fn honest(features: u64, code: u32) -> Vec<u8> {
    match code {
        GET_FEATURES => reply(code, &features.to_le_bytes()),
        GET_PROTOCOL_FEATURES => reply(code, &0_u64.to_le_bytes()),
        GET_VRING_BASE => reply(code, &[0; 8]),
        _ => Vec::new(),
    }
}

#[test]
fn a_back_end_that_cannot_be_used_is_refused_with_the_reason() {
    type Answer = fn(u32) -> Option<Vec<u8>>;
    let answers: [(Answer, &str); 6] = [
        (|_| None, "does not speak the vhost-user protocol"),
        (
            |_| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            "does not speak the vhost-user protocol",
        ),
        (
            |code| Some(reply(code + 1, &GOOD.to_le_bytes())),
            "does not speak the vhost-user protocol",
        ),
        (
            |code| Some(honest(1 << 30, code)),
            "lacks VIRTIO_F_VERSION_1",
        ),
        (
            |code| Some(honest(1 << 32, code)),
            "lacks VHOST_USER_F_PROTOCOL_FEATURES",
        ),
        (
            |code| Some(honest(GOOD, code)),
            "lacks VHOST_USER_PROTOCOL_F_CONFIG",
        ),
    ];
    for (answer, expected) in answers {
        let source = Source::Once(liar(answer));
        let error = Remote::connect("device", Kind::block(64), source);
        let error = error.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let refused = || Err(io::ErrorKind::ConnectionRefused.into());
    let error = Remote::connect("device", Kind::rng(8), Source::Again(Box::new(refused)));
    assert!(matches!(error.err(), Some(Error::Connect(_))));
}

#[test]
fn a_back_end_that_says_nothing_is_given_up() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let began = Instant::now();
    let silent = Source::Again(Box::new(move || ours.try_clone()));
    let error = Remote::connect("device", Kind::rng(8), silent);
    assert!(matches!(error.err(), Some(Error::Protocol(_))));
    assert!(began.elapsed() >= ANSWER_TIMEOUT);
}

/// Each time the device is reset nonetheless, and nothing else is harmed.
#[test]
fn a_back_end_that_ends_or_lies_while_it_serves_harms_its_device_only() {
    type Answer = fn(u32) -> Option<Vec<u8>>;
    let answers: [Answer; 3] = [
        |code| (code != GET_VRING_BASE).then(|| honest(GOOD, code)),
        |code| match code {
            GET_VRING_BASE => Some(reply(code, &[0xff; 8])),
            code => Some(honest(GOOD, code)),
        },
        // It does not answer.
        |code| match code {
            GET_VRING_BASE => Some(Vec::new()),
            code => Some(honest(GOOD, code)),
        },
    ];
    for answer in answers {
        let ram = Ram::new();
        let page = Page::remote(&ram, &remote(Kind::rng(8), Source::Once(liar(answer))));
        go_live(&page, RAM);
        assert!(!needs_reset(&page));
        page.write(offset::STATUS, 0);
        assert_eq!(page.read(offset::STATUS), 0);
        let other = image(SECTORS);
        let page = support::disk(&ram, &other, false);
        check_read(&mut open(&ram, &page, OWN), 1);
    }
}

/// QEMU's storage daemon, which ends with this value.
struct Daemon(Child);

impl Daemon {
    fn start(folder: &Path) -> Daemon {
        let at = |name: &str| folder.join(name).display().to_string();
        let _ = fs::remove_file(folder.join("socket"));
        let mut command = Command::new("qemu-storage-daemon");
        let file = format!("driver=file,filename={},node-name=file", at("disk"));
        command.args(["--blockdev", &file]);
        command.args(["--blockdev", "driver=raw,file=file,node-name=disk"]);
        command.arg("--export").arg(format!(
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path={}",
            at("socket")
        ));
        let daemon = Daemon(command.spawn().expect("qemu-storage-daemon, in qemu-utils"));
        wait_for("its socket", || folder.join("socket").exists());
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Another back end than ours, which answers out of order, notes its requests in flight, and is
/// killed and started again.
#[test]
#[ignore = "needs qemu-storage-daemon: make test-full"]
fn qemus_storage_daemon_serves_a_disk_also_after_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = image(SECTORS);
    let mut content = Vec::new();
    disk.seek(SeekFrom::Start(0)).unwrap();
    disk.read_to_end(&mut content).unwrap();
    fs::write(folder.path().join("disk"), content).unwrap();
    let mut daemon = Daemon::start(folder.path());
    let socket = folder.path().join("socket");
    let source = Source::Again(Box::new(move || UnixStream::connect(&socket)));
    let remote = remote(Kind::block(128), source);
    let ram = Ram::new();
    let page = Page::remote(&ram, &remote);
    for ring in RINGS {
        let mut block = open(&ram, &page, OWN | ring);
        (0..SECTORS).for_each(|sector| check_read(&mut block, sector));
        block.flush(&mut timeout()).unwrap();
        block.into_transport().reset().unwrap();
    }
    let mut dma = ram.dma();
    let data = dma.alloc(8 * SECTOR).unwrap();
    let mut block = Block::new(page.probe(), &mut dma, OWN, 64).unwrap();
    for round in 0..3 {
        check_read(&mut block, round);
        page.mmio.pause();
        page.mmio.resume();
        drop(daemon);
        daemon = Daemon::start(folder.path());
        read_eight(&mut block, &data);
    }
}
