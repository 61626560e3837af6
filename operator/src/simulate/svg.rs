//! The picture: three panels over one axis of time. It needs nothing but itself, and suits light and dark pages.

use std::fmt::Write as _;

use super::report::Report;
use super::timeline::Point;

/// Sizes in pixels.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 56.0;
const PANEL: f64 = 150.0;
const GAP: f64 = 44.0;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-size:14px;font-weight:600}\
.grid{stroke:#d0d7de;stroke-width:1}.line{fill:none;stroke-width:1.5}.a{stroke:#0969da}.b{stroke:#bc4c00}\
.target{stroke:#cf222e;stroke-dasharray:5 4}.back{fill:#fff}text.a{fill:#0969da}text.b{fill:#bc4c00}text.target{fill:#cf222e}\
text.a,text.b,text.target{stroke:none}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#30363d}.back{fill:#0d1117}.a{stroke:#58a6ff}\
.b{stroke:#f0883e}.target{stroke:#ff7b72}text.a{fill:#58a6ff}text.b{fill:#f0883e}text.target{fill:#ff7b72}}";

/// A panel's line: its name, its class, and what it shows of a point.
struct Line {
    name: &'static str,
    class: &'static str,
    of: fn(&Point) -> f64,
}

/// Draws a report's timeline.
pub(super) fn draw(report: &Report) -> String {
    let height = TOP + 3.0 * PANEL + 2.0 * GAP + 40.0;
    let begin = report.timeline.first().map_or(0.0, |point| point.seconds);
    let end = report.timeline.last().map_or(1.0, |point| point.seconds).max(begin + 1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>millrace simulate: {policy}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"22\">{policy}: {jobs} jobs, p95 wait {p95:.1} s, {over:.2} % over {target:.0} s, {hours:.2} GPU hours</text>\n",
        policy = report.policy,
        jobs = report.jobs,
        p95 = report.p95(),
        over = 100.0 * report.over_target_share,
        target = report.target_seconds,
        hours = report.gpu_seconds / 3600.0,
    );
    let panels: [(&str, Vec<Line>, Option<f64>); 3] = [
        (
            "messages",
            vec![
                Line { name: "waiting", class: "a", of: |p| p.visible as f64 },
                Line { name: "in flight", class: "b", of: |p| p.in_flight as f64 },
            ],
            None,
        ),
        (
            "workers",
            vec![
                Line { name: "wished for", class: "b", of: |p| f64::from(p.replicas) },
                Line { name: "ready", class: "a", of: |p| f64::from(p.ready) },
            ],
            None,
        ),
        (
            "oldest wait, seconds",
            vec![Line { name: "oldest", class: "a", of: |p| p.oldest_seconds }],
            Some(report.target_seconds),
        ),
    ];
    for (index, (title, lines, mark)) in panels.iter().enumerate() {
        let top = (index as f64).mul_add(PANEL + GAP, TOP);
        let most = lines.iter().flat_map(|line| report.timeline.iter().map(line.of)).fold(1.0, f64::max);
        let most = nice(mark.map_or(most, |mark| most.max(mark)));
        let y = |value: f64| (value / most).mul_add(-PANEL, top + PANEL);
        let x = |second: f64| ((second - begin) / (end - begin)).mul_add(WIDTH - LEFT - RIGHT, LEFT);
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.1}\">{title}</text>", top - 8.0);
        for part in 0..=2 {
            let value = most * f64::from(part) / 2.0;
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y(value) + 4.0,
                y = y(value),
            );
        }
        for (number, line) in lines.iter().enumerate() {
            let _ = writeln!(
                svg,
                "<path class=\"line {}\" d=\"{}\"/><text class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                line.class,
                path(&report.timeline, x, |point| y((line.of)(point))),
                line.class,
                (number as f64).mul_add(-90.0, WIDTH - RIGHT),
                top - 8.0,
                line.name,
            );
        }
        if let Some(mark) = mark {
            let _ = writeln!(
                svg,
                "<line class=\"line target\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"target\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">target</text>",
                WIDTH - RIGHT,
                WIDTH - RIGHT,
                y(*mark) - 4.0,
                y = y(*mark),
            );
        }
    }
    for (part, anchor) in (0..).zip(["start", "middle", "middle", "middle", "end"]) {
        let second = (end - begin).mul_add(f64::from(part) / 4.0, begin);
        let x = (f64::from(part) / 4.0).mul_add(WIDTH - LEFT - RIGHT, LEFT);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            height - 16.0,
            clock(second - begin)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Steps: a value holds until the next point.
fn path(points: &[Point], x: impl Fn(f64) -> f64, y: impl Fn(&Point) -> f64) -> String {
    let mut path = String::new();
    for point in points {
        let (x, y) = (x(point.seconds), y(point));
        let _ = if path.is_empty() { write!(path, "M{x:.1} {y:.1}") } else { write!(path, "H{x:.1}V{y:.1}") };
    }
    path
}

/// The next of 1, 2, 4, 10, 20, 40, …, so that half of it is a short number too.
fn nice(most: f64) -> f64 {
    let power = 10_f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 10.0].into_iter().map(|factor| factor * power).find(|value| *value >= most).unwrap_or(most)
}

/// Hours, minutes and seconds since the beginning.
fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours} h {minutes:02} min") } else { format!("{minutes} min {seconds:02} s") }
}

#[cfg(test)]
#[path = "tests/svg.rs"]
mod tests;
