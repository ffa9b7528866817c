//! Runs a command as often as a plan says, and records its output with times, and how it ends.
//!
//! Times and counts come from different runs: the counting run reads the command's memory all the
//! time. No process is left behind: a command gets SIGTERM, and later its process group gets
//! SIGKILL.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, read};

use crate::error::Error;
use crate::memory;
use crate::plan::{Counts, Ending, Line, Memory, Plan, Run};

/// Most bytes that a run may write to its standard output, so that a guest that prints for ever is
/// ended before the timeout.
pub const OUTPUT_MAX: usize = 4 << 20;
/// Bytes of the end of standard error that are kept.
const MESSAGES_MAX: usize = 16 << 10;
/// Time from SIGTERM to SIGKILL.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the counting run reads the memory of a command.
const LOOK: Duration = Duration::from_millis(20);

/// A file that reports the signals that end a comparison, and the ends of children.
///
/// They are caught, not blocked: a child would inherit blocked signals, and a shell without SIGCHLD
/// waits for ever.
pub struct Signals {
    ending: Vec<(i32, UnixStream)>,
    children: UnixStream,
}

impl Signals {
    /// Catches them from here on, in the whole process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn catch() -> Result<Signals, Error> {
        let caught = |signal: i32| {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal, theirs)?;
            Ok(ours)
        };
        let failed = |source| Error::Host { what: "catch signals", source };
        let ending = vmm::signals::ending();
        let ending = ending
            .into_iter()
            .map(|signal| Ok((signal, caught(signal)?)));
        Ok(Signals {
            ending: ending.collect::<Result<_, _>>().map_err(failed)?,
            children: caught(Signal::SIGCHLD as i32).map_err(failed)?,
        })
    }

    /// Readable when a signal has arrived.
    fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ending = self.ending.iter().map(|(_, caught)| caught.as_fd());
        ending.chain([self.children.as_fd()])
    }

    /// Takes the signals; returns the first one that ends the comparison.
    fn take(&self) -> Option<i32> {
        let came = |mut caught: &UnixStream| matches!(caught.read(&mut [0; 64]), Ok(1..));
        came(&self.children);
        let mut ending = self.ending.iter().filter(|(_, caught)| came(caught));
        ending.next().map(|(signal, _)| *signal)
    }
}

/// Executes a plan: the timed runs, then the counting run. Calls `each` with each run when it has
/// ended.
///
/// # Errors
/// A disk cannot be copied, the command cannot be started, or a signal arrived.
pub fn observe(
    plan: &Plan,
    signals: &Signals,
    mut each: impl FnMut(Run) -> Result<(), Error>,
) -> Result<(), Error> {
    for counts in (0..plan.runs).map(|_| false).chain([true]) {
        for (from, to) in &plan.copies {
            copy(from, to)?;
        }
        let run = once(plan, counts, OUTPUT_MAX, signals)?;
        let stop = !matches!(run.ending, Ending::Status(0 | 1));
        each(run)?;
        // After a timeout, do not wait that long again.
        if stop {
            break;
        }
    }
    Ok(())
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<(), Error> {
    let failed = |source| Error::File { what: "copy the disk", path: from.into(), source };
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    fs::copy(from, to).map(drop).map_err(failed)
}

/// One run, with at most `most` bytes of output.
///
/// # Errors
/// The command cannot be started, or a signal arrived.
pub fn once(plan: &Plan, counts: bool, most: usize, signals: &Signals) -> Result<Run, Error> {
    let counting = plan.counting.as_ref().filter(|_| counts);
    let mut running = Running::start(plan, counting.map(|it| it.arguments.as_slice()))?;
    let mut largest: Option<Memory> = None;
    while running.lives() {
        if let Some(signal) = running.wait(signals, counts.then_some(LOOK))? {
            running.stop(Stop::Signal(signal));
        }
        if running.out.size > most {
            running.stop(Stop::Ending(Ending::TooMuch));
        }
        running.look_at_the_time();
        if counts && let Some(memory) = memory::beside_ram(running.child.id(), plan.ram) {
            let largest = largest.get_or_insert_default();
            largest.pss = largest.pss.max(memory.pss);
            largest.anonymous = largest.anonymous.max(memory.anonymous);
        }
    }
    let stats = counting.and_then(|it| fs::read(&it.file).ok());
    let stats = stats.and_then(|text| serde_json::from_slice(&text).ok());
    let counts = counts.then_some(Counts { memory: largest, stats });
    running.finish(counts)
}

/// Why a run is ended by this program.
enum Stop {
    Ending(Ending),
    Signal(i32),
}

/// A running command.
struct Running {
    child: Child,
    begin: Instant,
    deadline: Instant,
    out: Stream,
    err: Stream,
    stop: Option<Stop>,
    /// When it gets SIGKILL, if it got SIGTERM.
    kill: Option<Instant>,
    /// Whether it got SIGKILL.
    killed: bool,
    /// How it ended, and when.
    ended: Option<(ExitStatus, Instant)>,
}

impl Running {
    fn start(plan: &Plan, more: Option<&[String]>) -> Result<Running, Error> {
        let (program, arguments) = plan
            .command
            .split_first()
            .ok_or_else(|| Error::Usage("there is no command to run".into()))?;
        let input = match &plan.input {
            None => Stdio::null(),
            Some(path) => File::open(path)
                .map_err(|source| Error::File { what: "read", path: path.clone(), source })?
                .into(),
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(more.unwrap_or_default())
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-c reaches only this program, which ends the command in order.
            .process_group(0);
        let begin = Instant::now();
        let child = command
            .spawn()
            .map_err(|source| Error::Start { program: program.clone(), source })?;
        Ok(Running {
            child,
            begin,
            deadline: begin + Duration::from_secs(plan.timeout),
            out: Stream::default(),
            err: Stream::default(),
            stop: None,
            kill: None,
            killed: false,
            ended: None,
        })
    }

    /// Whether more events may follow.
    fn lives(&self) -> bool {
        self.ended.is_none() || !self.out.closed || !self.err.closed
    }

    /// Waits for events, for at most `at_most`, and handles them. Returns a signal that ends the
    /// comparison.
    fn wait(&mut self, signals: &Signals, at_most: Option<Duration>) -> Result<Option<i32>, Error> {
        let next = self.kill.unwrap_or(self.deadline);
        let left = next.saturating_duration_since(Instant::now());
        let left = at_most.map_or(left, |most| left.min(most));
        // Rounded up, so that it does not wake repeatedly just before the deadline.
        let left =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let open = |stream: &Stream| !stream.closed;
        let stdout = self.child.stdout.as_ref().filter(|_| open(&self.out));
        let stderr = self.child.stderr.as_ref().filter(|_| open(&self.err));
        let stdout = stdout.map(AsFd::as_fd);
        let stderr = stderr.map(AsFd::as_fd);
        let mut fds: Vec<PollFd<'_>> = [stdout, stderr]
            .into_iter()
            .flatten()
            .chain(signals.files())
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(Error::Host { what: "wait for a run", source: errno.into() });
            }
        }
        let ready = |fd: BorrowedFd<'_>| {
            let is = |it: &PollFd<'_>| it.as_fd().as_raw_fd() == fd.as_raw_fd();
            fds.iter().any(|it| is(it) && it.any().unwrap_or(true))
        };
        let at = self.begin.elapsed();
        if let Some(fd) = stdout.filter(|fd| ready(*fd)) {
            self.out.take(fd, at);
        }
        if let Some(fd) = stderr.filter(|fd| ready(*fd)) {
            self.err.take(fd, at);
        }
        let signal = signals.take();
        if self.ended.is_none() {
            let status = self
                .child
                .try_wait()
                .map_err(|source| Error::Host { what: "wait for a run", source })?;
            self.ended = status.map(|status| (status, Instant::now()));
            if self.ended.is_some() {
                // Its children may hold its output open, but only for a short time.
                self.kill.get_or_insert(Instant::now() + QUIT_TIMEOUT);
            }
        }
        Ok(signal)
    }

    /// Sends SIGTERM; the first reason counts.
    fn stop(&mut self, why: Stop) {
        if self.stop.is_none() && self.ended.is_none() {
            self.stop = Some(why);
            self.kill = Some(Instant::now() + QUIT_TIMEOUT);
            self.signal(1, Signal::SIGTERM);
        }
    }

    fn look_at_the_time(&mut self) {
        let now = Instant::now();
        if now >= self.deadline {
            self.stop(Stop::Ending(Ending::TimedOut));
        }
        if self.kill.is_some_and(|kill| now >= kill) {
            // Its whole process group, so that the streams close.
            self.signal(-1, Signal::SIGKILL);
            self.kill = Some(now + QUIT_TIMEOUT);
            // Do not wait for a process that left the group and holds them open.
            let again = std::mem::replace(&mut self.killed, true);
            if again && self.ended.is_some() {
                (self.out.closed, self.err.closed) = (true, true);
            }
        }
    }

    /// To the process (`sign` 1) or to its group (-1).
    fn signal(&self, sign: i32, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended already.
            let _ = kill(Pid::from_raw(sign * pid), signal);
        }
    }

    fn finish(self, counts: Option<Counts>) -> Result<Run, Error> {
        let (status, end) = self.ended.ok_or(Error::Host {
            what: "learn how a run ended",
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let ending = match (self.stop, status.code(), status.signal()) {
            (Some(Stop::Signal(signal)), ..) => return Err(Error::Signal(signal)),
            (Some(Stop::Ending(ending)), ..) => ending,
            (None, Some(code), _) => Ending::Status(code),
            (None, None, signal) => Ending::Signal(signal.unwrap_or_default()),
        };
        Ok(Run {
            ending,
            exit: micros(end - self.begin),
            messages: self.err.tail(MESSAGES_MAX),
            lines: self.out.lines(),
            counts,
        })
    }
}

/// An output stream, with times.
#[derive(Default)]
struct Stream {
    lines: Vec<(Duration, Vec<u8>)>,
    /// Whether the last line has no end yet.
    open: bool,
    /// Bytes in all.
    size: usize,
    /// At its end.
    closed: bool,
}

impl Stream {
    /// Reads what is available now.
    fn take(&mut self, fd: BorrowedFd<'_>, at: Duration) {
        let mut buffer = [0; 64 << 10];
        match read(fd, &mut buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => self.add(buffer.get(..count).unwrap_or_default(), at),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.closed = true,
        }
    }

    fn add(&mut self, bytes: &[u8], at: Duration) {
        self.size += bytes.len();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.lines.last_mut().filter(|_| self.open) {
                Some((_, line)) => line.extend(piece),
                None => self.lines.push((at, piece.to_vec())),
            }
            self.open = !piece.ends_with(b"\n");
        }
    }

    fn lines(self) -> Vec<Line> {
        let line = |(at, bytes): (Duration, Vec<u8>)| {
            let text = String::from_utf8_lossy(&bytes);
            Line { at: micros(at), text: text.trim_end_matches(['\r', '\n']).to_owned() }
        };
        self.lines.into_iter().map(line).collect()
    }

    /// The last `most` bytes, roughly: whole lines.
    fn tail(self, most: usize) -> String {
        let mut size = 0;
        let lines = self.lines();
        let fits = lines.iter().rev().take_while(|line| {
            size += line.text.len() + 1;
            size <= most
        });
        let first = lines.len() - fits.count();
        let kept = lines.iter().skip(first).map(|line| line.text.as_str());
        kept.collect::<Vec<_>>().join("\n")
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "observe_test.rs"]
mod tests;
