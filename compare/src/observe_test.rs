//! Running commands to their end.

use std::path::PathBuf;

use super::*;

fn plan(script: &str) -> Plan {
    Plan {
        command: ["sh", "-c", script].map(String::from).into(),
        counting: None,
        runs: 1,
        timeout: 60,
        input: None,
        copies: Vec::new(),
        ram: 1 << 40,
    }
}

fn run(plan: &Plan) -> Run {
    once(plan, false, OUTPUT_MAX, &Signals::catch().unwrap()).unwrap()
}

fn texts(run: &Run) -> Vec<&str> {
    run.lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn output_messages_and_status_are_seen() {
    let run = run(&plan("printf 'a\\r\\nb'; echo why >&2; exit 3"));
    assert_eq!(texts(&run), ["a", "b"]);
    assert_eq!(
        (run.ending, run.messages.as_str()),
        (Ending::Status(3), "why")
    );
    assert!(run.lines[0].at <= run.exit);
}

#[test]
fn a_line_has_the_time_of_its_first_byte() {
    let mut stream = Stream::default();
    stream.add(b"a\nb", Duration::from_micros(1));
    stream.add(b"c\n", Duration::from_micros(2));
    let line = |at, text: &str| Line { at, text: text.into() };
    assert_eq!(stream.lines(), [line(1, "a"), line(1, "bc")]);
}

#[test]
fn what_does_not_end_is_ended_with_all_that_it_started() {
    let run = run(&Plan { timeout: 1, ..plan("sleep 1000 & echo $!; wait") });
    assert_eq!(run.ending, Ending::TimedOut);
    // sh ends by SIGTERM; its child, which holds the output open, by the SIGKILL to the group.
    let pid: i32 = run.lines[0].text.parse().unwrap();
    let is_there = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let end = Instant::now() + Duration::from_secs(60);
    while is_there() {
        assert!(Instant::now() < end, "{pid} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn what_prints_for_ever_is_ended_before_its_time() {
    let run = once(&plan("yes"), false, 64 << 10, &Signals::catch().unwrap()).unwrap();
    assert_eq!(run.ending, Ending::TooMuch);
}

#[test]
fn a_death_by_a_signal_is_told() {
    assert_eq!(run(&plan("kill -SEGV $$")).ending, Ending::Signal(11));
}

#[test]
fn each_run_has_its_input_and_a_fresh_disk_and_the_last_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("input"), "typed\n").unwrap();
    fs::write(at("disk"), "old\n").unwrap();
    let copy = at("directory/copy");
    let script = format!(
        "cat; cat {0}; echo new >{0}; [ $# = 0 ] || echo 7 >$1",
        copy.display()
    );
    let stats: PathBuf = at("stats");
    let mut plan = plan(&script);
    plan.command.push("sh".into());
    plan.input = Some(at("input"));
    plan.copies = vec![(at("disk"), copy)];
    plan.runs = 2;
    plan.counting =
        Some(crate::plan::Counting { arguments: vec![stats.display().to_string()], file: stats });
    let mut runs = Vec::new();
    let signals = Signals::catch().unwrap();
    observe(&plan, &signals, |run| {
        runs.push(run);
        Ok(())
    })
    .unwrap();
    assert!(
        runs.iter().all(|run| texts(run) == ["typed", "old"]),
        "{runs:?}"
    );
    let counts: Vec<_> = runs.iter().map(|run| run.counts.clone()).collect();
    let counted = Counts { memory: None, stats: Some(7.into()) };
    assert_eq!(counts, [None, None, Some(counted)]);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let plan = Plan { command: vec!["no-such-program".into()], ..plan("") };
    let error = once(&plan, false, OUTPUT_MAX, &Signals::catch().unwrap()).unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
}

#[test]
fn what_is_started_has_no_signal_blocked() {
    let run = run(&plan("grep SigBlk /proc/self/status"));
    assert_eq!(texts(&run), ["SigBlk:\t0000000000000000"]);
}
