//! How a driver waits: it polls, and between polls calls this trait to pass the time.

/// Passes time between two polls of a device. It is created before the wait begins and has the
/// deadline.
///
/// On the guest this sleeps (WFI) until an interrupt or a tick of the timer; in a test a closure
/// yields to the device's thread.
pub trait Wait {
    /// Lets some time pass. Returns `false` after the deadline: the caller stops polling.
    fn wait(&mut self) -> bool;
}

impl<F: FnMut() -> bool> Wait for F {
    fn wait(&mut self) -> bool {
        self()
    }
}
