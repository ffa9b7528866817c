//! External interrupts on bare metal: the controller, the handler, and its counts.

#![allow(unsafe_code)]

use core::arch::asm;
use core::cell::OnceCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use riscv::interrupt::supervisor::free;
use riscv::register::sie;

use crate::aplic::{self, AplicDirect, AplicMsi};
use crate::fdt::{self, MAX_SLOTS, Slot};
use crate::imsic::{Imsic, InterruptFile};
use crate::intc::Intc;
use crate::plic::{self, Plic};
use crate::{MmioRegisters, events, hart, mmio};

/// Interrupts of one source, without progress of the program, that count as a storm.
const STORM: u32 = 10_000;

/// A value that is set once, by the boot hart.
struct Once<T>(OnceCell<T>);

// SAFETY: only the boot hart sets values. Handlers only read: on the boot hart, values set before
// the interrupt was enabled; on other harts, values set before they got the task to listen. Nothing
// is set while they listen.
unsafe impl<T> Sync for Once<T> {}

enum Controller {
    Plic(Plic<MmioRegisters>),
    AplicDirect(AplicDirect<MmioRegisters>),
    AplicMsi(AplicMsi<MmioRegisters, Csrs>),
}

impl Controller {
    fn intc(&self) -> &dyn Intc {
        match self {
            Self::Plic(plic) => plic,
            Self::AplicDirect(aplic) => aplic,
            Self::AplicMsi(aplic) => aplic,
        }
    }
}

/// One source and its device.
struct Line {
    slot: Once<(Slot, MmioRegisters)>,
    count: AtomicU32,
    status: AtomicU32,
    /// Interrupts in one step of the program, and which step that is.
    burst: AtomicU32,
    step: AtomicU32,
    storm: AtomicBool,
    hart: AtomicUsize,
}

/// The controller as each hart sees it, by the hart's number.
static CONTROLLERS: [Once<Controller>; hart::MAX] = [const { Once(OnceCell::new()) }; hart::MAX];
static LINES: [Line; MAX_SLOTS] = [const {
    Line {
        slot: Once(OnceCell::new()),
        count: AtomicU32::new(0),
        status: AtomicU32::new(0),
        burst: AtomicU32::new(0),
        step: AtomicU32::new(0),
        storm: AtomicBool::new(false),
        hart: AtomicUsize::new(0),
    }
}; MAX_SLOTS];
/// The last source that interrupted without being watched, or 0.
static STRANGER: AtomicU32 = AtomicU32::new(0);

/// The handler's record of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Interrupts.
    pub count: u32,
    /// All bits of InterruptStatus that were set.
    pub status: u32,
    /// The source was disabled because it did not stop.
    pub storm: bool,
    /// Number of the hart that handled the last one.
    pub hart: usize,
}

/// Starts the controller, all sources off, and returns its name.
pub fn start(controller: fdt::Controller) -> &'static str {
    let intc = view(0, controller).intc();
    intc.start();
    // SAFETY: the trap vector is set, and the handler handles any source.
    unsafe { sie::set_sext() };
    intc.name()
}

/// Prepares [`listen`] on hart number `index`, which has this place in the controller. Must be
/// called by the boot hart.
pub fn prepare(index: usize, controller: fdt::Controller) {
    view(index, controller);
}

/// Moves a watched source to the calling hart. Returns `false` if that was not prepared.
pub fn listen(source: u32) -> bool {
    let (Some(controller), Some((line, _))) = (controller(), line(source)) else {
        return false;
    };
    let Some((slot, _)) = line.slot.0.get() else {
        return false;
    };
    controller.intc().join();
    controller.intc().enable(source, slot.trigger());
    // SAFETY: as in `start`.
    unsafe { sie::set_sext() };
    true
}

/// Undoes `listen` or `watch` on the calling hart.
pub fn ignore(source: u32) {
    if let Some(controller) = controller() {
        controller.intc().disable(source);
    }
}

/// The controller as seen by the calling hart.
fn controller() -> Option<&'static Controller> {
    CONTROLLERS.get(hart::index())?.0.get()
}

fn view(index: usize, controller: fdt::Controller) -> &'static Controller {
    let [first, ..] = &CONTROLLERS;
    let view = CONTROLLERS.get(index).unwrap_or(first);
    view.0.get_or_init(|| match controller {
        fdt::Controller::Plic { base, context, sources } => Controller::Plic(Plic::new(
            MmioRegisters::physical(base, plic::LEN),
            context,
            sources,
        )),
        fdt::Controller::AplicDirect { base, hart, sources } => Controller::AplicDirect(
            AplicDirect::new(MmioRegisters::physical(base, aplic::LEN), hart, sources),
        ),
        fdt::Controller::AplicMsi { base, hart, sources, identities } => {
            let imsic = Imsic::new(Csrs, identities);
            Controller::AplicMsi(AplicMsi::new(
                MmioRegisters::physical(base, aplic::LEN),
                hart,
                sources,
                imsic,
            ))
        }
    })
}

/// Enables the source of a virtio-mmio slot and acknowledges its interrupts from now on. `false`
/// without a controller or a source.
pub fn watch(slot: Slot) -> bool {
    let Some(controller) = controller() else {
        return false;
    };
    let free = LINES
        .iter()
        .find(|line| line.slot.0.get().is_none_or(|(other, _)| *other == slot));
    let (Some(line), true) = (free, slot.source != 0) else {
        return false;
    };
    line.slot
        .0
        .get_or_init(|| (slot, MmioRegisters::physical(slot.base, mmio::LEN)));
    controller.intc().enable(slot.source, slot.trigger());
    true
}

/// The record of the source of a watched slot.
pub fn seen(slot: Slot) -> Seen {
    line(slot.source).map_or_else(Seen::default, |(line, _)| Seen {
        count: line.count.load(Ordering::Acquire),
        status: line.status.load(Ordering::Relaxed),
        storm: line.storm.load(Ordering::Relaxed),
        hart: line.hart.load(Ordering::Relaxed),
    })
}

/// Whether the source of a slot is pending at the controller.
pub fn pending(slot: Slot) -> bool {
    controller().is_some_and(|controller| controller.intc().pending(slot.source))
}

/// The last source that interrupted without being watched.
pub fn stranger() -> Option<u32> {
    Some(STRANGER.load(Ordering::Relaxed)).filter(|source| *source != 0)
}

/// The handler of the external interrupt.
pub(crate) fn external() {
    events::count_interrupt();
    let Some(controller) = controller() else {
        return;
    };
    let intc = controller.intc();
    while let Some(source) = intc.claim() {
        let off = match line(source) {
            Some((line, device)) => line.handle(device),
            None => {
                STRANGER.store(source, Ordering::Relaxed);
                true
            }
        };
        // A PLIC ignores the completion of a disabled source: complete first.
        intc.complete(source);
        if off {
            intc.disable(source);
        }
    }
}

impl Line {
    /// Acknowledges the device and counts. Returns `true` if the source must be disabled.
    fn handle(&self, device: &MmioRegisters) -> bool {
        self.status
            .fetch_or(mmio::acknowledge(device), Ordering::Relaxed);
        self.hart.store(hart::index(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Release);
        let step = events::steps();
        if self.step.swap(step, Ordering::Relaxed) != step {
            self.burst.store(0, Ordering::Relaxed);
        }
        let storm = self.burst.fetch_add(1, Ordering::Relaxed) >= STORM;
        self.storm.fetch_or(storm, Ordering::Relaxed);
        storm
    }
}

fn line(source: u32) -> Option<(&'static Line, &'static MmioRegisters)> {
    LINES.iter().find_map(|line| {
        let (slot, registers) = line.slot.0.get()?;
        (slot.source == source).then_some((line, registers))
    })
}

/// The interrupt file of this hart, accessed by its CSRs (AIA §2.5, §3.9).
struct Csrs;

impl InterruptFile for Csrs {
    fn read(&self, select: usize) -> u64 {
        // The handler uses the same pair of CSRs.
        free(|| {
            let value;
            // SAFETY: siselect (0x150) and sireg (0x151) exist on harts with an IMSIC.
            unsafe {
                asm!("csrw 0x150, {0}", "csrr {1}, 0x151", in(reg) select, out(reg) value);
            }
            value
        })
    }

    fn write(&self, select: usize, value: u64) {
        free(|| {
            // SAFETY: as in `read`.
            unsafe {
                asm!("csrw 0x150, {0}", "csrw 0x151, {1}", in(reg) select, in(reg) value);
            }
        });
    }

    fn claim_top(&self) -> u64 {
        let top;
        // SAFETY: stopei (0x15c) exists as above. Read and claim are one operation, so the value
        // read is the one claimed.
        unsafe { asm!("csrrw {0}, 0x15c, zero", out(reg) top) };
        top
    }
}
