//! passt(1): a network for a guest without privileges. It is a process of its own, which confines
//! itself, and which ends when its socket is closed.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use devices::net::stream::Stream;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use tempfile::TempDir;

use super::NetError;
use crate::config::Net;
use crate::error::Error;

/// How long it may take to start.
const START: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);

fn program() -> OsString {
    std::env::var_os("HARTVISOR_PASST").unwrap_or_else(|| "passt".into())
}

/// Returns what the installed passt says of its version.
pub(super) fn version() -> Result<String, Error> {
    let program = program();
    let output = Command::new(&program).arg("--version").output();
    let output = output.map_err(|source| not_started(program, source))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Connects to a passt that is running.
pub(super) fn connect(socket: &Path) -> Result<Stream, Error> {
    let connected = UnixStream::connect(socket).and_then(Stream::new);
    connected.map_err(|source| Error::from(NetError::Socket { path: socket.to_owned(), source }))
}

/// Starts one, which serves a card as `config` says.
pub(super) fn start(config: &Net) -> Result<Stream, Error> {
    let program = program();
    let (ours, theirs) = UnixStream::pair().map_err(Error::host("create a socket pair"))?;
    // What it says is kept as far as the pipe holds it.
    let (said, says) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(io::Error::from)
        .map_err(Error::host("create a pipe"))?;
    let ready = ready_file().map_err(Error::host("create a temporary directory"))?;
    let pid = ready.path().join("pid");
    fcntl_setfd(&theirs, FdFlags::empty())
        .map_err(io::Error::from)
        .map_err(Error::host("pass a descriptor to passt"))?;
    let mut child = Command::new(&program)
        .args(["--foreground", "--quiet", "--fd"])
        .arg(theirs.as_raw_fd().to_string())
        .arg("--pid")
        .arg(&pid)
        .args(config.forward.iter().flat_map(|it| it.for_passt()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(says)
        // The terminal's signals are for this process alone.
        .process_group(0)
        .spawn()
        .map_err(|source| not_started(program.clone(), source))?;
    wait_until_ready(&mut child, &pid).map_err(|status| {
        let mut text = String::new();
        // To the end of what is there.
        let _ = std::fs::File::from(said).read_to_string(&mut text);
        let said = text
            .trim()
            .lines()
            .last()
            .unwrap_or("it said nothing")
            .to_owned();
        Error::from(NetError::Passt { program: program.display().to_string(), status, said })
    })?;
    Stream::new(ours).map_err(Error::host("use a socket"))
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

/// Waits until it has written its process ID. Otherwise returns how it ended.
fn wait_until_ready(child: &mut Child, pid: &Path) -> Result<(), String> {
    let since = Instant::now();
    loop {
        if pid.metadata().is_ok_and(|file| file.len() > 0) {
            return Ok(());
        }
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Err(status.to_string()),
            Err(error) => return Err(error.to_string()),
        }
        if since.elapsed() > START {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("no process ID within {} s", START.as_secs()));
        }
        std::thread::sleep(LOOK);
    }
}

fn not_started(program: OsString, source: io::Error) -> Error {
    let program = program.display().to_string();
    Error::from(match source.kind() {
        io::ErrorKind::NotFound => NetError::NoPasst { program },
        _ => NetError::Passt {
            program,
            status: source.to_string(),
            said: "it was not started".into(),
        },
    })
}
