//! The tests: a table per area, of sections (virtio 1.3), names, kinds of devices and functions. A
//! test's number is its place in all tables, so it changes if a test is added before it.

mod balloon;
mod block;
mod block_features;
mod console;
mod hostile;
mod life;
mod net;
mod queue;
mod rng;
mod suppression;
mod transport;
mod vsock;

use core::fmt;

use guest::tap::{Point, Verdict};

use crate::device::{Device, Kind};

/// The areas, in the order in which they are tested.
pub(crate) const AREAS: &[Area] = &[
    Area { tests: transport::TESTS, hostile: false },
    Area { tests: life::TESTS, hostile: false },
    Area { tests: queue::TESTS, hostile: false },
    Area { tests: suppression::TESTS, hostile: false },
    Area { tests: block::TESTS, hostile: false },
    Area { tests: block_features::TESTS, hostile: false },
    Area { tests: console::TESTS, hostile: false },
    Area { tests: rng::TESTS, hostile: false },
    Area { tests: hostile::ring::TESTS, hostile: true },
    Area { tests: hostile::registers::TESTS, hostile: true },
    Area { tests: hostile::requests::TESTS, hostile: true },
    Area { tests: net::TESTS, hostile: false },
    Area { tests: hostile::frames::TESTS, hostile: true },
    Area { tests: vsock::TESTS, hostile: false },
    Area { tests: hostile::packets::TESTS, hostile: true },
    Area { tests: balloon::TESTS, hostile: false },
    Area { tests: hostile::pages::TESTS, hostile: true },
];

/// Tests that belong together.
pub(crate) struct Area {
    pub(crate) tests: &'static [Test],
    /// They act as a hostile driver: the other devices are checked after each.
    pub(crate) hostile: bool,
}

/// One requirement, or one hostile act.
pub(crate) struct Test {
    section: &'static str,
    name: &'static str,
    /// The kinds of devices that it runs on, one after another.
    pub(crate) on: &'static [Kind],
    /// Begins with a live device that has served one plain request, and may leave it in any state.
    pub(crate) run: fn(&mut Device) -> Verdict,
}

impl fmt::Display for Test {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.section, self.name)
    }
}

/// A line of a table.
const fn test(
    section: &'static str,
    name: &'static str,
    on: &'static [Kind],
    run: fn(&mut Device) -> Verdict,
) -> Test {
    Test { section, name, on, run }
}

/// Requirements on every device.
const ALL: &[Kind] = &[
    Kind::Disk,
    Kind::Console,
    Kind::Entropy,
    Kind::Network,
    Kind::Socket,
    Kind::Balloon,
];

/// Requirements on a network card.
const NET: &[Kind] = &[Kind::Network];

/// Requirements on a socket device, and on a memory balloon.
const SOCKET: &[Kind] = &[Kind::Socket];
const BALLOON: &[Kind] = &[Kind::Balloon];

/// Requirements on the requests of a disk.
const DISK: &[Kind] = &[Kind::Disk];

/// The test passes.
const PASS: Verdict = Ok(Point::Pass);

/// Skips a test unless the condition holds: `needed!(condition, "why it is skipped")`.
macro_rules! needed {
    ($condition:expr, $why:literal) => {
        if !$condition {
            return Ok(guest::tap::Point::Skip($why));
        }
    };
}
use needed;
