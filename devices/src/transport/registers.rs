//! The registers of a virtio-mmio device as its driver reads them (§ 4.2.2): a page of memory, always up to date.
//!
//! Whoever changes what a register says stores that here, and a load by the driver is a load of this page. So it makes no
//! difference whether the load comes to us, or a hypervisor shows the guest the page itself, read-only, so that loads of
//! registers do not leave the guest. Stores do, since they mean something.
//!
//! ```text
//!   0x000   control registers, 32 bits each: stored at once
//!   0x100   configuration space: stored 64 bits at once, so that no field of it is seen half changed by a load of its width
//! ```

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Where the configuration space begins.
pub(crate) const CONFIG: u64 = 0x100;
/// InterruptStatus.
pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
/// Status.
pub(crate) const STATUS: u64 = 0x070;

/// Bytes in a page.
const PAGE: usize = 0x1000;
/// Bytes of the control registers: up to [`CONFIG`].
const CONTROL_LEN: usize = 0x100;

/// Words of the control registers. Loom follows each word there is, and needs two.
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

/// The most bytes that a configuration space can have here.
pub(crate) const CONFIG_MAX: usize = PAGE - CONTROL_LEN;

/// A device's page of registers. The page has nothing else in it.
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
    /// Where the page lies in this process, for whoever shows it to a guest. It stays there as long as this lives, and
    /// must not be written.
    pub fn as_ptr(&self) -> *const u8 {
        std::ptr::from_ref(&*self.0).cast()
    }

    /// The control register at `offset`, as it lies in memory: little-endian.
    fn word(&self, offset: u64) -> &AtomicU32 {
        let index = usize::try_from(offset / 4).unwrap_or(0) % CONTROL_WORDS;
        let [first, ..] = &self.0.control;
        self.0.control.get(index).unwrap_or(first)
    }

    /// What the control register at `offset` says.
    pub(crate) fn get(&self, offset: u64) -> u32 {
        u32::from_le(self.word(offset).load(Ordering::SeqCst))
    }

    /// Lets the control register at `offset` say `value`.
    pub(crate) fn set(&self, offset: u64, value: u32) {
        self.word(offset).store(value.to_le(), Ordering::SeqCst);
    }

    /// Adds `bits` to it, and returns what it said before. Others may add and remove bits meanwhile.
    pub(crate) fn add(&self, offset: u64, bits: u32) -> u32 {
        u32::from_le(self.word(offset).fetch_or(bits.to_le(), Ordering::SeqCst))
    }

    /// Removes `bits` from it.
    pub(crate) fn remove(&self, offset: u64, bits: u32) {
        self.word(offset).fetch_and(!bits.to_le(), Ordering::SeqCst);
    }

    /// Lets the configuration space begin with `bytes`, a whole number of 64-bit words.
    pub(crate) fn set_config(&self, bytes: &[u8]) {
        let (chunks, _) = bytes.as_chunks::<8>();
        for (word, chunk) in self.0.config.iter().zip(chunks) {
            word.store(u64::from_ne_bytes(*chunk), Ordering::SeqCst);
        }
    }

    /// A load by the driver, of any width and alignment: each word that it reaches into is loaded once. What lies behind the
    /// page reads as zero.
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

/// Copies what `word`, which lies at a multiple of its length, has from `offset` on, as far as `data` has room. Returns how
/// many bytes that were, at least one.
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
