use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::*;
use crate::output::Lost;
use crate::rig::Wire;

/// A port, and the terminal's ends of its files.
struct Fixture {
    uart: Uart,
    wire: Wire,
    listening: Arc<AtomicBool>,
    keyboard: PipeWriter,
    screen: PipeReader,
    /// The read end of the keyboard, for another user of the input.
    shared: File,
}

fn fixture() -> Fixture {
    let (input, keyboard) = pipe().unwrap();
    let (screen, output) = pipe().unwrap();
    nonblocking(&input);
    nonblocking(&output);
    let (input, output) = (OwnedFd::from(input), File::from(OwnedFd::from(output)));
    // However busy the machine is.
    let output = Output::from(output).waiting(Duration::MAX);
    let (wire, listening) = (Wire::default(), Arc::new(AtomicBool::new(true)));
    let shared = input.try_clone().unwrap().into();
    let line = Box::new(wire.clone());
    let inputs = vec![input.into()];
    Fixture {
        uart: Uart::new(inputs, output, Arc::clone(&listening), line).unwrap(),
        wire,
        listening,
        keyboard,
        screen,
        shared,
    }
}

#[allow(unsafe_code)]
fn nonblocking(file: &impl AsRawFd) {
    // SAFETY: sets a flag of an open descriptor.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0);
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

impl Fixture {
    fn get(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.uart.read(offset, &mut data);
        data[0]
    }

    fn set(&self, offset: u64, value: u8) {
        self.uart.write(offset, &[value]);
    }
}

#[test]
fn what_the_guest_writes_comes_out() {
    let mut fixture = fixture();
    assert!(!fixture.uart.has_sent());
    for byte in b"hello" {
        assert_eq!(fixture.get(register::LSR) & lsr::EMPTY, lsr::EMPTY);
        fixture.set(register::DATA, *byte);
    }
    let mut seen = [0; 5];
    fixture.screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    assert!(fixture.uart.has_sent());
}

#[test]
fn a_polling_guest_sees_input_and_consumes_it_only_by_reading() {
    let mut fixture = fixture();
    assert_eq!(fixture.get(register::LSR) & lsr::DATA_READY, 0);
    fixture.keyboard.write_all(b"ab").unwrap();
    assert_eq!(fixture.get(register::LSR) & lsr::DATA_READY, 1);
    let mut byte = [0];
    (&fixture.shared).read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"a", "whoever shares the input still finds it");
    assert_eq!(fixture.get(register::DATA), b'b');
    assert_eq!(fixture.get(register::LSR) & lsr::DATA_READY, 0);
    assert!(!fixture.wire.is_high());
}

#[test]
fn with_the_interrupt_enabled_input_raises_the_line_until_it_is_read() {
    let mut fixture = fixture();
    assert!(!fixture.listening.load(Ordering::SeqCst));
    fixture.set(register::IER, ier::RECEIVED);
    assert!(fixture.listening.load(Ordering::SeqCst));
    fixture.keyboard.write_all(b"xy").unwrap();
    eventually("an interrupt", || fixture.wire.is_high());
    assert_eq!(fixture.get(register::IIR_FCR), iir::RECEIVED);
    assert_eq!((fixture.get(0), fixture.get(0)), (b'x', b'y'));
    assert!(!fixture.wire.is_high());
    assert_eq!(fixture.get(register::IIR_FCR), iir::NONE);
    fixture.keyboard.write_all(b"z").unwrap();
    eventually("another interrupt", || fixture.wire.is_high());
    assert_eq!(fixture.get(0), b'z');
    fixture.set(register::IER, 0);
    assert!(!fixture.listening.load(Ordering::SeqCst));
}

#[test]
fn a_megabyte_of_input_arrives_in_order() {
    let fixture = fixture();
    let sent: Vec<u8> = (0..1_u32 << 20)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    fixture.set(register::IER, ier::RECEIVED);
    let (mut keyboard, expected) = (fixture.keyboard.try_clone().unwrap(), sent.clone());
    let typist = std::thread::spawn(move || keyboard.write_all(&sent).unwrap());
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        eventually("input", || fixture.wire.is_high());
        while fixture.get(register::LSR) & lsr::DATA_READY != 0 {
            seen.push(fixture.get(register::DATA));
        }
    }
    typist.join().unwrap();
    assert!(seen == expected);
}

#[test]
fn the_transmitter_interrupts_when_enabled_and_after_each_byte() {
    let fixture = fixture();
    fixture.set(register::IER, ier::TRANSMITTER_EMPTY);
    assert!(fixture.wire.is_high());
    assert_eq!(fixture.get(register::IIR_FCR), iir::TRANSMITTER_EMPTY);
    // It is reported once.
    assert_eq!(fixture.get(register::IIR_FCR), iir::NONE);
    assert!(!fixture.wire.is_high());
    fixture.set(register::DATA, b'.');
    assert_eq!(fixture.get(register::IIR_FCR), iir::TRANSMITTER_EMPTY);
}

#[test]
fn a_reader_that_stops_makes_the_transmitter_busy_and_nothing_is_lost() {
    let mut fixture = fixture();
    fixture.set(register::IER, ier::TRANSMITTER_EMPTY);
    let mut sent = 0_usize;
    while fixture.get(register::LSR) & lsr::EMPTY != 0 {
        fixture.set(register::DATA, u8::try_from(sent % 251).unwrap());
        sent += 1;
        assert!(sent < 1 << 20, "it is never busy");
    }
    // The last byte made it busy, so there is no interrupt for an empty transmitter.
    assert_eq!(fixture.get(register::IIR_FCR), iir::NONE);
    let mut seen = vec![0; sent];
    fixture.screen.read_exact(&mut seen).unwrap();
    let expected: Vec<u8> = (0..sent).map(|n| u8::try_from(n % 251).unwrap()).collect();
    assert!(seen == expected);
    eventually("an interrupt", || fixture.wire.is_high());
    assert_eq!(fixture.get(register::LSR) & lsr::EMPTY, lsr::EMPTY);
}

#[test]
fn output_to_a_stopped_reader_is_lost_after_the_timeout_and_the_port_continues() {
    let (_screen, output) = pipe().unwrap();
    nonblocking(&output);
    let lost = Arc::new(Lost::new("a console"));
    let output = File::from(OwnedFd::from(output));
    let output = Output::new(output, Arc::clone(&lost)).waiting(Duration::from_millis(1));
    let uart = Uart::new(
        Vec::new(),
        output,
        Arc::default(),
        Box::new(Wire::default()),
    )
    .unwrap();
    while lost.bytes() == 0 {
        uart.write(register::DATA, b".");
    }
    let mut data = [0];
    eventually("room", || {
        uart.read(register::LSR, &mut data);
        data[0] & lsr::EMPTY != 0
    });
}

#[test]
fn the_backlog_is_written_when_the_port_stops() {
    let fixture = fixture();
    let sent = 100_000;
    for _ in 0..sent {
        fixture.set(register::DATA, b'x');
    }
    let mut screen = fixture.screen;
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        screen.read_to_end(&mut seen).map(|_| seen.len())
    });
    drop(fixture.uart);
    assert_eq!(reader.join().unwrap().unwrap(), sent);
}

#[test]
fn output_without_a_reader_is_dropped() {
    let fixture = fixture();
    drop(fixture.screen);
    let mut data = [0];
    for _ in 0..3 * BACKLOG_MAX {
        fixture.uart.write(register::DATA, b".");
    }
    fixture.uart.read(register::LSR, &mut data);
    assert_eq!(data[0] & lsr::EMPTY, lsr::EMPTY);
}

#[test]
fn the_loop_that_drivers_probe_with_works() {
    let mut fixture = fixture();
    // Linux' autoconfig: RTS and OUT2 come back as CTS and DCD.
    fixture.set(register::MCR, MCR_LOOP | 0x0a);
    assert_eq!(fixture.get(register::MSR), msr::CTS | msr::DCD);
    fixture.set(register::DATA, 0x5a);
    assert_eq!(fixture.get(register::DATA), 0x5a);
    fixture.set(register::MCR, 0);
    fixture.set(register::DATA, b'!');
    let mut seen = [0];
    fixture.screen.read_exact(&mut seen).unwrap();
    assert_eq!(seen, *b"!");
}

#[test]
fn a_cleared_fifo_takes_input_again() {
    let mut fixture = fixture();
    fixture.set(register::IER, ier::RECEIVED);
    fixture.keyboard.write_all(b"ab").unwrap();
    eventually("an interrupt", || fixture.wire.is_high());
    fixture.set(register::IIR_FCR, fcr::ENABLE | fcr::CLEAR_RECEIVED);
    assert!(!fixture.wire.is_high());
    fixture.keyboard.write_all(b"c").unwrap();
    eventually("another interrupt", || fixture.wire.is_high());
    assert_eq!(fixture.get(register::DATA), b'c');
}

#[test]
fn in_loop_mode_input_waits_and_is_read_afterwards() {
    let mut fixture = fixture();
    fixture.set(register::MCR, MCR_LOOP);
    fixture.set(register::IER, ier::RECEIVED);
    fixture.keyboard.write_all(b"key").unwrap();
    // The thread has checked the state: it does so after each change of IER.
    for enabled in [0, ier::RECEIVED] {
        fixture.set(register::IER, enabled);
        assert_eq!(fixture.get(register::LSR) & lsr::DATA_READY, 0);
    }
    fixture.set(register::DATA, 0x5a);
    assert!(fixture.wire.is_high());
    assert_eq!(fixture.get(register::DATA), 0x5a);
    assert_eq!(fixture.get(register::LSR) & lsr::DATA_READY, 0);
    fixture.set(register::MCR, 0);
    eventually("the input", || fixture.wire.is_high());
    let seen = [(); 3].map(|()| fixture.get(register::DATA));
    assert_eq!(&seen, b"key");
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let fixture = fixture();
    fixture.set(register::LCR, LCR_DLAB | 3);
    fixture.set(register::DATA, 0x34);
    fixture.set(register::IER, 0x12);
    assert_eq!((fixture.get(0), fixture.get(1)), (0x34, 0x12));
    fixture.set(register::LCR, 3);
    assert_eq!((fixture.get(1), fixture.get(register::LCR)), (0, 3));
    fixture.set(register::IIR_FCR, fcr::ENABLE);
    assert_eq!(fixture.get(register::IIR_FCR), iir::FIFOS | iir::NONE);
    fixture.set(register::SCR, 0xa5);
    assert_eq!(fixture.get(register::SCR), 0xa5);
}

#[test]
fn odd_accesses_do_nothing() {
    let fixture = fixture();
    let mut data = [0; 4];
    fixture.uart.read(register::LSR, &mut data);
    fixture.uart.write(register::SCR, &[1, 2]);
    fixture.uart.write(0xff, &[1]);
    assert_eq!(
        (data, fixture.get(register::SCR), fixture.get(0xff)),
        ([0; 4], 0, 0)
    );
}
