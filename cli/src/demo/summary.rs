//! The end of a demo on the terminal, and `summary.json` for programs.

use std::path::Path;

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Value, json};

use super::{
    messages::{Lang, human, word},
    result::{DemoResult, StoryResult, mean_watts, percent, share, to_kwh},
    timeline::Chapter,
    traffic::millis,
};

/// `summary.json`: `{"ok","stories":[...],"energy":{"kwh","measured_share"},"page","report"}`.
pub fn to_json(result: &DemoResult, report: &Path) -> Value {
    let total = result.total_energy();
    let stories: Vec<Value> = result.stories.iter().map(story_json).collect();
    let mut summary = json!({
        "ok": result.ok(),
        "stories": stories,
        "energy": {
            "kwh": to_kwh(total.microjoules),
            "measured_share": share(total.measured, total.microjoules),
        },
        "page": result.page,
        "report": report.display().to_string(),
        "took_ms": millis(result.took),
    });
    if !result.ok() {
        summary["reason"] = json!(result.what_failed().en);
    }
    summary
}

fn story_json(story: &StoryResult) -> Value {
    let mut value = json!({
        "name": story.name(),
        "ok": story.ok(),
        "detected_ms": story.detected.map(millis),
        "healed_ms": story.healed.map(millis),
        "client_errors": story.clients.errors,
        "error_window_ms": millis(story.error_window()),
        "trace_id": story.trace_id,
    });
    if let Some(failure) = &story.failure {
        value["reason"] = json!(failure.en);
    }
    value
}

/// The tables at the end.
pub fn to_text(result: &DemoResult, lang: Lang) -> String {
    let mut text = String::new();
    if !result.stories.is_empty() {
        text.push_str(&format!("{}\n", stories(result, lang)));
    }
    if !result.energy.is_empty() {
        text.push_str(&format!("\n{}\n", energy(result, lang)));
    }
    text
}

fn stories(result: &DemoResult, lang: Lang) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    let header = [
        word::story(),
        word::result(),
        word::detected(),
        word::healed(),
        word::errors(),
        word::window(),
        word::trace(),
    ];
    table.set_header(header.iter().map(|text| text.get(lang)));
    for story in &result.stories {
        let none = || "-".to_owned();
        let (name, has_clients) = match story.chapter {
            Chapter::Kernel => (word::kernel(), true),
            Chapter::SiteLoss => (word::site_loss(), true),
            _ => (word::energy(), false),
        };
        let verdict = if story.ok() { word::well() } else { word::not_well() };
        table.add_row([
            name.get(lang).to_owned(),
            verdict.get(lang).to_owned(),
            story.detected.map_or_else(none, human),
            story.healed.map_or_else(none, human),
            if has_clients { format!("{} / {}", story.clients.errors, story.clients.requests) } else { none() },
            if has_clients { human(story.error_window()) } else { none() },
            story.trace_id.clone().unwrap_or_else(none),
        ]);
    }
    table
}

fn energy(result: &DemoResult, lang: Lang) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    let header = [
        word::site(),
        word::watts(),
        word::it_kwh(),
        word::measured(),
        word::estimated(),
        word::pue(),
        word::facility_kwh(),
    ];
    table.set_header(header.iter().map(|text| text.get(lang)));
    let mut total = result.total_energy();
    total.site = word::total().get(lang).to_owned();
    let facility: Option<f64> = result.energy.iter().map(super::result::SiteEnergy::facility_kwh).sum();
    for site in result.energy.iter().chain([&total]) {
        let is_total = std::ptr::eq(site, &raw const total);
        let not_declared = || word::not_declared().get(lang).to_owned();
        table.add_row([
            site.site.clone(),
            format!("{:.0}", mean_watts(site.microjoules, result.energy_over)),
            format!("{:.5}", to_kwh(site.microjoules)),
            percent(share(site.measured, site.microjoules)),
            percent(share(site.estimated, site.microjoules)),
            if is_total {
                String::new()
            } else {
                site.pue.as_ref().map_or_else(not_declared, |pue| format!("{:.2}", pue.0))
            },
            if is_total { facility } else { site.facility_kwh() }.map_or_else(not_declared, |kwh| format!("{kwh:.5}")),
        ]);
    }
    table
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::{messages::Text, result::SiteEnergy, traffic::Window};

    /// A result with everything in it.
    pub fn example() -> DemoResult {
        let story = |chapter, failure: Option<&str>| StoryResult {
            failure: failure.map(Text::same),
            detected: Some(Duration::from_millis(1_200)),
            healed: Some(Duration::from_millis(14_000)),
            clients: Window {
                requests: 1_000,
                errors: 3,
                first_error: Some(Duration::from_secs(20)),
                last_error: Some(Duration::from_millis(20_400)),
            },
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            ended: Duration::from_secs(30),
            ..StoryResult::begin(chapter, Duration::from_secs(10))
        };
        let site = |site: &str, measured, estimated, pue: Option<f64>| SiteEnergy {
            site: site.into(),
            microjoules: measured + estimated,
            measured,
            estimated,
            idle: Some(measured / 2),
            pue: pue.map(|value| (value, "2026-03-01".to_owned(), "facility team".to_owned())),
            ..SiteEnergy::default()
        };
        DemoResult {
            began: "2026-11-01T08:00:00Z".parse().unwrap(),
            took: Duration::from_secs(70),
            stories: vec![story(Chapter::Kernel, None), story(Chapter::SiteLoss, None), story(Chapter::Energy, None)],
            energy: vec![
                site("dc-a", 30_000_000_000, 6_000_000_000, Some(1.25)),
                site("dc-b", 0, 36_000_000_000, Some(1.4)),
            ],
            energy_over: Duration::from_secs(60),
            failures: Vec::new(),
            overrides: vec![Text::new("holdDown: 5s (default 10m)", "holdDown：5s（默认 10m）")],
            page: "http://127.0.0.1:8080/".into(),
            kept: true,
        }
    }

    #[test]
    fn the_summary_has_the_agreed_shape() {
        let summary = to_json(&example(), Path::new("target/demo/report.html"));
        assert_eq!(summary["ok"], true);
        assert_eq!(summary["stories"][0]["detected_ms"], 1200);
        assert_eq!(summary["stories"][1]["error_window_ms"], 400);
        assert_eq!(summary["stories"][1]["client_errors"], 3);
        assert_eq!(summary["energy"]["kwh"], 0.02);
        assert_eq!(summary["report"], "target/demo/report.html");
    }

    #[test]
    fn a_failed_story_fails_the_demo_and_gives_its_reason() {
        let mut result = example();
        result.stories[1].failure = Some(Text::new("nobody took over", "无人接管"));
        let summary = to_json(&result, Path::new("r"));
        assert_eq!(summary["ok"], false);
        assert!(summary["reason"].as_str().unwrap().contains("nobody took over"));
    }

    #[test]
    fn the_tables_read_in_both_languages() {
        let english = to_text(&example(), Lang::En);
        assert!(english.contains("1.2 s") && english.contains("400 ms") && english.contains("83.3 %"), "{english}");
        assert!(to_text(&example(), Lang::Zh).contains("错误窗口"));
    }
}
