//! A function that is rewritten while the program runs, to test remote fences.

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering, fence};

// `li a0, 0` and `ret`, in writable memory; it is executable since paging is off.
global_asm!(
    ".section .data",
    ".balign 8",
    ".option push",
    ".option norvc",
    "patch_code:",
    "   addi    a0, zero, 0",
    "   ret",
    ".option pop",
);

unsafe extern "C" {
    #[link_name = "patch_code"]
    static CODE: AtomicU32;
    #[link_name = "patch_code"]
    safe fn code() -> usize;
}

/// Largest value that fits the instruction.
pub const MAX: u16 = 2047;

/// Makes [`call`] return `value` (at most [`MAX`]) on harts that have executed a fence: the calling
/// hart has, others need SBI's remote_fence_i.
pub fn set(value: u16) {
    let instruction = u32::from(value.min(MAX)) << 20 | 0x513;
    // SAFETY: the word is the aligned instruction above; a hart executes either the old or the new
    // one.
    let code = unsafe { &CODE };
    code.store(instruction, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    riscv::asm::fence_i();
}

/// Runs the function.
pub fn call() -> usize {
    code()
}
