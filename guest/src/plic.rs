//! The platform-level interrupt controller (RISC-V PLIC specification 1.0.0).

use crate::Registers;
use crate::intc::{Intc, Trigger};

/// Bytes of the register block.
pub const LEN: usize = 0x400_0000;

/// Priority of source s: + 4·s (§4). 0 never interrupts.
const PRIORITY: usize = 0;
/// Pending bits, 32 sources per word (§5).
const PENDING: usize = 0x1000;
/// Enable bits of context c: + 0x80·c (§6).
const ENABLE: usize = 0x2000;
const ENABLE_STRIDE: usize = 0x80;
/// Threshold of context c: + 0x1000·c (§7). Claim and complete follow 4 bytes on (§8, §9).
const THRESHOLD: usize = 0x20_0000;
const CLAIM: usize = 0x20_0004;
const CONTEXT_STRIDE: usize = 0x1000;

/// Number of contexts in the register block.
pub const MAX_CONTEXTS: u32 = 15_872;
/// Number of sources in the register block, including 0.
pub const MAX_SOURCES: u32 = 1024;

/// A PLIC and the context of this hart's S-mode.
#[derive(Debug)]
pub struct Plic<R> {
    registers: R,
    context: usize,
    sources: u32,
}

impl<R: Registers> Plic<R> {
    /// A PLIC with sources 1 to `sources` (`riscv,ndev`).
    pub fn new(registers: R, context: u32, sources: u32) -> Self {
        let context = context.min(MAX_CONTEXTS - 1) as usize;
        Self { registers, context, sources: sources.min(MAX_SOURCES - 1) }
    }

    fn set_enabled(&self, source: u32, enabled: bool) {
        if source == 0 || source > self.sources {
            return;
        }
        let word = ENABLE + ENABLE_STRIDE * self.context + word(source);
        let others = self.registers.read(word) & !bit(source);
        let wanted = if enabled { bit(source) } else { 0 };
        self.registers.write(word, others | wanted);
    }

    fn claim_register(&self) -> usize {
        CLAIM + CONTEXT_STRIDE * self.context
    }
}

impl<R: Registers> Intc for Plic<R> {
    fn name(&self) -> &'static str {
        "PLIC"
    }

    fn start(&self) {
        for source in 1..=self.sources {
            self.registers.write(PRIORITY + 4 * source as usize, 0);
        }
        self.join();
    }

    fn join(&self) {
        for first in (0..=self.sources).step_by(32) {
            let enable = ENABLE + ENABLE_STRIDE * self.context + word(first);
            self.registers.write(enable, 0);
        }
        let threshold = THRESHOLD + CONTEXT_STRIDE * self.context;
        self.registers.write(threshold, 0);
    }

    fn enable(&self, source: u32, _: Trigger) {
        if source <= self.sources {
            self.registers.write(PRIORITY + 4 * source as usize, 1);
            self.set_enabled(source, true);
        }
    }

    fn disable(&self, source: u32) {
        self.set_enabled(source, false);
    }

    fn claim(&self) -> Option<u32> {
        let source = self.registers.read(self.claim_register());
        (source != 0).then_some(source)
    }

    fn complete(&self, source: u32) {
        self.registers.write(self.claim_register(), source);
    }

    fn pending(&self, source: u32) -> bool {
        source <= self.sources && self.registers.read(PENDING + word(source)) & bit(source) != 0
    }
}

/// Offset of the 32-bit word that holds the bit of `source`.
fn word(source: u32) -> usize {
    source as usize / 32 * 4
}

fn bit(source: u32) -> u32 {
    1 << (source % 32)
}

#[cfg(test)]
#[path = "plic_test.rs"]
mod tests;
