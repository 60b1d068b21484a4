//! The drawing of the demo: what clients were answered each second and by whom, errors, and the marks of the stories.

use std::{fmt::Write, time::Duration};

use super::{Material, html::both};
use crate::demo::{
    messages::{Text, word},
    timeline::{Chapter, Entry, Mark},
};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 34.0;
const PLOT: f64 = 170.0;
/// Entries closer than this speak of one moment.
const SAME_MOMENT: Duration = Duration::from_millis(300);
/// Colours of sites, told apart in print and by colour-blind eyes.
pub const SITE_COLORS: [&str; 6] = ["#2f7d5b", "#5aa9d6", "#d9a441", "#8d6cab", "#7a8a99", "#b5651d"];
/// Colour of errors.
pub const ERROR_COLOR: &str = "#c8322b";

/// The drawing.
pub fn render(material: &Material) -> String {
    let seconds = material.seconds.len().max(usize::try_from(material.result.took.as_secs()).unwrap_or(0) + 1).max(10);
    let most = material.seconds.iter().map(|s| s.ok.iter().sum::<u32>() + s.errors).max().unwrap_or(0).max(10);
    let most = most.div_ceil(20) * 20;
    let scale = Scale { step: (WIDTH - LEFT - 8.0) / as_f64(seconds), unit: PLOT / f64::from(most) };
    let mut out = String::new();
    let height = TOP + PLOT + 34.0;
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">",
        word::clients().en
    );
    bands(&mut out, material, &scale);
    axes(&mut out, seconds, most, &scale);
    bars(&mut out, material, &scale);
    marks(&mut out, &numbered(&material.entries), &scale);
    out.push_str("</svg>");
    out
}

/// Entries that get a numbered mark in the drawing: what the demo did on purpose and what came of it. What was said about
/// the same moment once more gets none.
pub fn numbered(entries: &[Entry]) -> Vec<&Entry> {
    let mut numbered: Vec<&Entry> = Vec::new();
    for entry in entries.iter().filter(|e| matches!(e.chapter, Chapter::Kernel | Chapter::SiteLoss)) {
        let again = numbered.last().is_some_and(|last| {
            entry.mark == Mark::Good && last.mark == Mark::Good && entry.at.saturating_sub(last.at) < SAME_MOMENT
        });
        if matches!(entry.mark, Mark::Fault | Mark::Act | Mark::Good | Mark::Bad) && !again {
            numbered.push(entry);
        }
    }
    numbered
}

struct Scale {
    step: f64,
    unit: f64,
}

impl Scale {
    fn x(&self, at: Duration) -> f64 {
        LEFT + at.as_secs_f64() * self.step
    }
}

fn bands(out: &mut String, material: &Material, scale: &Scale) {
    for (index, story) in material.result.stories.iter().enumerate() {
        let (from, to) = (scale.x(story.began), scale.x(story.ended));
        let _ = write!(
            out,
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{PLOT}\" class=\"band\"/>",
            (to - from).max(2.0)
        );
        if to - from > 60.0 {
            let label = Text::new(format!("Story {}", index + 1), format!("故事{}", ["一", "二", "三"][index.min(2)]));
            label_at(out, from + 5.0, TOP + PLOT + 30.0, &label, "story");
        }
    }
}

fn axes(out: &mut String, seconds: usize, most: u32, scale: &Scale) {
    let bottom = TOP + PLOT;
    for value in [0, most / 2, most] {
        let y = bottom - f64::from(value) * scale.unit;
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"grid\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\" text-anchor=\"end\">{value}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for second in (0..seconds).step_by(10) {
        let x = LEFT + as_f64(second) * scale.step;
        let _ = write!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" class=\"tick\" text-anchor=\"middle\">{second} s</text>",
            bottom + 15.0
        );
    }
}

fn bars(out: &mut String, material: &Material, scale: &Scale) {
    let width = (scale.step - 0.8).max(0.6);
    for (second, counts) in material.seconds.iter().enumerate() {
        let x = LEFT + as_f64(second) * scale.step;
        let mut y = TOP + PLOT;
        let parts = counts.ok.iter().enumerate().map(|(site, count)| (SITE_COLORS[site % SITE_COLORS.len()], *count));
        for (color, count) in parts.chain([(ERROR_COLOR, counts.errors)]) {
            if count > 0 {
                // A single error must still be seen.
                let height = (f64::from(count) * scale.unit).max(if color == ERROR_COLOR { 3.0 } else { 0.0 });
                y -= height;
                let _ = write!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>"
                );
            }
        }
    }
}

fn marks(out: &mut String, entries: &[&Entry], scale: &Scale) {
    let mut last = f64::MIN;
    let mut row = 0;
    for (index, entry) in entries.iter().enumerate() {
        let x = scale.x(entry.at);
        row = if x - last < 18.0 { (row + 1) % 2 } else { 0 };
        last = x;
        let y = 10.0 + f64::from(row) * 15.0;
        let class = match entry.mark {
            Mark::Fault => "fault",
            Mark::Bad => "bad",
            Mark::Act => "act",
            _ => "good",
        };
        let _ = write!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y}\" y2=\"{:.1}\" class=\"mark {class}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y}\" r=\"7.5\" class=\"dot {class}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" class=\"number\" text-anchor=\"middle\">{}</text>",
            TOP + PLOT,
            y + 3.5,
            index + 1
        );
    }
}

fn label_at(out: &mut String, x: f64, y: f64, text: &Text, class: &str) {
    let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", both("tspan", text));
}

/// Seconds and counts of a demo are small.
fn as_f64(value: usize) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}
