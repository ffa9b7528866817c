//! The advanced platform-level interrupt controller (RISC-V AIA 1.0 chapter 4): the S-level
//! domain, delivering directly to harts or as MSIs to their IMSICs.
//!
//! ```text
//!   direct   wire ─▶ source ─▶ IDC of the hart ─▶ external interrupt      claim: IDC claimi
//!   MSI      wire ─▶ source ─▶ MSI ─▶ IMSIC of the hart ─▶ external i.    claim: CSR stopei
//! ```

use crate::Registers;
use crate::imsic::{Imsic, InterruptFile};
use crate::intc::{Intc, Trigger};

/// Bytes of the register block up to the last IDC that is used here.
pub const LEN: usize = IDC + IDC_STRIDE * MAX_HARTS as usize;
/// Harts whose IDC can be used.
pub const MAX_HARTS: u32 = 512;
/// Sources that the register block has room for, 0 included (§4.5).
pub const MAX_SOURCES: u32 = 1024;

/// domaincfg (§4.5.1).
const DOMAINCFG: usize = 0x0000;
/// domaincfg: interrupts enabled.
const IE: u32 = 1 << 8;
/// domaincfg: deliver as MSIs.
const DM: u32 = 1 << 2;
/// sourcecfg of source s: + 4·(s − 1) (§4.5.2).
const SOURCECFG: usize = 0x0004;
const EDGE_RISING: u32 = 4;
const LEVEL_HIGH: u32 = 6;
/// setip: pending bits, 32 sources per word (§4.5.5).
const SETIP: usize = 0x1c00;
/// setienum and clrienum: enable and disable the source with the written number (§4.5.10, .12).
const SETIENUM: usize = 0x1edc;
const CLRIE: usize = 0x1f00;
const CLRIENUM: usize = 0x1fdc;
/// setipnum_le: make the source with the written number pending (§4.5.13).
const SETIPNUM_LE: usize = 0x2000;
/// target of source s: + 4·(s − 1) (§4.5.16).
const TARGET: usize = 0x3004;
/// Bit of the hart index in `target`.
const HART_SHIFT: u32 = 18;
/// The IDC of hart index h: + 32·h (§4.8.1).
const IDC: usize = 0x4000;
const IDC_STRIDE: usize = 32;
const IDELIVERY: usize = 0x00;
const ITHRESHOLD: usize = 0x08;
const CLAIMI: usize = 0x1c;
/// Bit of the source in `claimi`.
const CLAIMI_SHIFT: u32 = 16;

/// The registers that both delivery modes use.
#[derive(Debug)]
struct Domain<R> {
    registers: R,
    hart: u32,
    sources: u32,
}

impl<R: Registers> Domain<R> {
    fn new(registers: R, hart: u32, sources: u32) -> Self {
        Self { registers, hart: hart.min(MAX_HARTS - 1), sources: sources.min(MAX_SOURCES - 1) }
    }

    /// Turns everything off, then the domain on in the given delivery mode.
    fn start(&self, mode: u32) {
        self.registers.write(DOMAINCFG, 0);
        for first in (0..=self.sources).step_by(32) {
            self.registers.write(CLRIE + word(first), u32::MAX);
        }
        self.registers.write(DOMAINCFG, IE | mode);
    }

    /// Configures a source and enables it; `low` are the low bits of its target.
    fn enable(&self, source: u32, trigger: Trigger, low: u32) {
        if source == 0 || source > self.sources {
            return;
        }
        let mode = match trigger {
            Trigger::LevelHigh => LEVEL_HIGH,
            Trigger::EdgeRising => EDGE_RISING,
        };
        let index = 4 * (source as usize - 1);
        self.registers.write(SOURCECFG + index, mode);
        let target = self.hart << HART_SHIFT | low;
        self.registers.write(TARGET + index, target);
        self.registers.write(SETIENUM, source);
    }

    fn is_level(&self, source: u32) -> bool {
        let exists = source != 0 && source <= self.sources;
        exists && self.registers.read(SOURCECFG + 4 * (source as usize - 1)) == LEVEL_HIGH
    }

    fn disable(&self, source: u32) {
        if source <= self.sources {
            self.registers.write(CLRIENUM, source);
        }
    }

    fn pending(&self, source: u32) -> bool {
        source <= self.sources
            && self.registers.read(SETIP + word(source)) >> (source % 32) & 1 != 0
    }
}

/// An APLIC in direct delivery mode (§4.8).
#[derive(Debug)]
pub struct AplicDirect<R> {
    domain: Domain<R>,
}

impl<R: Registers> AplicDirect<R> {
    /// A domain with sources 1 to `sources` in which this hart has index `hart`.
    pub fn new(registers: R, hart: u32, sources: u32) -> Self {
        Self { domain: Domain::new(registers, hart, sources) }
    }

    fn idc(&self, register: usize) -> usize {
        IDC + IDC_STRIDE * self.domain.hart as usize + register
    }
}

impl<R: Registers> Intc for AplicDirect<R> {
    fn name(&self) -> &'static str {
        "APLIC (direct)"
    }

    fn start(&self) {
        self.domain.start(0);
        self.join();
    }

    fn join(&self) {
        self.domain.registers.write(self.idc(ITHRESHOLD), 0);
        self.domain.registers.write(self.idc(IDELIVERY), 1);
    }

    fn enable(&self, source: u32, trigger: Trigger) {
        // Priority 1, the most urgent; 0 is not allowed (§4.5.16.1).
        self.domain.enable(source, trigger, 1);
    }

    fn disable(&self, source: u32) {
        self.domain.disable(source);
    }

    fn claim(&self) -> Option<u32> {
        let source = self.domain.registers.read(self.idc(CLAIMI)) >> CLAIMI_SHIFT;
        (source != 0).then_some(source)
    }

    /// Nothing to do: the claim is enough, and a level that stays high becomes pending again.
    fn complete(&self, _: u32) {}

    fn pending(&self, source: u32) -> bool {
        self.domain.pending(source)
    }
}

/// An APLIC that sends MSIs to the IMSIC of this hart (§4.9). The identity of each interrupt there
/// is the number of its source.
#[derive(Debug)]
pub struct AplicMsi<R, F> {
    domain: Domain<R>,
    imsic: Imsic<F>,
}

impl<R: Registers, F: InterruptFile> AplicMsi<R, F> {
    /// As [`AplicDirect::new`], with the IMSIC of this hart.
    pub fn new(registers: R, hart: u32, sources: u32, imsic: Imsic<F>) -> Self {
        Self { domain: Domain::new(registers, hart, sources.min(imsic.identities())), imsic }
    }
}

impl<R: Registers, F: InterruptFile> Intc for AplicMsi<R, F> {
    fn name(&self) -> &'static str {
        "APLIC (MSI) and IMSIC"
    }

    fn start(&self) {
        self.join();
        self.domain.start(DM);
    }

    /// Must run on the hart itself: its IMSIC is in its CSRs.
    fn join(&self) {
        self.imsic.start();
    }

    fn enable(&self, source: u32, trigger: Trigger) {
        self.imsic.enable(source);
        self.domain.enable(source, trigger, source);
    }

    fn disable(&self, source: u32) {
        self.domain.disable(source);
        self.imsic.disable(source);
    }

    fn claim(&self) -> Option<u32> {
        self.imsic.claim()
    }

    /// The MSI was an event, but a level may still be high: setipnum checks the level, and has no
    /// effect if it is low (§4.9.2). It would always make an edge pending, for ever.
    fn complete(&self, source: u32) {
        if self.domain.is_level(source) {
            self.domain.registers.write(SETIPNUM_LE, source);
        }
    }

    fn pending(&self, source: u32) -> bool {
        self.domain.pending(source) || self.imsic.pending(source)
    }
}

/// Offset of the 32-bit word that holds the bit of `source`.
fn word(source: u32) -> usize {
    source as usize / 32 * 4
}

#[cfg(test)]
#[path = "aplic_test.rs"]
mod tests;
