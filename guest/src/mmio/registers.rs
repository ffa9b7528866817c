//! Access to a device's registers: the trait, and its implementation by volatile accesses.

#![allow(unsafe_code)]

use core::ptr;

/// A register block. Offsets are in bytes and aligned to the width of the access; registers are
/// little-endian.
pub trait Registers {
    /// Reads the 32-bit register at `offset`.
    fn read(&self, offset: usize) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn write(&self, offset: usize, value: u32);
    /// Reads an 8-bit field: configuration space requires each field's own width (§4.2.2.2).
    fn read_u8(&self, offset: usize) -> u8;
    /// Reads a 16-bit field.
    fn read_u16(&self, offset: usize) -> u16;
}

impl<T: Registers + ?Sized> Registers for &T {
    fn read(&self, offset: usize) -> u32 {
        (**self).read(offset)
    }

    fn write(&self, offset: usize, value: u32) {
        (**self).write(offset, value);
    }

    fn read_u8(&self, offset: usize) -> u8 {
        (**self).read_u8(offset)
    }

    fn read_u16(&self, offset: usize) -> u16 {
        (**self).read_u16(offset)
    }
}

/// Registers at an address, by volatile accesses that are ordered against those to memory.
#[derive(Clone, Copy, Debug)]
pub struct MmioRegisters {
    base: usize,
    len: usize,
}

impl MmioRegisters {
    /// The `len` bytes of registers at `base`.
    ///
    /// # Safety
    ///
    /// A device's registers must be mapped there for as long as the value or a copy exists, and no
    /// access to them may affect this program's memory except as the driver requests.
    pub const unsafe fn new(base: usize, len: usize) -> Self {
        Self { base, len }
    }

    /// The `len` bytes of registers at `base`, according to the device tree.
    #[cfg(target_os = "none")]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "usize has 64 bits on the only bare target"
    )]
    pub const fn physical(base: u64, len: usize) -> Self {
        // SAFETY: the device tree says that a device's registers are there, and paging is off.
        unsafe { Self::new(base as usize, len) }
    }

    /// The address of the first register.
    pub const fn base(&self) -> usize {
        self.base
    }

    fn load<T: Copy + Into<u64>>(&self, offset: usize) -> T {
        let from = ptr::with_exposed_provenance::<T>(self.at(offset, size_of::<T>()));
        // SAFETY: in bounds and aligned by `at`; mapped by the contract of `new`.
        let value = unsafe { ptr::read_volatile(from) };
        after_read(value.into());
        value
    }

    fn store<T>(&self, offset: usize, value: T) {
        let into = ptr::with_exposed_provenance_mut::<T>(self.at(offset, size_of::<T>()));
        before_write();
        // SAFETY: in bounds and aligned by `at`; mapped by the contract of `new`.
        unsafe { ptr::write_volatile(into, value) };
    }

    /// Reads 8 bytes at once, which no driver does (§4.2.2.2).
    pub fn read_u64(&self, offset: usize) -> u64 {
        u64::from_le(self.load(offset))
    }

    /// Writes an 8-bit field of configuration space; elsewhere no driver does it.
    pub fn write_u8(&self, offset: usize, value: u8) {
        self.store(offset, value);
    }

    /// Writes a 16-bit field of configuration space; elsewhere no driver does it.
    pub fn write_u16(&self, offset: usize, value: u16) {
        self.store(offset, value.to_le());
    }

    /// Writes 8 bytes at once, which no driver does.
    pub fn write_u64(&self, offset: usize, value: u64) {
        self.store(offset, value.to_le());
    }

    /// The address of `width` bytes at `offset`. Offsets come from the drivers' constants and
    /// checked interrupt numbers, so a wrong one is a bug here.
    fn at(&self, offset: usize, width: usize) -> usize {
        assert!(
            offset.is_multiple_of(width) && offset + width <= self.len,
            "register {offset:#x} of a block of {:#x} bytes",
            self.len
        );
        self.base + offset
    }
}

impl Registers for MmioRegisters {
    fn read(&self, offset: usize) -> u32 {
        u32::from_le(self.load(offset))
    }

    fn write(&self, offset: usize, value: u32) {
        self.store(offset, value.to_le());
    }

    fn read_u8(&self, offset: usize) -> u8 {
        self.load(offset)
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.load(offset))
    }
}

/// Memory written before is visible to the device before the register write: a kick must not
/// overtake the ring. Rust's fences order memory only, hence the instruction.
fn before_write() {
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a fence touches no register and no memory.
    unsafe {
        core::arch::asm!("fence rw, o", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "riscv64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

/// A register read is complete before memory is read: data announced by an interrupt status is
/// visible.
///
/// It takes the value that was read, so that the load always has a destination register. This must
/// not be the zero register: Linux KVM (seen in 6.12) writes the emulated value of `lw zero, …` to
/// its copy of x0, and every later `sw zero, …` to a device stores that value.
fn after_read(value: u64) {
    #[cfg(target_arch = "riscv64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("fence i, rw # {0}", in(reg) value, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "riscv64"))]
    let _ = value;
    #[cfg(not(target_arch = "riscv64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}
