//! Traps: interrupts go to their handlers, everything else ends the program with a report.

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use riscv::register::{scause, sepc, stval};

use crate::boot::{self, Outcome};
use crate::{hart, irq, stack, timer};

/// The top bit of scause: an interrupt.
const INTERRUPT: usize = 1 << 63;
const SOFTWARE: usize = INTERRUPT | 1;
const TIMER: usize = INTERRUPT | 5;
const EXTERNAL: usize = INTERRUPT | 9;

// Saves the caller-saved registers on the stack of the interrupted code. This program uses no
// floating-point register.
global_asm!(
    ".section .text",
    ".balign 4",
    ".global trap_vector",
    "trap_vector:",
    "   addi    sp, sp, -128",
    "   sd      ra, 0(sp)",
    "   sd      t0, 8(sp)",
    "   sd      t1, 16(sp)",
    "   sd      t2, 24(sp)",
    "   sd      t3, 32(sp)",
    "   sd      t4, 40(sp)",
    "   sd      t5, 48(sp)",
    "   sd      t6, 56(sp)",
    "   sd      a0, 64(sp)",
    "   sd      a1, 72(sp)",
    "   sd      a2, 80(sp)",
    "   sd      a3, 88(sp)",
    "   sd      a4, 96(sp)",
    "   sd      a5, 104(sp)",
    "   sd      a6, 112(sp)",
    "   sd      a7, 120(sp)",
    "   call    guest_trap",
    "   ld      ra, 0(sp)",
    "   ld      t0, 8(sp)",
    "   ld      t1, 16(sp)",
    "   ld      t2, 24(sp)",
    "   ld      t3, 32(sp)",
    "   ld      t4, 40(sp)",
    "   ld      t5, 48(sp)",
    "   ld      t6, 56(sp)",
    "   ld      a0, 64(sp)",
    "   ld      a1, 72(sp)",
    "   ld      a2, 80(sp)",
    "   ld      a3, 88(sp)",
    "   ld      a4, 96(sp)",
    "   ld      a5, 104(sp)",
    "   ld      a6, 112(sp)",
    "   ld      a7, 120(sp)",
    "   addi    sp, sp, 128",
    "   sret",
);

/// Called by the vector, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn guest_trap() {
    match hart::index() {
        0 => stack::check_boot(),
        index => hart::of(index).check_stack(),
    }
    match scause::read().bits() {
        SOFTWARE => hart::rung(),
        TIMER => timer::expired(),
        EXTERNAL => irq::external(),
        cause => fatal(format_args!(
            "trap: {} (scause {cause:#x}) at sepc {:#x}, stval {:#x}",
            name(cause),
            sepc::read(),
            stval::read(),
        )),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fatal(format_args!("{info}"))
}

/// Reports once and powers off; a failure of the report is not reported.
fn fatal(report: core::fmt::Arguments<'_>) -> ! {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        crate::println!("guest: {report}");
    }
    boot::end(Outcome::Failed)
}

/// The cause in words (RISC-V privileged architecture, table of scause).
fn name(cause: usize) -> &'static str {
    match cause {
        0 => "instruction address misaligned",
        1 => "instruction access fault",
        2 => "illegal instruction",
        3 => "breakpoint",
        4 => "load address misaligned",
        5 => "load access fault",
        6 => "store address misaligned",
        7 => "store access fault",
        8 => "environment call from U-mode",
        12 => "instruction page fault",
        13 => "load page fault",
        15 => "store page fault",
        _ if cause & INTERRUPT != 0 => "an interrupt that was not enabled",
        _ => "unknown",
    }
}
