//! The guest's console driver against the console device, in one process.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::thread;

use guest::console::WANTED;
use guest::virtio::feature;
use guest::{Block, Console, Error};
use support::{Page, Ram, Terminal, console, disk, image, pattern, timeout};

const RINGS: [u64; 4] = [
    0,
    feature::INDIRECT_DESC,
    feature::EVENT_IDX,
    feature::INDIRECT_DESC | feature::EVENT_IDX,
];

const OWN: u64 = WANTED & !(feature::INDIRECT_DESC | feature::EVENT_IDX);

/// More bytes than all buffers in between hold together.
const MUCH: usize = 1 << 20;

fn open(ram: &Ram, wanted: u64) -> (Page, Console<Page>, Terminal) {
    let (page, terminal) = console(ram);
    let console = Console::new(page.probe(), &mut ram.dma(), wanted).unwrap();
    (page, console, terminal)
}

/// Bytes that show every loss and every swap: all windows of four bytes in 1 MiB differ.
fn text(len: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes());
    words.take(len).collect()
}

/// Receives `len` bytes, in portions of at most `portion`.
fn receive(console: &mut Console<Page>, len: usize, portion: usize) -> Vec<u8> {
    let mut wait = timeout();
    let mut seen = Vec::new();
    let mut into = vec![0; portion];
    while seen.len() < len {
        let count = console.receive(&mut into).unwrap();
        seen.extend(&into[..count]);
        assert!(count > 0 || wait(), "{} of {len} bytes came", seen.len());
    }
    seen
}

#[test]
fn input_reaches_the_driver_and_output_the_terminal() {
    for ring in RINGS {
        let ram = Ram::new();
        let (_page, mut console, mut terminal) = open(&ram, OWN | ring);
        let agreed = console.transport().features();
        assert_eq!(agreed & !OWN, ring | feature::VERSION_1);
        for line in ["a", "hello\n", &"long ".repeat(300), "\0\u{1}\u{7f}"] {
            terminal.keyboard.write_all(line.as_bytes()).unwrap();
            let echo = receive(&mut console, line.len(), 64);
            assert_eq!(echo, line.as_bytes());
            console.send(&echo, &mut timeout()).unwrap();
            let mut seen = vec![0; line.len()];
            terminal.screen.read_exact(&mut seen).unwrap();
            assert_eq!(seen, line.as_bytes());
        }
    }
}

#[test]
fn a_paste_of_a_mebibyte_loses_nothing_however_slowly_it_is_read() {
    for ring in RINGS {
        let ram = Ram::new();
        let (_page, mut console, mut terminal) = open(&ram, OWN | ring);
        let paste = text(MUCH);
        thread::scope(|scope| {
            scope.spawn(|| terminal.keyboard.write_all(&paste).unwrap());
            // 100 bytes at a time: every receive buffer of 256 bytes takes three reads.
            assert!(receive(&mut console, MUCH, 100) == paste);
        });
    }
}

#[test]
fn a_mebibyte_of_output_reaches_a_slow_terminal_whole() {
    for ring in RINGS {
        let ram = Ram::new();
        let (_page, mut console, mut terminal) = open(&ram, OWN | ring);
        let output = text(MUCH);
        let clogged = terminal.clog();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = vec![0; clogged + MUCH];
                // Odd portions, so that the device's writes are split anywhere.
                for portion in seen.chunks_mut(997) {
                    terminal.screen.read_exact(portion).unwrap();
                }
                seen
            });
            console.send(&output, &mut timeout()).unwrap();
            let seen = reader.join().unwrap();
            assert!(seen[clogged..] == output);
        });
    }
}

#[test]
fn a_terminal_that_takes_nothing_stalls_neither_input_nor_another_device() {
    let ram = Ram::new();
    let (_page, mut console, mut terminal) = open(&ram, WANTED);
    let file = image(64);
    let disk = disk(&ram, &file, false);
    let mut disk = Block::new(disk.probe(), &mut ram.dma(), guest::block::WANTED, 16).unwrap();
    let clogged = terminal.clog();

    // Meanwhile the disk serves a hundred reads.
    let mut sector = 0;
    let mut read_the_disk = || {
        let mut data = [0; 512];
        disk.read(sector % 64, &mut data, &mut timeout()).unwrap();
        assert_eq!(data, [pattern(sector % 64); 512]);
        sector += 1;
        sector < 100
    };
    let stalled = console.send(b"late, not lost", &mut read_the_disk);
    assert_eq!(stalled, Err(Error::Timeout));
    terminal.keyboard.write_all(b"typed meanwhile").unwrap();
    assert_eq!(receive(&mut console, 15, 64), b"typed meanwhile");

    let mut seen = vec![0; clogged + 14];
    terminal.screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen[clogged..], b"late, not lost");
    console.send(b"; and on", &mut timeout()).unwrap();
    let mut seen = [0; 8];
    terminal.screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"; and on");
}

#[test]
fn a_reset_while_stalled_frees_the_device() {
    let ram = Ram::new();
    let (page, mut console, mut terminal) = open(&ram, WANTED);
    let clogged = terminal.clog();
    let dropped = console.send(b"dropped by the reset", &mut || false);
    assert_eq!(dropped, Err(Error::Timeout));
    page.probe().reset().unwrap();
    drop(console);

    let mut console = Console::new(page.probe(), &mut ram.dma(), WANTED).unwrap();
    let mut seen = vec![0; clogged];
    terminal.screen.read_exact(&mut seen).unwrap();
    console.send(b"after it", &mut timeout()).unwrap();
    let mut seen = [0; 8];
    terminal.screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"after it");
}

#[test]
fn input_from_before_the_driver_came_is_kept() {
    let ram = Ram::new();
    let (page, mut terminal) = console(&ram);
    terminal.keyboard.write_all(b"early").unwrap();
    let mut console = Console::new(page.probe(), &mut ram.dma(), WANTED).unwrap();
    assert_eq!(receive(&mut console, 5, 64), b"early");
    // Typed while there is no driver.
    page.probe().reset().unwrap();
    drop(console);
    terminal.keyboard.write_all(b"between").unwrap();
    let mut console = Console::new(page.probe(), &mut ram.dma(), WANTED).unwrap();
    assert_eq!(receive(&mut console, 7, 64), b"between");
}

#[test]
fn a_closed_terminal_does_not_hang_the_guest() {
    let ram = Ram::new();
    let (_page, mut console, terminal) = open(&ram, WANTED);
    drop(terminal);
    console.send(&text(100_000), &mut timeout()).unwrap();
    assert_eq!(console.receive(&mut [0; 64]), Ok(0));
    console.transport().alive().unwrap();
}
