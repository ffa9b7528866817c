//! An interrupt wire.

/// An interrupt wire: a PLIC input, an irqfd, a hart's external interrupt, or a flag in a test.
///
/// `set` may be called from any thread, often, and with the value that the wire already has. An
/// edge-triggered implementation acts on `true` alone.
pub trait IrqLine: Send + Sync {
    /// Drives the wire high or low.
    fn set(&self, high: bool);
}
