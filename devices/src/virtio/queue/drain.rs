//! Serves a queue's chains one after another, and decides when to stop and when to publish.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Chain, Queue, QueueError};
use crate::sync::now;

/// About how long a used buffer may wait to be published with others while more are served. A batch
/// of quick requests takes less; a request to a slow disk takes far more.
const PUBLISH_AFTER: Duration = Duration::from_micros(500);

/// The most chains per read of the clock.
const STRIDE_MAX: u8 = 8;

/// What became of a chain that [`Queue::drain_groups`] offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is served, and so are the parts before it: this many bytes were written to it.
    Done(u32),
    /// This many bytes were written to it, but more chains belong to the same group. The driver
    /// sees no chain of a group before the last one is done.
    Part(u32),
    /// It cannot be served now. The queue stalls on it.
    Stall,
}

impl Queue {
    /// Serves the available chains, one after another, and publishes them in batches.
    ///
    /// `serve` returns the number of bytes that it wrote, or `None` if it cannot continue now. The
    /// queue then stalls on the chain, which keeps its position, and the next call starts with it.
    ///
    /// The queue is left [unfinished](Self::is_unfinished) in two cases. The first is a budget of
    /// one ring of chains, so that a queue that is refilled forever does not starve the others. The
    /// second is a request to stop, which so waits for at most one request.
    ///
    /// # Errors
    /// The ring or a chain is invalid. The chains served before are published.
    pub fn drain(
        &mut self,
        mut serve: impl FnMut(&mut Chain) -> Option<u32>,
    ) -> Result<(), QueueError> {
        self.drain_groups(0, |chain, _| serve(chain).map_or(Step::Stall, Step::Done))
    }

    /// As [`drain`](Self::drain), for a device that may write one message to several chains.
    /// `serve` also gets the chain's [`Group`]. With the first chain of a group, up to `ahead`
    /// chains are shown that follow it, as far as they are available: they are served next, in this
    /// order.
    ///
    /// A group that the available chains cannot hold stays open, and goes on with the next one.
    /// `serve` must end a group at the ring's size: there are no more chains.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub fn drain_groups(
        &mut self,
        ahead: usize,
        mut serve: impl FnMut(&mut Chain, Group<'_>) -> Step,
    ) -> Result<(), QueueError> {
        self.unfinished = false;
        let mut budget = self.size;
        let mut promised = false;
        loop {
            let before = budget;
            let mut batch = Batch::default();
            self.suppress_kicks();
            while budget > 0 {
                if self.stop.is_set() {
                    self.unfinished = true;
                    self.notify();
                    return Ok(());
                }
                let next = match self.ahead.pop_front() {
                    Some(chain) => Ok(Some(chain)),
                    None => self.pop(),
                };
                let mut chain = match next {
                    Ok(Some(chain)) => chain,
                    Ok(None) => break,
                    Err(invalid) => {
                        self.notify();
                        return Err(invalid);
                    }
                };
                // A single request does not pay for the clock.
                if self.waiting > 0 || self.next_used != self.published {
                    match batch.left {
                        0 => self.publish_in_time(&mut batch),
                        _ => batch.left -= 1,
                    }
                }
                let place = self.group.len();
                if ahead > 0 && place == 0 {
                    self.take_ahead(ahead);
                }
                let first = self.group.first_mut().map(|(chain, _)| chain);
                let ahead = &mut self.ahead;
                match serve(&mut chain, Group { first, place, ahead }) {
                    Step::Done(written) => {
                        if place > 0 {
                            self.push_group();
                        }
                        self.push(chain, written);
                    }
                    Step::Part(written) => self.group.push((chain, written)),
                    Step::Stall => {
                        self.ahead.push_front(chain);
                        self.notify();
                        return Ok(());
                    }
                }
                budget -= 1;
            }
            self.notify();
            if !self.allow_kicks() {
                return Ok(());
            }
            if budget == 0 {
                self.unfinished = true;
                return Ok(());
            }
            // Twice the index promised a chain, and there was none: the areas overlap so that our
            // flags are the driver's index. This would never end.
            if promised && budget == before {
                return Ok(());
            }
            promised = true;
        }
    }

    /// Takes chains ahead until there are `count`.
    #[cold]
    #[inline(never)]
    fn take_ahead(&mut self, count: usize) {
        // An invalid chain is an error when it is its turn.
        while self.ahead.len() < count
            && let Ok(Some(chain)) = self.pop()
        {
            self.ahead.push_back(chain);
        }
    }

    #[cold]
    fn push_group(&mut self) {
        for (chain, written) in std::mem::take(&mut self.group) {
            self.push(chain, written);
        }
    }

    /// Called before a chain is served: publishes the pushed chains if they have waited for too
    /// long. The faster requests are served, the less often they read the clock; a batch starts
    /// with the stride of the last one.
    #[cold]
    #[inline(never)]
    fn publish_in_time(&mut self, batch: &mut Batch) {
        let now = now();
        let elapsed = |since| now.saturating_duration_since(since);
        if let Some(looked) = batch.looked {
            self.stride = match elapsed(looked) < PUBLISH_AFTER / 4 {
                true => (self.stride * 2).min(STRIDE_MAX),
                false => 1,
            };
        }
        let over = |began| elapsed(began) >= PUBLISH_AFTER;
        if batch.began.is_none_or(over) {
            self.notify();
            batch.began = Some(now);
        }
        batch.looked = Some(now);
        batch.left = self.stride - 1;
    }
}

/// The place of a chain among those that hold one message.
pub struct Group<'a> {
    /// The first chain, unless this is it.
    pub first: Option<&'a mut Chain>,
    /// How many chains of the group come before.
    pub place: usize,
    /// The chains that were taken ahead.
    pub ahead: &'a mut VecDeque<Chain>,
}

/// Chains that are published together.
#[derive(Default)]
struct Batch {
    /// When the first of them was about to be served, if known.
    began: Option<Instant>,
    /// The last read of the clock.
    looked: Option<Instant>,
    /// Chains until the next read.
    left: u8,
}
