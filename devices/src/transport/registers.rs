//! The registers of a virtio-mmio device, as its driver reads them (§ 4.2.2): a page of memory that
//! is always up to date.
//!
//! Each change of a register is stored here, and a load by the driver is a load from this page. So
//! a load may exit to the VMM, or the hypervisor may map the page to the guest, read-only, so that
//! loads do not exit. Stores always exit.
//!
//! ```text
//!   0x000   control registers: stored as 32-bit words
//!   0x100   configuration space: 64-bit words, so that a load of a field's width is not torn
//! ```

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Offset of the configuration space.
pub(crate) const CONFIG: u64 = 0x100;
/// Offset of InterruptStatus.
pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
/// Offset of Status.
pub(crate) const STATUS: u64 = 0x070;

/// Bytes of a page.
const PAGE: usize = 0x1000;
/// Bytes of the control registers: up to [`CONFIG`].
const CONTROL_LEN: usize = 0x100;

/// Words of the control registers. Loom tracks every word, so its tests have only a few.
const CONTROL_WORDS: usize = if cfg!(all(test, loom)) {
    8
} else {
    CONTROL_LEN / 4
};
/// Words of the configuration space.
const CONFIG_WORDS: usize = if cfg!(all(test, loom)) {
    1
} else {
    CONFIG_MAX / 8
};

/// The largest configuration space, in bytes.
pub(crate) const CONFIG_MAX: usize = PAGE - CONTROL_LEN;

/// A device's page of registers. It contains nothing else.
pub struct Registers(Box<Page>);

#[repr(C, align(0x1000))]
struct Page {
    control: [AtomicU32; CONTROL_WORDS],
    config: [AtomicU64; CONFIG_WORDS],
}

impl Default for Registers {
    /// All zeroes.
    fn default() -> Self {
        Registers(Box::new(Page {
            control: std::array::from_fn(|_| AtomicU32::new(0)),
            config: std::array::from_fn(|_| AtomicU64::new(0)),
        }))
    }
}

impl Registers {
    /// The page's address in this process, for mapping it to the guest. It is valid as long as
    /// `self` lives. The guest must not write to it.
    pub fn as_ptr(&self) -> *const u8 {
        std::ptr::from_ref(&*self.0).cast()
    }

    /// The control register at `offset`, as stored in memory: little-endian.
    fn word(&self, offset: u64) -> &AtomicU32 {
        let index = usize::try_from(offset / 4).unwrap_or(0) % CONTROL_WORDS;
        let [first, ..] = &self.0.control;
        self.0.control.get(index).unwrap_or(first)
    }

    /// The value of the control register at `offset`.
    pub(crate) fn get(&self, offset: u64) -> u32 {
        u32::from_le(self.word(offset).load(Ordering::SeqCst))
    }

    /// Sets the control register at `offset` to `value`.
    pub(crate) fn set(&self, offset: u64, value: u32) {
        self.word(offset).store(value.to_le(), Ordering::SeqCst);
    }

    /// Sets `bits` in the control register at `offset`, atomically. Returns the value before.
    pub(crate) fn add(&self, offset: u64, bits: u32) -> u32 {
        u32::from_le(self.word(offset).fetch_or(bits.to_le(), Ordering::SeqCst))
    }

    /// Clears `bits` in the control register at `offset`, atomically.
    pub(crate) fn remove(&self, offset: u64, bits: u32) {
        self.word(offset).fetch_and(!bits.to_le(), Ordering::SeqCst);
    }

    /// Stores `bytes`, a whole number of 64-bit words, at the start of the configuration space.
    pub(crate) fn set_config(&self, bytes: &[u8]) {
        let (chunks, _) = bytes.as_chunks::<8>();
        for (word, chunk) in self.0.config.iter().zip(chunks) {
            word.store(u64::from_ne_bytes(*chunk), Ordering::SeqCst);
        }
    }

    /// A load by the driver, of any width and alignment. Each word that it touches is loaded once.
    /// Bytes past the page read as zero.
    pub(crate) fn read(&self, mut offset: u64, mut data: &mut [u8]) {
        while !data.is_empty() {
            let count = match offset.checked_sub(CONFIG) {
                None => {
                    let word = self.word(offset).load(Ordering::SeqCst);
                    copy(&word.to_ne_bytes(), offset, data)
                }
                Some(within) => {
                    let index = usize::try_from(within / 8).unwrap_or(usize::MAX);
                    let word = self.0.config.get(index);
                    let word = word.map_or(0, |word| word.load(Ordering::SeqCst));
                    copy(&word.to_ne_bytes(), offset, data)
                }
            };
            data = data.get_mut(count..).unwrap_or_default();
            offset = offset.saturating_add(count as u64);
        }
    }
}

/// Copies the bytes of `word` from `offset` on to `data`, as many as fit. `word` is at a multiple
/// of its length. Returns how many were copied, at least one.
fn copy(word: &[u8], offset: u64, data: &mut [u8]) -> usize {
    let skipped = usize::try_from(offset % word.len() as u64).unwrap_or(0);
    let here = word.get(skipped..).unwrap_or_default();
    let pairs = data.iter_mut().zip(here);
    pairs.map(|(to, from)| *to = *from).count()
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "registers_test.rs"]
mod tests;
