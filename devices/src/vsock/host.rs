//! The host's side of the [`Table`]: how connections begin that a program of the host makes, or
//! that the guest makes to one.

use std::ffi::{OsStr, OsString};
use std::os::unix::net::UnixStream;

use log::debug;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};

use super::connection::{Connection, Phase, Ports};
use super::packet::Header;
use super::table::{PATIENCE, Table};
use crate::sync::now;

/// The longest line with which the host begins a connection.
const LINE_MAX: usize = 32;

/// The first port of the host's ends that the host did not choose.
pub(super) const PORT_BASE: u32 = 1 << 30;

impl Table {
    /// Accepts all connections that wait.
    pub(super) fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok(Some(stream)) => {
                    self.add(Connection::new(stream, Phase::Greeting, Ports::default()));
                }
                Ok(None) => return,
                Err(error) => {
                    debug!("vsock: accept: {error}");
                    self.starved = true;
                    return self.arm(PATIENCE);
                }
            }
        }
    }

    /// Reads the line with which the host begins a connection, once all of it is there. What comes
    /// behind it stays in the socket.
    pub(super) fn greet(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let guest = match first_line(&connection.stream) {
            Ok(Some(port)) => port,
            Ok(None) => return,
            Err(_) => return self.remove(id),
        };
        let ports = self.free_ports(guest);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ports = ports;
            connection.phase = Phase::Request;
            // The timer runs already, for the line.
            connection.deadline = Some(now() + PATIENCE);
        }
        self.ids.insert(ports, id);
        self.queue(id);
    }

    /// A port of the host that has no connection to port `guest`. There are more than connections.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports { host: self.next_port, guest };
            self.next_port = PORT_BASE | ((self.next_port + 1) % PORT_BASE);
            if !self.ids.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Connects the guest to the host's listener for a port. Returns false if there is none.
    pub(super) fn connect(&mut self, ports: Ports, header: &Header) -> bool {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{}", ports.host));
        let stream = match dial(&path) {
            Ok(stream) => stream,
            Err(error) => {
                debug!("vsock: {}: {error}", path.display());
                return false;
            }
        };
        let mut connection = Connection::new(stream, Phase::Response, ports);
        connection.update_credit(header);
        self.add(connection)
    }
}

fn dial(path: &OsStr) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The port in the line `CONNECT PORT`, which is taken from the socket. `None`: there is more to
/// come.
///
/// # Errors
/// The socket has ended, or the line is another one.
fn first_line(stream: &UnixStream) -> Result<Option<u32>, Errno> {
    let mut line = [0; LINE_MAX];
    let seen = match recv(stream, &mut line, RecvFlags::PEEK) {
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        seen => seen?.0,
    };
    let end = line.iter().take(seen).position(|byte| *byte == b'\n');
    let line = match end {
        Some(end) => line.get_mut(..=end).unwrap_or_default(),
        None if (1..LINE_MAX).contains(&seen) => return Ok(None),
        None => return Err(Errno::PROTO),
    };
    recv(stream, &mut *line, RecvFlags::empty())?;
    let text = str::from_utf8(line).ok();
    let port = text.and_then(|it| it.strip_prefix("CONNECT ")?.trim().parse().ok());
    port.map(Some).ok_or(Errno::PROTO)
}
