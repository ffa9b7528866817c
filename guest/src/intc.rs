//! The common interface of the interrupt controllers, as seen by one hart.

/// The form of a wired interrupt, from the second cell of `interrupts` under an APLIC. A PLIC has
/// one cell, and its virtio-mmio lines are level-high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// High as long as the device wants attention (4 in the device tree).
    #[default]
    LevelHigh,
    /// A rising edge for each event (1 in the device tree).
    EdgeRising,
}

/// An interrupt controller that signals external interrupts to this hart in S-mode.
///
/// Sources have the numbers of the device tree, 1 and up.
pub trait Intc {
    /// Name for output.
    fn name(&self) -> &'static str;
    /// Puts the controller into a known state: every source off, delivery to this hart on.
    fn start(&self);
    /// Enables delivery to another hart after `start`, and changes nothing else.
    fn join(&self);
    /// Enables `source` for this hart.
    fn enable(&self, source: u32, trigger: Trigger);
    /// Disables `source` for this hart.
    fn disable(&self, source: u32);
    /// Claims the most urgent pending source, `None` if there is none (any more).
    fn claim(&self) -> Option<u32>;
    /// Completes a claimed source; one that is still high may become pending again.
    fn complete(&self, source: u32);
    /// Whether `source` is pending.
    fn pending(&self, source: u32) -> bool;
}
