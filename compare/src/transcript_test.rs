//! The lines of a transcript that are compared.

use super::*;

fn lines(text: &str) -> Vec<Line> {
    let line = |text: &str| Line { at: 0, text: text.into() };
    text.split('\n').map(line).collect()
}

fn said(text: &str) -> Vec<String> {
    let said = comparable(&lines(text), &[]);
    said.into_iter().map(|said| said.text).collect()
}

fn differ(here: &str, there: &str) -> Result<usize, Difference> {
    difference(
        &comparable(&lines(here), &[]),
        &comparable(&lines(there), &[]),
    )
}

const BANNER: &str = "\r
OpenSBI v1.5\r
   ____\r
Platform Name             : riscv-virtio,qemu\r
Boot HART ID              : 0\r
Boot HART MEDELEG         : 0x0000000000f0b509\r
";

#[test]
fn the_firmware_is_not_the_guest() {
    assert_eq!(said(&format!("{BANNER}hello\r\n")), ["hello"]);
    assert_eq!(firmware_end(&lines(&format!("{BANNER}hello"))), 6);
}

#[test]
fn a_guest_that_never_came_behind_its_firmware_said_something_all_the_same() {
    assert_eq!(said("OpenSBI v1.5\nPlatform"), ["OpenSBI v1.5", "Platform"]);
}

#[test]
fn escapes_and_times_are_left_out_and_brackets_that_are_none_stay() {
    assert_eq!(
        said(
            "\x1b[1;32m[    0.123456] Linux\x1b[0m version\r\n[ OK ] started\n\x1b]0;title\x07a\tb"
        ),
        ["Linux version", "[ OK ] started", "a\tb"]
    );
}

#[test]
fn latencies_that_a_guest_reports_differ_without_fault() {
    assert_eq!(
        said("latency disk: p50 7, p99 9 us\nlatency is low"),
        ["latency is low"]
    );
}

#[test]
fn a_comment_counts_only_outside_of_tap() {
    assert_eq!(said("# 7 us\nok 1 - a"), ["# 7 us", "ok 1 - a"]);
    let tap =
        "TAP version 14\n1..2\n# 7 us\nnot ok 1 - a\n  ---\n  message: \"x\"\n  ...\nok 2 - b";
    assert_eq!(
        said(tap),
        ["TAP version 14", "1..2", "not ok 1 - a", "ok 2 - b"]
    );
}

#[test]
fn a_line_that_the_user_names_is_left_out() {
    let said = comparable(&lines("took 3 s\nok"), &["took".into()]);
    assert_eq!(said, [Said { number: 2, text: "ok".into() }]);
}

#[test]
fn a_difference_is_told_by_its_line_in_the_whole_transcript() {
    let found = differ(&format!("{BANNER}a\nb\nc"), "a\nB\nc").unwrap_err();
    let expected = Difference { line: Some(8), here: Some("b".into()), there: Some("B".into()) };
    assert_eq!(found, expected);
}

#[test]
fn a_transcript_that_ends_early_differs() {
    let found = differ("a", "a\nb").unwrap_err();
    assert_eq!((found.line, found.there.as_deref()), (None, Some("b")));
    let found = differ("a\nb", "a").unwrap_err();
    assert_eq!((found.line, found.there), (Some(2), None));
}

#[test]
fn a_test_that_is_known_to_fail_here_is_counted_and_one_that_is_not_differs() {
    assert_eq!(
        differ("not ok 7 - a # TODO QEMU drops it", "ok 7 - a"),
        Ok(1)
    );
    assert_eq!(differ("ok 7 - a", "ok 7 - a"), Ok(0));
    assert!(differ("not ok 7 - a", "ok 7 - a").is_err());
    assert!(differ("not ok 7 - a # TODO", "ok 7 - b").is_err());
    assert!(differ("ok 7 - a # SKIP no disk", "ok 7 - a").is_err());
}

#[test]
fn points_are_counted_by_kind() {
    let tap = "TAP version 14\nok 1 - a\nnot ok 2 - b\nnot ok 3 - c # TODO x\nok 4 - d # SKIP y\r";
    let expected = Points { passed: 1, skipped: 1, known: 1, failed: 1 };
    assert_eq!(points(&lines(tap)), Some(expected));
    assert_eq!(points(&lines("ok 1 - a")), None);
}
