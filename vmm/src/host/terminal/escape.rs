//! The escape key, as in QEMU: Ctrl-a followed by a command key.

/// Ctrl-a.
const CTRL_A: u8 = 0x01;

/// Whether the last byte was a Ctrl-a, so that the next one is a command.
#[derive(Debug, Default)]
pub(super) struct Escape {
    waiting: bool,
}

/// The effect of a typed byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send it to the guest.
    Send(u8),
    /// None, or none yet.
    Nothing,
    /// Show the keys.
    Help,
    /// Ask the guest to power off.
    PowerOff,
    /// Quit.
    Leave,
}

impl Escape {
    /// Handles the next byte. An unknown key after Ctrl-a is dropped together with it.
    pub(super) fn feed(&mut self, byte: u8) -> Action {
        let waited = std::mem::take(&mut self.waiting);
        match byte {
            CTRL_A if !waited => {
                self.waiting = true;
                Action::Nothing
            }
            _ if !waited => Action::Send(byte),
            CTRL_A => Action::Send(CTRL_A),
            b'q' | b'Q' => Action::PowerOff,
            b'x' | b'X' => Action::Leave,
            b'h' | b'H' | b'?' => Action::Help,
            _ => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(bytes: &[u8]) -> Vec<Action> {
        let mut escape = Escape::default();
        bytes
            .iter()
            .map(|byte| escape.feed(*byte))
            .filter(|action| *action != Action::Nothing)
            .collect()
    }

    #[test]
    fn ordinary_bytes_pass() {
        assert_eq!(
            actions(b"x\x04h\xff"),
            [
                Action::Send(b'x'),
                Action::Send(4),
                Action::Send(b'h'),
                Action::Send(255)
            ]
        );
    }

    #[test]
    fn ctrl_a_has_four_keys() {
        assert_eq!(actions(b"\x01x"), [Action::Leave]);
        assert_eq!(actions(b"\x01q"), [Action::PowerOff]);
        assert_eq!(actions(b"\x01h"), [Action::Help]);
        assert_eq!(actions(b"\x01\x01x"), [Action::Send(1), Action::Send(b'x')]);
    }

    #[test]
    fn other_keys_after_ctrl_a_are_swallowed_once() {
        assert_eq!(actions(b"\x01zz"), [Action::Send(b'z')]);
        assert_eq!(actions(b"\x01z\x01x"), [Action::Leave]);
    }
}
