//! QEMU's command line under construction.

use std::ffi::{OsStr, OsString};

use crate::config::{Target, double_commas};

/// The arguments.
#[derive(Default)]
pub(crate) struct Line(pub(crate) Vec<OsString>);

impl Line {
    /// Adds `arguments`.
    pub(crate) fn add<const N: usize, T: AsRef<OsStr>>(&mut self, arguments: [T; N]) {
        self.0
            .extend(arguments.iter().map(|argument| argument.as_ref().into()));
    }

    /// Adds a character device with the back end `target`.
    pub(crate) fn chardev(&mut self, id: &str, target: &Target) {
        let (backend, path) = match target {
            // Only a multiplexed chardev has escape keys.
            Target::Stdio => ("stdio,mux=on,signal=off", None),
            Target::Pty => ("pty", None),
            Target::Null => ("null", None),
            Target::File(path) => ("file", Some(path)),
            Target::Socket(path) => ("socket,server=on,wait=off", Some(path)),
        };
        let mut value = OsString::from(format!("{backend},id={id}"));
        if let Some(path) = path {
            value.push(",path=");
            value.push(double_commas(path.as_os_str()));
        }
        self.add([OsStr::new("-chardev"), &value]);
    }

    /// Adds a character device that is a socket. `address` is `path=…` or `fd=…`, and perhaps
    /// options.
    pub(crate) fn socket(&mut self, id: &str, address: &OsStr) {
        let mut socket = OsString::from(format!("socket,id={id},"));
        socket.push(address);
        self.add([OsStr::new("-chardev"), &socket]);
    }
}
