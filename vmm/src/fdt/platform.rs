//! The nodes of the platform devices, as in QEMU's `virt`.

use devices::platform::{finisher, pvpanic, rtc, uart};
use vm_fdt::{Error as WriterError, FdtWriter};

use super::{FINISHER_PHANDLE, Irqchip, Trigger};
use crate::layout::{FINISHER_BASE, PVPANIC_BASE, RTC_BASE, RTC_IRQ, UART_BASE, UART_IRQ};

/// The default output of the kernel's early console (`earlycon` without a device).
pub(super) fn stdout_path() -> String {
    format!("/soc/serial@{UART_BASE:x}")
}

/// Finisher, clock, pvpanic and serial port. The clock's alarm and a key can wake a sleeping guest,
/// if its drivers enable that.
pub(super) fn devices(fdt: &mut FdtWriter, irqchip: Irqchip) -> Result<(), WriterError> {
    let node = fdt.begin_node(&format!("test@{FINISHER_BASE:x}"))?;
    let names = ["sifive,test1", "sifive,test0", "syscon"];
    fdt.property_string_list("compatible", names.map(String::from).into())?;
    fdt.property_array_u64("reg", &[FINISHER_BASE, finisher::SIZE])?;
    fdt.property_phandle(FINISHER_PHANDLE)?;
    fdt.end_node(node)?;

    let node = fdt.begin_node(&format!("rtc@{RTC_BASE:x}"))?;
    fdt.property_string("compatible", "google,goldfish-rtc")?;
    fdt.property_array_u64("reg", &[RTC_BASE, rtc::SIZE])?;
    super::interrupts(fdt, irqchip, RTC_IRQ, Trigger::LevelHigh)?;
    fdt.property_null("wakeup-source")?;
    fdt.end_node(node)?;

    let node = fdt.begin_node(&format!("pvpanic@{PVPANIC_BASE:x}"))?;
    fdt.property_string("compatible", "qemu,pvpanic-mmio")?;
    fdt.property_array_u64("reg", &[PVPANIC_BASE, pvpanic::SIZE])?;
    fdt.end_node(node)?;

    let node = fdt.begin_node(&format!("serial@{UART_BASE:x}"))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[UART_BASE, uart::SIZE])?;
    fdt.property_u32("clock-frequency", uart::CLOCK)?;
    super::interrupts(fdt, irqchip, UART_IRQ, Trigger::LevelHigh)?;
    fdt.property_null("wakeup-source")?;
    fdt.end_node(node)
}

/// How a system without SBI SRST powers off and reboots: by stores to the finisher.
pub(super) fn power(fdt: &mut FdtWriter) -> Result<(), WriterError> {
    for (name, value) in [("poweroff", finisher::PASS), ("reboot", finisher::RESET)] {
        let node = fdt.begin_node(name)?;
        fdt.property_string("compatible", &format!("syscon-{name}"))?;
        fdt.property_u32("regmap", FINISHER_PHANDLE)?;
        fdt.property_u32("offset", 0)?;
        fdt.property_u32("value", value.into())?;
        fdt.end_node(node)?;
    }
    Ok(())
}
