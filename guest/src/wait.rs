//! How a driver waits: it polls, and between two polls it asks somebody else to pass the time.

/// Passes time between two polls of a device. It is made before the wait begins and knows the
/// deadline.
///
/// On the guest this sleeps (WFI) until an interrupt or a tick of the timer; in a test a closure
/// yields to the device's thread.
pub trait Wait {
    /// Lets some time pass. `false` once the deadline is over: the caller polls no more.
    fn wait(&mut self) -> bool;
}

impl<F: FnMut() -> bool> Wait for F {
    fn wait(&mut self) -> bool {
        self()
    }
}
