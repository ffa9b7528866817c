//! The escape key, as QEMU has it: Ctrl-a, and then what it means.

/// Ctrl-a.
const CTRL_A: u8 = 0x01;

/// Whether the last byte was a Ctrl-a that waits for its key.
#[derive(Debug, Default)]
pub(super) struct Escape {
    waiting: bool,
}

/// What a typed byte leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It is for the guest.
    Send(u8),
    /// Nothing, or nothing yet.
    Nothing,
    /// Show the keys.
    Help,
    /// Leave the guest.
    Leave,
}

impl Escape {
    /// Takes the next byte. A key that means nothing after Ctrl-a is swallowed with it.
    pub(super) fn feed(&mut self, byte: u8) -> Action {
        let waited = std::mem::take(&mut self.waiting);
        match byte {
            CTRL_A if !waited => {
                self.waiting = true;
                Action::Nothing
            }
            _ if !waited => Action::Send(byte),
            CTRL_A => Action::Send(CTRL_A),
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
    fn ctrl_a_has_three_keys() {
        assert_eq!(actions(b"\x01x"), [Action::Leave]);
        assert_eq!(actions(b"\x01h"), [Action::Help]);
        assert_eq!(actions(b"\x01\x01x"), [Action::Send(1), Action::Send(b'x')]);
    }

    #[test]
    fn other_keys_after_ctrl_a_are_swallowed_once() {
        assert_eq!(actions(b"\x01zz"), [Action::Send(b'z')]);
        assert_eq!(actions(b"\x01z\x01x"), [Action::Leave]);
    }
}
