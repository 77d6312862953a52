//! Line charts, as coordinates that a template draws in SVG. Pure.

use serde::Serialize;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// About how many lines the y axis has.
const TICKS: f64 = 5.0;

/// What is to be drawn.
pub(super) struct Lines {
    /// Over the chart.
    pub title: String,
    /// Under the x axis.
    pub x_title: &'static str,
    /// Beside the y axis.
    pub y_title: &'static str,
    /// Labelled places on the x axis.
    pub x_ticks: Vec<(f64, String)>,
    /// The lines.
    pub series: Vec<Series>,
}

/// One line.
pub(super) struct Series {
    /// For the legend.
    pub name: String,
    /// Drawn as what would be ideal, without dots.
    pub ideal: bool,
    /// Its points; what is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

/// A chart in SVG coordinates.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Chart {
    title: String,
    x_title: &'static str,
    y_title: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    bottom: f64,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    series: Vec<Path>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Tick {
    at: f64,
    label: String,
}

#[derive(Debug, Serialize, PartialEq)]
struct Path {
    name: String,
    ideal: bool,
    /// Which of the colours.
    colour: usize,
    points: String,
    dots: Vec<Dot>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Dot {
    x: f64,
    y: f64,
    label: String,
}

impl Lines {
    /// Lays the chart out; `None` when there is nothing to draw.
    pub(super) fn lay_out(self) -> Option<Chart> {
        let all = || self.series.iter().flat_map(|series| finite(&series.points));
        let (low, high) = bounds(all().map(|(x, _)| x))?;
        let (_, top) = bounds(all().map(|(_, y)| y))?;
        let step = nice(top.max(f64::MIN_POSITIVE) / TICKS);
        let lines = (top / step).ceil().max(1.0);
        let span = if high > low { high - low } else { 1.0 };
        let x = |value: f64| round(LEFT + (value - low) / span * (WIDTH - LEFT - RIGHT));
        let y =
            |value: f64| round(HEIGHT - BOTTOM - value / (step * lines) * (HEIGHT - TOP - BOTTOM));
        let mut y_ticks = Vec::new();
        let mut line = 0.0;
        while line <= lines {
            y_ticks.push(Tick {
                at: y(line * step),
                label: number(line * step),
            });
            line += 1.0;
        }
        let series = self.series.iter().enumerate().map(|(colour, series)| {
            let points: Vec<(f64, f64)> = finite(&series.points).collect();
            let drawn: Vec<String> = points
                .iter()
                .map(|(px, py)| format!("{},{}", x(*px), y(*py)))
                .collect();
            Path {
                name: series.name.clone(),
                ideal: series.ideal,
                colour: colour % 8,
                points: drawn.join(" "),
                dots: points
                    .iter()
                    .filter(|_| !series.ideal)
                    .map(|(px, py)| Dot {
                        x: x(*px),
                        y: y(*py),
                        label: format!("{}: {}", series.name, number(*py)),
                    })
                    .collect(),
            }
        });
        Some(Chart {
            width: WIDTH,
            height: HEIGHT,
            left: LEFT,
            right: WIDTH - RIGHT,
            bottom: HEIGHT - BOTTOM,
            x_ticks: self
                .x_ticks
                .iter()
                .map(|(at, label)| Tick {
                    at: x(*at),
                    label: label.clone(),
                })
                .collect(),
            y_ticks,
            series: series.collect(),
            title: self.title,
            x_title: self.x_title,
            y_title: self.y_title,
        })
    }
}

fn finite(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    points
        .iter()
        .copied()
        .filter(|(x, y)| x.is_finite() && y.is_finite() && *y >= 0.0)
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |known: Option<(f64, f64)>, value| {
        Some(known.map_or((value, value), |(low, high)| {
            (low.min(value), high.max(value))
        }))
    })
}

/// The next of 1, 2, 2.5, 5 and 10 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let times = [1.0, 2.0, 2.5, 5.0].into_iter().find(|n| n * power >= step);
    times.unwrap_or(10.0) * power
}

fn number(value: f64) -> String {
    let digits = if value >= 100.0 || value == value.round() {
        0
    } else {
        2
    };
    format!("{value:.digits$}")
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Option<Chart> {
        Lines {
            title: "t".into(),
            x_title: "x",
            y_title: "y",
            x_ticks: vec![(1.0, "1".into())],
            series: vec![Series {
                name: "s".into(),
                ideal: false,
                points: points.to_vec(),
            }],
        }
        .lay_out()
    }

    #[test]
    fn points_stay_inside() {
        for points in [
            vec![(1.0, 1.0), (2.0, 1.9), (4.0, 3.7)],
            vec![(1.0, 0.0)],
            vec![(3.0, 1e-9), (3.0, 7e12)],
        ] {
            let chart = chart(&points).unwrap();
            for dot in &chart.series[0].dots {
                assert!(
                    (LEFT..=WIDTH - RIGHT).contains(&dot.x),
                    "{points:?} {dot:?}"
                );
                assert!(
                    (TOP - 0.1..=HEIGHT - BOTTOM).contains(&dot.y),
                    "{points:?} {dot:?}"
                );
            }
            assert!((2..=12).contains(&chart.y_ticks.len()), "{chart:?}");
        }
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        assert_eq!(chart(&[]), None);
        assert_eq!(chart(&[(1.0, f64::NAN)]), None);
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.3, 1.2, 40.0, 2.5].map(nice), [0.5, 2.0, 50.0, 2.5]);
    }
}
