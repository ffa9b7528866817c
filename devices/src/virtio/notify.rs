//! Notifications from a device to its driver, for any transport.

/// A transport's side of device notifications (§ 2.3). Any thread may call it.
pub trait Notify: Send + Sync {
    /// The device has used buffers of queue `index` (a used buffer notification).
    fn used(&self, index: u16);

    /// The configuration space has changed (a configuration change notification).
    fn config_changed(&self);

    /// The device cannot continue until it is reset: sets DEVICE_NEEDS_RESET, and sends the
    /// configuration change notification that § 2.1.2 requires.
    fn needs_reset(&self);
}
