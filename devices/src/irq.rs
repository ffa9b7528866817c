//! An interrupt line.

/// An interrupt line: a PLIC input, an irqfd, a hart's external interrupt, or a flag in a test.
///
/// Any thread may call `set`, also with the level that the line already has. An edge-triggered
/// implementation ignores `false`.
pub trait IrqLine: Send + Sync {
    /// Drives the line high or low.
    fn set(&self, high: bool);
}
