//! The demo's report: `report.html` for people, `report.json` for programs. Pure: values in, text out.

mod html;
mod json;
mod svg;

use super::{
    result::DemoResult,
    timeline::Entry,
    traffic::{Second, Window},
};

pub use html::render as to_html;
pub use json::render as to_json;

/// Everything that the report is drawn from.
#[derive(Clone, Debug)]
pub struct Material {
    /// How it ended.
    pub result: DemoResult,
    /// What happened when.
    pub entries: Vec<Entry>,
    /// What clients saw, second by second.
    pub seconds: Vec<Second>,
    /// Names of the sites that `seconds` counts by.
    pub sites: Vec<String>,
    /// What clients saw over all.
    pub clients: Window,
    /// Answer time that 99 of 100 requests did not exceed, in milliseconds.
    pub p99_ms: Option<f64>,
    /// Reasons of failed requests, most frequent first.
    pub reasons: Vec<(String, u64)>,
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::{
        messages::{self, Lang, Text},
        summary::tests::example,
        timeline::{Chapter, Mark},
    };

    /// Material with everything in it, and with text that must be escaped.
    pub fn material() -> Material {
        let entry = |at, chapter, mark, text| Entry { at: Duration::from_secs(at), chapter, mark, text };
        Material {
            result: example(),
            entries: vec![
                entry(1, Chapter::Prepare, Mark::Note, messages::plane_ready("http://127.0.0.1:8080/")),
                entry(10, Chapter::Kernel, Mark::Fault, messages::kernel_fault("dc-a-1", 2)),
                entry(24, Chapter::Kernel, Mark::Good, Text::same("<script>alert(1)</script>")),
                entry(30, Chapter::SiteLoss, Mark::Fault, messages::site_lost("dc-b")),
                entry(60, Chapter::SiteLoss, Mark::Good, messages::no_outage()),
            ],
            seconds: (0..70).map(|s| Second { ok: vec![50, 50, 0], errors: u32::from(s == 31) * 7 }).collect(),
            sites: vec!["dc-a".into(), "dc-b".into(), "dc-c".into()],
            clients: Window { requests: 7_007, errors: 7, ..Window::default() },
            p99_ms: Some(4.2),
            reasons: vec![("dc-b: no connection".into(), 7)],
        }
    }

    #[test]
    fn the_page_is_self_contained_bilingual_and_escapes_what_it_shows() {
        let page = to_html(&material(), Lang::En);
        assert!(!page.contains("<script"), "scripts in the page");
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains("src=\"http") && !page.contains("@import"), "asks other hosts");
        for part in ["class=\"en\"", "class=\"zh\"", "<svg", "4bf92f3577b34da6a3ce929d0e0e4736", "1.25"] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn the_same_material_gives_the_same_bytes() {
        assert_eq!(to_html(&material(), Lang::En), to_html(&material(), Lang::En));
        assert_eq!(to_json(&material()), to_json(&material()));
    }

    #[test]
    fn the_json_report_carries_timeline_chart_and_energy_with_its_parts() {
        let report = to_json(&material());
        assert_eq!(report["timeline"][1]["text"]["en"].as_str().map(|t| t.contains("oops")), Some(true));
        assert_eq!(report["clients"]["per_second"][31]["errors"], 7);
        assert_eq!(report["energy"]["sites"][0]["measured_microjoules"], 30_000_000_000_u64);
        assert_eq!(report["energy"]["sites"][0]["pue"]["value"], 1.25);
    }
}
