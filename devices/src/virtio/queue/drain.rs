//! Serving a queue's chains one after another: when to stop, and when to publish.

use std::time::{Duration, Instant};

use super::{Chain, Queue, QueueError};

/// About how long a used buffer may wait to be published with others, where more are to be served.
/// A batch of quick requests takes less; a request to a slow disk takes far more.
const PUBLISH_AFTER: Duration = Duration::from_micros(500);

/// Chains from one look at the clock to the next, at most.
const STRIDE_MAX: u8 = 8;

impl Queue {
    /// Serves the chains that are available, one after another, and publishes them in batches.
    ///
    /// `serve` returns how many bytes it wrote, or `None` if it cannot go on now: the queue then
    /// stalls on the chain, with what was consumed of it consumed, and the next call begins with it.
    ///
    /// The queue is left [unfinished](Self::is_unfinished) after as many chains as the ring is long,
    /// so that one that is refilled for ever does not starve the others; and when somebody wants the
    /// device for itself, which so waits for one request at most.
    ///
    /// # Errors
    /// The ring or a chain is invalid. What was served before is published.
    pub fn drain(
        &mut self,
        mut serve: impl FnMut(&mut Chain) -> Option<u32>,
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
                let next = match self.stalled.take() {
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
                // A lone request does not pay for the clock.
                if self.waiting > 0 || self.next_used != self.published {
                    match batch.left {
                        0 => self.publish_in_time(&mut batch),
                        _ => batch.left -= 1,
                    }
                }
                let Some(written) = serve(&mut chain) else {
                    self.stalled = Some(chain);
                    self.notify();
                    return Ok(());
                };
                self.push(chain, written);
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
            // Twice there was something to come, and nothing came: the areas overlap so that our
            // flags are the driver's index, and would be for ever.
            if promised && budget == before {
                return Ok(());
            }
            promised = true;
        }
    }

    /// Before the next chain is served: publishes what was pushed, if that waits for too long. Quick
    /// requests look at the clock ever less often, and begin the next batch as they ended the last.
    #[cold]
    #[inline(never)]
    fn publish_in_time(&mut self, batch: &mut Batch) {
        let now = Instant::now();
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

/// Chains that are to be published together.
#[derive(Default)]
struct Batch {
    /// When the first of them was about to be served, if known.
    began: Option<Instant>,
    /// The last look at the clock.
    looked: Option<Instant>,
    /// Chains that are left until the next.
    left: u8,
}
