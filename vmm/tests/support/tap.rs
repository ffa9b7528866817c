//! The guest's results in the Test Anything Protocol.

/// A test that fails on KVM because of KVM itself.
const KNOWN: &str = "# TODO Linux's KVM drops the error of hart_get_status";

/// Asserts that all test points passed and that exactly these were skipped, and without a network
/// card or a socket device its tests.
pub fn assert_passed(text: &str, skipped: &[&str]) {
    let lines = || text.lines().map(|line| line.trim_end_matches('\r'));
    let plan = lines()
        .find_map(|line| line.strip_prefix("1.."))
        .expect(text);
    let passed = lines().filter(|line| line.starts_with("ok ")).count();
    let known = lines().filter(|line| line.contains(KNOWN)).count();
    assert_eq!(passed + known, plan.parse::<usize>().unwrap(), "{text}");
    for line in lines().filter(|line| line.contains("# SKIP")) {
        let mut known = skipped
            .iter()
            .chain(&["no network device", "no socket device"]);
        assert!(known.any(|part| line.contains(part)), "{line}");
    }
}
