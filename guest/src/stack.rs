//! Stack canaries. Paging is off, so a stack overflow does not fault.

#![allow(unsafe_code)]

/// The lowest word of each stack, unless the stack has overflowed.
pub(crate) const CANARY: u64 = 0x5afe_57ac_5afe_57ac;

unsafe extern "C" {
    /// The lowest word of the boot hart's stack, from the linker script.
    static __stack_bottom: u64;
}

/// Panics if the boot hart's stack has ever overflowed.
pub(crate) fn check_boot() {
    // SAFETY: the linker script reserves the word; volatile, as no Rust code ever wrote it.
    check(unsafe { (&raw const __stack_bottom).read_volatile() });
}

/// Panics if `lowest`, read from the lowest word of a stack, is not the canary.
pub(crate) fn check(lowest: u64) {
    assert!(lowest == CANARY, "a hart's stack has overflowed");
}
