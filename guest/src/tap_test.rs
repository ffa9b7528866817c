use std::string::String;

use super::{Failure, Point, Tap, Verdict};
use crate::Error;

fn written(planned: u32, test: impl FnOnce(&mut Tap<&mut String>)) -> (bool, String) {
    let mut text = String::new();
    let mut tap = Tap::new(&mut text, planned);
    test(&mut tap);
    let passed = tap.finish();
    (passed, text)
}

#[test]
fn points_that_pass_or_are_skipped_make_a_pass() {
    let (passed, text) = written(2, |tap| {
        tap.comment(format_args!("hello {}", 1));
        tap.point("one", Ok(Point::Pass));
        tap.point("two", Ok(Point::Skip("no disk")));
    });
    let expected = "TAP version 14\n1..2\n# hello 1\nok 1 - one\nok 2 - two # SKIP no disk\n\
                    # 2 of 2 passed\n";
    assert_eq!((passed, text.as_str()), (true, expected));
}

#[test]
fn one_failure_makes_a_failure_with_its_reason() {
    let (passed, text) = written(2, |tap| {
        tap.point("one", Err(Error::Timeout.into()));
        tap.point("two", Ok(Point::Pass));
    });
    let expected = "TAP version 14\n1..2\nnot ok 1 - one\n  ---\n  message: \"no answer from the \
                    device before the deadline\"\n  ...\nok 2 - two\n# 1 of 2 passed\n";
    assert_eq!((passed, text.as_str()), (false, expected));
}

#[test]
fn a_point_too_few_or_too_many_makes_a_failure() {
    assert!(!written(2, |tap| tap.point("one", Ok(Point::Pass))).0);
    assert!(!written(0, |tap| tap.point("one", Ok(Point::Pass))).0);
}

#[test]
fn a_known_failure_is_told_but_does_not_count() {
    let failure = || Err(Failure::new(format_args!("it did")));
    let (passed, text) = written(1, |tap| tap.known("one", failure(), "the peer does so"));
    assert!(passed);
    assert!(
        text.contains("\nnot ok 1 - one # TODO the peer does so\n"),
        "{text}"
    );
    assert!(
        text.ends_with("# 0 of 1 passed, 1 known to fail here\n"),
        "{text}"
    );
    // When it works after all, it is an ordinary point.
    let (passed, text) = written(1, |tap| {
        tap.known("one", Ok(Point::Pass), "the peer does so");
    });
    assert!(passed && text.contains("\nok 1 - one\n"), "{text}");
}

#[test]
fn a_reason_stays_one_quoted_line_of_limited_length() {
    let long = "x".repeat(200);
    let text = std::format!("{}", Failure::new(format_args!("{long}")));
    assert_eq!(text, "x".repeat(112));
    let text = std::format!("{}", Failure::new(format_args!("a \"b\" \\ c\nd")));
    assert_eq!(text, "a 'b' / c d");
    // A character that does not fit whole is left out.
    let text = std::format!("{}", Failure::new(format_args!("{}é", "x".repeat(111))));
    assert_eq!(text, "x".repeat(111));
}

#[test]
fn ensure_fails_the_test_that_it_is_in() {
    fn test(value: u32) -> Verdict {
        crate::ensure!(value == 1, "{value} is not 1");
        Ok(Point::Pass)
    }
    assert_eq!(test(1), Ok(Point::Pass));
    assert_eq!(test(2), Err(Failure::new(format_args!("2 is not 1"))));
}
