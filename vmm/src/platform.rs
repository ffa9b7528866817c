//! The platform devices on the bus: test finisher, clock, pvpanic, serial port.

use std::io;
use std::sync::Arc;

use devices::irq::IrqLine;
use devices::platform::bus::Bus;
use devices::platform::finisher::{self, Finish, Finisher};
use devices::platform::pvpanic::{self, Panic, Pvpanic};
use devices::platform::rtc::{self, Rtc};
use devices::platform::uart::{self, Uart};
use log::{error, warn};

use crate::consoles::Consoles;
use crate::error::Error;
use crate::layout::{FINISHER_BASE, PVPANIC_BASE, RTC_BASE, RTC_IRQ, UART_BASE, UART_IRQ};
use crate::machine::End;

/// Adds them to the bus. `line` returns the line of an interrupt source. `end` is called when the
/// guest ends through the finisher or its kernel panics. Returns the serial port, which the caller
/// must stop.
///
/// # Errors
/// The host has no thread or file descriptor left.
pub fn plug(
    bus: &mut Bus,
    consoles: &Consoles,
    line: impl Fn(u32) -> Box<dyn IrqLine>,
    end: impl Fn(End) + Send + Sync + 'static,
) -> Result<Arc<Uart>, Error> {
    let (inputs, output, listens) = consoles.serial()?;
    let uart = Uart::new(inputs, output, listens, line(UART_IRQ));
    let uart = Arc::new(uart.map_err(failed)?);
    let rtc = Arc::new(Rtc::new(line(RTC_IRQ)));
    let end = Arc::new(end);
    let panicked = Arc::clone(&end);
    let pvpanic = Arc::new(Pvpanic::new(move |panic| match panic {
        Panic::Final => {
            error!("the guest's kernel panicked");
            panicked(End::Panic);
        }
        Panic::CrashKernel => warn!("the guest's kernel panicked and starts its crash kernel"),
    }));
    let finisher = Arc::new(Finisher::new(move |finish| end(ended(finish))));
    bus.insert(FINISHER_BASE, finisher::SIZE, finisher)
        .and_then(|()| bus.insert(RTC_BASE, rtc::SIZE, rtc))
        .and_then(|()| bus.insert(PVPANIC_BASE, pvpanic::SIZE, pvpanic))
        .and_then(|()| bus.insert(UART_BASE, uart::SIZE, uart.clone()))
        .map_err(|overlap| Error::Internal(overlap.to_string()))?;
    Ok(uart)
}

fn ended(finish: Finish) -> End {
    match finish {
        Finish::Pass => End::PowerOff,
        Finish::Reset => End::Reboot,
        Finish::Fail(code) => {
            // Exit status 1 for every code: other values have meanings of their own.
            warn!("the guest reported failure {code} (test finisher)");
            End::Failure
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::host("start a platform device")(source)
}
