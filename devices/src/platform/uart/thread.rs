//! The serial port's thread: it waits for input while the guest does, and for the output while
//! there is a backlog.

#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Input, Shared, State};
use crate::output::WRITE_TIMEOUT;

/// The interval at which the backlog is checked, in milliseconds.
const CHECK: libc::c_int = 250;

/// The thread's loop: waits, reads input, writes output and drives the line.
pub(super) fn serve(shared: &Shared) {
    while !shared.stop.load(Ordering::SeqCst) {
        let mut fds = vec![pollfd(&shared.wake, libc::POLLIN)];
        let timeout = {
            let state = shared.state();
            fds.extend(pollfds(&state));
            // A backlog is lost after the write timeout.
            if state.backlog.is_empty() { -1 } else { CHECK }
        };
        if poll(&mut fds, timeout) {
            // Clears the event. This fails if only the files are ready.
            let _ = shared.wake.read();
        }
        let mut state = shared.state();
        if state.wants_input() {
            state.fill();
        }
        state.flush();
        shared.drive(&mut state);
    }
    drain(&mut shared.state());
}

/// The files for which the port waits now.
fn pollfds(state: &State) -> Vec<libc::pollfd> {
    let mut fds = Vec::new();
    if state.wants_input() {
        let live = state.inputs.iter().filter(|input| !input.ended);
        fds.extend(live.map(|input| pollfd(&input.file, libc::POLLIN)));
    }
    if !state.backlog.is_empty() {
        fds.push(pollfd(state.output.file(), libc::POLLOUT));
    }
    fds
}

/// Writes the backlog when the port stops, for at most [`WRITE_TIMEOUT`].
fn drain(state: &mut State) {
    let end = Instant::now() + WRITE_TIMEOUT;
    state.flush();
    while !state.backlog.is_empty() && Instant::now() < end {
        poll(&mut [pollfd(state.output.file(), libc::POLLOUT)], 50);
        state.flush();
    }
    state.output.lost().add(state.backlog.len() as u64);
}

/// Whether one of the inputs can be read now.
pub(super) fn is_readable(inputs: &[Input]) -> bool {
    let live = inputs.iter().filter(|input| !input.ended);
    let mut fds: Vec<_> = live
        .map(|input| pollfd(&input.file, libc::POLLIN))
        .collect();
    poll(&mut fds, 0) && fds.iter().any(|fd| fd.revents & libc::POLLIN != 0)
}

fn pollfd(file: &impl AsRawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 }
}

/// Waits for one of `fds`, for at most `timeout` milliseconds, or forever if that is negative.
/// Returns whether one is ready.
fn poll(fds: &mut [libc::pollfd], timeout: libc::c_int) -> bool {
    let count = fds.len() as libc::nfds_t;
    // SAFETY: `fds` has `count` elements, and is borrowed for the call.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, timeout) };
    ready > 0
}
