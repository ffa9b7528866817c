//! Serving a queue's chains one after another: when to stop, and when to publish.

use std::time::{Duration, Instant};

use super::{Chain, Queue, QueueError};

/// About how long a used buffer may wait to be published with others, where more are to be served.
/// A batch of quick requests takes less; a request to a slow disk takes far more.
const PUBLISH_AFTER: Duration = Duration::from_micros(500);

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
            let mut batch = None;
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
                self.publish_in_time(&mut batch);
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

    /// Before the next chain is served: publishes what was pushed, if that waits for too long. A lone
    /// request does not pay for the clock, and quick ones for few looks at it.
    fn publish_in_time(&mut self, batch: &mut Option<Batch>) {
        if self.next_used == self.published {
            if self.waiting > 0 {
                *batch = Some(Batch::begin());
            }
        } else if batch.as_mut().is_none_or(Batch::is_over) {
            self.notify();
            *batch = Some(Batch::begin());
        }
    }
}

/// Chains that are to be published together.
struct Batch {
    since: Instant,
    /// Chains from one look at the clock to the next.
    stride: u8,
    /// Chains that are left until then.
    left: u8,
}

impl Batch {
    fn begin() -> Batch {
        Batch {
            since: Instant::now(),
            stride: 1,
            left: 0,
        }
    }

    /// Whether the first of them waits for too long. The clock is looked at for the first chain, and
    /// ever less often, up to each eighth one, as long as they are quick.
    fn is_over(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        let elapsed = self.since.elapsed();
        self.stride = if elapsed < PUBLISH_AFTER / 4 {
            (self.stride * 2).min(8)
        } else {
            1
        };
        self.left = self.stride - 1;
        elapsed >= PUBLISH_AFTER
    }
}
