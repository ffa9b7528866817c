//! A platform-level interrupt controller in user space (RISC-V PLIC specification 1.0.0), with the
//! register layout of QEMU's `virt`. It is for hosts whose KVM has no in-kernel AIA.
//!
//! ```text
//!   0x00_0000 + 4·source     priority        0x20_0000 + 0x1000·context       threshold
//!   0x00_1000 + 4·word       pending         0x20_0000 + 0x1000·context + 4   claim / complete
//!   0x00_2000 + 0x80·context enable words
//! ```
//!
//! A hart has two contexts: 2·hart for M-mode and 2·hart + 1 for S-mode. A guest runs in S-mode.
//! The M-mode contexts exist only for the usual layout, and are not connected.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::irq::IrqLine;
use crate::platform::bus::BusDevice;
use crate::sync::lock;

/// Bytes of the register area.
pub const SIZE: u64 = 0x60_0000;

/// The highest source number, as in QEMU virt's `riscv,ndev`. Source 0 does not exist.
pub const SOURCES: u32 = 95;

/// Priorities are 0 (never interrupts) to 7.
const PRIORITY_MASK: u32 = 7;

/// 32-bit words of a bitmap over the sources, source 0 included.
const WORDS: usize = (SOURCES as usize + 1).div_ceil(32);

const PENDING: u64 = 0x1000;
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;
const THRESHOLD: u64 = 0;
const CLAIM: u64 = 4;

/// The interrupt controller.
pub struct Plic {
    state: Mutex<State>,
}

struct State {
    priority: [u8; SOURCES as usize + 1],
    /// The levels of the lines.
    level: Bits,
    /// Requests that the gateways forwarded and no hart has claimed.
    pending: Bits,
    /// Sources that are claimed and not completed: their gateways are closed.
    claimed: Bits,
    contexts: Vec<Context>,
}

struct Context {
    enabled: Bits,
    threshold: u8,
    /// The hart's external interrupt.
    line: Option<Box<dyn IrqLine>>,
    /// The level to which `line` was last driven.
    high: bool,
}

impl Plic {
    /// A PLIC for harts whose S-mode external interrupts are `harts`, by hart id.
    pub fn new(harts: Vec<Box<dyn IrqLine>>) -> Plic {
        let contexts = harts.into_iter().flat_map(|line| [None, Some(line)]);
        Plic {
            state: Mutex::new(State {
                priority: [0; SOURCES as usize + 1],
                level: Bits::default(),
                pending: Bits::default(),
                claimed: Bits::default(),
                contexts: contexts
                    .map(|line| Context {
                        enabled: Bits::default(),
                        threshold: 0,
                        line,
                        high: false,
                    })
                    .collect(),
            }),
        }
    }

    /// The line of source `source`, 1 to [`SOURCES`]. For another number, a line without effect.
    pub fn source(self: &Arc<Self>, source: u32) -> Box<dyn IrqLine> {
        Box::new(Source { plic: Arc::clone(self), source })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

struct Source {
    plic: Arc<Plic>,
    source: u32,
}

impl IrqLine for Source {
    fn set(&self, high: bool) {
        let mut state = self.plic.state();
        if (1..=SOURCES).contains(&self.source) && state.level.get(self.source) != high {
            state.level.set(self.source, high);
            state.forward(self.source);
            state.drive();
        }
    }
}

impl State {
    /// The source's gateway: a high line becomes one request, and no other until that one is
    /// completed. A line that falls does not withdraw its request (PLIC specification, § 5).
    fn forward(&mut self, source: u32) {
        if self.level.get(source) && !self.claimed.get(source) {
            self.pending.set(source, true);
        }
    }

    /// The source that `context` would claim, and its priority: the pending and enabled source of
    /// the highest priority above 0, and the lowest number among equals.
    fn best(&self, context: &Context) -> Option<(u32, u8)> {
        let candidates = self.pending.and(&context.enabled);
        let mut best = None;
        for source in candidates.ones() {
            let priority = self.priority.get(source as usize).copied().unwrap_or(0);
            if priority > best.map_or(0, |(_, highest)| highest) {
                best = Some((source, priority));
            }
        }
        best
    }

    /// Updates the line of every hart.
    fn drive(&mut self) {
        let mut contexts = std::mem::take(&mut self.contexts);
        for context in &mut contexts {
            let Some(line) = &context.line else { continue };
            let best = self.best(context);
            let high = best.is_some_and(|(_, priority)| priority > context.threshold);
            if high != context.high {
                line.set(high);
                context.high = high;
            }
        }
        self.contexts = contexts;
    }

    /// A claim returns the best source, whatever the threshold is (PLIC specification, § 7 and §
    /// 8).
    fn claim(&mut self, context: usize) -> u32 {
        let best = self.contexts.get(context).and_then(|it| self.best(it));
        let Some((source, _)) = best else { return 0 };
        self.pending.set(source, false);
        self.claimed.set(source, true);
        self.drive();
        source
    }

    /// A completion of a source that is not enabled for the context is ignored (PLIC specification,
    /// § 9).
    fn complete(&mut self, context: usize, source: u32) {
        let enabled = |it: &Context| it.enabled.get(source);
        if self.contexts.get(context).is_some_and(enabled) && self.claimed.get(source) {
            self.claimed.set(source, false);
            self.forward(source);
            self.drive();
        }
    }

    fn read(&mut self, register: Register) -> u32 {
        match register {
            Register::Priority(source) => {
                let priority = self.priority.get(source as usize);
                priority.copied().unwrap_or(0).into()
            }
            Register::Pending(word) => self.pending.word(word),
            Register::Enable(context, word) => {
                let context = self.contexts.get(context);
                context.map_or(0, |it| it.enabled.word(word))
            }
            Register::Threshold(context) => {
                let context = self.contexts.get(context);
                context.map_or(0, |it| it.threshold.into())
            }
            Register::Claim(context) => self.claim(context),
        }
    }

    fn write(&mut self, register: Register, value: u32) {
        // Priorities and thresholds are WARL: only the implemented bits are kept.
        let masked = u8::try_from(value & PRIORITY_MASK).unwrap_or(0);
        match register {
            Register::Priority(0) | Register::Pending(_) => return,
            Register::Priority(source) => {
                if let Some(priority) = self.priority.get_mut(source as usize) {
                    *priority = masked;
                }
            }
            Register::Enable(context, word) => {
                if let Some(context) = self.contexts.get_mut(context) {
                    context.enabled.set_word(word, value);
                }
            }
            Register::Threshold(context) => {
                if let Some(context) = self.contexts.get_mut(context) {
                    context.threshold = masked;
                }
            }
            Register::Claim(context) => return self.complete(context, value),
        }
        self.drive();
    }
}

enum Register {
    Priority(u32),
    Pending(usize),
    /// Context, word.
    Enable(usize, usize),
    Threshold(usize),
    Claim(usize),
}

impl Register {
    fn at(offset: u64) -> Option<Register> {
        let index = |from: u64, stride: u64| usize::try_from((offset - from) / stride).ok();
        match offset {
            ..PENDING => u32::try_from(offset / 4).ok().map(Register::Priority),
            PENDING..ENABLE => index(PENDING, 4).map(Register::Pending),
            ENABLE..CONTEXT => {
                let word = usize::try_from((offset - ENABLE) % ENABLE_STRIDE / 4).ok()?;
                Some(Register::Enable(index(ENABLE, ENABLE_STRIDE)?, word))
            }
            _ => {
                let context = index(CONTEXT, CONTEXT_STRIDE)?;
                match (offset - CONTEXT) % CONTEXT_STRIDE {
                    THRESHOLD => Some(Register::Threshold(context)),
                    CLAIM => Some(Register::Claim(context)),
                    _ => None,
                }
            }
        }
    }
}

impl BusDevice for Plic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Ok(data) = <&mut [u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
            && let Some(register) = Register::at(offset)
        {
            *data = self.state().read(register).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Ok(data) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
            && let Some(register) = Register::at(offset)
        {
            self.state().write(register, u32::from_le_bytes(data));
        }
    }
}

/// One bit per source.
#[derive(Default, Clone)]
struct Bits([u32; WORDS]);

impl Bits {
    fn get(&self, source: u32) -> bool {
        self.word(source as usize / 32) >> (source % 32) & 1 != 0
    }

    fn set(&mut self, source: u32, value: bool) {
        if let Some(word) = self.0.get_mut(source as usize / 32) {
            *word = *word & !(1 << (source % 32)) | u32::from(value) << (source % 32);
        }
    }

    fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Sets 32 sources at once. Source 0 stays 0.
    fn set_word(&mut self, index: usize, value: u32) {
        if let Some(word) = self.0.get_mut(index) {
            *word = if index == 0 { value & !1 } else { value };
        }
    }

    fn and(&self, other: &Bits) -> Bits {
        let mut both = self.clone();
        for (word, mask) in both.0.iter_mut().zip(other.0) {
            *word &= mask;
        }
        both
    }

    /// The sources whose bit is set, in ascending order.
    fn ones(&self) -> impl Iterator<Item = u32> {
        self.0.into_iter().zip(0..).flat_map(|(mut word, index)| {
            std::iter::from_fn(move || {
                (word != 0).then(|| {
                    let bit = word.trailing_zeros();
                    word &= word - 1;
                    32 * index + bit
                })
            })
        })
    }
}

#[cfg(test)]
#[path = "plic_test.rs"]
mod tests;
