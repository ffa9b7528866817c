//! The comparison as text.

use super::*;
use crate::clock::Clock;
use crate::plan::Ending;
use crate::report::Seen;
use crate::report::tests::{run, seen, setting};

const OFF: Ending = Ending::Status(0);

#[test]
fn a_group_has_its_heading_and_a_way_its_column() {
    let ways = vec![
        seen("hartvisor", Clock::Lab, true, vec![run(OFF, "a\nb")]),
        seen("ours", Clock::Tcg, true, vec![run(OFF, "a\nb")]),
        seen("peer", Clock::Tcg, false, vec![run(OFF, "a\nc")]),
        Seen {
            runs: Err("no KVM here".into()),
            ..seen("hartvisor", Clock::Kvm, true, Vec::new())
        },
    ];
    let expected = "                      \
 │ KVM of the emulated host, by its clock │ CPU emulation (TCG) on this machine
                      │ hartvisor                              │ ours         peer
result                │ powered off                            │ powered off  exit status 0
transcript            │ the reference                          │ equal        DIFFERS, line 2
to the first line, ms │ 1.0                                    │ 1.0          1.0
to the last line, ms  │ 2.0                                    │ 2.0          2.0
to the end, ms        │ 3.0                                    │ 3.0          3.0

peer: line 2 is \"c\", expected \"b\"
not run: hartvisor (KVM of this machine): no KVM here
Times under different headings are from different clocks and are not compared.
They DIFFER.
";
    let shown = show(&Report::new(setting(), ways));
    assert_eq!(shown, expected, "{shown}");
}

#[test]
fn a_spread_is_its_median_and_its_ends() {
    let spread = |least, median, most| Spread { least, median, most };
    assert_eq!(millis(spread(1000, 1000, 1000)), "1.0");
    assert_eq!(millis(spread(1500, 12_340, 99_900)), "12.3 (1.5–99.9)");
    assert_eq!(millis(spread(1500, 12_340, 199_900)), "12 (2–200)");
}
