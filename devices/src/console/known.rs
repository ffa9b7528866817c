//! What a driver knows of a console's port, and what it is to be told next (§ 5.3.6.2).

/// Events; those that the device sends, in the order in which they are sent.
pub(super) mod event {
    pub(in crate::console) const DEVICE_READY: u16 = 0;
    pub(in crate::console) const PORT_ADD: u16 = 1;
    pub(in crate::console) const PORT_READY: u16 = 3;
    pub(in crate::console) const CONSOLE_PORT: u16 = 4;
    pub(in crate::console) const RESIZE: u16 = 5;
    pub(in crate::console) const PORT_OPEN: u16 = 6;
    pub(in crate::console) const PORT_NAME: u16 = 7;
}

/// What the driver knows of a port, and what it is still to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// PORT_ADD was sent.
    pub(super) added: bool,
    /// PORT_READY came.
    pub(super) ready: bool,
    /// A program in the guest has it open: only then input is given away, as drivers drop it otherwise.
    pub(super) open: bool,
    /// The events that are due, as bits.
    due: u8,
}

impl Known {
    /// The driver is to be told of `event`, once it knows the port.
    pub(super) fn tell(&mut self, event: u16) {
        if self.ready || event == event::PORT_ADD {
            self.due |= 1 << event;
        }
    }

    /// The next event to tell of, which counts as told.
    pub(super) fn next(&mut self) -> Option<u16> {
        // 8 when nothing is.
        let event = self.due.trailing_zeros();
        self.due &= self.due.wrapping_sub(1);
        let event = u16::try_from(event).ok().filter(|event| *event < 8)?;
        self.added |= event == event::PORT_ADD;
        Some(event)
    }
}
