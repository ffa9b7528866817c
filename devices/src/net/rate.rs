//! Limits how much a network card receives and sends: token buckets around another back end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::{BackEnd, HEADER};
use crate::memory::{Readable, Writable};
use crate::sync::now;
use crate::timer::Timer;
use crate::virtio::Ready;

/// How long an unused rate is kept for later.
const BURST: Duration = Duration::from_millis(100);

/// A limit of one direction. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bytes of frames per second.
    pub bytes: Option<u64>,
    /// Frames per second.
    pub frames: Option<u64>,
}

/// A back end with limits.
pub struct Limited {
    inner: Box<dyn BackEnd>,
    receive: Limit,
    send: Limit,
    timer: Timer,
}

impl Limited {
    /// Limits what the guest receives and sends.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(inner: Box<dyn BackEnd>, receive: Rate, send: Rate) -> io::Result<Limited> {
        Ok(Limited {
            inner,
            receive: Limit::new(receive),
            send: Limit::new(send),
            timer: Timer::new()?,
        })
    }

    /// Makes the timer expire when the next frame of either direction may pass, and says that none
    /// may now.
    fn wait(&self, delay: Duration) -> io::Error {
        let earliest = [&self.receive, &self.send]
            .into_iter()
            .filter_map(Limit::blocked_for)
            .fold(delay, Duration::min);
        // Zero would stop the timer.
        self.timer.set(earliest.max(Duration::from_nanos(1)));
        io::ErrorKind::WouldBlock.into()
    }
}

impl BackEnd for Limited {
    fn offloads(&self) -> u64 {
        self.inner.offloads()
    }

    fn set_offloads(&mut self, features: u64) {
        self.inner.set_offloads(features);
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        let mut files = self.inner.files();
        files.push((self.timer.as_fd(), Ready::Read));
        files
    }

    fn ready(&mut self, index: usize) -> Option<bool> {
        self.inner.ready(index)
    }

    fn receive(&mut self, to: &mut Writable, rest: &mut [u8]) -> io::Result<usize> {
        if let Some(delay) = self.receive.delay(now()) {
            return Err(self.wait(delay));
        }
        let frame = self.inner.receive(to, rest)?;
        self.receive.spend(frame.saturating_sub(HEADER) as u64);
        Ok(frame)
    }

    fn send(&mut self, frame: &mut Readable) -> io::Result<()> {
        if let Some(delay) = self.send.delay(now()) {
            return Err(self.wait(delay));
        }
        let bytes = frame.len().saturating_sub(HEADER as u64);
        self.inner.send(frame)?;
        self.send.spend(bytes);
        Ok(())
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        self.inner.is_gone(error)
    }
}

/// The limit of one direction: a bucket for bytes, and one for frames.
struct Limit {
    buckets: [Option<Bucket>; 2],
    /// When a frame may pass that was refused.
    blocked: Option<Instant>,
}

impl Limit {
    fn new(rate: Rate) -> Limit {
        let now = now();
        let bucket = |rate: Option<u64>| rate.map(|rate| Bucket::full(rate, now));
        Limit { buckets: [rate.bytes, rate.frames].map(bucket), blocked: None }
    }

    /// How long the next frame has to wait, if it does.
    fn delay(&mut self, now: Instant) -> Option<Duration> {
        let buckets = self.buckets.iter_mut().flatten();
        let delay = buckets.filter_map(|bucket| bucket.delay(now)).max();
        self.blocked = delay.and_then(|delay| now.checked_add(delay));
        delay
    }

    /// A frame of so many bytes has passed.
    fn spend(&mut self, bytes: u64) {
        for (bucket, tokens) in self.buckets.iter_mut().zip([bytes, 1]) {
            if let Some(bucket) = bucket {
                bucket.spend(tokens);
            }
        }
    }

    /// How long a refused frame still has to wait. `None` after the timer has expired for it.
    fn blocked_for(&self) -> Option<Duration> {
        let left = self.blocked?.saturating_duration_since(now());
        (!left.is_zero()).then_some(left)
    }
}

/// Tokens, which come at a rate and are spent on frames. A frame passes if any token is there, and
/// may spend more than that. So a frame that is larger than the bucket passes, and the next ones
/// wait for longer.
struct Bucket {
    /// Tokens per second.
    rate: u64,
    /// When an empty bucket would have begun to fill, to have what it has now. In the future: it owes
    /// tokens.
    since: Instant,
}

impl Bucket {
    fn full(rate: u64, now: Instant) -> Bucket {
        let since = now.checked_sub(BURST).unwrap_or(now);
        Bucket { rate: rate.max(1), since }
    }

    fn delay(&mut self, now: Instant) -> Option<Duration> {
        let full = now.checked_sub(BURST).unwrap_or(now);
        self.since = self.since.max(full);
        let delay = self.since.saturating_duration_since(now);
        (!delay.is_zero()).then_some(delay)
    }

    fn spend(&mut self, tokens: u64) {
        let nanoseconds = u128::from(tokens) * 1_000_000_000 / u128::from(self.rate);
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.since = self.since.checked_add(time).unwrap_or(self.since);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "rate_test.rs"]
mod tests;
