//! Asks the guest to power off, over QMP: if the power key has a driver, it is pressed. If that
//! does not end the run, QEMU is told to exit, and then killed.

use std::time::Instant;

use rustix::process::Signal;

use serde_json::{Value, json};

use super::QUIT_TIMEOUT;
use super::qmp::Qmp;
use crate::board::slots::POWER_KEY;
use crate::control::{Control, Request};
use crate::error::Error;
use crate::machine::End;

/// IDs of the two commands, which their replies repeat.
const STATUS: &str = "status";
const PRESS: &str = "press";

impl Qmp {
    /// Asks the guest to power off, by its power key. [`Qmp::take_asked`] has the result. Returns
    /// false if the guest is not running.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn power_off(&mut self) -> Result<bool, Error> {
        if self.resumed() {
            let path = json!({"path": format!("/machine/peripheral/{POWER_KEY}")});
            let command = "x-query-virtio-status";
            self.send_with(json!({"execute": command, "arguments": path, "id": STATUS}))?;
        }
        Ok(self.resumed())
    }

    /// Whether the guest had a driver to ask. Returns it once.
    pub(super) fn take_asked(&mut self) -> Option<bool> {
        self.asked.take()
    }

    /// Presses and releases the power key: two reports.
    fn press(&mut self) -> Result<(), Error> {
        for down in [true, false] {
            let key = json!({"type": "qcode", "data": "power"});
            let event = json!({"type": "key", "data": {"down": down, "key": key}});
            let arguments = json!({"events": [event]});
            let command = "input-send-event";
            self.send_with(json!({"execute": command, "arguments": arguments, "id": PRESS}))?;
        }
        Ok(())
    }

    /// Handles the reply to one of these commands.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn power_reply(&mut self, id: &str, message: &Value) -> Result<(), Error> {
        if id != STATUS {
            // An error says that the guest has just ended.
            return Ok(());
        }
        let started = message.pointer("/return/started") == Some(&Value::Bool(true));
        self.asked = Some(started);
        if started { self.press() } else { Ok(()) }
    }
}

/// Takes what the user typed: the last request, since a key that leaves is the last one.
pub(super) fn typed(control: &Control) -> Option<Request> {
    control.clear();
    std::iter::from_fn(|| control.next()).last()
}

/// How far the end of a run is.
pub(super) struct Ending {
    /// Why QEMU was told to exit.
    pub(super) end: Option<End>,
    /// Why the guest was asked to power off.
    pub(super) asked: End,
    /// When QEMU is told to exit if the guest does not power off; then, when it is killed.
    pub(super) deadline: Option<Instant>,
}

impl Default for Ending {
    fn default() -> Self {
        Ending { end: None, asked: End::Left, deadline: None }
    }
}

impl Ending {
    /// The run ends. Returns the signal for QEMU: the second time, do not wait for it.
    pub(super) fn signal_to_send(&mut self, end: End) -> Signal {
        match self.end {
            None => {
                self.end = Some(end);
                self.deadline = Some(Instant::now() + QUIT_TIMEOUT);
                Signal::TERM
            }
            Some(_) => {
                self.deadline = None;
                Signal::KILL
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::terminal::Key;

    #[test]
    fn a_key_that_leaves_wins() {
        let keys = Control::new().unwrap();
        assert_eq!(typed(&keys), None);
        keys.typed(Key::PowerOff);
        keys.typed(Key::PowerOff);
        assert_eq!(typed(&keys), Some(Request::PowerOff(End::Left)));
        keys.typed(Key::PowerOff);
        keys.typed(Key::Leave);
        assert_eq!(typed(&keys), Some(Request::Shutdown(End::Left)));
        assert_eq!(typed(&keys), None);
    }

    #[test]
    fn qemu_is_told_to_exit_and_then_killed() {
        let mut ending = Ending::default();
        assert_eq!(ending.signal_to_send(End::Signal(15)), Signal::TERM);
        assert!(ending.deadline.is_some());
        assert_eq!(ending.signal_to_send(End::Left), Signal::KILL);
        assert_eq!(ending.end, Some(End::Signal(15)));
    }
}
