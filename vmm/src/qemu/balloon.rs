//! Sets the size of QEMU's memory balloon, over QMP.

use serde_json::json;

use super::qmp::Qmp;
use crate::error::Error;
use crate::host;
use crate::machine::Machine;

impl Qmp {
    /// Makes the guest give up as much memory as the machine's balloon asks for now. Without a
    /// balloon, or before the guest runs, this does nothing.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn set_balloon(&mut self, machine: &Machine) -> Result<(), Error> {
        let (balloon, memory) = (&machine.config.balloon, &machine.config.memory);
        let balloon = balloon.as_ref().filter(|_| self.resumed());
        let Some(bytes) = balloon.and_then(|it| host::balloon::size_now(it, memory)) else {
            return Ok(());
        };
        // QEMU counts what is left. The ID keeps an error of a guest that has just ended apart.
        let left = json!({"value": memory.size.saturating_sub(bytes)});
        self.send_with(json!({"execute": "balloon", "arguments": left, "id": "balloon"}))
    }
}
