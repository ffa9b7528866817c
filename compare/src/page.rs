//! The comparison as a page: a single file without network access or scripts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::clock::Clock;
use crate::counts;
use crate::error::Error;
use crate::figure::{self, Bar, Course, Curve};
use crate::plan::Run;
use crate::report::{self, Measured, Report, Times};
use crate::spread::Spread;
use crate::table;
use crate::transcript::firmware_end;

const STYLE: &str = include_str!("page.css");

/// Most lines of a transcript on a page.
const LINES_MAX: usize = 2000;

/// The whole page, as HTML that is also XML.
///
/// # Errors
/// A picture cannot be drawn.
pub fn page(report: &Report) -> Result<String, Error> {
    let ways: Vec<(usize, &Measured)> = report.ran().enumerate().collect();
    let mut groups = Vec::new();
    for clock in Clock::ALL {
        let group: Vec<_> = ways
            .iter()
            .copied()
            .filter(|it| it.1.clock == clock)
            .collect();
        if !group.is_empty() {
            groups.push((clock, times(report, &group)?));
        }
    }
    let counted = counted(&ways)?;
    let setting = &report.setting;
    let name = setting.kernel.rsplit('/').next().unwrap_or_default();
    let page = html! {
        (DOCTYPE)
        html lang="en" xmlns="http://www.w3.org/1999/xhtml" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (name) ", compared" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (name) ", in " (ways.len()) " ways" }
                    p { (verdict(report)) }
                    p.muted {
                        (setting.cpus) " vCPU" @if setting.cpus != 1 { "s" } ", " (setting.memory >> 20) " MiB"
                        @if !setting.cmdline.is_empty() { ", command line " code { (setting.cmdline) } }
                        "; median of " (setting.runs) " timed runs, in brackets the minimum and maximum; counts are from one more run."
                    }
                }
                (grid(report))
                ul { @for note in table::notes(report).iter().filter(|note| !note.is_empty()) { li { (note) } } }
                @for (clock, figures) in &groups {
                    h2 { "Times: " (clock.title()) }
                    div.figures { (figures) }
                }
                @if let Some(figures) = &counted {
                    h2 { "Counts" }
                    div.figures { (figures) }
                }
                h2 { "Commands and their output" }
                @for (_, way) in &ways { (transcript(way)) }
            }
        }
    };
    // HTML allows a few elements without an end tag, XML does not.
    Ok(closed(&page.into_string()))
}

/// Closes the elements that maud leaves open, as HTML allows.
fn closed(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    for (index, part) in page.split("<meta ").enumerate() {
        if index == 0 {
            text += part;
            continue;
        }
        let (tag, rest) = part.split_once('>').unwrap_or((part, ""));
        text += &format!("<meta {tag}/>{rest}");
    }
    text
}

fn verdict(report: &Report) -> Markup {
    match (report.ran().count(), report.agree) {
        (0, _) => html! { span.verdict.differ { "nothing ran" } },
        (_, true) => html! { span.verdict.same { "all agree" } },
        (_, false) => html! { span.verdict.differ { "they differ" } },
    }
}

/// The table.
fn grid(report: &Report) -> Markup {
    let ways: Vec<&Measured> = report.ran().collect();
    let begins = |index: usize| {
        let clock = |at: usize| ways.get(at).map(|way| way.clock);
        index == 0 || clock(index) != clock(index - 1)
    };
    let loud = |cell: &str| cell.chars().take(4).all(char::is_uppercase);
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th {}
                        @for group in ways.chunk_by(|a, b| a.clock == b.clock) {
                            th.begins colspan=(group.len()) { (group.first().map_or("", |way| way.clock.title())) }
                        }
                    }
                    tr {
                        th {}
                        @for (index, way) in ways.iter().enumerate() {
                            th.begins[begins(index)] { span.(swatch(index)) {} (way.name) }
                        }
                    }
                }
                tbody {
                    @for row in table::rows(report) {
                        tr {
                            th { (row.label) }
                            @for (index, (cell, way)) in row.cells.iter().zip(&ways).enumerate() {
                                @let cell = cell.as_deref().unwrap_or("–");
                                // The style for phones shows the attribute instead of the head.
                                td.begins[begins(index)].bad[loud(cell)] data-way=(label(way)) { (cell) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The name of a way and, in brief, its clock.
fn label(way: &Measured) -> String {
    match way.clock {
        Clock::Kvm => format!("{}, KVM here", way.name),
        Clock::Lab => format!("{}, emulated host", way.name),
        Clock::Tcg => format!("{}, TCG", way.name),
    }
}

fn swatch(index: usize) -> String {
    format!("swatch c{}", index % 6)
}

/// The pictures of one group's times.
fn times(report: &Report, group: &[(usize, &Measured)]) -> Result<Markup, Error> {
    let bars = |of: fn(&Times) -> Option<Spread>| -> Vec<Bar> {
        let bar = |(series, way): &(usize, &Measured)| {
            let spread = way.times.as_ref().and_then(of)?;
            Some(Bar {
                label: way.name.clone(),
                text: format!("{} ms", table::millis(spread)),
                spread,
                series: *series,
            })
        };
        group.iter().filter_map(bar).collect()
    };
    let first = bars(|times| times.first);
    let exit = bars(|times| times.exit);
    let courses = |(series, way): &(usize, &Measured)| {
        let timed = way.runs.iter().filter(|run| run.counts.is_none());
        let courses = timed.map(|run| course(report, run)).collect();
        (way.name.clone(), *series, courses)
    };
    let courses: Vec<_> = group.iter().map(courses).collect();
    let mut reported: Vec<(&str, Vec<Curve>)> = Vec::new();
    for (series, way) in group {
        for latency in &way.latencies {
            let curve = Curve::reported(*series, latency);
            match reported.iter_mut().find(|(name, _)| *name == latency.name) {
                Some((_, curves)) => curves.push(curve),
                None => reported.push((&latency.name, vec![curve])),
            }
        }
    }
    Ok(html! {
        (framed("To the guest's first line", &figure::bars("time to the guest's first line", &first)?, None))
        (framed("To the end", &figure::bars("time to the end", &exit)?, None))
        (framed(
            "Each timed run",
            &figure::timeline("each run in time", &courses)?,
            Some("Grey: the time before the guest's first line (the VMM, and under QEMU its firmware), and the time from its last line, \
                  or the one with the marker, to the end of the command. Each stroke is a line."),
        ))
        @for (name, curves) in &reported {
            figure {
                h3 { "The guest's requests completed within: " (name) }
                (PreEscaped(figure::latencies("how the latencies that the guest reports are distributed", curves)?))
                figcaption {
                    @for curve in curves {
                        @let way = group.iter().find(|(series, _)| *series == curve.series);
                        span.(swatch(curve.series)) {} (way.map_or("", |(_, way)| &way.name))
                    }
                    p { "Percentiles as the guest reports them, each the median of the timed runs, joined by straight lines." }
                }
            }
        }
    })
}

fn course(report: &Report, run: &Run) -> Course {
    let first = report::first(run).unwrap_or(run.exit);
    Course {
        first,
        marker: report::marker(&report.setting, run).unwrap_or(first),
        exit: run.exit,
        lines: run.lines.iter().map(|line| line.at).collect(),
    }
}

/// The pictures of the counts, if there are any.
fn counted(ways: &[(usize, &Measured)]) -> Result<Option<Markup>, Error> {
    let bar = |series, label, value| Bar {
        label,
        text: counts::grouped(value),
        spread: Spread { least: value, median: value, most: value },
        series,
    };
    let mut memory = Vec::new();
    let mut exits = Vec::new();
    let mut histograms = Vec::new();
    for (series, way) in ways {
        let Some(counts) = &way.counts else { continue };
        if let Some(found) = counts.memory {
            memory.push(bar(*series, label(way), found.pss));
        }
        let Some(stats) = counts::stats(counts) else {
            continue;
        };
        for (kind, count) in counts::exits(&stats) {
            exits.push(bar(*series, format!("{} ({kind})", label(way)), count));
        }
        let latencies = stats.devices.iter().filter_map(counts::latency).cloned();
        let most = latencies.max_by_key(|histogram| histogram.count);
        histograms.extend(most.map(|histogram| (*series, *way, histogram)));
    }
    if memory.is_empty() && exits.is_empty() && histograms.is_empty() {
        return Ok(None);
    }
    let mut latencies = Vec::new();
    for of in histograms.chunk_by(|a, b| a.1.clock == b.1.clock) {
        let curves: Vec<_> = of
            .iter()
            .map(|(series, _, it)| Curve::counted(*series, it))
            .collect();
        let picture = figure::latencies("how the latencies of requests are distributed", &curves)?;
        latencies.push((of, picture));
    }
    Ok(Some(html! {
        @if !memory.is_empty() {
            (framed("VMM memory beside the guest's RAM, KiB", &figure::bars("memory of the VMM", &memory)?,
                Some("The largest proportional set size (PSS) of all its processes, including QEMU.")))
        }
        @if !exits.is_empty() {
            (framed("Exits to the VMM", &figure::bars("exits by kind", &exits)?, None))
        }
        @for (of, picture) in &latencies {
            figure {
                h3 { "Requests of the first disk completed within" }
                (PreEscaped(picture))
                figcaption {
                    @for (series, way, _) in *of { span.(swatch(*series)) {} (label(way)) }
                    p { "In the VMM: from taking a request until it is in the used ring." }
                }
            }
        }
    }))
}

fn framed(title: &str, svg: &str, caption: Option<&str>) -> Markup {
    html! {
        figure {
            h3 { (title) }
            (PreEscaped(svg))
            @if let Some(caption) = caption { figcaption { (caption) } }
        }
    }
}

/// The command and the first run's lines, collapsed.
fn transcript(way: &Measured) -> Markup {
    let run = way.runs.first();
    let lines = run.map(|run| run.lines.as_slice()).unwrap_or_default();
    let firmware = firmware_end(lines);
    let shown = lines.iter().enumerate().take(LINES_MAX);
    html! {
        details {
            summary { (way.name) ", " span.muted { (way.clock.title()) } }
            pre { "$ " (shell_words::join(&way.command)) }
            pre {
                @for (index, line) in shown {
                    @let text = format!("{:>10.1} ms  {}\n", line.at as f64 / 1000.0, visible(&line.text));
                    @if index < firmware { span.muted { (text) } } @else { (text) }
                }
                @if lines.len() > LINES_MAX { "and " (lines.len() - LINES_MAX) " more lines" }
            }
            @if let Some(run) = run && !run.messages.is_empty() { pre.muted { (visible(&run.messages)) } }
        }
    }
}

/// Text without the characters that XML does not allow.
fn visible(text: &str) -> String {
    let shown = |it: char| {
        if it.is_control() && it != '\t' && it != '\n' {
            '·'
        } else {
            it
        }
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
#[path = "page_test.rs"]
mod tests;
