//! Exits of vCPUs in recorded form, and the names of their targets.

/// Why a vCPU left the guest. It has numbers only, so that recording one does not allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A load from this register (an index into [`Names::registers`]).
    Read(usize),
    /// A store of a value to this register.
    Write(usize, u64),
    /// This SBI call (an index into `Names::sbi`).
    Sbi(usize),
    /// An access to this CSR.
    Csr(u64),
    /// An instruction that the hypervisor cannot execute.
    Fault,
    /// The guest's power-off, reboot or failure.
    Ended,
    /// A signal, or no reason.
    Interrupted,
}

/// The names of the numbers in [`Exit`] on the observed board.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Each register's device and name.
    pub registers: Vec<(Place, &'static str)>,
    /// SBI calls.
    pub sbi: &'static [&'static str],
}

/// The device that a register belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The virtio device in this slot.
    Slot(usize),
    /// A device of the platform, by name.
    Board(&'static str),
}

impl Names {
    /// The device and the name of register `number`. `devices` are the names of the slots.
    pub(crate) fn register(&self, number: usize, devices: &[String]) -> (String, &'static str) {
        let (place, register) = match self.registers.get(number) {
            Some((place, register)) => (*place, *register),
            None => (Place::Board("nothing"), "no device"),
        };
        let device = match place {
            Place::Board(name) => name.to_owned(),
            Place::Slot(slot) => match devices.get(slot) {
                Some(name) => name.clone(),
                None => format!("empty slot {slot}"),
            },
        };
        (device, register)
    }

    /// The name of SBI call `number`.
    pub(crate) fn sbi(&self, number: usize) -> &'static str {
        self.sbi.get(number).copied().unwrap_or("SBI call")
    }
}

#[cfg(test)]
pub(crate) mod test {
    use super::{Names, Place};

    /// Indices of `disk0`'s registers in [`names`].
    pub(crate) const ACK: usize = 1;
    pub(crate) const STATUS: usize = 2;
    pub(crate) const NOTIFY: usize = 3;
    /// QueueNotify of the device in slot 0.
    pub(crate) const CONSOLE_NOTIFY: usize = 0;

    /// A board with a few registers in two slots.
    pub(crate) fn names() -> Names {
        Names {
            registers: vec![
                (Place::Slot(0), "QueueNotify"),
                (Place::Slot(1), "InterruptACK"),
                (Place::Slot(1), "InterruptStatus"),
                (Place::Slot(1), "QueueNotify"),
            ],
            sbi: &["sbi base"],
        }
    }
}
