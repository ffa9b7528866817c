//! All connections: accepts and makes them, finds them by their ports, and waits for their sockets.
//!
//! The device has one file, an epoll set of the listener, a timer and the connections' sockets. All
//! are edge-triggered: an event only marks a connection as one that may have something to do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::Listener;
use super::connection::{Connection, DATA_MAX, Phase, Ports};
use super::host::PORT_BASE;
use super::packet::{Header, STREAM, op};
use crate::memory::{Readable, Writable};
use crate::sync::now;
use crate::timer::Timer;

/// The context ID of the host (§ 5.10.4).
pub(super) const HOST: u64 = 2;

/// The most connections, with those whose host has not said its port yet.
pub(super) const CONNECTIONS_MAX: usize = if cfg!(test) { 20 } else { 1023 };

/// The most packets that are kept for a guest that has no buffer for them. They answer packets that
/// belong to no connection. No further packet of the guest is read until it takes them.
pub(super) const REPLIES_MAX: usize = 256;

/// How long to wait for the host's first line, for the guest's answer to a request, and for its
/// answer to the end of a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The data of an event: a connection's ID, or one of these.
const LISTENER: u64 = 0;
const TIMER: u64 = 1;
const FIRST_ID: u64 = 2;

/// What is awaited of each file. The end of a stream is IN, too.
const READ: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// The most events per epoll_wait(2).
const BATCH: usize = 32;

pub(super) struct Table {
    cid: u64,
    /// The path of the listener. A listener of the host for port P has this path, `_` and P.
    pub(super) path: PathBuf,
    pub(super) listener: Arc<dyn Listener>,
    /// A connection could not be accepted: the host has no descriptor left.
    pub(super) starved: bool,
    epoll: OwnedFd,
    timer: Timer,
    /// Whether the timer runs. It ends no later than the first deadline.
    armed: bool,
    pub(super) connections: BTreeMap<u64, Connection>,
    next_id: u64,
    pub(super) next_port: u32,
    /// The connections that the guest knows.
    pub(super) ids: HashMap<Ports, u64>,
    /// Connections that may have a packet for the guest, each once.
    ready: VecDeque<u64>,
    /// The ports and the type of each RST for a packet without a connection.
    replies: VecDeque<(Ports, u16)>,
}

impl Table {
    pub(super) fn new(cid: u64, listener: Arc<dyn Listener>, path: PathBuf) -> io::Result<Table> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = Timer::new()?;
        epoll::add(&epoll, listener.as_fd(), EventData::new_u64(LISTENER), READ)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), READ)?;
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

    /// Adds a connection, unless there are too many. Returns whether it was added.
    pub(super) fn add(&mut self, mut connection: Connection) -> bool {
        if self.connections.len() >= CONNECTIONS_MAX {
            return false;
        }
        let id = self.next_id;
        let data = EventData::new_u64(id);
        if epoll::add(&self.epoll, &connection.stream, data, READ).is_err() {
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

    pub(super) fn remove(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.forget(id, connection.ports);
        if connection.queued {
            self.ready.retain(|it| *it != id);
        }
    }

    /// Frees the ports of a connection, unless they are those of another one already.
    fn forget(&mut self, id: u64, ports: Ports) {
        if self.ids.get(&ports) == Some(&id) {
            self.ids.remove(&ports);
        }
    }

    /// Notes that a connection may have a packet for the guest.
    pub(super) fn queue(&mut self, id: u64) {
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
            let mut flags = READ;
            flags.set(EventFlags::OUT, !flushed);
            let data = EventData::new_u64(id);
            // Cannot fail: it is in the set.
            let _ = epoll::modify(&self.epoll, &connection.stream, data, flags);
        }
        self.queue(id);
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
                self.replies.push_back((ports, header.kind));
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
                connection.receive(data)?;
            }
            op::SHUTDOWN if open => {
                if connection.shut_down(header.flags) {
                    return None;
                }
            }
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => connection.owes_credit = true,
            _ => return None,
        }
        connection.update_credit(header);
        self.changed(id);
        Some(())
    }

    /// Forgets a connection towards the guest. The host still gets the bytes that it has not taken
    /// yet.
    fn detach(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.phase = Phase::Detached;
        connection.deadline = None;
        let ports = connection.ports;
        self.forget(id, ports);
        self.changed(id);
    }

    /// Writes the next packet for the guest, if there is one. Returns its length.
    pub(super) fn send(&mut self, to: &mut Writable) -> Option<u32> {
        let head = Header { src_cid: HOST, dst_cid: self.cid, ..Header::default() };
        if let Some((Ports { host, guest }, kind)) = self.replies.pop_front() {
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
            if connection.is_ending() {
                connection.deadline.get_or_insert_with(|| now() + PATIENCE);
                self.start_timer();
            }
            self.queue(id);
            return Some(head + len);
        }
        None
    }

    /// The time at which something that begins now has lasted too long. Starts the timer.
    pub(super) fn deadline(&mut self) -> Instant {
        self.start_timer();
        now() + PATIENCE
    }

    fn start_timer(&mut self) {
        if !self.armed {
            self.arm(PATIENCE);
        }
    }

    pub(super) fn arm(&mut self, after: Duration) {
        self.armed = true;
        // Zero would stop the timer.
        self.timer.set(after.max(Duration::from_millis(1)));
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
                self.replies.push_back((ports, STREAM));
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
