//! The other harts: started by SBI HSM, each on its own stack, and given tasks by the boot hart.
//!
//! ```text
//!   boot hart    start ─▶ HSM ─▶ hart_entry ─▶ waits (WFI) ◀─┐
//!                give  ─▶ task, IPI ──────────▶ runs it ─────┘ idle again, with a result
//! ```

#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use riscv::register::{sie, sip, sstatus};
use sbi_rt::{HartMask, SbiRet};

use crate::stack::{self, CANARY};
use crate::timer::until;

/// Harts that can be used, the boot hart among them.
pub const MAX: usize = 64;
/// KVM's number among the implementations of SBI (SBI 2.0 §4.9).
const LINUX_KVM: usize = 3;
/// Bytes of each stack; the linker script has room for as many as there are harts.
const STACK: usize = 16 << 10;

// HSM starts a hart with a0 = hartid and a1 = the opaque value of hart_start (SBI 2.0 §9.1): here
// the address of its `Hart`, which begins with the top of its stack.
global_asm!(
    ".section .text",
    ".balign 4",
    ".global hart_entry",
    "hart_entry:",
    "   csrw    sie, zero",
    "   csrw    satp, zero",
    "   csrw    sscratch, a1",
    "   ld      sp, 0(a1)",
    "   la      t0, trap_vector",
    "   csrw    stvec, t0",
    "   tail    guest_hart",
);

// Aligned, so that it is not the last instruction of a page: QEMU 10.0 reports the address of such
// a WFI 4 KiB too high if a hypervisor traps it, which then continues the guest there.
global_asm!(
    ".section .text",
    ".balign 8",
    "hart_wfi:",
    "   wfi",
    "   ret",
);

unsafe extern "C" {
    fn hart_entry();
    #[link_name = "hart_wfi"]
    safe fn wfi();
    static __hart_stacks: u8;
}

/// A task of a hart; the caller gets the result.
pub type Task = fn(&'static Hart) -> usize;

/// A hart: its number here, its start values, its task.
#[repr(C)]
#[derive(Debug)]
pub struct Hart {
    /// Read by `hart_entry`, hence first.
    stack_top: AtomicUsize,
    index: AtomicUsize,
    id: AtomicUsize,
    arrived_id: AtomicUsize,
    arrived_opaque: AtomicUsize,
    starts: AtomicU32,
    ipis: AtomicU32,
    /// Null while it is idle, else a `Task`.
    task: AtomicPtr<()>,
    result: AtomicUsize,
    /// `ipis` when the task was given.
    rung: AtomicU32,
    /// For the use of the task.
    pub word: AtomicUsize,
}

static HARTS: [Hart; MAX] = [const {
    Hart {
        stack_top: AtomicUsize::new(0),
        index: AtomicUsize::new(0),
        id: AtomicUsize::new(0),
        arrived_id: AtomicUsize::new(usize::MAX),
        arrived_opaque: AtomicUsize::new(usize::MAX),
        starts: AtomicU32::new(0),
        ipis: AtomicU32::new(0),
        task: AtomicPtr::new(ptr::null_mut()),
        result: AtomicUsize::new(0),
        rung: AtomicU32::new(0),
        word: AtomicUsize::new(0),
    }
}; MAX];

/// Makes the calling hart the boot hart, number 0, ready for IPIs.
pub fn start(id: usize) -> &'static Hart {
    let hart = of(0);
    hart.id.store(id, Ordering::Relaxed);
    // SAFETY: the trap vector is in place and copes with the software interrupt.
    unsafe { sie::set_ssoft() };
    hart
}

/// Hart number `index`, not its hartid; the boot hart is 0. Numbers from [`MAX`] on are the last.
pub fn of(index: usize) -> &'static Hart {
    let [.., last] = &HARTS;
    HARTS.get(index).unwrap_or(last)
}

/// The number of the calling hart.
pub fn index() -> usize {
    let hart: usize;
    // SAFETY: sscratch is ours: `_start` made it 0, `hart_entry` the address of a `Hart`.
    unsafe { asm!("csrr {0}, sscratch", out(reg) hart, options(nomem, nostack)) };
    hart.checked_sub((&raw const HARTS).addr())
        .map_or(0, |offset| offset / size_of::<Hart>())
}

/// Sleeps until an interrupt is pending, or for a shorter time.
pub fn wait_for_interrupt() {
    wfi();
}

/// The state of a hart, by hartid (SBI 2.0 §9.3).
pub fn status(id: usize) -> SbiRet {
    sbi_rt::hart_get_status(id)
}

/// Whether Linux's KVM answers SBI calls here (SBI 2.0 §4.9).
pub fn on_kvm() -> bool {
    sbi_rt::get_sbi_impl_id() == LINUX_KVM
}

impl Hart {
    /// Starts the stopped hart `id` as number `index`.
    pub fn start(index: usize, id: usize) -> SbiRet {
        let hart = of(index);
        hart.index.store(index, Ordering::Relaxed);
        hart.id.store(id, Ordering::Relaxed);
        hart.task.store(ptr::null_mut(), Ordering::Relaxed);
        let stacks = (&raw const __hart_stacks).expose_provenance();
        let top = stacks + (index.min(MAX - 1) + 1) * STACK;
        hart.stack_top.store(top, Ordering::Release);
        sbi_rt::hart_start(id, hart_entry as *const () as usize, hart.address())
    }

    /// Its number here.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// Its hartid.
    pub fn id(&self) -> usize {
        self.id.load(Ordering::Relaxed)
    }

    /// How often it has started.
    pub fn starts(&self) -> u32 {
        self.starts.load(Ordering::Acquire)
    }

    /// Whether the last start had the right hartid (a0) and opaque value (a1), and their values.
    pub fn arrived(&self) -> (bool, usize, usize) {
        let id = self.arrived_id.load(Ordering::Relaxed);
        let opaque = self.arrived_opaque.load(Ordering::Relaxed);
        (id == self.id() && opaque == self.address(), id, opaque)
    }

    /// IPIs that its handler has taken. Several at once may count as one.
    pub fn ipis(&self) -> u32 {
        self.ipis.load(Ordering::Acquire)
    }

    /// Sends it an IPI.
    pub fn ring(&self) -> SbiRet {
        sbi_rt::send_ipi(HartMask::from_mask_base(1, self.id()))
    }

    /// Gives it a task, with an IPI that it takes before it begins. Returns `false` if it still has
    /// one, or the IPI fails.
    pub fn give(&self, task: Task) -> bool {
        self.rung.store(self.ipis(), Ordering::Relaxed);
        let task = (task as *const ()).cast_mut();
        let idle =
            self.task
                .compare_exchange(ptr::null_mut(), task, Ordering::Release, Ordering::Relaxed);
        idle.is_ok() && self.ring().is_ok()
    }

    /// The result of its task, `None` if it does not finish within this many microseconds.
    pub fn finish(&self, microseconds: u64) -> Option<usize> {
        let idle = until(microseconds, || self.task.load(Ordering::Acquire).is_null());
        idle.then(|| self.result.load(Ordering::Relaxed))
    }

    /// Gives it a task and waits for the result.
    pub fn run(&self, task: Task, microseconds: u64) -> Option<usize> {
        self.give(task).then(|| self.finish(microseconds))?
    }

    /// Suspends this hart, with its state retained, until an interrupt is pending (SBI 2.0 §9.4).
    /// The interrupt is taken before this returns. `word` becomes 1 just before the call.
    pub fn suspend(&self) -> SbiRet {
        // SAFETY: with interrupts off none can be taken between the store and the call.
        unsafe { sstatus::clear_sie() };
        self.word.store(1, Ordering::Release);
        let answer = sbi_rt::hart_suspend(sbi_rt::Retentive, 0, 0);
        // SAFETY: the handlers share only atomics with this code.
        unsafe { sstatus::set_sie() };
        answer
    }

    /// Stops this hart; returns only if that fails. The hart counts as idle from here on.
    pub fn stop(&self) -> SbiRet {
        // SAFETY: hart_stop needs interrupts off (SBI 2.0 §9.2).
        unsafe { sstatus::clear_sie() };
        self.task.store(ptr::null_mut(), Ordering::Release);
        sbi_rt::hart_stop()
    }

    fn address(&self) -> usize {
        ptr::from_ref(self).expose_provenance()
    }

    /// Panics if the stack of this hart, not the boot hart, has ever overflowed.
    pub(crate) fn check_stack(&self) {
        // SAFETY: `guest_hart` wrote the word; volatile, as only an overflow changes it.
        stack::check(unsafe { self.canary().read_volatile() });
    }

    /// The lowest word of its stack.
    fn canary(&self) -> *mut u64 {
        ptr::with_exposed_provenance_mut(self.stack_top.load(Ordering::Relaxed) - STACK)
    }
}

/// Called by `hart_entry` each time a hart is started, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn guest_hart(id: usize, opaque: usize) -> ! {
    let hart = of(index());
    // SAFETY: the word is the lowest of this hart's stack, far below what is used now.
    unsafe { hart.canary().write_volatile(CANARY) };
    hart.arrived_id.store(id, Ordering::Relaxed);
    hart.arrived_opaque.store(opaque, Ordering::Relaxed);
    hart.starts.fetch_add(1, Ordering::Release);
    // SAFETY: the trap vector is in place and copes with the software interrupt.
    unsafe { sie::set_ssoft() };
    loop {
        // With interrupts off no IPI is taken between the check and WFI, which wakes for a pending
        // one. SAFETY: turning interrupts off breaks nothing.
        unsafe { sstatus::clear_sie() };
        let task = hart.task.load(Ordering::Acquire);
        if task.is_null() {
            wait_for_interrupt();
        }
        // SAFETY: all that handlers share with this code is atomic.
        unsafe { sstatus::set_sie() };
        if !task.is_null() {
            // SAFETY: only `give` stores here, and it stores a `Task`.
            let task = unsafe { mem::transmute::<*mut (), Task>(task) };
            // The IPI may come after the task; it must not interrupt the task.
            while hart.ipis() == hart.rung.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
            hart.result.store(task(hart), Ordering::Relaxed);
            hart.check_stack();
            hart.task.store(ptr::null_mut(), Ordering::Release);
        }
    }
}

/// The handler of the software interrupt.
pub(crate) fn rung() {
    // First, so that a later IPI is not lost. SAFETY: this bit is ours to clear (SBI 2.0 §7.1).
    unsafe { sip::clear_ssoft() };
    of(index()).ipis.fetch_add(1, Ordering::Release);
}
