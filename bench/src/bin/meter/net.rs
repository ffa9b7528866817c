//! The host's end of the network and of the socket device.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::plan::VSOCK;
use bench::protocol::{Kind, Over, Test};
use bench::traffic::{Job, Side, Socket, port};

/// The longest wait for data, by the host's clock.
const SILENCE: Duration = Duration::from_secs(60);

/// Where the guest will connect for a test.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Unix(UnixListener),
}

impl Listener {
    /// Listens for a test of this kind; `None` if it transfers nothing.
    pub(crate) fn new(kind: Kind) -> Result<Option<Listener>> {
        let (any, port) = ("0.0.0.0", port(kind));
        let Some(transfer) = kind.transfer() else {
            return Ok(None);
        };
        Ok(Some(match transfer.over {
            Over::Tcp => Listener::Tcp(TcpListener::bind((any, port))?),
            Over::Udp => Listener::Udp(UdpSocket::bind((any, port))?),
            Over::Vsock => Listener::Unix(UnixListener::bind(fresh(format!("{VSOCK}_{port}"))?)?),
        }))
    }

    /// Accepts the guest's connection, which it has made, and prepares the host's side of the test.
    pub(crate) fn accept(self, test: Test) -> Result<Job> {
        let socket = match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                Socket::Stream(Box::new(stream))
            }
            Listener::Udp(udp) => {
                udp.set_read_timeout(Some(SILENCE))?;
                let (_, guest) = udp.recv_from(&mut [0])?;
                udp.connect(guest)?;
                Socket::Datagrams(udp)
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                Socket::Stream(Box::new(stream))
            }
        };
        Job::new(test, socket, Side::Host).context("a test with a listener transfers something")
    }
}

/// Removes what an earlier start left at `path`.
fn fresh(path: impl Into<PathBuf>) -> Result<PathBuf> {
    let path = path.into();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(path),
    }
}

/// Sets up the host's network.
pub(crate) fn set_up(script: &str) -> Result<()> {
    let status = Command::new("sh").args(["-e", "-c", script]).status()?;
    ensure!(status.success(), "the network's set-up ended with {status}");
    Ok(())
}

/// A running passt. Dropping it ends it.
pub(crate) struct Passt(Child);

impl Passt {
    /// Starts one whose socket is at `path`.
    pub(crate) fn start(path: &Path) -> Result<Passt> {
        // It writes its process ID when it is ready.
        let ready = fresh(path.with_extension("pid"))?;
        let mut command = Command::new("passt");
        command
            .args(["--foreground", "--quiet", "--pid"])
            .arg(&ready)
            .arg("--socket")
            .arg(fresh(path)?)
            .stdin(Stdio::null());
        let mut passt = Passt(command.spawn().context("start passt")?);
        while !ready.metadata().is_ok_and(|file| file.len() > 0) {
            if let Some(status) = passt.0.try_wait()? {
                anyhow::bail!("passt ended with {status}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(passt)
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
