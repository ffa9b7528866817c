//! The page, read by an XML parser.

use roxmltree::{Document, Node, ParsingOptions};

use super::*;
use crate::plan::{Counts, Ending, Memory};
use crate::report::Seen;
use crate::report::tests::{run, seen, setting};

const OFF: Ending = Ending::Status(0);

/// A page of three ways that ran, two of them alike, and one that did not run.
fn report() -> Report {
    let mut counting = run(OFF, "a <b> & \"c\"\nend");
    counting.counts = Some(Counts {
        memory: Some(Memory { pss: 1234, anonymous: 567 }),
        stats: Some(serde_json::json!({
            "version": 1, "accel": "kvm", "nanoseconds": 1, "end": "power-off", "reboots": 0,
            "vcpus": [{"mmio_read": 5, "mmio_write": 6, "sbi": 7, "csr": 0, "ended": 1, "interrupted": 0}],
            "registers": null, "sbi": null, "kvm": null, "memory": null,
            "devices": [{
                "name": "disk0", "kind": "block", "ready": 0, "failed": 0, "broken": 0, "interrupts": 3, "host": null,
                "queues": [{
                    "kicks": 4, "requests": 9, "bytes_from_guest": 160, "bytes_to_guest": 4096, "batches": 4,
                    "interrupts_wanted": 4, "interrupts_suppressed": 0,
                    "depth": {"count": 9, "sum": 9, "max": 1, "buckets": [[1, 9]]},
                    "latency": {"count": 9, "sum": 90000, "max": 30000, "buckets": [[8191, 7], [32767, 2]]}
                }]
            }]
        })),
    });
    let text = "OpenSBI v1.5\nBoot HART ID : 0\n\u{1b}[1ma <b> & \"c\"\n# latency <disk>: p50 5, max 9 us\nend";
    let ways = vec![
        seen(
            "hartvisor",
            Clock::Lab,
            true,
            vec![run(OFF, "a <b> & \"c\"\nend"), counting],
        ),
        seen("our <devices>", Clock::Tcg, true, vec![run(OFF, text)]),
        seen("peer", Clock::Tcg, false, vec![run(OFF, text)]),
        Seen {
            runs: Err("no KVM & no board".into()),
            ..seen("hartvisor", Clock::Kvm, true, Vec::new())
        },
    ];
    Report::new(setting(), ways)
}

fn named<'a, 'i>(document: &'a Document<'i>, name: &'static str) -> Vec<Node<'a, 'i>> {
    let nodes = document.descendants();
    nodes
        .filter(move |node| node.tag_name().name() == name)
        .collect()
}

#[test]
fn the_page_is_well_formed_whole_and_asks_for_nothing() {
    let page = page(&report()).unwrap();
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(&page, options)
        .unwrap_or_else(|error| panic!("{error}: {page}"));
    // Two groups of three pictures, one of latencies that the guest reports, and three of counts.
    let pictures = named(&document, "svg");
    assert_eq!(pictures.len(), 10);
    for picture in pictures {
        assert!(picture.has_attribute("viewBox") && picture.has_attribute("aria-label"));
        assert!(picture.children().any(|it| it.is_element()));
    }
    for name in ["script", "link", "img", "iframe"] {
        assert!(named(&document, name).is_empty(), "{name}");
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    let viewport = named(&document, "meta")
        .into_iter()
        .any(|it| it.attribute("name") == Some("viewport"));
    assert!(viewport);
    for part in [
        "all agree",
        "no KVM &amp; no board",
        "our &lt;devices&gt;",
        "1 234",
        "8.2 / 30.0",
        "guest: &lt;disk&gt; p50 / max, µs",
        "5.0 / 9.0",
        "The guest's requests completed within: &lt;disk&gt;",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn each_colour_of_a_picture_has_one_on_the_page() {
    let page = page(&report()).unwrap();
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(&page, options).unwrap();
    for node in document.descendants() {
        for name in ["fill", "stroke"] {
            let Some(value) = node.attribute(name).filter(|it| it.starts_with('#')) else {
                continue;
            };
            let rule = format!("[{name}=\"{value}\"]");
            // An invisible element may have any colour.
            let seen = node.attribute("opacity") != Some("0");
            assert!(!seen || STYLE.contains(&rule), "{rule}");
        }
    }
}

#[test]
fn a_page_of_nothing_is_one_too() {
    let page = page(&Report::new(setting(), Vec::new())).unwrap();
    assert!(page.contains("nothing ran"));
}
