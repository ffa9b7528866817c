//! The serial port's thread: it waits for input while the guest does, and for room while output is
//! kept.

#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Input, Shared, State};
use crate::output::WRITE_TIMEOUT;

/// How often to look at output that is kept, in milliseconds.
const LOOK: libc::c_int = 250;

/// Until stopped: wait, take input, send output, drive the line.
pub(super) fn serve(shared: &Shared) {
    while !shared.stop.load(Ordering::SeqCst) {
        let mut fds = vec![want(&shared.wake, libc::POLLIN)];
        let timeout = {
            let state = shared.state();
            fds.extend(wanted(&state));
            // Kept output is lost when it has waited for long enough.
            if state.backlog.is_empty() { -1 } else { LOOK }
        };
        if poll(&mut fds, timeout) {
            // Reading it makes the next wake-up news. It may be that only the files woke us.
            let _ = shared.wake.read();
        }
        let mut state = shared.state();
        if state.wants_input() {
            state.fill();
        }
        state.flush();
        shared.drive(&mut state);
    }
    last_words(&mut shared.state());
}

/// What the port waits for now.
fn wanted(state: &State) -> Vec<libc::pollfd> {
    let mut fds = Vec::new();
    if state.wants_input() {
        let live = state.inputs.iter().filter(|input| !input.ended);
        fds.extend(live.map(|input| want(&input.file, libc::POLLIN)));
    }
    if !state.backlog.is_empty() {
        fds.push(want(state.output.file(), libc::POLLOUT));
    }
    fds
}

fn last_words(state: &mut State) {
    let end = Instant::now() + WRITE_TIMEOUT;
    state.flush();
    while !state.backlog.is_empty() && Instant::now() < end {
        poll(&mut [want(state.output.file(), libc::POLLOUT)], 50);
        state.flush();
    }
    state.output.lost().add(state.backlog.len() as u64);
}

/// Whether reading one of the inputs would give something now.
pub(super) fn is_readable(inputs: &[Input]) -> bool {
    let live = inputs.iter().filter(|input| !input.ended);
    let mut fds: Vec<_> = live.map(|input| want(&input.file, libc::POLLIN)).collect();
    poll(&mut fds, 0) && fds.iter().any(|fd| fd.revents & libc::POLLIN != 0)
}

fn want(file: &impl AsRawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd: file.as_raw_fd(),
        events,
        revents: 0,
    }
}

/// Waits for one of `fds`, at most `timeout` milliseconds, for ever if that is negative. False when
/// there is nothing.
fn poll(fds: &mut [libc::pollfd], timeout: libc::c_int) -> bool {
    let count = fds.len() as libc::nfds_t;
    // SAFETY: `fds` are as many as said, and ours for the time of the call.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, timeout) };
    ready > 0
}
