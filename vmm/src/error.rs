//! The error of the monitor. Each module has its own enum. Every message names the invalid value.

use std::io;

use crate::config::ConfigError;
use crate::fdt::FdtError;
use crate::host::disk::DiskError;
use crate::host::files::FileError;
use crate::host::net::NetError;
use crate::host::remote::RemoteError;
use crate::host::share::ShareError;
use crate::host::socket::SocketError;
use crate::kvm::KvmError;
use crate::loader::KernelError;
use crate::qemu::QemuError;

/// Errors that end `hartvisor` without a request of the guest.
///
/// Each message is one line and does not repeat its source: [`Error::chain`] appends it after a
/// colon.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
#[non_exhaustive]
pub enum Error {
    /// The command line or the environment is invalid.
    #[error("{0}")]
    Usage(String),

    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Fdt(#[from] FdtError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A recording cannot be made or shown.
    #[cfg(feature = "observe")]
    #[error(transparent)]
    Observe(#[from] observe::Error),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(transparent)]
    Socket(#[from] SocketError),

    /// A subcommand that is a separate program, which is not built or installed.
    #[error(
        "hartvisor {name} is the program {file}, which is neither in hartvisor's directory nor on the PATH (cargo build --release --package {name} builds it)"
    )]
    NoExternal { name: &'static str, file: String },

    /// With `--accel auto`: neither KVM nor QEMU can be used.
    #[error("nothing here can run the guest: {kvm}")]
    Neither {
        kvm: String,
        #[source]
        qemu: QemuError,
    },

    /// A call to the host failed: no memory, thread or descriptor is left, for example.
    #[error("cannot {what}")]
    Host { what: String, source: io::Error },

    /// An invariant of this program is broken.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The class of an error, which determines the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Invalid usage or input.
    Usage = 2,
    /// This host lacks something.
    Host = 3,
    /// An internal error, or an unexpected failure of the host.
    Own = 4,
}

impl Error {
    /// Converts the error of a call to the host. `what` is a verb and its object.
    pub(crate) fn host<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |source| Error::Host { what: what.into(), source: source.into() }
    }

    /// Returns the error's class.
    pub fn class(&self) -> Class {
        match self {
            Error::Usage(_) => Class::Usage,
            Error::Config(error) => error.class(),
            Error::Disk(error) => error.class(),
            Error::Fdt(error) => error.class(),
            Error::File(error) => error.class(),
            Error::Kernel(error) => error.class(),
            Error::Kvm(error) => error.class(),
            #[cfg(feature = "observe")]
            Error::Observe(_) => Class::Usage,
            Error::Net(error) => error.class(),
            Error::Qemu(error) => error.class(),
            Error::Remote(error) => error.class(),
            Error::Share(error) => error.class(),
            Error::Socket(error) => error.class(),
            Error::NoExternal { .. } | Error::Neither { .. } => Class::Host,
            Error::Host { .. } | Error::Internal(_) => Class::Own,
        }
    }

    /// Returns the exit status of `hartvisor`.
    pub fn exit_code(&self) -> u8 {
        self.class() as u8
    }

    /// Returns this error and its sources on one line, joined by ": ".
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            line.push_str(": ");
            line.push_str(&source.to_string());
            next = source.source();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_chain_names_the_file_once_and_ends_with_the_cause() {
        let error = Error::from(FileError::Open {
            what: "kernel",
            path: PathBuf::from("a b"),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        });
        assert_eq!(
            error.chain(),
            "cannot open kernel \"a b\": No such file or directory (os error 2)"
        );
        assert_eq!(error.exit_code(), 2);
    }
}
