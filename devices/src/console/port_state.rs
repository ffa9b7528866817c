//! The state of a console's port in the control protocol (§ 5.3.6.2).

/// Events. The device sends those that are due in this order.
pub(super) mod event {
    pub(in crate::console) const DEVICE_READY: u16 = 0;
    pub(in crate::console) const PORT_ADD: u16 = 1;
    pub(in crate::console) const PORT_READY: u16 = 3;
    pub(in crate::console) const CONSOLE_PORT: u16 = 4;
    pub(in crate::console) const RESIZE: u16 = 5;
    pub(in crate::console) const PORT_OPEN: u16 = 6;
    pub(in crate::console) const PORT_NAME: u16 = 7;
}

/// What the driver knows about a port, and which messages are due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PortState {
    /// PORT_ADD was sent.
    pub(super) added: bool,
    /// PORT_READY was received.
    pub(super) ready: bool,
    /// A program in the guest has opened it. Input is sent only then, as drivers drop it otherwise.
    pub(super) open: bool,
    /// The events that are due, as bits.
    due: u8,
}

impl PortState {
    /// Makes `event` due, unless the driver does not know the port yet.
    pub(super) fn set_due(&mut self, event: u16) {
        if self.ready || event == event::PORT_ADD {
            self.due |= 1 << event;
        }
    }

    /// Takes the next event that is due.
    pub(super) fn take_due(&mut self) -> Option<u16> {
        // 8 if none is due.
        let event = self.due.trailing_zeros();
        self.due &= self.due.wrapping_sub(1);
        let event = u16::try_from(event).ok().filter(|event| *event < 8)?;
        self.added |= event == event::PORT_ADD;
        Some(event)
    }
}
