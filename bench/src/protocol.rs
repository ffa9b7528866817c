//! The messages between `load`, in the guest, and `meter`, in the host, over the guest's console.
//!
//! ```text
//!   load:  @@ init                   it runs, and the console works
//!   load:  @@ ready read4k           the test is prepared; it waits
//!   meter: go
//!   load:  @@ done read4k 256 18944000   operations, nanoseconds; data is verified after that
//!   load:  @@ bye                    it waits, and powers off at the next "go"
//!   load:  @@ fail TEXT              an error; it powers off
//! ```
//! A console test prints its [`crate::pattern::lines`] between "go" and "done".

use std::fmt;
use std::str::FromStr;

/// Prefix of every line of `load`.
pub const MARK: &str = "@@ ";

/// The reply of `meter`.
pub const GO: &str = "go\n";

/// A line of `load`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The guest's init runs.
    Init,
    /// The test of this name is prepared.
    Ready(String),
    /// The test is complete.
    Done(Outcome),
    /// All tests are complete.
    Bye,
    /// An error.
    Fail(String),
}

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// The number of operations.
    pub operations: u64,
    /// Nanoseconds of the guest's clock for all of them.
    pub nanoseconds: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{MARK}")?;
        match self {
            Line::Init => write!(out, "init"),
            Line::Ready(name) => write!(out, "ready {name}"),
            Line::Done(Outcome { name, operations, nanoseconds }) => {
                write!(out, "done {name} {operations} {nanoseconds}")
            }
            Line::Bye => write!(out, "bye"),
            Line::Fail(text) => write!(out, "fail {text}"),
        }
    }
}

impl FromStr for Line {
    type Err = ();

    /// Parses a line without its newline. Anything else on the console, such as the kernel's log,
    /// is an error.
    fn from_str(line: &str) -> Result<Line, ()> {
        let (kind, rest) = match line.strip_prefix(MARK).ok_or(())?.split_once(' ') {
            Some((kind, rest)) => (kind, rest),
            None => (line.strip_prefix(MARK).ok_or(())?, ""),
        };
        let words: Vec<&str> = rest.split(' ').collect();
        match (kind, words.as_slice()) {
            ("init", [""]) => Ok(Line::Init),
            ("bye", [""]) => Ok(Line::Bye),
            ("ready", &[name]) if !name.is_empty() => Ok(Line::Ready(name.to_owned())),
            ("done", &[name, operations, nanoseconds]) => Ok(Line::Done(Outcome {
                name: name.to_owned(),
                operations: operations.parse().map_err(drop)?,
                nanoseconds: nanoseconds.parse().map_err(drop)?,
            })),
            ("fail", _) => Ok(Line::Fail(rest.to_owned())),
            _ => Err(()),
        }
    }
}

/// A test of `load`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its kind.
    pub kind: Kind,
    /// The number of operations.
    pub operations: usize,
}

/// The operation of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: the cost of the protocol.
    Null,
    /// A random 4 KiB read, one in flight.
    Read4k,
    /// A random 4 KiB write, one in flight.
    Write4k,
    /// A random 4 KiB read, 32 in flight.
    Read4kDeep,
    /// A random 4 KiB write, 32 in flight.
    Write4kDeep,
    /// A sequential 1 MiB read.
    Read1m,
    /// A sequential 1 MiB write.
    Write1m,
    /// A 4 KiB write and a flush.
    Sync4k,
    /// A random 4 KiB read, one in flight from each vCPU at the same time.
    Read4kEach,
    /// A 4 KiB write to the console.
    Console4k,
    /// A line of 64 bytes to the console.
    Console64,
}

impl Kind {
    /// All kinds, in the order in which they run.
    pub const ALL: [Kind; 11] = [
        Kind::Null,
        Kind::Read4k,
        Kind::Write4k,
        Kind::Read4kDeep,
        Kind::Write4kDeep,
        Kind::Read1m,
        Kind::Write1m,
        Kind::Sync4k,
        Kind::Read4kEach,
        Kind::Console4k,
        Kind::Console64,
    ];

    /// Returns its name in lines, tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Read4k => "read4k",
            Kind::Write4k => "write4k",
            Kind::Read4kDeep => "read4k-32",
            Kind::Write4kDeep => "write4k-32",
            Kind::Read1m => "read1m",
            Kind::Write1m => "write1m",
            Kind::Sync4k => "sync4k",
            Kind::Read4kEach => "read4k-each",
            Kind::Console4k => "console4k",
            Kind::Console64 => "console64",
        }
    }

    /// Returns the bytes that an operation prints on the console.
    pub fn prints(self) -> Option<usize> {
        match self {
            Kind::Console4k => Some(4096),
            Kind::Console64 => Some(64),
            _ => None,
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Kind, ()> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.kind.name(), self.operations)
    }
}

impl FromStr for Test {
    type Err = ();

    /// Parses `NAME:OPERATIONS`.
    fn from_str(text: &str) -> Result<Test, ()> {
        let (name, operations) = text.split_once(':').ok_or(())?;
        Ok(Test { kind: name.parse()?, operations: operations.parse().map_err(drop)? })
    }
}

/// The kernel's command line passes the work of `load` as environment variables of init: the seed,
/// and the tests separated by commas.
pub const SEED: &str = "BENCH_SEED";
/// See [`SEED`].
pub const TESTS: &str = "BENCH_TESTS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_it_was_written() {
        let done = Outcome { name: "read4k".to_owned(), operations: 256, nanoseconds: 18_944_000 };
        for line in [
            Line::Init,
            Line::Ready("read4k".to_owned()),
            Line::Done(done),
            Line::Bye,
            Line::Fail("block 3 is not what was written".to_owned()),
        ] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
    }

    #[test]
    fn what_is_no_line_of_load_is_refused() {
        for text in [
            "",
            "@@ ",
            "@@ ready",
            "@@ done read4k 1",
            "@@ done a b c",
            "@@ initial",
            "[    0.0] @@ init",
        ] {
            assert_eq!(text.parse::<Line>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn every_test_has_a_name_that_leads_back_to_it() {
        for kind in Kind::ALL {
            let test = Test { kind, operations: 3 };
            assert_eq!(test.to_string().parse(), Ok(test));
        }
        assert_eq!("nothing:3".parse::<Test>(), Err(()));
        assert_eq!("null".parse::<Test>(), Err(()));
    }
}
