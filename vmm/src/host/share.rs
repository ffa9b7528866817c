//! Shared directories: a virtiofsd serves each, in a process of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use devices::lock;
use devices::transport::remote::{Kind, Remote, Source};

use super::helper::{self, Helper, inherit};
use super::remote::{connected, not_usable};
use crate::config::Share;
use crate::error::{Class, Error};

/// The size of a file system's queues, as in QEMU.
const QUEUE_SIZE: u16 = 128;

/// How long a virtiofsd that has closed its connection may take to end.
const END: Duration = Duration::from_secs(1);

/// Errors of shared directories.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum ShareError {
    #[error("--share {}: it is not a directory", directory.display())]
    NotDirectory { directory: PathBuf },

    #[error("--share {}", directory.display())]
    Directory {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(
        "--share: no {} found: install it (Debian 13: apt-get install virtiofsd), or set HARTVISOR_VIRTIOFSD",
        program.display()
    )]
    NoVirtiofsd { program: PathBuf },

    #[error("--share {}: {} does not start ({status}): {said}", directory.display(), program.display())]
    Virtiofsd { directory: PathBuf, program: PathBuf, status: String, said: String },
}

impl ShareError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            ShareError::NotDirectory { .. } | ShareError::Directory { .. } => Class::Usage,
            ShareError::NoVirtiofsd { .. } | ShareError::Virtiofsd { .. } => Class::Host,
        }
    }
}

/// A shared directory, which a virtiofsd of its own serves while the guest runs.
#[derive(Debug)]
pub struct Directory {
    config: Share,
    /// The name by which the guest mounts it.
    pub tag: String,
    index: usize,
    started: OnceLock<UnixStream>,
    helper: Mutex<Option<Helper>>,
    remote: OnceLock<Arc<Remote>>,
}

impl Directory {
    /// Checks the directory of the share `index` of a machine.
    ///
    /// # Errors
    /// It is not a directory, or may not be read.
    pub(crate) fn open(config: &Share, index: usize) -> Result<Directory, Error> {
        let directory = config.directory.clone();
        match directory.metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(Error::from(ShareError::NotDirectory { directory })),
            Err(source) => return Err(Error::from(ShareError::Directory { directory, source })),
        }
        Ok(Directory {
            tag: config.tag(index),
            index,
            config: config.clone(),
            started: OnceLock::new(),
            helper: Mutex::new(None),
            remote: OnceLock::new(),
        })
    }

    /// The connection, for the device `name`.
    ///
    /// # Errors
    /// virtiofsd does not start.
    pub(crate) fn remote(&self, name: &str) -> Result<Arc<Remote>, Error> {
        connected(&self.remote, || {
            let stream = self.running()?.try_clone();
            let stream = stream.map_err(Error::host("duplicate a socket"))?;
            let kind = Kind::file_system(QUEUE_SIZE, &self.tag);
            let remote = Remote::connect(name, kind, Source::Once(stream));
            remote.map_err(|source| {
                let option = || format!("--share {}", self.config.directory.display());
                self.failure()
                    .unwrap_or_else(|| not_usable(option(), source))
            })
        })
    }

    /// The connection, for a QEMU that is started.
    ///
    /// # Errors
    /// virtiofsd does not start.
    pub(crate) fn lend(&self) -> Result<BorrowedFd<'_>, Error> {
        Ok(self.running()?.as_fd())
    }

    /// Why virtiofsd has failed, if it has or is about to.
    pub(crate) fn failure(&self) -> Option<Error> {
        let (status, said) = lock(&self.helper).as_mut()?.failure(END)?;
        Some(Error::from(ShareError::Virtiofsd {
            directory: self.config.directory.clone(),
            program: program(),
            status,
            said,
        }))
    }

    /// Starts virtiofsd, once.
    fn running(&self) -> Result<&UnixStream, Error> {
        if let Some(stream) = self.started.get() {
            return Ok(stream);
        }
        let (helper, stream) = self.start()?;
        *lock(&self.helper) = Some(helper);
        Ok(self.started.get_or_init(|| stream))
    }

    /// The command that serves it, for a user to start, and the socket where it does.
    pub(crate) fn command(&self) -> (String, Command) {
        let socket = self.socket();
        let command = self.virtiofsd(&format!("--socket-path={socket}"));
        (socket, command)
    }

    /// The socket in the directory of a user who starts virtiofsd.
    pub(crate) fn socket(&self) -> String {
        format!("hartvisor-share{}.sock", self.index)
    }

    fn virtiofsd(&self, socket: &str) -> Command {
        let mut command = Command::new(program());
        command
            .arg(socket)
            .arg("--shared-dir")
            .arg(&self.config.directory)
            .args(["--sandbox", self.config.sandbox.name()]);
        if self.config.readonly {
            command.arg("--readonly");
        }
        command
    }

    fn start(&self) -> Result<(Helper, UnixStream), Error> {
        let program = program();
        // It has no option for a connected socket.
        let folder = tempfile::Builder::new()
            .prefix("hartvisor-share-")
            .tempdir();
        let folder = folder.map_err(Error::host("create a temporary directory"))?;
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).map_err(Error::host("create a socket"))?;
        let stream = UnixStream::connect(&path).map_err(Error::host("connect to a socket"))?;
        inherit(&listener).map_err(Error::host("pass a descriptor to virtiofsd"))?;
        let mut command = self.virtiofsd(&format!("--fd={}", listener.as_raw_fd()));
        command.args(["--log-level", "error"]);
        let helper = Helper::start(&mut command).map_err(|source| not_started(program, source))?;
        Ok((helper, stream))
    }
}

/// The virtiofsd to start: distributions install it outside of the PATH.
fn program() -> PathBuf {
    helper::program(
        "HARTVISOR_VIRTIOFSD",
        &["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "virtiofsd"],
    )
}

fn not_started(program: PathBuf, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::from(ShareError::NoVirtiofsd { program }),
        _ => Error::host(format!("start {}", program.display()))(source),
    }
}

/// Returns what the installed virtiofsd says of its version, for `hartvisor check`.
pub(crate) fn version() -> Result<String, Error> {
    let program = program();
    helper::version(&program).map_err(|source| not_started(program, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let share = |directory: PathBuf| {
            let config = Share { directory, ..Default::default() };
            Directory::open(&config, 0).unwrap_err()
        };
        let error = share(file);
        assert_eq!(error.exit_code(), 2);
        assert!(error.chain().ends_with("/file: it is not a directory"));
        let error = share(folder.path().join("absent"));
        assert!(
            error.chain().contains("/absent: No such file"),
            "{}",
            error.chain()
        );
    }
}
