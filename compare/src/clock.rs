//! The clocks by which runs are timed.

use serde::{Deserialize, Serialize};

/// The clock that measures a time. Times of different clocks cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// This machine's; its CPU executes the guest.
    Kvm,
    /// The emulated host's; that host's KVM executes the guest.
    Lab,
    /// This machine's; the guest is emulated.
    Tcg,
}

impl Clock {
    /// All of them, in the order of the table.
    pub const ALL: [Clock; 3] = [Clock::Kvm, Clock::Lab, Clock::Tcg];

    /// The heading of its group.
    pub fn title(self) -> &'static str {
        match self {
            Clock::Kvm => "KVM of this machine",
            Clock::Lab => "KVM of the emulated host, by its clock",
            Clock::Tcg => "CPU emulation (TCG) on this machine",
        }
    }
}
