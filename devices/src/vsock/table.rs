//! All connections: accepts and makes them, finds them by their ports, and waits for their sockets.
//!
//! The device has one file, an epoll set of the listener, a timer and the connections' sockets. All
//! are edge-triggered: an event only marks a connection as one that may have something to do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::Listener;
use super::connection::{Connection, DATA_MAX, Phase, Ports};
use super::packet::{Header, STREAM, op};
use crate::memory::{Readable, Writable};
use crate::sync::now;

/// The context ID of the host (§ 5.10.4).
pub(super) const HOST: u64 = 2;

/// The most connections, with those whose host has not said its port yet.
pub(super) const CONNECTIONS_MAX: usize = if cfg!(test) { 20 } else { 1023 };

/// The most packets that are kept for a guest that has no buffer for them. They answer packets that
/// belong to no connection. No further packet of the guest is read until it takes them.
pub(super) const REPLIES_MAX: usize = 256;

/// The longest line with which the host begins a connection.
const LINE_MAX: usize = 32;

/// How long to wait for that line, for the guest's answer to a request, and for its answer to the
/// end of a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The first port of the host's ends that the host did not choose.
const PORT_BASE: u32 = 1 << 30;

/// The data of an event: a connection's ID, or one of these.
const LISTENER: u64 = 0;
const TIMER: u64 = 1;
const FIRST_ID: u64 = 2;

/// The most events per epoll_wait(2).
const BATCH: usize = 32;

/// An RST for a packet without a connection.
struct Reply {
    ports: Ports,
    kind: u16,
}

pub(super) struct Table {
    cid: u64,
    /// The path of the listener. A listener of the host for port P has this path, `_` and P.
    path: PathBuf,
    listener: Arc<dyn Listener>,
    /// A connection could not be accepted: the host has no descriptor left.
    starved: bool,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// Whether the timer runs. It ends no later than the first deadline.
    armed: bool,
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    next_port: u32,
    /// The connections that the guest knows.
    ids: HashMap<Ports, u64>,
    /// Connections that may have a packet for the guest, each once.
    ready: VecDeque<u64>,
    replies: VecDeque<Reply>,
}

impl Table {
    pub(super) fn new(cid: u64, listener: Arc<dyn Listener>, path: PathBuf) -> io::Result<Table> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let read = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, listener.as_fd(), EventData::new_u64(LISTENER), read)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), read)?;
        Ok(Table {
            cid,
            path,
            listener,
            starved: false,
            epoll,
            timer,
            armed: false,
            connections: BTreeMap::new(),
            next_id: FIRST_ID,
            next_port: PORT_BASE,
            ids: HashMap::new(),
            ready: VecDeque::new(),
            replies: VecDeque::new(),
        })
    }

    /// The file that is readable when there are events.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Whether a packet of the guest can be answered.
    pub(super) fn has_room(&self) -> bool {
        self.replies.len() < REPLIES_MAX
    }

    /// The number of connections.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Closes all connections.
    pub(super) fn clear(&mut self) {
        self.connections.clear();
        self.ids.clear();
        self.ready.clear();
        self.replies.clear();
    }

    /// Handles all events of the epoll set. Nothing is read from a connection here, so that a peer
    /// cannot make this last: it can write no more than its socket holds.
    pub(super) fn poll(&mut self) {
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [none; BATCH];
        loop {
            let count = match epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) {
                Err(Errno::INTR) => continue,
                // It cannot fail otherwise.
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            for event in events.iter().take(count) {
                let (data, flags) = (event.data, event.flags);
                match data.u64() {
                    LISTENER => self.accept(),
                    TIMER => self.expire(now()),
                    id => self.event(id, flags),
                }
            }
        }
    }

    fn accept(&mut self) {
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

    /// Adds a connection, unless there are too many. Returns whether it was added.
    fn add(&mut self, mut connection: Connection) -> bool {
        if self.connections.len() >= CONNECTIONS_MAX {
            return false;
        }
        let id = self.next_id;
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(id);
        if epoll::add(&self.epoll, &connection.stream, data, flags).is_err() {
            return false;
        }
        self.next_id += 1;
        if connection.phase == Phase::Greeting {
            connection.deadline = Some(self.deadline());
        } else {
            self.ids.insert(connection.ports, id);
        }
        self.connections.insert(id, connection);
        self.queue(id);
        true
    }

    fn remove(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if self.ids.get(&connection.ports) == Some(&id) {
            self.ids.remove(&connection.ports);
        }
        if connection.queued {
            self.ready.retain(|it| *it != id);
        }
    }

    /// Notes that a connection may have a packet for the guest.
    fn queue(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    fn event(&mut self, id: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.may_read(flags.contains(EventFlags::HUP));
        if connection.phase == Phase::Greeting {
            return self.greet(id);
        }
        if !connection.is_flushed() {
            connection.flush();
        }
        self.changed(id);
    }

    /// Called after a connection's buffer may have changed.
    fn changed(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let flushed = connection.is_flushed();
        if flushed && connection.phase == Phase::Detached {
            return self.remove(id);
        }
        // A socket that is read has room each time: it is watched for that only while bytes wait.
        if connection.watched == flushed {
            connection.watched = !flushed;
            let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
            flags.set(EventFlags::OUT, !flushed);
            let data = EventData::new_u64(id);
            // Cannot fail: it is in the set.
            let _ = epoll::modify(&self.epoll, &connection.stream, data, flags);
        }
        self.queue(id);
    }

    /// Reads the line with which the host begins a connection, once all of it is there. What comes
    /// behind it stays in the socket.
    fn greet(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let mut line = [0; LINE_MAX];
        let seen = match recv(&connection.stream, &mut line, RecvFlags::PEEK) {
            Ok((0, _)) => return self.remove(id),
            Ok((seen, _)) => seen,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.remove(id),
        };
        let seen = line.get(..seen).unwrap_or_default();
        let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
            if seen.len() == LINE_MAX {
                self.remove(id);
            }
            return;
        };
        let port = seen.get(..end).and_then(port);
        let taken = recv(
            &connection.stream,
            line.get_mut(..=end).unwrap_or_default(),
            RecvFlags::empty(),
        );
        let (Some(guest), Ok(_)) = (port, taken) else {
            return self.remove(id);
        };
        let ports = self.free_ports(guest);
        let deadline = self.deadline();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ports = ports;
            connection.phase = Phase::Request;
            connection.deadline = Some(deadline);
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
    fn connect(&mut self, ports: Ports, header: &Header) -> bool {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{}", ports.host));
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let connected =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).and_then(|socket| {
                connect(&socket, &SocketAddrUnix::new(&*path)?)?;
                Ok(socket)
            });
        match connected {
            Ok(socket) => {
                let stream = UnixStream::from(socket);
                let mut connection = Connection::new(stream, Phase::Response, ports);
                connection.update_credit(header);
                self.add(connection)
            }
            Err(error) => {
                debug!("vsock: {}: {error}", path.display());
                false
            }
        }
    }

    /// Takes a packet of the guest. There must be [room](Self::has_room) for an answer.
    pub(super) fn receive(&mut self, header: &Header, data: &mut Readable) {
        if header.src_cid != self.cid || header.dst_cid != HOST {
            return;
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let id = self.ids.get(&ports).copied();
        let known = id.filter(|_| header.kind == STREAM);
        if self.handle(header, ports, known, data).is_none() {
            if header.op != op::RST {
                self.replies.push_back(Reply { ports, kind: header.kind });
            }
            if let Some(id) = known {
                self.detach(id);
            }
        }
    }

    /// Handles a packet of connection `id`, if there is one. `None`: the connection ends here, and
    /// the answer is an RST.
    fn handle(
        &mut self,
        header: &Header,
        ports: Ports,
        id: Option<u64>,
        data: &mut Readable,
    ) -> Option<()> {
        if header.kind != STREAM {
            return None;
        }
        let Some(id) = id else {
            let connected = header.op == op::REQUEST && self.connect(ports, header);
            return connected.then_some(());
        };
        let connection = self.connections.get_mut(&id)?;
        let open = matches!(connection.phase, Phase::Open | Phase::Response);
        match header.op {
            op::RESPONSE if connection.phase == Phase::Requested => connection.accepted(),
            op::RW if open => {
                let len = u64::from(header.len);
                if header.len > DATA_MAX || len > data.len() {
                    return None;
                }
                data.truncate(len);
                connection.receive(data).ok()?;
            }
            op::SHUTDOWN if open => {
                if connection.shut_down(header.flags) {
                    return None;
                }
            }
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => connection.credit_requested(),
            _ => return None,
        }
        connection.update_credit(header);
        self.changed(id);
        Some(())
    }

    /// Forgets a connection towards the guest. Bytes that the host has not taken yet are still given
    /// to it.
    fn detach(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if self.ids.get(&connection.ports) == Some(&id) {
            self.ids.remove(&connection.ports);
        }
        connection.phase = Phase::Detached;
        connection.deadline = None;
        self.changed(id);
    }

    /// Writes the next packet for the guest, if there is one. Returns its length.
    pub(super) fn send(&mut self, to: &mut Writable) -> Option<u32> {
        let head = Header { src_cid: HOST, dst_cid: self.cid, ..Header::default() };
        if let Some(Reply { ports: Ports { host, guest }, kind }) = self.replies.pop_front() {
            let reset = Header { src_port: host, dst_port: guest, kind, op: op::RST, ..head };
            return u32::try_from(to.write(&reset.bytes())).ok();
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.queued = false;
            let Some((op, flags, len)) = connection.next_packet(to) else {
                continue;
            };
            let (buf_alloc, fwd_cnt) = connection.announce();
            let Ports { host, guest } = connection.ports;
            let header = Header {
                src_port: host,
                dst_port: guest,
                len,
                kind: STREAM,
                op,
                flags,
                buf_alloc,
                fwd_cnt,
                ..head
            };
            let head = u32::try_from(to.write(&header.bytes())).unwrap_or(0);
            if connection.is_ending() && connection.deadline.is_none() {
                let deadline = self.deadline();
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.deadline = Some(deadline);
                }
            }
            self.queue(id);
            return Some(head + len);
        }
        None
    }

    /// The time at which something that begins now has lasted too long. Starts the timer.
    fn deadline(&mut self) -> Instant {
        if !self.armed {
            self.arm(PATIENCE);
        }
        now() + PATIENCE
    }

    fn arm(&mut self, after: Duration) {
        self.armed = true;
        // Zero would stop the timer.
        let after = after.max(Duration::from_millis(1));
        let timer = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(after).unwrap_or_default(),
        };
        // Cannot fail: it is a timer, and the time is short.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer);
    }

    /// Ends what has lasted too long at `now`, and starts the timer for the rest.
    pub(super) fn expire(&mut self, now: Instant) {
        self.armed = false;
        if std::mem::take(&mut self.starved) {
            self.accept();
        }
        let due = |connection: &Connection| connection.deadline.filter(|at| *at <= now);
        let expired = self.connections.iter();
        let expired = expired.filter_map(|(id, it)| due(it).map(|_| (*id, it.ports, it.phase)));
        for (id, ports, phase) in expired.collect::<Vec<_>>() {
            // A guest that takes no packets learns it when it uses the connection.
            if matches!(phase, Phase::Requested | Phase::Open) && self.has_room() {
                self.replies.push_back(Reply { ports, kind: STREAM });
            }
            self.remove(id);
        }
        let deadlines = self.connections.values().filter_map(|it| it.deadline);
        if let Some(first) = deadlines.min()
            && !self.armed
        {
            self.arm(first.saturating_duration_since(now));
        }
    }
}

/// The port in the line `CONNECT PORT`.
fn port(line: &[u8]) -> Option<u32> {
    let line = str::from_utf8(line).ok()?;
    line.strip_prefix("CONNECT ")?.trim().parse().ok()
}
