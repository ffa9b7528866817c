//! One front end, served by its own thread.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::transport::vhost_user::{Error as Ended, VhostUser};

use crate::error::Error;

/// A front end that is being served. It polls as readable when the front end has disconnected.
/// Dropping it disconnects the front end.
pub struct Session {
    thread: Option<JoinHandle<Result<usize, Ended>>>,
    stream: UnixStream,
    /// Closed when the thread ends.
    end: UnixStream,
}

impl Session {
    /// Starts to serve the front end at the other end of `stream`.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub fn start(service: &Arc<VhostUser>, stream: UnixStream) -> Result<Session, Error> {
        Session::try_start(service, stream).map_err(Error::host("serve a front end"))
    }

    fn try_start(service: &Arc<VhostUser>, stream: UnixStream) -> io::Result<Session> {
        let (end, theirs) = UnixStream::pair()?;
        let (service, ours) = (Arc::clone(service), stream.try_clone()?);
        let served = stream.try_clone()?;
        let thread = Builder::new().name("vhost-user".into()).spawn(move || {
            let ended = service.serve(stream);
            // This process still has a copy of the socket. Without the shutdown a rejected front
            // end would wait for a reply, with its guest blocked.
            let _ = served.shutdown(Shutdown::Both);
            drop(theirs);
            ended
        })?;
        Ok(Session { thread: Some(thread), stream: ours, end })
    }

    /// Disconnects the front end if it is still connected, and returns the outcome of serving it.
    /// When this returns, the device has completed the requests that it had started, and accesses
    /// nothing any more.
    ///
    /// # Errors
    /// As [`VhostUser::serve`].
    pub fn finish(mut self) -> Result<usize, Ended> {
        self.join()
    }

    fn join(&mut self) -> Result<usize, Ended> {
        // It may have disconnected already.
        let _ = self.stream.shutdown(Shutdown::Both);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or(Err(Ended::Lost)),
            None => Ok(0),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The outcome is not wanted.
        let _ = self.join();
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
