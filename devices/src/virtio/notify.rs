//! How a device gets its driver's attention, whatever the transport.

/// A transport's side of device notifications (§ 2.3). Any thread may call it.
pub trait Notify: Send + Sync {
    /// The device has used buffers of queue `index` (a used buffer notification).
    fn used(&self, index: u16);

    /// The configuration space has changed (a configuration change notification).
    fn config_changed(&self);

    /// The device cannot go on until it is reset: DEVICE_NEEDS_RESET, and the configuration change
    /// notification that comes with it (§ 2.1.2).
    fn needs_reset(&self);
}
