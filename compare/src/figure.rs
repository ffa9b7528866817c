//! The pictures of the page, as SVG drawn by plotters.
//!
//! They are drawn for a phone's width, in placeholder colours: the page's style sheet (`page.css`)
//! replaces each of these values by a colour for a light or a dark screen.

use observe::stats::report::Histogram;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::Error;
use crate::latency::Latency;
use crate::spread::Spread;

/// The width of a picture in its own units; about that of a phone.
const WIDTH: u32 = 420;
/// The ratio of plotters' font sizes to those in the SVG.
const FONT: f64 = 1.24;

const INK: RGBColor = RGBColor(1, 1, 1);
const MUTED: RGBColor = RGBColor(2, 2, 2);
const GRID: RGBColor = RGBColor(3, 3, 3);
const TRACK: RGBColor = RGBColor(4, 4, 4);

/// The colour of a series, by its number; there are six.
fn series(number: usize) -> RGBColor {
    RGBColor(16, 0, u8::try_from(number % 6).unwrap_or(0))
}

/// A label of size 14, truncated to fit next to `right` in the width of a picture. A character
/// takes at most 9 units on average.
fn shortened(label: &str, right: &str) -> String {
    let room = (WIDTH / 9) as usize;
    let room = room.saturating_sub(right.chars().count() + 1);
    if label.chars().count() <= room {
        return label.to_owned();
    }
    let kept = label.chars().take(room.saturating_sub(1));
    kept.chain(['…']).collect()
}

/// A bar, with the ends of its spread.
pub struct Bar {
    /// Its label.
    pub label: String,
    /// The value as text, with its unit.
    pub text: String,
    /// Its length, and the spread of the values.
    pub spread: Spread,
    /// The number of its colour.
    pub series: usize,
}

/// The times of a run, in microseconds.
pub struct Course {
    /// The guest's first line.
    pub first: u64,
    /// Its last, or the one with the marker.
    pub marker: u64,
    /// The end of the command.
    pub exit: u64,
    /// Each line.
    pub lines: Vec<u64>,
}

/// Horizontal bars that start at 0. `about` describes the picture for readers who cannot see it.
///
/// # Errors
/// plotters fails.
pub fn bars(about: &str, bars: &[Bar]) -> Result<String, Error> {
    const ROW: i32 = 44;
    const THICK: i32 = 12;
    let most = bars.iter().map(|bar| bar.spread.most).max().unwrap_or(0);
    let scale = Scale::new(0, WIDTH, most);
    draw(about, rows_high(bars.len(), ROW), |area| {
        for (index, bar) in (0..).zip(bars) {
            let top = index * ROW;
            let label = shortened(&bar.label, &bar.text);
            text(area, &label, (0, top + 12), HPos::Left, 14.0, INK)?;
            text(
                area,
                &bar.text,
                (WIDTH_END, top + 12),
                HPos::Right,
                14.0,
                INK,
            )?;
            let (top, bottom) = (top + 22, top + 22 + THICK);
            rectangle(area, (0, top), (WIDTH_END, bottom), TRACK)?;
            let end = scale.at(bar.spread.median).max(2);
            rectangle(area, (0, top), (end, bottom), series(bar.series))?;
            if bar.spread.least < bar.spread.most {
                let ends = [bar.spread.least, bar.spread.most].map(|it| scale.at(it));
                let middle = top + THICK / 2;
                line(area, (ends[0], middle), (ends[1], middle), INK)?;
                for end in ends {
                    line(area, (end, top + 1), (end, bottom - 1), INK)?;
                }
            }
        }
        Ok(())
    })
}

/// Runs over time: until the guest's first line, its marker, the end. Each line of output is a
/// stroke.
///
/// # Errors
/// plotters fails.
pub fn timeline(about: &str, ways: &[(String, usize, Vec<Course>)]) -> Result<String, Error> {
    const HEAD: i32 = 24;
    const ROW: i32 = 16;
    const AXIS: i32 = 24;
    // More strokes would blur.
    const STROKES: usize = 150;
    let courses = || ways.iter().flat_map(|(_, _, courses)| courses);
    let most = courses().map(|course| course.exit).max().unwrap_or(0);
    let scale = Scale::new(0, WIDTH, most);
    let rows = i32::try_from(courses().count()).unwrap_or(0);
    let heads = i32::try_from(ways.len()).unwrap_or(0);
    let bottom = rows * ROW + heads * HEAD + 4;
    draw(about, u32::try_from(bottom + AXIS).unwrap_or(100), |area| {
        for tick in ticks(most) {
            let x = scale.at(tick);
            line(area, (x, 0), (x, bottom), GRID)?;
            let place = if tick == 0 { HPos::Left } else { HPos::Center };
            text(area, &seconds(tick), (x, bottom + 12), place, 12.0, MUTED)?;
        }
        let mut top = 0;
        for (name, number, courses) in ways {
            let name = shortened(name, "");
            text(area, &name, (0, top + 12), HPos::Left, 14.0, INK)?;
            top += HEAD;
            for course in courses {
                let [first, marker, exit] =
                    [course.first, course.marker, course.exit].map(|it| scale.at(it));
                let down = top + ROW - 5;
                rectangle(area, (0, top), (exit, down), TRACK)?;
                rectangle(
                    area,
                    (first, top),
                    (marker.max(first + 1), down),
                    series(*number),
                )?;
                rectangle(area, (exit - 1, top), (exit + 1, down), INK)?;
                let every = course.lines.len().div_ceil(STROKES).max(1);
                for at in course.lines.iter().step_by(every).map(|at| scale.at(*at)) {
                    line(area, (at, top), (at, top + 3), INK)?;
                }
                top += ROW;
            }
        }
        Ok(())
    })
}

/// The share of requests that took at most a given time.
pub struct Curve {
    /// The number of its colour.
    pub series: usize,
    /// Microseconds and the share in percent, both ascending.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// From buckets of nanoseconds.
    pub fn counted(series: usize, histogram: &Histogram) -> Curve {
        let mut points: Vec<(f64, f64)> = Vec::new();
        let mut seen = 0;
        for (end, count) in &histogram.buckets {
            // A step: none of these took less than the previous bucket.
            let before = points.last().map_or(0.0, |point| point.1);
            let at = (*end).min(histogram.max) as f64 / 1000.0;
            points.push((at, before));
            seen += count;
            points.push((at, 100.0 * seen as f64 / histogram.count as f64));
        }
        Curve { series, points }
    }

    /// From percentiles: straight lines from one to the next.
    pub fn reported(series: usize, latency: &Latency) -> Curve {
        let percentiles = latency.percentiles.iter();
        Curve { series, points: percentiles.map(|(share, us)| (*us, *share)).collect() }
    }
}

/// Curves, with a logarithmic time axis.
///
/// # Errors
/// plotters fails.
pub fn latencies(about: &str, curves: &[Curve]) -> Result<String, Error> {
    let times = || curves.iter().flat_map(|it| &it.points).map(|it| it.0);
    let least = times().fold(f64::MAX, f64::min).max(0.01);
    let most = times().fold(1.0, f64::max);
    let least = 10_f64.powf(least.log10().floor()).min(most / 10.0);
    let most = 10_f64.powf(most.log10().ceil());
    draw(about, 250, |area| {
        let label = |size| ("sans-serif", size * FONT).into_font();
        let mut chart = ChartBuilder::on(area)
            .margin_top(8)
            .margin_right(24)
            .x_label_area_size(26)
            .y_label_area_size(52)
            .build_cartesian_2d((least..most).log_scale(), 0.0..100.0)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .y_labels(5)
            .x_labels(6)
            .y_label_formatter(&|share| format!("{share:.0} %"))
            .x_label_formatter(&|time| seconds_of(*time))
            .label_style(label(12.0).color(&MUTED))
            .draw()
            .map_err(failed)?;
        for curve in curves {
            let points = curve.points.iter();
            let end = points.clone().last().filter(|point| point.1 == 100.0);
            let points = points.map(|&(at, share)| (at.max(least), share));
            let points = points.chain(end.map(|_| (most, 100.0)));
            let style = series(curve.series).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points, style))
                .map_err(failed)?;
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The right edge, as a coordinate.
const WIDTH_END: i32 = WIDTH.cast_signed();

fn draw(
    about: &str,
    height: u32,
    paint: impl FnOnce(&Area<'_>) -> Result<(), Error>,
) -> Result<String, Error> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        paint(&area)?;
        area.present().map_err(failed)?;
    }
    let label = maud::html! { (about) }.into_string().replace('"', "&quot;");
    Ok(svg.replacen(
        "<svg ",
        &format!("<svg role=\"img\" aria-label=\"{label}\" "),
        1,
    ))
}

fn rows_high(rows: usize, each: i32) -> u32 {
    let rows = u32::try_from(rows).unwrap_or(0);
    rows * each.unsigned_abs()
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Draw(error.to_string())
}

fn rectangle(
    area: &Area<'_>,
    from: (i32, i32),
    to: (i32, i32),
    colour: RGBColor,
) -> Result<(), Error> {
    area.draw(&Rectangle::new([from, to], colour.filled()))
        .map_err(failed)
}

fn line(area: &Area<'_>, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<(), Error> {
    area.draw(&PathElement::new([from, to], colour))
        .map_err(failed)
}

fn text(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    side: HPos,
    size: f64,
    colour: RGBColor,
) -> Result<(), Error> {
    let font = ("sans-serif", size * FONT).into_font().color(&colour);
    let style = font.pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
        .map_err(failed)
}

/// From values to coordinates: 0 is at the left.
struct Scale {
    from: f64,
    wide: f64,
    most: f64,
}

impl Scale {
    fn new(from: u32, to: u32, most: u64) -> Scale {
        // Room for a stroke at the very end.
        Scale { from: from.into(), wide: f64::from(to - from) - 2.0, most: most.max(1) as f64 }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "between the edges of a picture"
    )]
    fn at(&self, value: u64) -> i32 {
        (self.from + self.wide * (value as f64 / self.most).min(1.0)).round() as i32
    }
}

/// Three to six round values from 0 to `most`.
fn ticks(most: u64) -> Vec<u64> {
    let mut step = 1;
    for factor in [2, 5, 10].into_iter().cycle() {
        if most / step <= 5 {
            break;
        }
        // 1, 2, 5, 10, 20, 50, …
        step = match factor {
            5 => step / 2 * 5,
            _ => step * 2,
        };
    }
    // There is no room for the number of the last one.
    (0..)
        .map(|index| index * step)
        .take_while(|tick| *tick <= most - most / 20)
        .collect()
}

/// Microseconds, as axis labels.
fn seconds(micros: u64) -> String {
    seconds_of(micros as f64)
}

fn seconds_of(micros: f64) -> String {
    match micros {
        0.0 => "0".into(),
        it if it < 1e3 => format!("{it} µs"),
        it if it < 1e6 => format!("{} ms", it / 1e3),
        it => format!("{} s", it / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(100), [0, 20, 40, 60, 80]);
        assert_eq!(ticks(999), [0, 200, 400, 600, 800]);
        assert_eq!(ticks(3), [0, 1, 2, 3]);
        for most in [0, 1, 7, 49, 123_456, 98_765_432] {
            assert!((1..=6).contains(&ticks(most).len()), "{most}");
        }
    }

    #[test]
    fn a_bar_ends_where_its_value_is() {
        let scale = Scale::new(0, WIDTH, 200);
        assert_eq!((scale.at(0), scale.at(100), scale.at(200)), (0, 209, 418));
        assert_eq!(scale.at(u64::MAX), 418);
    }

    #[test]
    fn axes_name_their_unit() {
        let shown = [0, 500, 2000, 1_500_000].map(seconds);
        assert_eq!(shown, ["0", "500 µs", "2 ms", "1.5 s"]);
    }
}
