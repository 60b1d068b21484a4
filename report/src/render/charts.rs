//! Charts as inline SVG with a text that says the same: energy by day and provenance, by namespace, PUE over time.
//! Coordinates are printed with one decimal, so that the same figures give the same bytes.

use std::fmt::Write;

use super::html::escape;
use crate::{
    decimal::display,
    model::{DataCenter, Report},
    text::Language,
};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 66.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;
const PLOT: f64 = WIDTH - LEFT - 8.0;
const DEEP: f64 = HEIGHT - TOP - BOTTOM;
/// Colours of namespaces, told apart also without red and green; the last is for all others.
pub(super) const COLOURS: [&str; 7] = ["#1b6ca8", "#e08e2b", "#3f9b7a", "#8a5fb0", "#c2566b", "#7f8c1f", "#9aa5a0"];

fn number(text: &str) -> f64 {
    text.parse().unwrap_or(0.0)
}

/// A round step that gives about four lines up to `most`.
fn step(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let rough = most / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

fn open(out: &mut String, title: &str, says: &str) {
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}. {1}\"><title>{0}</title><desc>{1}</desc>\
         <defs><pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
         <rect width=\"6\" height=\"6\" fill=\"#e6c766\"/><rect width=\"2.4\" height=\"6\" fill=\"#a67c00\"/></pattern></defs>",
        escape(title),
        escape(says)
    );
}

fn axis(out: &mut String, from: f64, most: f64, step: f64, unit: &str) {
    let decimals = usize::try_from((-step.log10().floor()).max(0.0) as i64).unwrap_or(0).min(6);
    let mut at = (from / step).ceil() * step;
    while at <= most + step / 1e6 {
        let y = TOP + DEEP * (1.0 - (at - from) / (most - from));
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"grid\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\" text-anchor=\"end\">{}</text>",
            LEFT + PLOT,
            LEFT - 7.0,
            y + 4.0,
            display(&format!("{at:.decimals$}"))
        );
        at += step;
    }
    let _ = write!(out, "<text x=\"2\" y=\"{:.1}\" class=\"tick\">{unit}</text>", TOP + DEEP + 20.0);
}

fn dates(out: &mut String, dates: &[&str]) {
    let every = dates.len().div_ceil(8).max(1);
    let width = PLOT / dates.len().max(1) as f64;
    for (index, date) in dates.iter().enumerate().step_by(every) {
        let x = LEFT + (index as f64 + 0.5) * width;
        let anchor = if index == 0 && dates.len() > 1 { "start" } else { "middle" };
        let x = if index == 0 && dates.len() > 1 { LEFT } else { x.min(LEFT + PLOT - 34.0) };
        let y = TOP + DEEP + 20.0;
        let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"tick\" text-anchor=\"{anchor}\">{date}</text>");
    }
}

/// Bars of columns; each column from the bottom up.
fn stack(out: &mut String, columns: &[Vec<f64>], most: f64, fills: &[&str]) {
    let width = PLOT / columns.len().max(1) as f64;
    let bar = (width * 0.82).min(64.0);
    for (index, column) in columns.iter().enumerate() {
        let x = LEFT + index as f64 * width + (width - bar) / 2.0;
        let mut y = TOP + DEEP;
        for (value, fill) in column.iter().zip(fills) {
            let height = DEEP * value / most;
            if height > 0.0 {
                y -= height;
                let _ = write!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
                );
            }
        }
    }
}

fn stacked(out: &mut String, title: &str, says: &str, days: &[&str], columns: &[Vec<f64>], fills: &[&str]) {
    let greatest = columns.iter().map(|column| column.iter().sum::<f64>()).fold(0.0, f64::max);
    let step = step(greatest);
    let most = ((greatest / step).ceil() * step).max(step);
    open(out, title, says);
    axis(out, 0.0, most, step, "kWh");
    stack(out, columns, most, fills);
    dates(out, days);
    out.push_str("</svg>\n");
}

/// IT energy by day, split by provenance.
pub(super) fn days(out: &mut String, report: &Report, language: Language) {
    let title = language.of("IT energy by day: measured, calibrated, estimated", "每日 IT 能耗：实测、校准、估算");
    let columns: Vec<Vec<f64>> = report
        .days
        .iter()
        .map(|day| [&day.measured_kwh, &day.calibrated_kwh, &day.estimated_kwh].map(|kwh| number(kwh)).to_vec())
        .collect();
    let total = |column: &Vec<f64>| column.iter().sum::<f64>();
    let most = report.days.iter().zip(&columns).max_by(|a, b| total(a.1).total_cmp(&total(b.1)));
    let says = most.map_or_else(String::new, |(day, column)| {
        let kwh = display(&format!("{:.6}", total(column)));
        let (count, all) = (report.days.len(), display(&report.total.it_kwh));
        match language {
            Language::English => format!("{count} days, {all} kWh in sum; most on {}: {kwh} kWh", day.date),
            Language::Chinese => format!("共 {count} 天，合计 {all} kWh；最高 {}：{kwh} kWh", day.date),
        }
    });
    let dates: Vec<&str> = report.days.iter().map(|day| day.date.as_str()).collect();
    stacked(out, title, &says, &dates, &columns, &["#1f7a4d", "#2f6fb0", "url(#hatch)"]);
}

/// Energy of pods by day and namespace.
pub(super) fn namespaces(out: &mut String, report: &Report, language: Language) {
    let spaces = &report.namespace_days;
    let title = language.of("Energy of pods by day and namespace", "按命名空间的每日 Pod 能耗");
    let others = language.of("all others", "其他");
    let names: Vec<&str> = spaces.names.iter().map(|name| if name.is_empty() { others } else { name }).collect();
    let columns: Vec<Vec<f64>> = spaces.days.iter().map(|day| day.iter().map(|kwh| number(kwh)).collect()).collect();
    let dates: Vec<&str> = report.days.iter().map(|day| day.date.as_str()).collect();
    let fills: Vec<&str> = fills(&spaces.names);
    stacked(out, title, &names.join(", "), &dates, &columns, &fills);
}

/// One colour a namespace; "all others" has the last.
pub(super) fn fills(names: &[String]) -> Vec<&'static str> {
    let last = COLOURS.len() - 1;
    names
        .iter()
        .enumerate()
        .map(|(index, name)| COLOURS[if name.is_empty() { last } else { index.min(last) }])
        .collect()
}

/// PUE over time of one data center, with the limits of the grades.
pub(super) fn pue(out: &mut String, dc: &DataCenter, limits: &[String], language: Language) {
    let points: Vec<f64> = dc.pue_over_time.iter().map(|point| number(&point.pue)).collect();
    let least = points.iter().copied().fold(1.0, f64::min);
    let most = points.iter().copied().fold(1.6, f64::max);
    let title = format!("{}: {}", dc.name, language.of("PUE over time", "PUE 变化"));
    let (low, high) = (points.iter().copied().fold(f64::MAX, f64::min), points.iter().copied().fold(0.0, f64::max));
    let says = match language {
        Language::English => format!("{} values from {low:.3} to {high:.3}", points.len()),
        Language::Chinese => format!("共 {} 个值，{low:.3} 至 {high:.3}", points.len()),
    };
    let (from, step) = ((least * 10.0).floor() / 10.0, step(most - least).max(0.1));
    let most = from + ((most - from) / step).ceil() * step;
    open(out, &title, &says);
    axis(out, from, most, step, "PUE");
    let y = |value: f64| TOP + DEEP * (1.0 - (value - from) / (most - from));
    for (grade, limit) in limits.iter().enumerate() {
        let at = y(number(limit));
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" class=\"limit\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\" text-anchor=\"end\">GB 40879 {} ({limit})</text>",
            LEFT + PLOT,
            LEFT + PLOT - 4.0,
            at - 4.0,
            grade + 1
        );
    }
    let width = PLOT / points.len().max(1) as f64;
    let x = |index: usize| LEFT + (index as f64 + 0.5) * width;
    let line: Vec<String> =
        points.iter().enumerate().map(|(i, value)| format!("{:.1},{:.1}", x(i), y(*value))).collect();
    let _ = write!(out, "<polyline points=\"{}\" class=\"line\"/>", line.join(" "));
    if points.len() <= 62 {
        for (index, (value, point)) in points.iter().zip(&dc.pue_over_time).enumerate() {
            let class = if point.impossible { "dot bad" } else { "dot" };
            let _ = write!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" class=\"{class}\"><title>{}: {}</title></circle>",
                x(index),
                y(*value),
                point.from,
                point.pue
            );
        }
    }
    dates(out, &dc.pue_over_time.iter().map(|point| point.from.as_str()).collect::<Vec<_>>());
    out.push_str("</svg>\n");
}
