//! The chart in docs/performance.md: how costs grow, as SVG drawn by plotters.

use anyhow::{Context, Result, anyhow};
use bench::metrics::name;
use bench::results::Results;
use bench::scale::metric;
use plotters::coord::Shift;
use plotters::prelude::*;

/// Size in pixels.
const SIZE: (u32, u32) = (760, 560);

/// Both have sufficient contrast on a white and on a dark page, which shows through.
const INK: RGBColor = RGBColor(118, 118, 118);
const LINES: [RGBColor; 2] = [RGBColor(38, 120, 208), RGBColor(208, 92, 18)];

/// A small chart: a quantity, and the metrics that may grow with it.
struct Panel {
    title: &'static str,
    /// The unit at the end of the scenes' names, without the plural ending.
    unit: &'static str,
    /// The quantity of scenes with other names.
    also: &'static [(&'static str, f64)],
    metrics: [(&'static str, &'static str); 2],
    /// Whether the quantity doubles from point to point.
    powers: bool,
}

const TIMES: [(&str, &str); 2] = [
    (name::RUN, "exec → first KVM_RUN, ms"),
    (name::EXIT, "power-off → exit, ms"),
];

/// The scene that is the first point of several curves.
const ONE: &str = "1 VM";

const PANELS: [Panel; 4] = [
    Panel {
        title: "a VM among so many VMs",
        unit: "VM",
        also: &[],
        metrics: [
            (metric::WITH_RAM, "PSS with the guest's RAM, MiB"),
            (name::PSS, "PSS beside it, MiB"),
        ],
        powers: false,
    },
    Panel { title: "disks", unit: "disk", also: &[(ONE, 0.0)], metrics: TIMES, powers: false },
    Panel {
        title: "memory, GiB",
        unit: "GiB",
        also: &[(ONE, 0.25)],
        metrics: TIMES,
        powers: true,
    },
    Panel { title: "vCPUs", unit: "vCPU", also: &[(ONE, 1.0)], metrics: TIMES, powers: true },
];

/// Draws the results of `bench scale`.
pub(crate) fn draw(results: &Results) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        for (panel, area) in PANELS.iter().zip(area.split_evenly((2, 2))) {
            panel.draw(results, &area)?;
        }
        area.present().map_err(failed)?;
    }
    let about = "How the costs of a VM grow with VMs, disks, memory and vCPUs";
    let label = format!("<svg role=\"img\" aria-label=\"{about}\" ");
    Ok(svg.replacen("<svg ", &label, 1))
}

impl Panel {
    /// Returns the quantity and the cost of each scene.
    fn points(&self, results: &Results, metric: &str) -> Vec<(f64, f64)> {
        let cases = results.cases.iter();
        let points = cases.filter_map(|(case, metrics)| {
            let also = self.also.iter().find(|(name, _)| name == case);
            let number = also.map(|&(_, number)| number).or_else(|| {
                let (number, unit) = case.split_once(' ')?;
                number
                    .parse()
                    .ok()
                    .filter(|_| unit.trim_end_matches('s') == self.unit)
            });
            let value = *metrics.get(metric)?;
            let value = if metric.ends_with("KiB") {
                value / 1024.0
            } else {
                value
            };
            Some((number?, value))
        });
        let mut points: Vec<_> = points.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }

    fn draw(&self, results: &Results, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
        let curves = self
            .metrics
            .map(|(metric, label)| (label, self.points(results, metric)));
        let all = || curves.iter().flat_map(|(_, points)| points);
        let most = all().map(|point| point.1).fold(0.0, f64::max) * 1.45;
        // A logarithmic scale if the quantity doubles, so that points are evenly spaced.
        let place = |amount: f64| if self.powers { amount.log2() } else { amount };
        let start = all().map(|point| point.0).reduce(f64::min);
        let end = all().map(|point| point.0).reduce(f64::max);
        let (start, end) = start
            .zip(end)
            .with_context(|| format!("no results of {}: draw those of bench scale", self.unit))?;
        let label = |size: f64| ("sans-serif", size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, label(16.0))
            .margin(10)
            .x_label_area_size(26)
            .y_label_area_size(40)
            .build_cartesian_2d(place(start)..place(end), 0.0..most)
            .map_err(failed)?;
        let amount = |at: &f64| if self.powers { at.exp2() } else { *at };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(INK)
            .bold_line_style(INK.mix(0.3))
            .light_line_style(TRANSPARENT)
            .x_labels(6)
            .y_labels(5)
            .x_label_formatter(&|at| format!("{}", amount(at)))
            .label_style(label(13.0))
            .draw()
            .map_err(failed)?;
        for ((label, points), colour) in curves.iter().zip(LINES) {
            let points = points.iter().map(|&(amount, value)| (place(amount), value));
            let dots = points
                .clone()
                .map(|point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots).map_err(failed)?;
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))
                .map_err(failed)?
                .label(*label)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(label(13.0))
            .draw()
            .map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn results() -> Results {
        let case = |name: &str, run| {
            let metrics = [(name::RUN.to_owned(), run), (name::PSS.to_owned(), 2048.0)];
            (name.to_owned(), BTreeMap::from(metrics))
        };
        Results {
            cases: BTreeMap::from([
                case("64 GiB", 9.0),
                case("4 GiB", 8.0),
                case("4 vCPUs", 7.0),
                case("10 VMs", 3.0),
                case("6 disks", 5.0),
                case(ONE, 2.0),
                case("Linux", 1.0),
            ]),
            ..Results::default()
        }
    }

    #[test]
    fn a_curve_has_its_own_scenes_in_order() {
        let [vms, _, memory, _] = PANELS;
        let points = memory.points(&results(), name::RUN);
        assert_eq!(points, [(0.25, 2.0), (4.0, 8.0), (64.0, 9.0)]);
        assert_eq!(vms.points(&results(), name::PSS), [(1.0, 2.0), (10.0, 2.0)]);
    }

    #[test]
    fn results_without_scenes_are_refused() {
        assert!(draw(&results()).is_ok());
        assert!(draw(&Results::default()).is_err());
    }
}
