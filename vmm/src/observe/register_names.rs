//! Names of the device registers, by address.

use observe::Place;

use crate::layout::{
    FINISHER_BASE, PLIC_BASE, PLIC_SIZE, RTC_BASE, UART_BASE, VIRTIO_BASE, VIRTIO_SLOTS,
    VIRTIO_STRIDE,
};

/// Virtio-mmio registers (§ 4.2.2), at multiples of four. The configuration space from 0x100 on
/// counts as one.
const VIRTIO: usize = 65;
const CONFIG: usize = 64;

/// The serial port's registers, one per byte. Each has one name, even if loads and stores access
/// different registers.
const UART: [&str; 8] = [
    "RBR/THR", "IER", "IIR/FCR", "LCR", "MCR", "LSR", "MSR", "SCR",
];
/// The clock's registers, at multiples of four.
const RTC: [&str; 8] = [
    "TIME_LOW",
    "TIME_HIGH",
    "ALARM_LOW",
    "ALARM_HIGH",
    "IRQ_ENABLED",
    "CLEAR_ALARM",
    "ALARM_STATUS",
    "CLEAR_INTERRUPT",
];
/// The PLIC's registers, by kind.
const PLIC: [&str; 5] = ["priority", "pending", "enable", "threshold", "claim"];

const PLIC_AT: usize = VIRTIO_SLOTS * VIRTIO;
const UART_AT: usize = PLIC_AT + PLIC.len();
const RTC_AT: usize = UART_AT + UART.len();
const FINISHER_AT: usize = RTC_AT + RTC.len();
const NOTHING_AT: usize = FINISHER_AT + 1;

/// The number of distinct registers.
pub(crate) const COUNT: usize = NOTHING_AT + 1;

/// Returns the number of the register at a guest physical address: below [`COUNT`].
pub(crate) fn number(address: u64) -> usize {
    let at = |base: u64, len: u64| address.checked_sub(base).filter(|offset| *offset < len);
    let word = |offset: u64| usize::try_from(offset / 4).unwrap_or(0);
    if let Some(offset) = at(VIRTIO_BASE, VIRTIO_SLOTS as u64 * VIRTIO_STRIDE) {
        let slot = usize::try_from(offset / VIRTIO_STRIDE).unwrap_or(0);
        return slot * VIRTIO + word(offset % VIRTIO_STRIDE).min(CONFIG);
    }
    if let Some(offset) = at(PLIC_BASE, PLIC_SIZE) {
        return PLIC_AT
            + match offset {
                0..0x1000 => 0,
                0x1000..0x2000 => 1,
                0x2000..0x20_0000 => 2,
                _ if offset % 0x1000 < 4 => 3,
                _ => 4,
            };
    }
    if let Some(offset) = at(UART_BASE, UART.len() as u64) {
        return UART_AT + usize::try_from(offset).unwrap_or(0);
    }
    if let Some(offset) = at(RTC_BASE, 4 * RTC.len() as u64) {
        return RTC_AT + word(offset);
    }
    match at(FINISHER_BASE, 4) {
        Some(_) => FINISHER_AT,
        None => NOTHING_AT,
    }
}

/// Returns the device and the name of the register with this number.
pub(crate) fn name(number: usize) -> (Place, &'static str) {
    let named = |names: &[&'static str], first: usize| {
        let name = number.checked_sub(first).and_then(|at| names.get(at));
        name.copied().unwrap_or("reserved")
    };
    match number {
        0..PLIC_AT => (Place::Slot(number / VIRTIO), virtio(number % VIRTIO)),
        PLIC_AT..UART_AT => (Place::Board("plic"), named(&PLIC, PLIC_AT)),
        UART_AT..RTC_AT => (Place::Board("uart"), named(&UART, UART_AT)),
        RTC_AT..FINISHER_AT => (Place::Board("rtc"), named(&RTC, RTC_AT)),
        FINISHER_AT => (Place::Board("finisher"), "finish"),
        _ => (Place::Board("nothing"), "no device"),
    }
}

/// Returns the name of the register at four times this offset in a slot.
fn virtio(word: usize) -> &'static str {
    match 4 * word {
        0x000 => "MagicValue",
        0x004 => "Version",
        0x008 => "DeviceID",
        0x00c => "VendorID",
        0x010 => "DeviceFeatures",
        0x014 => "DeviceFeaturesSel",
        0x020 => "DriverFeatures",
        0x024 => "DriverFeaturesSel",
        0x030 => "QueueSel",
        0x034 => "QueueSizeMax",
        0x038 => "QueueSize",
        0x044 => "QueueReady",
        0x050 => "QueueNotify",
        0x060 => "InterruptStatus",
        0x064 => "InterruptACK",
        0x070 => "Status",
        0x080 => "QueueDescLow",
        0x084 => "QueueDescHigh",
        0x090 => "QueueDriverLow",
        0x094 => "QueueDriverHigh",
        0x0a0 => "QueueDeviceLow",
        0x0a4 => "QueueDeviceHigh",
        0x0ac => "SHMSel",
        0x0b0 => "SHMLenLow",
        0x0b4 => "SHMLenHigh",
        0x0b8 => "SHMBaseLow",
        0x0bc => "SHMBaseHigh",
        0x0c0 => "QueueReset",
        0x0fc => "ConfigGeneration",
        0x100 => "Config",
        _ => "reserved",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::virtio_address;

    #[test]
    fn registers_have_the_names_of_their_specifications() {
        for (address, expected) in [
            (VIRTIO_BASE, (Place::Slot(0), "MagicValue")),
            (virtio_address(27) + 0x64, (Place::Slot(27), "InterruptACK")),
            (virtio_address(2) + 0x107, (Place::Slot(2), "Config")),
            (virtio_address(2) + 0x018, (Place::Slot(2), "reserved")),
            (PLIC_BASE + 4, (Place::Board("plic"), "priority")),
            (PLIC_BASE + 0x2080, (Place::Board("plic"), "enable")),
            (PLIC_BASE + 0x20_1000, (Place::Board("plic"), "threshold")),
            (PLIC_BASE + 0x20_1004, (Place::Board("plic"), "claim")),
            (UART_BASE + 5, (Place::Board("uart"), "LSR")),
            (RTC_BASE + 4, (Place::Board("rtc"), "TIME_HIGH")),
            (FINISHER_BASE, (Place::Board("finisher"), "finish")),
            (
                virtio_address(VIRTIO_SLOTS),
                (Place::Board("nothing"), "no device"),
            ),
            (0, (Place::Board("nothing"), "no device")),
            (u64::MAX, (Place::Board("nothing"), "no device")),
        ] {
            let number = number(address);
            assert!(number < COUNT, "{address:#x}");
            assert_eq!(name(number), expected, "{address:#x}");
        }
    }
}
