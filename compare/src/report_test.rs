//! Observations side by side.

use super::*;

pub(crate) fn setting() -> Setting {
    Setting {
        kernel: "guest".into(),
        cmdline: String::new(),
        cpus: 1,
        memory: 256 << 20,
        runs: 2,
        marker: None,
        ignore: Vec::new(),
    }
}

/// A run that wrote these lines, one millisecond apart.
pub(crate) fn run(ending: Ending, text: &str) -> Run {
    let lines: Vec<Line> = (1..)
        .zip(text.lines())
        .map(|(at, text)| Line { at: at * 1000, text: text.into() })
        .collect();
    Run {
        ending,
        exit: (lines.len() as u64 + 1) * 1000,
        lines,
        messages: String::new(),
        counts: None,
    }
}

pub(crate) fn seen(name: &str, clock: Clock, ours: bool, runs: Vec<Run>) -> Seen {
    Seen { name: name.into(), clock, ours, command: vec![name.into()], runs: Ok(runs) }
}

fn compare(ways: Vec<(bool, Vec<Run>)>) -> Report {
    let ways = ways.into_iter();
    let seen = ways.map(|(ours, runs)| seen("way", Clock::Tcg, ours, runs));
    Report::new(setting(), seen.collect())
}

const OFF: Ending = Ending::Status(0);

#[test]
fn ways_that_say_the_same_and_end_alike_agree() {
    let same = || vec![run(OFF, "a\nb"), run(OFF, "a\nb")];
    let report = compare(vec![(true, same()), (true, same()), (false, same())]);
    assert!(report.agree);
    let verdicts: Vec<_> = report.ways.iter().map(|way| way.verdict.clone()).collect();
    let equal = Some(Verdict::Equal { known: 0 });
    assert_eq!(verdicts, [Some(Verdict::Reference), equal.clone(), equal]);
}

#[test]
fn another_transcript_or_end_disagrees() {
    let reference = || (true, vec![run(OFF, "a")]);
    for other in [
        (true, vec![run(OFF, "b")]),
        (true, vec![run(Ending::Status(1), "a")]),
        (false, vec![run(Ending::Signal(11), "a")]),
        (false, vec![run(OFF, "a"), run(OFF, "b")]),
        (false, vec![run(OFF, "a"), run(Ending::TimedOut, "a")]),
        (true, vec![run(Ending::TimedOut, "a")]),
    ] {
        assert!(!compare(vec![reference(), other]).agree);
    }
    assert!(
        compare(vec![
            (true, vec![run(Ending::Status(1), "a")]),
            (false, vec![run(OFF, "a")])
        ])
        .agree
    );
}

#[test]
fn a_way_that_varies_names_the_run() {
    let report = compare(vec![(
        true,
        vec![run(OFF, "a"), run(OFF, "a"), run(OFF, "b")],
    )]);
    assert!(
        matches!(
            report.ways[0].verdict,
            Some(Verdict::Unstable { run: 3, .. })
        ),
        "{report:?}"
    );
}

#[test]
fn a_run_whose_time_was_up_is_the_outcome_of_its_way() {
    let runs = vec![run(OFF, "a\nb"), run(Ending::TimedOut, "a")];
    let report = compare(vec![(true, runs)]);
    assert_eq!(report.ways[0].outcome, Some(Outcome::TimedOut));
    assert_eq!(report.ways[0].verdict, Some(Verdict::Reference));
}

#[test]
fn what_this_host_lacks_is_missing_and_disagrees_with_nothing() {
    let mut refused = run(Ending::Status(3), "");
    refused.messages = "a warning\nhartvisor: no KVM here".into();
    let report = compare(vec![(true, vec![refused]), (true, vec![run(OFF, "a")])]);
    assert_eq!(report.ways[0].missing.as_deref(), Some("no KVM here"));
    assert_eq!(report.ways[1].verdict, Some(Verdict::Reference));
    assert!(report.agree);
}

#[test]
fn times_are_those_of_timed_runs_behind_the_firmware() {
    let text = "OpenSBI v1.5\nBoot HART ID : 0\nhello\nmark\nbye";
    let mut counting = run(OFF, &text.replace("hello", "\nhello"));
    counting.counts = Some(Counts::default());
    let once = |at| Some(Spread { least: at, median: at, most: at });
    let times = |setting: &Setting| Times::of(setting, &[run(OFF, text), counting.clone()]);
    let expected = Times { first: once(3000), marker: once(5000), exit: once(6000) };
    assert_eq!(times(&setting()), expected);
    let marked = Setting { marker: Some("mark".into()), ..setting() };
    assert_eq!(times(&marked).marker, once(4000));
}

#[test]
fn a_report_comes_back_from_its_json() {
    let mut counting = run(Ending::TimedOut, "a");
    counting.counts = Some(Counts {
        memory: Some(crate::plan::Memory { pss: 1, anonymous: 2 }),
        stats: Some(serde_json::json!({"version": 1})),
    });
    let mut report = compare(vec![
        (true, vec![run(OFF, "a")]),
        (false, vec![run(OFF, "b"), counting]),
    ]);
    report.ways[0].missing = Some("x".into());
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}
