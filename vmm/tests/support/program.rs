//! Starts programs with default signal dispositions, and with deadlines that do not depend on the
//! machine's load.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Time limit in seconds of a program, or of a step of a program that keeps running.
pub const LIMIT: u64 = 300;
/// Interval at which a wait checks its deadline.
pub const LOOK: Duration = Duration::from_millis(50);

/// Returns the same command with all signals set to their defaults and unblocked. Tests started by
/// nohup(1), cron or a shell in the background have some ignored, which child processes inherit.
pub fn undisturbed(command: &Command) -> Command {
    let mut fresh = Command::new("env");
    // env becomes the program, so the process ID is the same.
    fresh.args(["--default-signal", "--"]);
    fresh.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => fresh.env(name, value),
            None => fresh.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        fresh.current_dir(folder);
    }
    fresh
}

/// A deadline in the process time of a process and its descendants. Process time is wall-clock
/// time, but stops while one of their threads is ready to run and other processes use the CPUs.
pub struct Deadline {
    process: u32,
    limit: Duration,
    begin: Instant,
    /// How long they have waited for a CPU, and each thread's waiting time at the last check.
    waited: Duration,
    threads: HashMap<String, u64>,
}

impl Deadline {
    /// Returns the deadline `seconds` from now, times HARTVISOR_TIMEOUT_FACTOR.
    pub fn of(process: u32, seconds: u64) -> Deadline {
        Deadline {
            process,
            limit: Duration::from_secs(seconds * factor()),
            begin: Instant::now(),
            waited: Duration::ZERO,
            threads: HashMap::new(),
        }
    }

    /// Fails with the awaited event and the program's output so far if the deadline has passed.
    /// Call it often.
    #[track_caller]
    pub fn check(&mut self, what: &str, said: &str) {
        let longest = self.look(self.process);
        self.waited += Duration::from_nanos(longest);
        let passed = self.begin.elapsed();
        let (limit, waited) = (self.limit.as_secs(), self.waited.as_secs());
        assert!(
            passed.saturating_sub(self.waited) < self.limit,
            "{what}: not within {limit} s of the program's own ({} s by the clock, of which it waited {waited} s for a CPU). \
             HARTVISOR_TIMEOUT_FACTOR={} gives it more. It said: {said}",
            passed.as_secs(),
            2 * factor(),
        );
    }

    /// Returns the longest time in nanoseconds that a thread of this process or its descendants has
    /// waited since the last check.
    fn look(&mut self, process: u32) -> u64 {
        let mut longest = 0;
        let threads = fs::read_dir(format!("/proc/{process}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let path = thread.path();
            let number = |text: &str, index| text.split_whitespace().nth(index)?.parse().ok();
            let stat = read(&path.join("schedstat"));
            if let Some(now) = number(&stat, 1) {
                let before = self.threads.insert(path.display().to_string(), now);
                longest = longest.max(now.saturating_sub(before.unwrap_or(0)));
            }
            for child in read(&path.join("children")).split_whitespace() {
                longest = longest.max(child.parse().map_or(0, |child| self.look(child)));
            }
        }
        longest
    }
}

/// Reads a file, which may be gone.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn factor() -> u64 {
    let factor = std::env::var("HARTVISOR_TIMEOUT_FACTOR");
    let number = |text: String| text.parse().ok().filter(|factor| *factor > 0);
    factor.map_or(1, |text| {
        number(text).expect("HARTVISOR_TIMEOUT_FACTOR: a number of at least 1")
    })
}

/// Waits until a program exits.
#[track_caller]
pub fn wait(child: &mut Child) -> ExitStatus {
    let mut deadline = Deadline::of(child.id(), LIMIT);
    until("its end", &mut deadline, || child.try_wait().unwrap())
}

/// Polls until there is a result.
#[track_caller]
pub fn until<T>(what: &str, deadline: &mut Deadline, mut ask: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        deadline.check(what, "");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program without input until it exits. Kills it after [`LIMIT`].
#[track_caller]
pub fn output(command: &Command) -> Output {
    output_within(LIMIT, command, b"")
}

/// As above with this time limit in seconds and this standard input.
#[track_caller]
pub fn output_within(seconds: u64, command: &Command, input: &[u8]) -> Output {
    let mut child = Killed(
        undisturbed(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut stdin = child.0.stdin.take().unwrap();
    let input = input.to_owned();
    // A program may exit without reading its input.
    thread::spawn(move || stdin.write_all(&input));
    let said = listen(&mut child.0);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut deadline = Deadline::of(child.0.id(), seconds);
    loop {
        match said.recv_timeout(LOOK) {
            Ok((1, bytes)) => stdout.extend(bytes),
            Ok((_, bytes)) => stderr.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let so_far = [&*stdout, &*stderr].map(String::from_utf8_lossy).concat();
                deadline.check("its end", &so_far);
            }
        }
    }
    let status = wait(&mut child.0);
    Output { status, stdout, stderr }
}

/// Receives what a program writes to standard output (1) and error (2) until both are closed.
pub fn listen(child: &mut Child) -> Receiver<(u8, Vec<u8>)> {
    let (sender, receiver) = channel();
    let ends: [(u8, Box<dyn Read + Send>); 2] = [
        (1, Box::new(child.stdout.take().unwrap())),
        (2, Box::new(child.stderr.take().unwrap())),
    ];
    for (number, mut end) in ends {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = end.read(&mut buffer) {
                let _ = sender.send((number, buffer[..count].to_vec()));
            }
        });
    }
    receiver
}

/// Kills the program if the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
