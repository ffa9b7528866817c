//! The error of the monitor. Each module has an enum of its own, with the wrong value in every text.

use std::io;

use crate::config::ConfigError;
use crate::disk::DiskError;
use crate::fdt::FdtError;
use crate::files::FileError;
use crate::kvm::KvmError;
use crate::loader::KernelError;
use crate::qemu::QemuError;
use crate::socket::SocketError;

/// Everything that can end `hartvisor` without the guest having asked for it.
///
/// The texts read as one line; a source is never repeated in them, since [`Error::chain`] prints it after a colon.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
#[non_exhaustive]
pub enum Error {
    /// The command line or the environment is wrong.
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
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Socket(#[from] SocketError),

    /// A command that is a program of its own, which was not built or installed.
    #[error(
        "hartvisor {name} is the program {file}, which is neither beside hartvisor nor on the PATH (cargo build --release --package {name} makes it)"
    )]
    NoExternal { name: &'static str, file: String },

    /// With `--accel auto`: neither KVM nor QEMU.
    #[error("nothing here can run the guest: {kvm}")]
    Neither {
        kvm: String,
        #[source]
        qemu: QemuError,
    },

    /// The host refused something ordinary: memory, a thread, a descriptor.
    #[error("cannot {what}")]
    Host { what: String, source: io::Error },

    /// Something that this program promised itself does not hold.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Whose fault an error is. It gives the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wrong usage or bad input.
    Usage = 2,
    /// This host lacks something.
    Host = 3,
    /// Our own failure, or one that nobody foresaw.
    Own = 4,
}

impl Error {
    /// The error of a call to the host; `what` is a verb with its object.
    pub(crate) fn host<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |source| Error::Host {
            what: what.into(),
            source: source.into(),
        }
    }

    /// Whose fault it is.
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
            Error::Qemu(error) => error.class(),
            Error::Socket(error) => error.class(),
            Error::NoExternal { .. } | Error::Neither { .. } => Class::Host,
            Error::Host { .. } | Error::Internal(_) => Class::Own,
        }
    }

    /// The exit status of `hartvisor` for this error.
    pub fn exit_code(&self) -> u8 {
        self.class() as u8
    }

    /// This error and its sources in one line, joined by ": ".
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
