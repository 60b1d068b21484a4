//! `report.html`: one self-contained page without scripts, fit for print; a switch shows it in English or 中文.

use std::fmt::Write;

pub use evergreen_report::render::escape;

use super::{
    Material,
    svg::{self, ERROR_COLOR, SITE_COLORS},
};
use crate::{
    demo::{
        messages::{self, Lang, Text, human, word},
        result::{DemoResult, SiteEnergy, StoryResult, mean_watts, percent, share, to_kwh},
        timeline::{Chapter, Entry, Mark},
    },
    plane::incident_page,
};

/// The page; it opens in the language of the terminal.
pub fn render(material: &Material, lang: Lang) -> String {
    let result = &material.result;
    let mut out = String::with_capacity(64 << 10);
    let (tag, en, zh) = match lang {
        Lang::En => ("en", " checked", ""),
        Lang::Zh => ("zh-CN", "", " checked"),
    };
    let _ = write!(
        out,
        "<!doctype html><html lang=\"{tag}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Evergreen demo</title><style>{}</style></head><body>\
         <input type=\"radio\" name=\"lang\" id=\"en\"{en}><input type=\"radio\" name=\"lang\" id=\"zh\"{zh}>\
         <nav><label for=\"en\">English</label><label for=\"zh\">中文</label></nav><main>",
        include_str!("report.css")
    );
    head(&mut out, result);
    figures(&mut out, material);
    chart(&mut out, material);
    for story in &result.stories {
        story_section(&mut out, story, material);
    }
    overrides(&mut out, result);
    definitions(&mut out);
    out.push_str("</main></body></html>\n");
    out
}

/// Text in both languages, each in an element of its own.
pub fn both(tag: &str, text: &Text) -> String {
    if text.en == text.zh {
        return escape(&text.en);
    }
    format!("<{tag} class=\"en\">{}</{tag}><{tag} class=\"zh\">{}</{tag}>", escape(&text.en), escape(&text.zh))
}

fn span(text: &Text) -> String {
    both("span", text)
}

fn head(out: &mut String, result: &DemoResult) {
    let verdict = if result.ok() { messages::all_well(result.took) } else { messages::failed() };
    let class = if result.ok() { "good" } else { "bad" };
    let _ = write!(
        out,
        "<h1>Evergreen <small>常青</small></h1><p class=\"lead\">{}</p><p class=\"verdict {class}\">{}</p>",
        span(&messages::title()),
        span(&verdict)
    );
    if !result.ok() {
        let _ = write!(out, "<p class=\"reason\">{}</p>", span(&result.what_failed()));
    }
    let _ = write!(
        out,
        "<p class=\"meta\">{}: {} · {}: {}</p>",
        span(&word::begun()),
        result.began.strftime("%Y-%m-%d %H:%M:%S UTC"),
        span(&word::took()),
        human(result.took)
    );
}

fn figures(out: &mut String, material: &Material) {
    let result = &material.result;
    let total = result.total_energy();
    let story = |chapter| result.stories.iter().find(|story: &&StoryResult| story.chapter == chapter);
    let time = |value: Option<std::time::Duration>| value.map_or_else(|| "–".to_owned(), human);
    let kernel = story(Chapter::Kernel);
    let site = story(Chapter::SiteLoss);
    let rows = [
        (Text::new("node fault detected in", "节点故障发现用时"), time(kernel.and_then(|s| s.detected))),
        (Text::new("node healed in", "节点自愈用时"), time(kernel.and_then(|s| s.healed))),
        (Text::new("lost site suspected in", "站点丢失发现用时"), time(site.and_then(|s| s.detected))),
        (Text::new("another site serves in", "其他站点接管用时"), time(site.and_then(|s| s.healed))),
        (word::window(), site.map_or_else(|| "–".to_owned(), |s| human(s.error_window()))),
        (word::errors(), format!("{} / {}", material.clients.errors, material.clients.requests)),
        (word::p99(), material.p99_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms"))),
        (word::it_kwh(), format!("{:.5}", to_kwh(total.microjoules))),
        (word::watts(), format!("{:.0}", mean_watts(total.microjoules, result.energy_over))),
        (word::measured(), percent(share(total.measured, total.microjoules))),
    ];
    out.push_str("<dl class=\"figures\">");
    for (label, value) in rows {
        let _ = write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", span(&label), escape(&value));
    }
    out.push_str("</dl>");
}

fn chart(out: &mut String, material: &Material) {
    let _ = write!(out, "<h2>{}</h2><figure>{}<figcaption>", span(&word::clients()), svg::render(material));
    for (index, site) in material.sites.iter().enumerate() {
        let color = SITE_COLORS[index % SITE_COLORS.len()];
        let _ = write!(out, "<i style=\"background:{color}\"></i>{} ", escape(site));
    }
    let _ = write!(
        out,
        "<i style=\"background:{ERROR_COLOR}\"></i>{} · {}</figcaption></figure><ol class=\"marks\">",
        span(&word::failed()),
        span(&word::requests_per_second())
    );
    for entry in svg::numbered(&material.entries) {
        let _ = write!(
            out,
            "<li class=\"{}\"><time>{:.1} s</time> {}</li>",
            mark_class(entry.mark),
            entry.at.as_secs_f64(),
            span(&entry.text)
        );
    }
    out.push_str("</ol>");
    if !material.reasons.is_empty() {
        out.push_str("<p class=\"meta\">");
        for (index, (reason, count)) in material.reasons.iter().take(6).enumerate() {
            let comma = if index > 0 { " · " } else { "" };
            let _ = write!(out, "{comma}{count} × {}", escape(reason));
        }
        out.push_str("</p>");
    }
}

fn mark_class(mark: Mark) -> &'static str {
    match mark {
        Mark::Note => "note",
        Mark::Fault => "fault",
        Mark::Act => "act",
        Mark::Step => "step",
        Mark::Good => "good",
        Mark::Bad => "bad",
    }
}

fn story_section(out: &mut String, story: &StoryResult, material: &Material) {
    let _ = write!(out, "<section><h2>{}</h2>", span(&story.chapter.heading()));
    if let Some(failure) = &story.failure {
        let _ = write!(out, "<p class=\"reason\">{}</p>", span(failure));
    }
    if story.chapter == Chapter::Energy {
        energy_table(out, &material.result);
    }
    let steps: Vec<&Entry> = material.entries.iter().filter(|entry| entry.chapter == story.chapter).collect();
    if !steps.is_empty() && story.chapter != Chapter::Energy {
        let _ = write!(
            out,
            "<table class=\"steps\"><thead><tr><th>{}</th><th>{}</th></tr></thead><tbody>",
            span(&word::time()),
            span(&word::event())
        );
        for entry in steps {
            let after = entry.at.saturating_sub(story.began);
            let _ = write!(
                out,
                "<tr class=\"{}\"><td>+{:.1} s</td><td>{}</td></tr>",
                mark_class(entry.mark),
                after.as_secs_f64(),
                span(&entry.text)
            );
        }
        out.push_str("</tbody></table>");
    }
    if let Some(trace) = &story.trace_id {
        let _ = write!(out, "<p class=\"meta\">{}: <code>{}</code>", span(&word::trace()), escape(trace));
        if material.result.kept {
            let address = escape(&incident_page(&material.result.page, trace));
            let _ = write!(out, " · <a href=\"{address}\">{}</a>", span(&word::open_incident()));
        }
        out.push_str("</p>");
    }
    out.push_str("</section>");
}

fn energy_table(out: &mut String, result: &DemoResult) {
    let header = [
        word::site(),
        word::watts(),
        word::it_kwh(),
        word::measured(),
        word::calibrated(),
        word::estimated(),
        word::idle(),
        word::pue(),
        word::facility_kwh(),
    ];
    out.push_str("<div class=\"wide\"><table class=\"numbers\"><thead><tr>");
    for text in header {
        let _ = write!(out, "<th>{}</th>", span(&text));
    }
    out.push_str("</tr></thead><tbody>");
    for site in &result.energy {
        let pue = match &site.pue {
            Some((value, date, by)) => format!("{value:.2}<br><small>{} · {}</small>", escape(date), escape(by)),
            None => span(&word::not_declared()),
        };
        energy_row(out, &escape(&site.site), site, result, &pue, site.facility_kwh());
    }
    let facility: Option<f64> = result.energy.iter().map(SiteEnergy::facility_kwh).sum();
    out.push_str("</tbody><tfoot>");
    energy_row(out, &span(&word::total()), &result.total_energy(), result, "", facility);
    out.push_str("</tfoot></table></div>");
}

fn energy_row(out: &mut String, name: &str, site: &SiteEnergy, result: &DemoResult, pue: &str, facility: Option<f64>) {
    let kwh = |part: u64| format!("{:.5}<br><small>{}</small>", to_kwh(part), percent(share(part, site.microjoules)));
    let _ = write!(
        out,
        "<tr><th>{name}</th><td>{:.0}</td><td>{:.5}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{pue}</td><td>{}</td></tr>",
        mean_watts(site.microjoules, result.energy_over),
        to_kwh(site.microjoules),
        kwh(site.measured),
        kwh(site.calibrated),
        kwh(site.estimated),
        site.idle.map_or_else(|| "–".to_owned(), kwh),
        facility.map_or_else(|| "–".to_owned(), |kwh| format!("{kwh:.5}"))
    );
}

fn overrides(out: &mut String, result: &DemoResult) {
    let _ =
        write!(out, "<section><h2>{}</h2><p>{}</p><ul>", span(&word::overrides()), span(&messages::override_summary()));
    for text in &result.overrides {
        let _ = write!(out, "<li>{}</li>", span(text));
    }
    out.push_str("</ul></section>");
}

fn definitions(out: &mut String) {
    let lines = [
        Text::new(
            "Detected: from the fault to the first recorded suspicion (a Node condition; the root span of a lost site).",
            "发现：从故障到首次记录的怀疑（节点状况；站点丢失的根 span）。",
        ),
        Text::new(
            "Healed: from the fault to the verified cure; for a lost site, to the first answer of the site that took over.",
            "恢复：从故障到验证通过；对站点丢失，到接管站点的首个应答。",
        ),
        Text::new(
            "Error window (RTO): from the sending of the first failed request to the failure of the last; no request is repeated. Of a lost site it covers the time from the loss to its return; errors of the way back are counted, not part of it.",
            "错误窗口（RTO）：从首个失败请求发出到最后一个请求失败；不做任何重试。对站点丢失，仅覆盖丢失到恢复之间；回切期间的错误计入总数，不计入窗口。",
        ),
        Text::new(
            "Measured: read from a sensor (here the powercap counters of a host, simulated ones included). Estimated: from utilisation by a model.",
            "实测：来自传感器（此处为主机 powercap 计数器，包括模拟主机）。估算：由利用率模型得出。",
        ),
        Text::new(
            "Facility energy is IT energy times the PUE that somebody declared; without a declaration there is none.",
            "设施用电 = IT 用电 × 申报的 PUE；无申报则不给出。",
        ),
    ];
    let _ = write!(out, "<section><h2>{}</h2><ul>", span(&word::definitions()));
    for line in lines {
        let _ = write!(out, "<li>{}</li>", span(&line));
    }
    out.push_str("</ul></section>");
}
