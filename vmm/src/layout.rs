//! The board's address map. It is QEMU's `virt`: a guest image runs on both, even with hard-coded
//! device addresses.
//!
//! ```text
//! 0x0010_0000  test finisher: a store ends or restarts the machine, as SBI SRST does
//! 0x0010_1000  goldfish real-time clock, source 11
//! 0x0010_2000  pvpanic: a store reports a panic of the guest's kernel. Not in QEMU's virt
//! 0x0c00_0000  PLIC, 96 sources (0 is unused), S context of hart h is 2h + 1 … or, with an AIA:
//! 0x0d00_0000  APLIC of the S level, the same sources
//! 0x1000_0000  UART 16550, source 10
//! 0x1000_1000  virtio-mmio slot 0, the console; slot i at + 0x1000 · i with source 1 + i
//! 0x1000_9000  virtio-mmio slot 8, the first one not on QEMU's board: from here on source 4 + i
//! 0x1001_d000  virtio-mmio slot 28, the last, source 32
//! 0x2800_0000  IMSICs of the S level, one page per hart, only with an AIA
//! 0x8000_0000  RAM ── under QEMU its first 2 MiB are OpenSBI's
//! 0x8020_0000  kernel (flat Image or static-pie; other ELF files state their address)
//!        …     free after the kernel's BSS
//!        …     device tree, initrd: as high as they fit, below 4 GiB
//! 0x8000_0000 + --memory: end of RAM
//! ```

use std::ops::Range;

/// 1 KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// 1 MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// 1 GiB in bytes.
pub const GIB: u64 = 1 << 30;

/// Guest physical address of the test finisher's register.
pub const FINISHER_BASE: u64 = 0x10_0000;
/// Guest physical address of the real-time clock's registers.
pub const RTC_BASE: u64 = 0x10_1000;
/// PLIC source of the real-time clock.
pub const RTC_IRQ: u32 = 11;
/// Guest physical address of the pvpanic register.
pub const PVPANIC_BASE: u64 = 0x10_2000;
/// Guest physical address of the serial port's registers.
pub const UART_BASE: u64 = 0x1000_0000;
/// PLIC source of the serial port.
pub const UART_IRQ: u32 = 10;

/// Guest physical address of the PLIC's registers.
pub const PLIC_BASE: u64 = 0x0c00_0000;
/// Size in bytes of the PLIC's registers: priorities, pending and enable bits (2 MiB together),
/// then 4 KiB per context, two contexts for each of the [`MAX_CPUS`] harts (PLIC § 3, the memory
/// map).
pub const PLIC_SIZE: u64 = 2 * MIB + MAX_CPUS as u64 * 2 * 4 * KIB;
/// Number of PLIC sources, `riscv,ndev`: the highest source number. As in QEMU's `virt`.
pub const PLIC_SOURCES: u32 = 95;

/// Guest physical address of the S-level APLIC's registers.
pub const APLIC_BASE: u64 = 0x0d00_0000;
/// Size in bytes of the S-level APLIC's registers (AIA § 4.5: 16 KiB, plus 32 bytes per hart in
/// direct mode only).
pub const APLIC_SIZE: u64 = 0x8000;
/// Number of APLIC sources, as the PLIC's: the same for KVM and the device tree.
pub const APLIC_SOURCES: u32 = PLIC_SOURCES;
/// Guest physical address of hart 0's IMSIC interrupt file. Each further hart has the next page.
pub const IMSIC_BASE: u64 = 0x2800_0000;
/// Size in bytes of an interrupt file (AIA § 3.6).
pub const IMSIC_SIZE: u64 = 4 * KIB;
/// The highest interrupt identity of an IMSIC: one less than a multiple of 64, and at least the
/// number of APLIC sources. Guests initialize every identity at boot, so more would cost time.
pub const IMSIC_IDS: u32 = 255;

/// Guest physical address of virtio-mmio slot 0.
pub const VIRTIO_BASE: u64 = 0x1000_1000;
/// Distance in bytes from one virtio-mmio slot to the next, and the size of each.
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// Number of virtio-mmio slots.
pub const VIRTIO_SLOTS: usize = 29;
/// Number of virtio-mmio slots of QEMU's `virt`. They are the first ones here.
pub const QEMU_SLOTS: usize = 8;

/// Guest physical address of the start of RAM.
pub const RAM_BASE: u64 = 0x8000_0000;
/// Address of position-independent kernels: 2 MiB above the start of RAM, because M-mode firmware
/// lies below under QEMU.
pub const KERNEL_BASE: u64 = RAM_BASE + 2 * MIB;
/// Alignment in bytes of a flat Image: Linux maps itself with 2 MiB pages ("Boot image header in
/// RISC-V Linux").
pub const KERNEL_ALIGN: u64 = 2 * MIB;
/// The initrd and the device tree lie below this guest physical address, where every paging mode
/// and guests with 32-bit addresses can reach them.
pub const LOW_END: u64 = 4 * GIB;
/// Maximum size in bytes of the device tree: 512 harts with every extension take about 700 KiB;
/// Linux maps 2 MiB.
pub const FDT_MAX_SIZE: u64 = MIB;

/// Maximum number of vCPUs: as in QEMU's `virt`.
pub const MAX_CPUS: u32 = 512;
/// Minimum RAM in bytes: less has no space for a kernel and a device tree.
pub const MIN_MEMORY: u64 = 16 * MIB;
/// Granularity of RAM in bytes: 2 MiB, so that the host can back all of it with huge pages.
pub const MEMORY_ALIGN: u64 = 2 * MIB;
/// Maximum RAM in bytes: with Sv39x4, the smallest stage-2 translation of RV64, guest physical
/// addresses have 41 bits.
pub const MAX_MEMORY: u64 = (1 << 41) - RAM_BASE;

/// Returns the guest physical addresses of `memory` bytes of RAM.
pub fn ram(memory: u64) -> Range<u64> {
    RAM_BASE..RAM_BASE.saturating_add(memory)
}

/// Returns the guest physical address of a virtio-mmio slot.
pub fn virtio_address(slot: usize) -> u64 {
    VIRTIO_BASE + slot as u64 * VIRTIO_STRIDE
}

/// Returns the interrupt source of a virtio-mmio slot (below [`VIRTIO_SLOTS`]). QEMU's slots have
/// QEMU's sources; the others follow those of the serial port and the clock.
pub fn virtio_irq(slot: usize) -> u32 {
    let first = if slot < QEMU_SLOTS { 1 } else { 4 };
    u32::try_from(slot)
        .unwrap_or(u32::MAX)
        .saturating_add(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_devices_share_an_address_or_an_interrupt() {
        let mut sources: Vec<u32> = (0..VIRTIO_SLOTS).map(virtio_irq).collect();
        assert_eq!((sources[0], sources[7], sources[8]), (1, 8, 12));
        sources.extend([UART_IRQ, RTC_IRQ]);
        sources.sort_unstable();
        sources.dedup();
        assert_eq!(sources.len(), VIRTIO_SLOTS + 2);
        assert_eq!(sources.last(), Some(&32));
        assert!(32 <= PLIC_SOURCES.min(APLIC_SOURCES));
        assert_eq!(virtio_address(28), 0x1001_d000);
    }
}
