//! Reading what guests report.

use super::*;

fn latency(name: &str, percentiles: &[(f64, f64)]) -> Latency {
    Latency { name: name.into(), percentiles: percentiles.into() }
}

#[test]
fn a_line_is_its_name_and_percentiles() {
    let line = "# latency disk-both: p50 31.2, p90 40.0, p99 55.1, max 80 us of 320 requests\r";
    let parsed = Latency::parse(line).unwrap();
    let expected = [(50.0, 31.2), (90.0, 40.0), (99.0, 55.1), (100.0, 80.0)];
    assert_eq!(parsed, latency("disk-both", &expected));
    assert_eq!(parsed.names(), "p50 / p90 / p99 / max");
    assert_eq!(parsed.values(), "31.2 / 40.0 / 55.1 / 80.0");
    let plain = Latency::parse("latency 4 KiB read: p99.9 7 us").unwrap();
    assert_eq!(plain, latency("4 KiB read", &[(99.9, 7.0)]));
    assert_eq!(plain.names(), "p99.9");
}

#[test]
fn what_is_no_such_line_is_none() {
    for line in [
        "",
        "# latency",
        "# latency of disks is low",
        "latency : p50 1 us",
        "latency a: us",
        "latency a: p50 1",
        "latency a: p50 1 ms",
        "latency a: p50 us",
        "latency a: p50 x us",
        "latency a: p50 NaN us",
        "latency a: p50 inf us",
        "latency a: p50 -1 us",
        "latency a: p101 1 us",
        "latency a: p99 1, p50 1 us",
        "latency a: p50 1, p50 1 us",
        "latency a: p50 2, p99 1 us",
        "the latency a: p50 1 us",
    ] {
        assert_eq!(Latency::parse(line), None, "{line}");
    }
    let many: Vec<_> = (0..=MOST).map(|it| format!("p{it} 1")).collect();
    assert_eq!(
        Latency::parse(&format!("latency a: {} us", many.join(","))),
        None
    );
}

#[test]
fn a_run_reports_each_kind_once_and_not_without_end() {
    let kinds = (0..100).map(|kind| format!("latency {kind}: p50 1 us"));
    let lines: Vec<_> = kinds
        .chain(["latency 3: p50 2 us".into()])
        .map(|text| Line { at: 0, text })
        .collect();
    let reported = reported(&lines);
    assert_eq!(reported.len(), MOST);
    assert_eq!(reported[3], latency("3", &[(50.0, 2.0)]));
}

#[test]
fn of_several_runs_each_percentile_is_the_median() {
    let run = |p50, max| vec![latency("a", &[(50.0, p50), (100.0, max)])];
    let runs = [run(3.0, 10.0), run(1.0, 30.0), run(2.0, 20.0)];
    assert_eq!(medians(&runs), run(2.0, 20.0));
    assert_eq!(medians(&[]), []);
    // A run that was cut short reports nothing.
    assert_eq!(medians(&[run(3.0, 10.0), Vec::new()]), run(3.0, 10.0));
}
