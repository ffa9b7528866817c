//! One front end, served by a thread of its own.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::transport::vhost_user::{Error as Ended, VhostUser};

use crate::error::Error;

/// A front end that is being served. Readable when it has gone; dropped, it is sent away.
pub struct Session {
    thread: Option<JoinHandle<Result<usize, Ended>>>,
    stream: UnixStream,
    /// Ends with the thread.
    end: UnixStream,
}

impl Session {
    /// Begins to serve the front end at the other end of `stream`.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub fn start(service: &Arc<VhostUser>, stream: UnixStream) -> Result<Session, Error> {
        Session::try_start(service, stream).map_err(|source| Error::Host {
            what: "serve a front end".into(),
            source,
        })
    }

    fn try_start(service: &Arc<VhostUser>, stream: UnixStream) -> io::Result<Session> {
        let (end, theirs) = UnixStream::pair()?;
        let (service, ours) = (Arc::clone(service), stream.try_clone()?);
        let served = stream.try_clone()?;
        let thread = Builder::new().name("vhost-user".into()).spawn(move || {
            let ended = service.serve(stream);
            // Ours is still open: a front end that was refused would wait for an answer, with its guest held.
            let _ = served.shutdown(Shutdown::Both);
            drop(theirs);
            ended
        })?;
        Ok(Session {
            thread: Some(thread),
            stream: ours,
            end,
        })
    }

    /// Sends the front end away, unless it has gone, and tells how serving it ended: when this returns, the device has
    /// done what it had begun, and touches nothing more.
    ///
    /// # Errors
    /// As [`VhostUser::serve`].
    pub fn finish(mut self) -> Result<usize, Ended> {
        self.join()
    }

    fn join(&mut self) -> Result<usize, Ended> {
        // It may have gone by itself.
        let _ = self.stream.shutdown(Shutdown::Both);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or(Err(Ended::Lost)),
            None => Ok(0),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // How it ended was not asked for.
        let _ = self.join();
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
