//! A small guest with two harts, paused in every way. Needs KVM, so it runs in the lab.

#![allow(unsafe_code, clippy::unwrap_used)]

use std::arch::global_asm;
use std::os::unix::thread::JoinHandleExt;
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::Bytes;

use super::*;
use crate::observe::Unobserved;
use crate::{config, control_loop, kvm};

// Each hart has 64 bytes at `guest_words`: rounds, the longest gap between two reads of `time`,
// wrong results, and `time` itself. A round stores to the serial port's scratch register (hart 0)
// and writes a byte with the SBI debug console, whose output is discarded.
global_asm!(
    ".option push
     .option norelax
     .balign 8
     .globl guest_begin, guest_words, guest_end
     guest_begin:
         mv   s0, a0
         bnez s0, 1f
         li   a7, 0x48534d      # HSM
         li   a6, 0             # hart_start
         li   a0, 1
         lla  a1, guest_begin
         li   a2, 0
         ecall
     1:  lla  s1, guest_words
         slli t0, s0, 6
         add  s1, s1, t0
         li   s2, 0x10000007    # SCR
         li   s3, 0             # rounds
         li   s4, 0             # longest gap
         li   s5, 0             # wrong answers
         rdtime s6
     2:  rdtime t0
         sub  t1, t0, s6
         mv   s6, t0
         bgeu s4, t1, 3f
         mv   s4, t1
     3:  bnez s0, 4f
         andi t1, s3, 0xff
         sb   t1, 0(s2)
         lbu  t2, 0(s2)
         beq  t1, t2, 4f
         addi s5, s5, 1
     4:  li   a7, 0x4442434e    # DBCN
         li   a6, 2             # console_write_byte
         li   a0, 7
         ecall
         beqz a0, 5f
         addi s5, s5, 1
     5:  addi s3, s3, 1
         sd   s3, 0(s1)
         sd   s4, 8(s1)
         sd   s5, 16(s1)
         sd   s6, 24(s1)
         j    2b
         .balign 8
     guest_words:
         .zero 128
     guest_end:
     .option pop"
);

unsafe extern "C" {
    static guest_begin: u8;
    static guest_words: u8;
    static guest_end: u8;
}

/// Returns the offsets of these symbols from the start of the guest, in bytes.
fn offset(symbol: *const u8) -> usize {
    // The symbols are in one section.
    symbol as usize - &raw const guest_begin as usize
}

fn machine(cpus: u32) -> Machine {
    let length = offset(&raw const guest_end);
    // SAFETY: the bytes between the two symbols, which nothing writes.
    let code = unsafe { std::slice::from_raw_parts(&raw const guest_begin, length) };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), code).unwrap();
    let kernel = config::Kernel { path: file.path().into(), format: config::KernelFormat::Raw };
    let config = config::Machine {
        cpus,
        console: config::Target::Null,
        serial: config::Target::Null,
        memory: config::Memory::new(64 << 20),
        ..config::Machine::new(kernel)
    };
    Machine::new(config, None).unwrap()
}

/// A hart's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    rounds: u64,
    gap: u64,
    wrong: u64,
    time: u64,
}

fn words(vm: &Vm<'_>, hart: usize) -> Words {
    let base = usize::try_from(vm.context.machine.placement.entry).unwrap();
    let base = base + offset(&raw const guest_words) + 64 * hart;
    let word = |index: usize| -> u64 {
        vm.ram
            .read_obj(GuestAddress((base + 8 * index) as u64))
            .unwrap()
    };
    Words { rounds: word(0), gap: word(1), wrong: word(2), time: word(3) }
}

/// Waits until both harts have made some more rounds.
fn progress(vm: &Vm<'_>) {
    for hart in 0..2 {
        let rounds = words(vm, hart).rounds + 20;
        let deadline = Instant::now() + Duration::from_secs(120);
        while words(vm, hart).rounds < rounds {
            assert!(Instant::now() < deadline, "hart {hart} does not run");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs `test` with a booted VM of two harts.
fn with_vm(test: impl FnOnce(&mut Vm<'_>)) {
    let (machine, observer) = (machine(2), Unobserved);
    let control = Arc::new(Control::new().unwrap());
    let consoles = Consoles::open(&machine, |_| {}).unwrap();
    let kvm = kvm::open().unwrap();
    let context = Context {
        machine: &machine,
        consoles: &consoles,
        budget: &Budget::default(),
        control: &control,
        observer: &observer,
    };
    let mut vm = Vm::new(&kvm, context).unwrap();
    vm.boot().unwrap();
    progress(&vm);
    test(&mut vm);
}

/// Returns the CPU time used by the vCPU threads, in nanoseconds.
fn processor_time(vm: &Vm<'_>) -> i64 {
    let threads = vm.threads.as_ref().unwrap().threads();
    let time = |thread: &thread::JoinHandle<_>| {
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: the thread is not yet joined, and `clock` is ours to write.
        let found = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
        assert_eq!(found, 0);
        // SAFETY: `time` is ours to write.
        assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    threads.map(time).sum()
}

#[test]
fn a_paused_guest_stands_still_and_its_clock_goes_on_without_a_jump() {
    const PAUSE: Duration = Duration::from_secs(5);
    with_vm(|vm| {
        assert!(vm.pause());
        assert!(!vm.pause(), "paused already");
        let (before, used) = ([words(vm, 0), words(vm, 1)], processor_time(vm));
        thread::sleep(PAUSE);
        assert_eq!([words(vm, 0), words(vm, 1)], before);
        // The time to fall asleep.
        let used = processor_time(vm) - used;
        assert!(
            used < 100_000_000,
            "{used} ns of processor time while paused"
        );
        vm.resume();
        progress(vm);
        let pause = PAUSE.as_secs() * u64::from(vm.timebase);
        for hart in 0..2 {
            let Words { gap, wrong, .. } = words(vm, hart);
            assert!(gap < pause, "hart {hart}: {gap} of {pause} ticks");
            assert_eq!(wrong, 0, "hart {hart}");
        }
    });
}

#[test]
fn pauses_lose_no_answer_of_a_device_or_of_the_sbi() {
    with_vm(|vm| {
        let mut time = [0; 2];
        for n in 0..200 {
            assert!(vm.pause());
            for (hart, time) in time.iter_mut().enumerate() {
                let now = words(vm, hart);
                assert_eq!(now.wrong, 0, "hart {hart}");
                assert!(now.time >= *time, "hart {hart}: time went back");
                *time = now.time;
            }
            vm.resume();
            thread::sleep(Duration::from_millis(n % 5));
        }
        progress(vm);
        assert_eq!([words(vm, 0).wrong, words(vm, 1).wrong], [0; 2]);
    });
}

#[test]
fn a_paused_guest_can_be_asked_and_ended() {
    let control = Arc::new(Control::new().unwrap());
    let end = End::Signal(libc::SIGTERM);
    for request in [
        Request::Pause,
        Request::Report,
        Request::Resize,
        Request::Resume,
        Request::Pause,
        Request::Pause,
        Request::Shutdown(end),
    ] {
        control.request(request);
    }
    let ended = control_loop::run_with(&machine(1), &Unobserved, &control);
    assert_eq!(ended.unwrap(), end);
}
