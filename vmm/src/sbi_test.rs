use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_setfl};

use super::*;

const RAM: u64 = 0x8000_0000;
const LEN: usize = 0x1_0000;
const INVALID: [u64; 2] = [ERR_INVALID_PARAM.cast_unsigned(), 0];

struct Rig {
    console: Console,
    memory: Arc<GuestMemoryMmap>,
    keyboard: PipeWriter,
    screen: PipeReader,
}

fn rig() -> Rig {
    let (input, keyboard) = pipe().unwrap();
    let (screen, output) = pipe().unwrap();
    fcntl_setfl(&input, OFlags::NONBLOCK).unwrap();
    fcntl_setfl(&output, OFlags::NONBLOCK).unwrap();
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), LEN)]).unwrap());
    Rig {
        console: Console::new(
            Arc::clone(&memory),
            OwnedFd::from(input).into(),
            File::from(OwnedFd::from(output)),
        ),
        memory,
        keyboard,
        screen,
    }
}

impl Rig {
    /// KVM's reply before the call reaches user space.
    const UNANSWERED: [u64; 2] = [(-2_i64).cast_unsigned(), 0];

    fn call(&self, extension: u64, function: u64, args: [u64; 3]) -> [u64; 2] {
        let mut ret = Self::UNANSWERED;
        let [a0, a1, a2] = args;
        self.console
            .call(Call { extension, function, args: [a0, a1, a2, 0, 0, 0], ret: &mut ret });
        ret
    }

    fn screen(&mut self, len: usize) -> Vec<u8> {
        let mut seen = vec![0; len];
        self.screen.read_exact(&mut seen).unwrap();
        seen
    }
}

#[test]
fn a_debug_console_write_prints_guest_memory() {
    let mut rig = rig();
    rig.memory
        .write_slice(b"hello", GuestAddress(RAM + 100))
        .unwrap();
    assert_eq!(
        rig.call(extension::DBCN, dbcn::WRITE, [5, RAM + 100, 0]),
        [0, 5]
    );
    assert_eq!(rig.screen(5), b"hello");
    assert_eq!(rig.call(extension::DBCN, dbcn::WRITE, [0, RAM, 0]), [0, 0]);
}

#[test]
fn a_long_write_is_done_in_part_and_says_so() {
    let rig = rig();
    let len = LEN as u64;
    assert_eq!(
        rig.call(extension::DBCN, dbcn::WRITE, [len, RAM, 0]),
        [0, CHUNK]
    );
}

#[test]
fn a_buffer_that_is_not_all_ram_is_an_invalid_parameter() {
    let rig = rig();
    let end = RAM + LEN as u64;
    let buffers = [
        [1, 0, 0],
        [2, RAM - 1, 0],
        [2, end - 1, 0],
        // Its first chunk is RAM, but not all of it.
        [LEN as u64 + 1, RAM, 0],
        [u64::MAX, RAM, 0],
        [8, u64::MAX - 3, 0],
        [1, RAM, 1],
    ];
    for buffer in buffers {
        for function in [dbcn::WRITE, dbcn::READ] {
            assert_eq!(
                rig.call(extension::DBCN, function, buffer),
                INVALID,
                "{buffer:x?}"
            );
        }
    }
}

#[test]
fn a_read_gives_what_there_is_and_does_not_wait() {
    let mut rig = rig();
    let read = |rig: &Rig| rig.call(extension::DBCN, dbcn::READ, [16, RAM, 0]);
    assert_eq!(read(&rig), [0, 0]);
    rig.keyboard.write_all(b"abc").unwrap();
    assert_eq!(read(&rig), [0, 3]);
    let mut bytes = [0; 3];
    rig.memory
        .read_slice(&mut bytes, GuestAddress(RAM))
        .unwrap();
    assert_eq!(&bytes, b"abc");
}

#[test]
fn single_characters_go_both_ways() {
    let mut rig = rig();
    assert_eq!(
        rig.call(extension::LEGACY_PUTCHAR, 0, [u64::from(b'x'), 0, 0]),
        [0, 0]
    );
    assert_eq!(
        rig.call(
            extension::DBCN,
            dbcn::WRITE_BYTE,
            [0x100 | u64::from(b'y'), 0, 0]
        ),
        [0, 0]
    );
    assert_eq!(rig.screen(2), b"xy");
    assert_eq!(
        rig.call(extension::LEGACY_GETCHAR, 0, [0; 3]),
        [u64::MAX, 0]
    );
    rig.keyboard.write_all(b"z").unwrap();
    assert_eq!(
        rig.call(extension::LEGACY_GETCHAR, 0, [0; 3]),
        [u64::from(b'z'), 0]
    );
}

#[test]
fn unknown_calls_stay_unanswered() {
    let rig = rig();
    for (extension, function) in [
        (extension::DBCN, 3),
        (0, 0),
        (0x0a00_0000, 7),
        (u64::MAX, u64::MAX),
    ] {
        assert_eq!(rig.call(extension, function, [1, RAM, 0]), Rig::UNANSWERED);
    }
}

#[test]
fn output_that_nobody_reads_counts_as_written() {
    let rig = rig();
    drop(rig.screen);
    let mut ret = [0; 2];
    rig.console.call(Call {
        extension: extension::DBCN,
        function: dbcn::WRITE,
        args: [5, RAM, 0, 0, 0, 0],
        ret: &mut ret,
    });
    assert_eq!(ret, [0, 5]);
}
