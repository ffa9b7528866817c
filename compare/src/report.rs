//! The observations side by side: what agrees, and the times. This is the content of `--json`.

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::latency::{self, Latency};
use crate::plan::{Counts, Ending, Line, Run};
use crate::spread::Spread;
use crate::transcript::{self, Difference, Points, Said};

/// Changes if a field changes its meaning or is removed, but not for new fields.
pub const VERSION: u32 = 1;

/// A comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The guest and the settings.
    pub setting: Setting,
    /// Whether all ways that ran printed the same and ended alike.
    pub agree: bool,
    /// The ways, group by group.
    pub ways: Vec<Measured>,
}

/// What was compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The kernel, as given.
    pub kernel: String,
    /// Its command line.
    pub cmdline: String,
    /// vCPUs.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// Timed runs of each way.
    pub runs: u32,
    /// The text whose line ends the second time; by default the last line.
    pub marker: Option<String>,
    /// Lines that contain one of these texts are not compared.
    pub ignore: Vec<String>,
}

/// The results of one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its name in the table.
    pub name: String,
    /// The clock of its times.
    pub clock: Clock,
    /// Whether hartvisor ran it: its exit status shows how the guest ended.
    pub ours: bool,
    /// The command.
    pub command: Vec<String>,
    /// Why it did not run, if it did not.
    pub missing: Option<String>,
    /// How it ended. If a run ended differently from the first, that end.
    pub outcome: Option<Outcome>,
    /// Its output, compared with the first way that ran.
    pub verdict: Option<Verdict>,
    /// The test points of a test guest.
    pub points: Option<Points>,
    /// The times of the timed runs.
    pub times: Option<Times>,
    /// The latencies that the guest reports, as the median of the timed runs.
    #[serde(default)]
    pub latencies: Vec<Latency>,
    /// The results of the counting run.
    pub counts: Option<Counts>,
    /// All runs.
    pub runs: Vec<Run>,
}

/// Times in microseconds from the start of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// To the guest's first line after any firmware.
    pub first: Option<Spread>,
    /// To the line with the marker, or the last one.
    pub marker: Option<Spread>,
    /// To the end of the command.
    pub exit: Option<Spread>,
}

/// How the guest ended, as reported by its VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It powered off.
    PoweredOff,
    /// It reported a failure.
    Failed,
    /// The command ended with this status, whose meaning is unknown here.
    Status(i32),
    /// The command was killed by this signal.
    Signal(i32),
    /// It exceeded the timeout.
    TimedOut,
    /// It printed too much.
    TooMuch,
}

impl Outcome {
    fn of(ours: bool, ending: Ending) -> Outcome {
        match ending {
            Ending::Status(0) if ours => Outcome::PoweredOff,
            Ending::Status(1) if ours => Outcome::Failed,
            Ending::Status(status) => Outcome::Status(status),
            Ending::Signal(signal) => Outcome::Signal(signal),
            Ending::TimedOut => Outcome::TimedOut,
            Ending::TooMuch => Outcome::TooMuch,
        }
    }

    /// Whether two ends may be the same: a peer's status 0 does not show whether the guest passed.
    fn agrees(self, other: Outcome) -> bool {
        let ended = |it| matches!(it, Outcome::PoweredOff | Outcome::Failed);
        let plain = |it| it == Outcome::Status(0);
        self == other || ended(self) && plain(other) || plain(self) && ended(other)
    }

    /// In words.
    pub fn text(self) -> String {
        match self {
            Outcome::PoweredOff => "powered off".into(),
            Outcome::Failed => "reported failure".into(),
            Outcome::Status(status) => format!("exit status {status}"),
            Outcome::Signal(signal) => format!("killed by signal {signal}"),
            Outcome::TimedOut => "TIMED OUT".into(),
            Outcome::TooMuch => "PRINTED TOO MUCH".into(),
        }
    }
}

/// A way's transcript, compared with that of the first way that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is the first way.
    Reference,
    /// The same.
    Equal {
        /// Lines that count as equal only because a test is known to fail in one of them.
        known: usize,
    },
    /// It differs.
    Differs(Difference),
    /// Its own runs differ from each other.
    Unstable {
        /// The run, from 1, that differs from the first.
        run: usize,
        /// The first difference.
        difference: Difference,
    },
}

impl Verdict {
    /// Whether it is the same.
    pub fn agrees(&self) -> bool {
        matches!(self, Verdict::Reference | Verdict::Equal { .. })
    }
}

/// One way and its runs, or why there are none.
pub struct Seen {
    /// Its name in the table.
    pub name: String,
    /// Its group.
    pub clock: Clock,
    /// Whether hartvisor ran it.
    pub ours: bool,
    /// The command.
    pub command: Vec<String>,
    /// The runs.
    pub runs: Result<Vec<Run>, String>,
}

impl Report {
    /// Compares the ways.
    pub fn new(setting: Setting, seen: Vec<Seen>) -> Report {
        let mut ways: Vec<Measured> = seen
            .into_iter()
            .map(|seen| Measured::new(&setting, seen))
            .collect();
        let mut reference: Option<(Vec<Said>, Option<Outcome>)> = None;
        let mut agree = true;
        for way in ways.iter_mut().filter(|way| way.missing.is_none()) {
            let said = |run: &Run| transcript::comparable(&run.lines, &setting.ignore);
            let mut all = way.runs.iter().map(said);
            let Some(first) = all.next() else { continue };
            // A run that this program ended has printed less; its outcome shows that.
            let whole = |run: &Run| !matches!(run.ending, Ending::TimedOut | Ending::TooMuch);
            let others = (2..).zip(way.runs.iter().skip(1).zip(all));
            let others = others.filter(|(_, (run, _))| whole(run));
            let unstable =
                others
                    .map(|(number, (_, said))| (number, said))
                    .find_map(|(run, other)| {
                        let difference = transcript::difference(&other, &first).err()?;
                        Some(Verdict::Unstable { run, difference })
                    });
            let verdict = match &reference {
                None => Verdict::Reference,
                Some((there, _)) => match transcript::difference(&first, there) {
                    Ok(known) => Verdict::Equal { known },
                    Err(difference) => Verdict::Differs(difference),
                },
            };
            let verdict = match (verdict.agrees(), unstable) {
                (true, Some(unstable)) => unstable,
                (_, _) => verdict,
            };
            let (_, outcome) = reference.get_or_insert((first, way.outcome));
            let same = way.outcome.zip(*outcome).is_some_and(|(a, b)| a.agrees(b));
            agree &= verdict.agrees() && same;
            way.verdict = Some(verdict);
        }
        Report { version: VERSION, setting, agree, ways }
    }

    /// The ways that ran.
    pub fn ran(&self) -> impl Iterator<Item = &Measured> {
        self.ways.iter().filter(|way| way.missing.is_none())
    }
}

impl Measured {
    fn new(setting: &Setting, seen: Seen) -> Measured {
        let mut way = Measured {
            name: seen.name,
            clock: seen.clock,
            ours: seen.ours,
            command: seen.command,
            missing: None,
            outcome: None,
            verdict: None,
            points: None,
            times: None,
            latencies: Vec::new(),
            counts: None,
            runs: Vec::new(),
        };
        let runs = match seen.runs {
            Ok(runs) => runs,
            Err(why) => {
                way.missing = Some(why);
                return way;
            }
        };
        let Some(first) = runs.first() else {
            way.missing = Some("it was not run".into());
            return way;
        };
        // hartvisor's statuses for invalid input, and for a host that cannot run it.
        if way.ours && matches!(first.ending, Ending::Status(2 | 3)) {
            let last = first.messages.lines().last().unwrap_or_default();
            let last = last.strip_prefix("hartvisor: ").unwrap_or(last);
            way.missing = Some(last.into());
            return way;
        }
        // A run that ended differently must be visible.
        let outcome = Outcome::of(way.ours, first.ending);
        let outcomes = runs.iter().map(|run| Outcome::of(way.ours, run.ending));
        let other = outcomes.into_iter().find(|other| *other != outcome);
        way.outcome = Some(other.unwrap_or(outcome));
        way.points = transcript::points(&first.lines);
        way.times = Some(Times::of(setting, &runs));
        let timed = runs.iter().filter(|run| run.counts.is_none());
        let reported: Vec<_> = timed.map(|run| latency::reported(&run.lines)).collect();
        way.latencies = latency::medians(&reported);
        way.counts = runs.iter().find_map(|run| run.counts.clone());
        way.runs = runs;
        way
    }
}

impl Times {
    fn of(setting: &Setting, runs: &[Run]) -> Times {
        let timed = || runs.iter().filter(|run| run.counts.is_none());
        Times {
            first: Spread::of(timed().filter_map(first)),
            marker: Spread::of(timed().filter_map(|run| marker(setting, run))),
            exit: Spread::of(timed().map(|run| run.exit)),
        }
    }
}

/// The lines after any firmware.
fn guest_lines(run: &Run) -> std::slice::Iter<'_, Line> {
    let begin = transcript::firmware_end(&run.lines);
    run.lines.get(begin..).unwrap_or_default().iter()
}

/// When the guest's first line arrived.
pub fn first(run: &Run) -> Option<u64> {
    let mut guest = guest_lines(run);
    let line = guest.find(|line| !line.text.trim().is_empty());
    line.map(|line| line.at)
}

/// When the guest's line with the marker arrived, or its last line.
pub fn marker(setting: &Setting, run: &Run) -> Option<u64> {
    let mut guest = guest_lines(run);
    let line = match &setting.marker {
        Some(marker) => guest.find(|line| line.text.contains(marker)),
        None => guest.rfind(|line| !line.text.trim().is_empty()),
    };
    line.map(|line| line.at)
}

#[cfg(test)]
#[path = "report_test.rs"]
pub(crate) mod tests;
