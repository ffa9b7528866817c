//! A client of the QEMU Machine Protocol: starts, pauses and resumes the guest, and learns why it
//! ended (QEMU QMP Reference Manual).
//!
//! ```text
//!   ◀ {"QMP": {"version": …}}            greeting
//!   ▶ qmp_capabilities   ◀ {"return": {}}
//!   ▶ cont               ◀ {"return": {}}, {"event": "RESUME"}
//!   ▶ stop               ◀ {"return": {}}, {"event": "STOP"}      for job control; then cont
//!   ▶ x-query-virtio-status  ◀ {"return": {"started": true, …}}   does the power key have a driver?
//!   ▶ input-send-event       ◀ {"return": {}}                     then press and release it
//!   …                    ◀ {"event": "SHUTDOWN", "data": {"reason": "guest-shutdown", …}}
//! ```

use std::ffi::OsString;
use std::fmt::Arguments;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use log::debug;
use serde_json::Value;

use super::error::QemuError;
use crate::error::Error;

/// The first QEMU version that reports a guest's failure as an event instead of exiting.
pub const OLDEST: (u64, u64) = (8, 2);
/// The same as text.
pub const OLDEST_TEXT: &str = "8.2";

/// Maximum message size in bytes. Real ones have a few hundred.
const LONGEST: usize = 1 << 20;

/// Why QEMU shuts down: all reasons of the guest, and the host's as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    GuestShutdown,
    GuestReset,
    /// Also if the guest stored a failure to the test finisher.
    GuestPanic,
    HostSignal,
    HostOther,
}

/// This process's end of the QMP connection.
pub(super) struct Qmp {
    socket: UnixStream,
    program: String,
    /// Bytes received after the last complete line.
    partial: Vec<u8>,
    greeted: bool,
    resumed: bool,
    /// `None`: no stop is requested. Otherwise whether QEMU has completed it.
    stop: Option<bool>,
    /// Whether the guest could be asked to power off, once that is known.
    pub(super) asked: Option<bool>,
    reason: Option<Reason>,
}

impl Qmp {
    /// Connects to `program`, whose name is used in errors.
    pub(super) fn new(socket: UnixStream, program: OsString) -> Result<Qmp, Error> {
        socket
            .set_nonblocking(true)
            .map_err(Error::host("make the QMP socket non-blocking"))?;
        let program = program.to_string_lossy().into_owned();
        Ok(Qmp {
            socket,
            program,
            partial: Vec::new(),
            greeted: false,
            resumed: false,
            stop: None,
            asked: None,
            reason: None,
        })
    }

    /// Returns the name of the program.
    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Whether QEMU has answered.
    pub(super) fn greeted(&self) -> bool {
        self.greeted
    }

    /// Whether the guest was started.
    pub(super) fn resumed(&self) -> bool {
        self.resumed
    }

    /// Returns why QEMU shuts down, once it has reported that.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Pauses the guest and its clock. [`Qmp::take_stopped`] returns when that is complete. A guest
    /// that is not running yet starts first.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        if self.stop.is_some() {
            return Ok(());
        }
        self.stop = Some(false);
        match self.resumed {
            true => self.send("stop"),
            false => Ok(()),
        }
    }

    /// Whether the requested stop is complete. Returns true once.
    pub(super) fn take_stopped(&mut self) -> bool {
        self.stop.take_if(|done| *done).is_some()
    }

    /// Resumes a stopped guest.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn go_on(&mut self) -> Result<(), Error> {
        self.send("cont")
    }

    /// Handles what has arrived. Returns false when QEMU has closed the connection.
    pub(super) fn serve(&mut self) -> Result<bool, Error> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.take(buffer.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                // QEMU was killed with unread data in the socket.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(source) => {
                    return Err(Error::host("read from QEMU's QMP socket")(source));
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.message(&line)?;
        }
        match self.partial.len() {
            ..LONGEST => Ok(()),
            _ => Err(self.unexpected(&self.partial)),
        }
    }

    fn message(&mut self, line: &[u8]) -> Result<(), Error> {
        let message: Value = serde_json::from_slice(line).map_err(|_| self.unexpected(line))?;
        debug!("qmp: {message}");
        if let Some(version) = message.pointer("/QMP/version/qemu") {
            self.check_version(version)?;
            return self.send("qmp_capabilities");
        }
        if let Some(id) = message.get("id").and_then(Value::as_str) {
            return self.power_reply(id, &message);
        }
        if message.get("return").is_some() {
            // The first reply is to qmp_capabilities. The outcome of the other commands is known
            // from events.
            return if std::mem::replace(&mut self.greeted, true) {
                Ok(())
            } else {
                self.send("cont")
            };
        }
        match message.get("event").and_then(Value::as_str) {
            Some("RESUME") => {
                self.resumed = true;
                if self.stop == Some(false) {
                    return self.send("stop");
                }
            }
            Some("STOP") => {
                if let Some(done) = &mut self.stop {
                    *done = true;
                }
            }
            Some("SHUTDOWN") => {
                self.reason = Some(
                    match message.pointer("/data/reason").and_then(Value::as_str) {
                        Some("guest-shutdown") => Reason::GuestShutdown,
                        Some("guest-reset") => Reason::GuestReset,
                        Some("guest-panic") => Reason::GuestPanic,
                        Some("host-signal") => Reason::HostSignal,
                        _ => Reason::HostOther,
                    },
                );
            }
            Some(_) => {}
            None => return Err(self.unexpected(line)),
        }
        Ok(())
    }

    fn check_version(&self, version: &Value) -> Result<(), Error> {
        let number = |name| version.get(name).and_then(Value::as_u64).unwrap_or(0);
        let found = (number("major"), number("minor"));
        if found >= OLDEST {
            return Ok(());
        }
        Err(Error::from(QemuError::Old {
            program: self.program.clone(),
            found: format!("{}.{}", found.0, found.1),
            needed: OLDEST_TEXT,
        }))
    }

    fn send(&mut self, command: &str) -> Result<(), Error> {
        self.write(format_args!("{{\"execute\": \"{command}\"}}"))
    }

    pub(super) fn send_with(&mut self, command: Value) -> Result<(), Error> {
        self.write(format_args!("{command}"))
    }

    fn write(&mut self, line: Arguments<'_>) -> Result<(), Error> {
        match writeln!(self.socket, "{line}") {
            // The closed connection is detected by reading.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::host("write to QEMU's QMP socket")(error))
            }
            _ => Ok(()),
        }
    }

    fn unexpected(&self, message: &[u8]) -> Error {
        let text = String::from_utf8_lossy(message.get(..200).unwrap_or(message))
            .trim_end()
            .to_owned();
        Error::from(QemuError::Qmp { program: self.program.clone(), message: text })
    }
}

impl AsFd for Qmp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": []}}"#;

    fn pair() -> (Qmp, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Qmp::new(ours, "qemu".into()).unwrap(), theirs)
    }

    #[test]
    fn the_guest_begins_only_when_qmp_speaks() {
        let (mut qmp, mut qemu) = pair();
        let (mut answers, mut line) = (BufReader::new(qemu.try_clone().unwrap()), String::new());
        writeln!(qemu, "{GREETING}").unwrap();
        assert!(qmp.serve().unwrap());
        answers.read_line(&mut line).unwrap();
        write!(qemu, "{{\"return\"").unwrap();
        assert!(qmp.serve().unwrap());
        writeln!(qemu, ": {{}}}}").unwrap();
        assert!(qmp.serve().unwrap());
        answers.read_line(&mut line).unwrap();
        assert_eq!(
            line,
            "{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"cont\"}\n"
        );
        writeln!(qemu, "{{\"event\": \"RESUME\"}}\n{{\"return\": {{}}}}").unwrap();
        writeln!(
            qemu,
            r#"{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "guest-panic"}}}}"#
        )
        .unwrap();
        drop((qemu, answers));
        assert!(!qmp.serve().unwrap());
        assert_eq!(
            (qmp.resumed(), qmp.reason()),
            (true, Some(Reason::GuestPanic))
        );
    }

    #[test]
    fn a_guest_is_stopped_once_it_runs() {
        let (mut qmp, mut qemu) = pair();
        qmp.stop().unwrap();
        let mut answers = BufReader::new(qemu.try_clone().unwrap());
        let mut said = |qmp: &mut Qmp, text: &str| {
            writeln!(qemu, "{text}").unwrap();
            assert!(qmp.serve().unwrap());
        };
        said(&mut qmp, "{\"event\": \"RESUME\"}");
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"execute\": \"stop\"}\n");
        assert!(!qmp.take_stopped());
        said(&mut qmp, "{\"event\": \"STOP\"}");
        assert!(qmp.take_stopped() && !qmp.take_stopped());
        // A STOP event without a request, as at the guest's end, does not count.
        said(&mut qmp, "{\"event\": \"STOP\"}");
        assert!(!qmp.take_stopped());
    }

    #[test]
    fn the_power_key_is_pressed_if_a_driver_waits_for_it() {
        let (mut qmp, mut qemu) = pair();
        assert!(!qmp.power_off().unwrap(), "the guest does not run yet");
        let mut answers = BufReader::new(qemu.try_clone().unwrap());
        let mut said = |qmp: &mut Qmp, text: &str| {
            writeln!(qemu, "{text}").unwrap();
            assert!(qmp.serve().unwrap());
        };
        let mut next = || -> Value {
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            serde_json::from_str(&line).unwrap()
        };
        said(&mut qmp, "{\"event\": \"RESUME\"}");
        for answer in ["return\": {\"started\": false}", "error\": {}"] {
            assert!(qmp.power_off().unwrap());
            assert_eq!(next()["execute"], "x-query-virtio-status");
            assert_eq!(qmp.take_asked(), None);
            said(&mut qmp, &format!("{{\"id\": \"status\", \"{answer}}}"));
            assert_eq!(qmp.take_asked(), Some(false));
        }
        assert!(qmp.power_off().unwrap());
        next();
        said(
            &mut qmp,
            "{\"return\": {\"started\": true}, \"id\": \"status\"}",
        );
        assert_eq!((qmp.take_asked(), qmp.take_asked()), (Some(true), None));
        for down in [true, false] {
            let press = next();
            assert_eq!(press["execute"], "input-send-event");
            assert_eq!(press["arguments"]["events"][0]["data"]["down"], down);
        }
        said(&mut qmp, "{\"error\": {}, \"id\": \"press\"}");
    }

    #[test]
    fn an_old_qemu_is_refused() {
        let (mut qmp, mut qemu) = pair();
        writeln!(
            qemu,
            "{}",
            GREETING
                .replace("10", "7")
                .replace("\"minor\": 0", "\"minor\": 2")
        )
        .unwrap();
        let error = qmp.serve().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(
            error.to_string().contains("version 7.2, at least 8.2"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_qmp_is_refused() {
        for message in ["hello\n", "[]\n", "{\"error\": {}}\n", &"x".repeat(LONGEST)] {
            let (mut qmp, _qemu) = pair();
            assert!(
                matches!(
                    qmp.take(message.as_bytes()),
                    Err(Error::Qemu(QemuError::Qmp { .. }))
                ),
                "{message}"
            );
        }
    }
}
