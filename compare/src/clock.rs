//! The clocks by which runs are timed.

use serde::{Deserialize, Serialize};

/// The clock that measures a time. Times of different clocks cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// This machine's, the guest's instructions being run by its CPU.
    Kvm,
    /// The emulated host's own, the guest being run by that host's KVM.
    Lab,
    /// This machine's, the guest's instructions being emulated.
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
