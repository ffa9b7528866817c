//! passt(1): a network for a guest without privileges. It is a process of its own, which confines
//! itself, and which ends when its socket is closed.

use std::fs::Permissions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::NetError;
use crate::config::Net;
use crate::error::Error;
use crate::host::helper::{self, Helper, LOOK, inherit};
use crate::host::socket;

/// How long it may take to start.
const START: Duration = Duration::from_secs(60);

fn program() -> PathBuf {
    helper::program("HARTVISOR_PASST", &["passt"])
}

/// Returns what the installed passt says of its version.
pub(super) fn version() -> Result<String, Error> {
    let program = program();
    helper::version(&program).map_err(|source| not_started(&program, source))
}

/// Connects to a passt that is running.
pub(super) fn connect(path: &Path) -> Result<UnixStream, Error> {
    let connected = socket::connect_at_once(path);
    connected.map_err(|source| Error::from(NetError::Socket { path: path.to_owned(), source }))
}

/// Starts one, which serves a card as `config` says.
pub(super) fn start(config: &Net) -> Result<UnixStream, Error> {
    let program = program();
    let (ours, theirs) = UnixStream::pair().map_err(Error::host("create a socket pair"))?;
    let ready = ready_file().map_err(Error::host("create a temporary directory"))?;
    let pid = ready.path().join("pid");
    inherit(&theirs).map_err(Error::host("pass a descriptor to passt"))?;
    let mut command = Command::new(&program);
    command
        .args(["--foreground", "--quiet", "--fd"])
        .arg(theirs.as_raw_fd().to_string())
        .arg("--pid")
        .arg(&pid)
        .args(config.forward.iter().flat_map(|it| it.for_passt()));
    if config.vhost_user {
        command.arg("--vhost-user");
    }
    let mut passt = Helper::start(&mut command).map_err(|source| not_started(&program, source))?;
    if !is_ready(&mut passt, &pid) {
        let failure = passt.failure(LOOK);
        let slow = || {
            (
                format!("no process ID within {} s", START.as_secs()),
                "it runs".into(),
            )
        };
        let (status, said) = failure.unwrap_or_else(slow);
        return Err(Error::from(NetError::Passt { program, status, said }));
    }
    Ok(ours)
}

/// A directory for the file with its process ID, which it writes when it is ready.
fn ready_file() -> io::Result<TempDir> {
    let directory = tempfile::Builder::new()
        .prefix("hartvisor-passt-")
        .tempdir()?;
    if rustix::process::geteuid().is_root() {
        // It becomes the user nobody, in some versions before it creates the file.
        let all = Permissions::from_mode(0o733);
        std::fs::set_permissions(directory.path(), all)?;
    }
    Ok(directory)
}

/// Waits until it has written its process ID. Returns false if it does not.
fn is_ready(passt: &mut Helper, pid: &Path) -> bool {
    let since = Instant::now();
    while since.elapsed() < START {
        if pid.metadata().is_ok_and(|file| file.len() > 0) {
            return true;
        }
        if passt.has_ended() {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    false
}

fn not_started(program: &Path, source: io::Error) -> Error {
    let program = program.to_owned();
    Error::from(match source.kind() {
        io::ErrorKind::NotFound => NetError::NoPasst { program },
        _ => NetError::Passt {
            program,
            status: source.to_string(),
            said: "it was not started".into(),
        },
    })
}
