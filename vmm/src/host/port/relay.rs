//! Copies bytes between a guest's console and a client that comes and goes, in its own thread.
//!
//! Each direction has one buffer, which is filled only when it is empty. So a client that stops
//! reading blocks the guest's output on this console and nothing else. Without a client, output is
//! read and dropped.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use devices::console::Link;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::peer::{Peer, guest_end};
use crate::host::buffer::{Buffer, is_temporary};

/// Polling interval for a client whose arrival cannot be polled.
const LOOK: Timespec = milliseconds(200);
/// How long the last output may take to reach the client.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The thread. When this is dropped, it ends after the guest's last output.
#[derive(Debug)]
pub(super) struct Relay {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    link: Arc<Link>,
}

impl Relay {
    pub(super) fn start(guest: UnixStream, peer: Peer) -> io::Result<Relay> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let link = Arc::new(Link::new()?);
        let relay = RelayThread {
            guest: guest_end(guest)?,
            peer,
            stop: Arc::clone(&stop),
            link: Arc::clone(&link),
            output: Buffer::default(),
            input: Buffer::default(),
        };
        let thread = Builder::new().name("relay".into()).spawn(|| relay.run())?;
        Ok(Relay { stop, thread: Some(thread), link })
    }

    /// Returns whether a client is connected.
    pub(super) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Cannot fail: the counter is far from its limit.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic has already been reported.
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct RelayThread {
    guest: File,
    peer: Peer,
    stop: Arc<OwnedFd>,
    link: Arc<Link>,
    /// From the guest to the client.
    output: Buffer,
    /// From the client to the guest.
    input: Buffer,
}

impl RelayThread {
    fn run(mut self) {
        self.look();
        while !self.wait() {
            self.look();
            self.carry();
            self.link.set(self.peer.sink().is_some());
        }
        self.last_words();
    }

    /// Lets clients come and go, and updates the link.
    fn look(&mut self) {
        self.peer.look();
        self.link.set(self.peer.sink().is_some());
    }

    /// Waits until something can be copied. Returns true to stop.
    fn wait(&self) -> bool {
        let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN)];
        let guest = Some(self.guest.as_fd());
        let (source, sink) = (self.peer.source(), self.peer.sink());
        let look = self.peer.arrivals().is_none() && sink.is_none();
        let (input, output) = (self.input.is_empty(), self.output.is_empty());
        // Only what is needed now: a hang-up would be reported again and again.
        let wanted = [
            (output, guest, PollFlags::IN),
            (!input, guest, PollFlags::OUT),
            (input && !look, source.map(AsFd::as_fd), PollFlags::IN),
            (!output, sink.map(AsFd::as_fd), PollFlags::OUT),
            (true, self.peer.arrivals(), PollFlags::IN),
        ];
        let wanted = wanted.into_iter().filter(|(wanted, ..)| *wanted);
        fds.extend(wanted.filter_map(|(_, fd, flags)| Some(PollFd::from_borrowed_fd(fd?, flags))));
        // If this fails, nothing is ready. Copying does not block.
        let _ = poll(&mut fds, look.then_some(&LOOK));
        fds.first().is_some_and(|stop| !stop.revents().is_empty())
    }

    /// Copies what is possible without blocking.
    fn carry(&mut self) {
        if self.output.is_empty() {
            // The guest's end is closed when the run ends, and `stop` follows.
            let _ = self.output.fill(&self.guest);
        }
        let sent = self
            .peer
            .sink()
            .map(|client| self.output.empty_into(client));
        if !matches!(sent, Some(Ok(()))) {
            self.output.clear();
        }
        if self.input.is_empty()
            && let Some(client) = self.peer.source()
        {
            match self.input.fill(client) {
                Err(error) if is_temporary(&error) => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => self.peer.ended(),
            }
        }
        let _ = self.input.empty_into(&self.guest);
    }

    /// Delivers the guest's last output to a client that reads.
    fn last_words(mut self) {
        let end = Instant::now() + LAST_WORDS;
        loop {
            self.carry();
            if self.output.is_empty() && !self.output.fill(&self.guest).is_ok_and(|count| count > 0)
            {
                return;
            }
            let Some(client) = self.peer.sink().filter(|_| Instant::now() < end) else {
                return;
            };
            let mut room = [PollFd::new(client, PollFlags::OUT)];
            let _ = poll(&mut room, Some(&milliseconds(50)));
        }
    }
}

const fn milliseconds(count: i64) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: count * 1_000_000 }
}

#[cfg(test)]
#[path = "relay_test.rs"]
mod tests;
