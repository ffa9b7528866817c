//! From the first instruction to `main`: stack, BSS, trap vector, device tree, DMA arena.

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use dtoolkit::fdt::Fdt;

use crate::{Dma, Error, MmioRegisters, Registers, fdt, sbi, stack, timer};

pub use crate::sbi::Outcome;

// The firmware or VMM enters in S-mode with a0 = hartid and a1 = address of the device tree; all
// other registers are undefined (RISC-V SBI 2.0 §9.1). The other harts wait for an SBI HSM call:
// see hart.rs, where sscratch tells harts apart.
global_asm!(
    ".section .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    "   csrw    sie, zero",
    "   csrw    satp, zero",
    "   csrw    sscratch, zero",
    "   la      sp, __stack_top",
    "   la      t0, __bss_start",
    "   la      t1, __bss_end",
    "1: bgeu    t0, t1, 2f",
    "   sd      zero, 0(t0)",
    "   addi    t0, t0, 8",
    "   j       1b",
    "2: la      t0, __stack_bottom",
    "   li      t1, {canary}",
    "   sd      t1, 0(t0)",
    "   la      t0, trap_vector",
    "   csrw    stvec, t0",
    "   tail    guest_start",
    canary = const stack::CANARY,
);

/// Bytes of the test finisher's registers.
const FINISHER_LEN: usize = 4;
/// Ends QEMU with the status in the upper half.
const FINISHER_FAIL: u32 = 0x3333;

/// The address of the device tree, needed again at the end.
static DEVICE_TREE: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    /// The DMA arena, from the linker script.
    static __dma_start: u8;
    static __dma_end: u8;
}

unsafe extern "Rust" {
    /// The program's main function, as wrapped by [`entry!`](crate::entry).
    safe fn guest_main(boot: Boot) -> Outcome;
}

/// The arguments of the program.
#[derive(Debug)]
pub struct Boot {
    /// The hart that it runs on; the others are stopped.
    pub hart: usize,
    /// The device tree.
    pub fdt: Fdt<'static>,
    /// Memory for devices. Bus addresses are physical, as are all addresses here.
    pub dma: Dma,
}

/// Makes `fn main(boot: Boot) -> Outcome` the program's entry point.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[allow(unsafe_code, reason = "the name that the start-up code calls")]
        #[unsafe(no_mangle)]
        fn guest_main(boot: $crate::boot::Boot) -> $crate::boot::Outcome {
            let main: fn($crate::boot::Boot) -> $crate::boot::Outcome = $main;
            main(boot)
        }
    };
}

/// Called by `_start`, once, on its stack.
#[unsafe(no_mangle)]
extern "C" fn guest_start(hart: usize, fdt: usize) -> ! {
    DEVICE_TREE.store(fdt, Ordering::Relaxed);
    let outcome = match device_tree(fdt) {
        Ok(fdt) => guest_main(Boot { hart, fdt, dma: dma() }),
        Err(error) => {
            crate::println!("guest: a1 = {fdt:#x}: {error}");
            Outcome::Failed
        }
    };
    stack::check_boot();
    end(outcome)
}

/// Powers the machine off.
///
/// QEMU's firmware drops the reason of a system reset (it uses the syscon-poweroff node, which has
/// none). So a failure is stored to QEMU's test finisher if there is one, which ends QEMU with
/// status 1.
pub(crate) fn end(outcome: Outcome) -> ! {
    if outcome == Outcome::Failed
        && let Ok(fdt) = device_tree(DEVICE_TREE.load(Ordering::Relaxed))
        && let Some(base) = fdt::finisher(fdt)
    {
        MmioRegisters::physical(base, FINISHER_LEN).write(0, FINISHER_FAIL | 1 << 16);
        // QEMU stops the hart a moment later. An earlier reset would end it with status 0.
        let end = timer::now() + fdt::timebase(fdt).unwrap_or(0);
        while timer::now() < end {
            core::hint::spin_loop();
        }
    }
    sbi::shutdown(outcome)
}

fn device_tree(address: usize) -> Result<Fdt<'static>, Error> {
    // Devicetree specification 0.4 §5.2: aligned to 8 bytes.
    if address == 0 || !address.is_multiple_of(8) {
        return Err(Error::FdtMissing("its address"));
    }
    // SAFETY: the boot contract puts a device tree there; nothing writes to it.
    let fdt = unsafe { Fdt::from_raw(ptr::with_exposed_provenance(address)) };
    fdt.map_err(Error::Fdt)
}

fn dma() -> Dma {
    let start = &raw const __dma_start;
    let len = (&raw const __dma_end).addr() - start.addr();
    let bus = start.expose_provenance() as u64;
    let start = NonNull::new(start.cast_mut()).unwrap_or(NonNull::dangling());
    // SAFETY: the linker script reserves the arena, and only this call, which happens once, returns
    // it.
    unsafe { Dma::new(start, bus, len) }
}
