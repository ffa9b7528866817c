use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_setfl};

use super::*;
use crate::output::Lost;
use crate::rig::{self, DATA, Rig};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// The index of the console's timer among its files.
const TIMER: usize = 2;

/// A console with one live queue, and the terminal's ends of its files.
struct Fixture {
    rig: Rig,
    console: Console,
    queues: Queues,
    keyboard: Option<PipeWriter>,
    screen: Option<PipeReader>,
}

fn fixture(queue: usize) -> Fixture {
    let (input, keyboard) = pipe().unwrap();
    let (screen, output) = pipe().unwrap();
    nonblocking(&input);
    nonblocking(&output);
    let rig = Rig::new(64);
    let mut queues = vec![None, None];
    queues[queue] = Some(rig.queue(0));
    Fixture {
        console: Console::new(
            OwnedFd::from(input).into(),
            File::from(OwnedFd::from(output)),
        ),
        queues: Queues::new(queues),
        rig,
        keyboard: Some(keyboard),
        screen: Some(screen),
    }
}

fn nonblocking(file: &impl AsFd) {
    fcntl_setfl(file, OFlags::NONBLOCK).unwrap();
}

fn blocking(file: &impl AsFd) {
    fcntl_setfl(file, OFlags::empty()).unwrap();
}

#[test]
fn output_to_a_full_disk_is_counted_as_lost_and_the_guest_continues() {
    let mut fixture = fixture(TRANSMIT);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let lost = Arc::new(Lost::new("a console"));
    let output = Output::new(full, Arc::clone(&lost));
    fixture.console = Console::new(File::open("/dev/null").unwrap(), output);
    fixture.rig.chain(0, &[(DATA, 6, 0), (DATA + 6, 5, 0)]);
    fixture.rig.offer(0);
    let (console, queues) = (&mut fixture.console, &mut fixture.queues);
    console.process_queue(TRANSMIT, queues).unwrap();
    assert_eq!(fixture.rig.used(0), (0, 0));
    assert_eq!(lost.bytes(), 11);
}

#[test]
fn output_goes_out_in_order() {
    let mut fixture = fixture(TRANSMIT);
    fixture.rig.write(DATA, b"hello world");
    fixture.rig.chain(0, &[(DATA, 6, 0), (DATA + 6, 5, 0)]);
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    let mut seen = [0; 11];
    fixture.screen.unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello world");
    assert_eq!(fixture.rig.used(0), (0, 0));
}

#[test]
fn the_consoles_output_is_served_inline_unless_it_may_block() {
    let ends = |output: File| Console::new(File::open("/dev/null").unwrap(), output);
    let served = |console: &Console| {
        let queues = 0..console.queues().len();
        queues
            .filter(|&queue| console.inline_notify(queue))
            .collect::<Vec<_>>()
    };
    let (_screen, output) = pipe().unwrap();
    let output = File::from(OwnedFd::from(output));
    let pipe = || output.try_clone().unwrap();
    assert!(served(&ends(pipe())).is_empty());
    nonblocking(&output);
    assert_eq!(served(&ends(pipe())), [TRANSMIT]);
    assert_eq!(served(&ends(tempfile::tempfile().unwrap())), [TRANSMIT]);
    let further = ends(pipe()).with_port("further", File::open("/dev/null").unwrap(), pipe(), None);
    assert_eq!(
        served(&further),
        [TRANSMIT],
        "Linux does not wait for others"
    );
}

#[test]
fn output_waits_for_a_slow_reader_and_none_is_lost() {
    let mut fixture = fixture(TRANSMIT);
    // More than a pipe holds.
    let len = 300_000_u32;
    let text: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    fixture.rig.write(DATA, &text);
    fixture.rig.chain(0, &[(DATA, len, 0)]);
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 0, "held back, not blocked");
    let mut screen = fixture.screen.unwrap();
    let mut seen: Vec<u8> = Vec::new();
    while seen.len() < text.len() {
        let mut part = [0; 65536];
        let count = screen.read(&mut part).unwrap();
        seen.extend(&part[..count]);
        fixture
            .console
            .handle_event(TRANSMIT, &mut fixture.queues)
            .unwrap();
    }
    assert_eq!(seen, text);
    assert_eq!(fixture.rig.used_idx(), 1);
}

#[test]
fn output_without_a_reader_is_dropped() {
    let mut fixture = fixture(TRANSMIT);
    drop(fixture.screen.take());
    fixture.rig.chain(0, &[(DATA, 5, 0)]);
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 1);
}

#[test]
fn input_fills_the_available_buffers_and_the_rest_waits() {
    let mut fixture = fixture(RECEIVE);
    let mut keyboard = fixture.keyboard.take().unwrap();
    keyboard.write_all(b"abcdef").unwrap();
    fixture
        .console
        .handle_event(RECEIVE, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 0);
    for expected in [b"abcd".as_slice(), b"ef"] {
        fixture.rig.chain(0, &[(DATA, 4, rig::WRITE)]);
        fixture.rig.offer(0);
        fixture
            .console
            .process_queue(RECEIVE, &mut fixture.queues)
            .unwrap();
        let (_, len) = fixture.rig.used(fixture.rig.used_idx() - 1);
        assert_eq!(fixture.rig.read(DATA, len as usize), expected);
    }
    // A buffer that came before the input is filled when the input comes.
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(RECEIVE, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 2);
    keyboard.write_all(b"!").unwrap();
    fixture
        .console
        .handle_event(RECEIVE, &mut fixture.queues)
        .unwrap();
    assert_eq!((fixture.rig.used_idx(), fixture.rig.used(2)), (3, (0, 1)));
}

#[test]
fn the_end_of_input_is_not_a_flood_of_empty_buffers() {
    let mut fixture = fixture(RECEIVE);
    drop(fixture.keyboard.take());
    fixture.rig.chain(0, &[(DATA, 4, rig::WRITE)]);
    (0..8).for_each(|_| fixture.rig.offer(0));
    for _ in 0..3 {
        fixture
            .console
            .handle_event(RECEIVE, &mut fixture.queues)
            .unwrap();
        fixture
            .console
            .process_queue(RECEIVE, &mut fixture.queues)
            .unwrap();
    }
    assert_eq!(fixture.rig.used_idx(), 0);
}

#[test]
fn buffers_of_the_wrong_direction_are_returned_untouched() {
    let mut receive = fixture(RECEIVE);
    receive
        .keyboard
        .as_mut()
        .unwrap()
        .write_all(b"abc")
        .unwrap();
    receive.rig.write(DATA, b"keep");
    receive.rig.chain(0, &[(DATA, 4, 0)]);
    receive.rig.offer(0);
    receive
        .console
        .process_queue(RECEIVE, &mut receive.queues)
        .unwrap();
    assert_eq!(receive.rig.used(0), (0, 0));
    assert_eq!(receive.rig.read(DATA, 4), b"keep");

    let mut transmit = fixture(TRANSMIT);
    transmit.rig.chain(0, &[(DATA, 4, rig::WRITE)]);
    transmit.rig.offer(0);
    transmit
        .console
        .process_queue(TRANSMIT, &mut transmit.queues)
        .unwrap();
    assert_eq!(transmit.rig.used_idx(), 1);
}

#[test]
fn a_queue_that_is_not_enabled_is_not_served() {
    let mut fixture = fixture(TRANSMIT);
    fixture
        .console
        .process_queue(RECEIVE, &mut fixture.queues)
        .unwrap();
    fixture
        .console
        .process_queue(7, &mut fixture.queues)
        .unwrap();
    fixture
        .console
        .handle_event(RECEIVE, &mut fixture.queues)
        .unwrap();
}

#[test]
fn a_change_of_the_windows_size_changes_the_configuration() {
    let window = Arc::new(Window::new(80, 24).unwrap());
    let (input, output) = (File::open("/dev/null"), File::open("/dev/null"));
    let console = Console::new(input.unwrap(), output.unwrap()).in_window(Arc::clone(&window));
    assert_eq!(console.features(), feature::SIZE | feature::EMERG_WRITE);
    let config = console.config();
    let seen = || {
        let mut bytes = [0xff; 12];
        config.read(0, &mut bytes);
        bytes
    };
    assert_eq!(seen(), [80, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(!window.set(80, 24));
    assert!(window.set(300, 5));
    assert_eq!(seen(), [44, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut rows = [0; 2];
    config.read(2, &mut rows);
    assert_eq!(rows, [5, 0]);
}

#[test]
fn a_reader_that_stops_loses_output_and_one_that_returns_gets_it_again() {
    let mut fixture = fixture(TRANSMIT);
    let text = vec![b'.'; 300_000];
    fixture.rig.write(DATA, &text);
    fixture.rig.chain(0, &[(DATA, 300_000, 0)]);
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 0, "it waits");
    // The device's thread does this when the timer fires.
    fixture
        .console
        .handle_event(TIMER, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 1, "it is dropped");
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 2, "at once from then on");
    let mut screen = fixture.screen.take().unwrap();
    let mut part = [0; 65536];
    assert!(screen.read(&mut part).unwrap() > 0);
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 2, "it waits again");
}

#[test]
fn the_timer_runs_only_while_output_waits() {
    let mut fixture = fixture(TRANSMIT);
    let armed = |console: &Console| {
        let timeout = console.ports[0].timeout.as_ref();
        timeout.unwrap().is_running()
    };
    assert!(!armed(&fixture.console));
    fixture.rig.write(DATA, &vec![b'.'; 300_000]);
    fixture.rig.chain(0, &[(DATA, 300_000, 0)]);
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert!(armed(&fixture.console));
    fixture.console.queue_reset(TRANSMIT);
    assert!(!armed(&fixture.console));
    fixture
        .console
        .handle_event(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert!(armed(&fixture.console));
    drop(fixture.screen.take());
    fixture
        .console
        .handle_event(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 1);
    fixture.console.reset();
    assert!(!armed(&fixture.console));
}

#[test]
fn a_timer_that_fires_again_does_not_start_another_wait() {
    let mut fixture = fixture(TRANSMIT);
    fixture.rig.write(DATA, &vec![b'.'; 300_000]);
    fixture.rig.chain(0, &[(DATA, 300_000, 0)]);
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    // The second call stands for another thread that starts to wait for the timer.
    fixture
        .console
        .handle_event(TIMER, &mut fixture.queues)
        .unwrap();
    fixture
        .console
        .handle_event(TIMER, &mut fixture.queues)
        .unwrap();
    fixture.rig.offer(0);
    fixture
        .console
        .process_queue(TRANSMIT, &mut fixture.queues)
        .unwrap();
    assert_eq!(fixture.rig.used_idx(), 2, "still dropped at once");
}

#[test]
fn every_queue_has_one_role() {
    let roles = [
        Role::Receive(0),
        Role::Transmit(0),
        Role::ControlReceive,
        Role::ControlTransmit,
        Role::Receive(1),
        Role::Transmit(1),
        Role::Receive(2),
    ];
    for (queue, role) in roles.into_iter().enumerate() {
        assert_eq!((Role::of(queue), role.queue()), (role, queue));
    }
}

/// The file may be in blocking mode, so it is polled first.
#[test]
fn emergency_output_goes_out_and_never_waits() {
    let (mut screen, output) = pipe().unwrap();
    let output = Arc::new(Output::from(File::from(OwnedFd::from(output))));
    let config = Config { window: None, ports: 0, output: Arc::clone(&output) };
    config.write(8, b"!\0\0\0");
    config.write(8, b"?");
    for (offset, data) in [
        (8, b"".as_slice()),
        (0, b"xxxx"),
        (9, b"x"),
        (usize::MAX, b"x"),
    ] {
        config.write(offset, data);
    }
    let mut seen = [0; 2];
    screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"!?");

    nonblocking(&*output);
    while output.file().write(&[b'.'; 4096]).is_ok() {}
    blocking(&*output);
    config.write(8, b"lost");
    drop(screen);
    config.write(8, b"nobody there");
}
