//! Instructions that may trap, each run alone: in S-mode or U-mode, with paging or without.
//!
//! ```text
//!   Sv39, in gigapages                        where it leads
//!   0            S                            devices
//!   2            S, executable                RAM
//!   4            U, executable                RAM
//!   5            U                            devices
//!   6            a page table beyond RAM
//!   510          S, executable                RAM, in the upper half
//! ```

#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// 1 GiB, the range of one entry of the root table.
const GIB: u64 = 1 << 30;
/// Where RAM begins.
const RAM: u64 = 2 * GIB;
/// V, R, W, A and D; with X; with U.
const READ_WRITE: u64 = 0xc7;
const EXECUTE: u64 = 0x8;
const USER: u64 = 0x10;
/// satp: Sv39.
const SV39: u64 = 8 << 60;
/// sstatus: SPP and SPIE; FS and VS are dirty.
const SPP: u64 = 1 << 8;
const SPIE: u64 = 1 << 5;
const UNITS: u64 = 0b11 << 13 | 0b11 << 9;
/// Instructions of one case, with the ebreak that ends it.
pub const CODE: usize = 8;
const EBREAK: u32 = 0x0010_0073;
/// scause of the ebreak.
const BREAKPOINT: u64 = 3;

/// Root of the page table: a page of entries.
#[repr(align(4096))]
struct Table([AtomicU64; 512]);

static ROOT: Table = Table([const { AtomicU64::new(0) }; 512]);

// `fault_run(address, value, taken, code, status)` enters the code with a0 = address and a1 =
// value, by sret with this status. The code changes only a0, a1 and fa0, and always traps, by an
// ebreak at its end: to `fault_vector`, which returns from `fault_run`.
global_asm!(
    ".section .data",
    ".balign 8",
    ".global fault_code",
    "fault_code: .space 4 * {code}",
    ".section .text",
    ".balign 4",
    ".global fault_run",
    "fault_run:",
    "   addi    sp, sp, -32",
    "   sd      ra, 0(sp)",
    "   csrr    t0, stvec",
    "   sd      t0, 8(sp)",
    "   la      t0, fault_vector",
    "   csrw    stvec, t0",
    "   csrw    sstatus, a4",
    "   csrw    sepc, a3",
    "   sret",
    ".balign 4",
    "fault_vector:",
    "   sd      a0, 0(a2)",
    "   csrr    t0, scause",
    "   sd      t0, 8(a2)",
    "   csrr    t0, sepc",
    "   sd      t0, 16(a2)",
    "   csrr    t0, stval",
    "   sd      t0, 24(a2)",
    "   csrr    t0, sstatus",
    "   sd      t0, 32(a2)",
    "   ld      t0, 8(sp)",
    "   csrw    stvec, t0",
    "   ld      ra, 0(sp)",
    "   addi    sp, sp, 32",
    "   ret",
    code = const CODE,
);

unsafe extern "C" {
    #[link_name = "fault_code"]
    static mut PLACE: [u32; CODE];
    fn fault_run(address: u64, value: u64, taken: *mut Taken, code: u64, status: u64);
}

/// Mode and paging of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// S-mode without paging.
    Bare,
    /// S-mode with Sv39.
    Paged,
    /// U-mode with Sv39.
    User,
    /// S-mode with Sv39, from the upper half.
    Upper,
}

/// How a case ended: a0, and the trap's CSRs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// a0.
    pub a0: u64,
    /// scause.
    pub cause: u64,
    /// sepc.
    pub at: u64,
    /// stval.
    pub value: u64,
    /// sstatus.
    pub status: u64,
}

impl Taken {
    /// Whether the case ran to its end.
    pub fn is_done(&self) -> bool {
        self.cause == BREAKPOINT
    }

    /// The mode that it came from (SPP), and whether interrupts were on (SPIE) and are (SIE).
    pub fn bits(&self) -> [bool; 3] {
        [SPP, SPIE, 1 << 1].map(|bit| self.status & bit != 0)
    }
}

impl Space {
    /// The address of a physical address in this space. Beyond the first 4 GiB nothing is mapped,
    /// and the address stays the same.
    pub fn address(self, physical: u64) -> u64 {
        match self {
            Space::User if physical < GIB => physical + 5 * GIB,
            Space::User if (RAM..3 * GIB).contains(&physical) => physical + 2 * GIB,
            Space::Upper if (RAM..3 * GIB).contains(&physical) => physical + (0xffff_ffff << 32),
            _ => physical,
        }
    }
}

/// An address whose page table is beyond RAM.
pub const UNTABLED: u64 = 6 * GIB;

/// Fills in the page table, for RAM that ends at `end`, and disables interrupts on this hart.
pub fn prepare(end: u64) {
    let page = |address: u64, bits| address >> 2 | READ_WRITE | bits;
    let entries = [
        (0, page(0, 0)),
        (2, page(RAM, EXECUTE)),
        (4, page(RAM, EXECUTE | USER)),
        (5, page(0, USER)),
        (6, (end + 4096) >> 2 | 1),
        (510, page(RAM, EXECUTE)),
    ];
    for (index, entry) in entries {
        if let Some(place) = ROOT.0.get(index) {
            place.store(entry, Ordering::Relaxed);
        }
    }
    // SAFETY: no interrupt is expected from here on.
    unsafe { asm!("csrw sie, zero") };
}

/// Where the code of a case is in a space.
pub fn place(space: Space) -> u64 {
    space.address((&raw const PLACE).expose_provenance() as u64)
}

/// Runs up to `CODE` - 1 instructions with a0 = `address` and a1 = `value`. They may change only
/// a0, a1 and fa0.
pub fn run(space: Space, code: &[u32], address: u64, value: u64) -> Taken {
    let ends = core::iter::repeat(&EBREAK);
    for (index, word) in code.iter().chain(ends).take(CODE).enumerate() {
        let start = (&raw mut PLACE).cast::<u32>();
        // SAFETY: an index below the array's length.
        let word_at = unsafe { start.add(index) };
        // SAFETY: nothing else uses it, and it does not run now.
        unsafe { word_at.write_volatile(*word) };
    }
    fence(Ordering::SeqCst);
    riscv::asm::fence_i();
    let root = ptr::from_ref(&ROOT).expose_provenance() as u64;
    let satp = match space {
        Space::Bare => 0,
        _ => SV39 | root >> 12,
    };
    let status = UNITS
        | SPIE
        | match space {
            Space::User => 0,
            _ => SPP,
        };
    let mut taken = Taken::default();
    set_satp(satp);
    // SAFETY: the code and the vector change only caller-saved registers, and each space maps this
    // code and its stack for S-mode.
    unsafe { fault_run(address, value, &raw mut taken, place(space), status) };
    set_satp(0);
    taken
}

fn set_satp(value: u64) {
    // SAFETY: this program's memory is mapped to itself, or not mapped.
    unsafe { asm!("csrw satp, {0}", "sfence.vma", in(reg) value) };
}
