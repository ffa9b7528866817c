//! `hartvisor vhost-user`: one device on a socket, for front ends that come and go.
//!
//! ```text
//!   main thread: signals, socket       session thread: messages         device thread: requests
//!        accept ─────────────────────▶ VhostUser::serve ──────────────▶ Worker
//!        poll   ◀── socket pair ────── closed when the session ends
//! ```

use std::os::fd::AsFd;
use std::sync::Arc;

use devices::transport::vhost_user::{self as devices_vhost_user, VhostUser};
use log::{info, warn};

use crate::board::slots;
use crate::config;
use crate::error::Error;
use crate::host::socket::Socket;
use crate::machine::End;
use crate::shutdown;
use crate::signals::{self, SignalFd};

mod session;

pub use session::Session;

/// Serves front ends until a signal comes, or with `--once` until the first front end disconnects.
///
/// # Errors
/// The device or the socket cannot be created, or the device was lost.
pub fn run(options: &config::VhostUser) -> Result<End, Error> {
    // Before any other thread exists, so that all of them inherit the mask.
    signals::block(&[])?;
    let signals = SignalFd::new(&signals::ending()).map_err(Error::host("wait for signals"))?;
    let device = slots::alone(&options.device)?;
    let service = VhostUser::new(device).map_err(Error::host("start a device"))?;
    let service = Arc::new(service);
    let socket = Socket::listen("--socket", &options.socket)?;
    loop {
        if let Some(signal) = wait(&signals, &socket)? {
            return Ok(End::Signal(signal));
        }
        let accept = || Error::host("accept a front end");
        let Some(stream) = socket.accept().map_err(accept())? else {
            continue;
        };
        stream.set_nonblocking(false).map_err(accept())?;
        info!("a front end connected");
        let session = Session::start(&service, stream)?;
        let signal = wait(&signals, &session)?;
        if signal.is_some() {
            shutdown::at_once_by_another_signal();
        }
        let ended = session.finish();
        match (signal, ended) {
            (_, Err(devices_vhost_user::Error::Lost)) => {
                return Err(Error::Internal("the device is lost".into()));
            }
            (Some(signal), _) => return Ok(End::Signal(signal)),
            // A connection without a request, such as a check that the socket is served.
            (None, Ok(0)) => {}
            (None, Ok(_)) if options.once => return Ok(End::PowerOff),
            (None, Ok(_)) => info!("the front end disconnected"),
            (None, Err(error)) => {
                warn!("{error}");
                if options.once {
                    return Ok(End::Failure);
                }
            }
        }
    }
}

/// Waits until `other` is readable or a signal comes, and returns the signal.
fn wait(signals: &SignalFd, other: &impl AsFd) -> Result<Option<i32>, Error> {
    loop {
        let ready = signals.wait(other, None);
        let ready = ready.map_err(Error::host("wait for a front end"))?;
        let signal = signals.take().map_err(Error::host("read a signal"))?;
        if signal.is_some() || ready {
            return Ok(signal);
        }
    }
}
