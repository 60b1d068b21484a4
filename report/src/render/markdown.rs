//! The report as Markdown.

use std::fmt::Write;

use super::{consumer_name, period, standard_name, value};
use crate::{
    decimal::display,
    model::{Consumer, Energy, Figure, Report},
    text::Language,
};

/// The report as Markdown, in one language. The same report gives the same bytes.
pub fn markdown(report: &Report, language: Language) -> String {
    let say = |english, chinese| language.of(english, chinese);
    let mut out = String::with_capacity(8 << 10);
    let o = &mut out;
    line(o, format!("# {}\n", say("Energy report", "能耗报告")));
    line(o, format!("- {}: {}", say("Period", "期间"), cell(&period(report))));
    line(o, format!("- {}: {}", say("Scope", "范围"), cell(&report.scope)));
    line(o, format!("- {}: {}\n", say("Standards", "标准"), standard_name(report.standard, language)));
    energy_table(o, report, language);
    figures(o, &report.summary, language);
    previous(o, report, language);
    for dc in &report.data_centers {
        line(o, format!("## {}\n", cell(&dc.name)));
        for section in &dc.sections {
            line(o, format!("### {}\n", section.title.of(language)));
            figures(o, &section.figures, language);
        }
        notes(o, dc.notes.iter().map(|note| note.of(language)));
    }
    if let Some(sci) = &report.sci {
        line(o, format!("## {}\n", sci.title.of(language)));
        figures(o, &sci.figures, language);
    }
    line(o, format!("## {}\n", say("Where the energy went", "能耗去向")));
    let consumers = &report.consumers;
    table(o, say("Split", "构成"), &consumers.split, language);
    table(o, say("Namespace", "命名空间"), &consumers.namespaces, language);
    table(o, say("Workload", "工作负载"), &consumers.workloads, language);
    table(o, say("Node", "节点"), &consumers.nodes, language);
    if !report.recommendations.is_empty() {
        line(o, format!("## {}\n", say("Recommendations", "节能建议")));
        for advice in &report.recommendations {
            let kwh = advice.expected_kwh.as_ref().map(|kwh| format!(" — {} kWh", display(kwh))).unwrap_or_default();
            let (title, method) = (advice.title.of(language), advice.method.of(language));
            line(o, format!("- **{}: {title}**{kwh}. {method}", cell(&advice.site)));
        }
        o.push('\n');
    }
    line(o, format!("## {}\n", say("Factors and facts used", "采用的因子与数据")));
    for source in &report.sources {
        let (what, basis) = (source.what.of(language), source.basis.of(language));
        line(
            o,
            format!("- {what}: {}, {} ({}; {})", cell(&source.value), source.year, cell(basis), cell(&source.source)),
        );
    }
    o.push('\n');
    notes(o, report.notes.iter().map(|note| note.of(language)));
    out
}

fn line(out: &mut String, text: String) {
    out.push_str(&text);
    out.push('\n');
}

fn notes<'a>(out: &mut String, notes: impl Iterator<Item = &'a str>) {
    let mut some = false;
    for note in notes {
        line(out, format!("- {}", cell(note)));
        some = true;
    }
    if some {
        out.push('\n');
    }
}

fn energy_table(out: &mut String, report: &Report, language: Language) {
    let say = |english, chinese| language.of(english, chinese);
    let columns = [
        say("Data center", "数据中心"),
        say("IT energy kWh", "IT 能耗 kWh"),
        say("interval kWh", "区间 kWh"),
        say("measured", "实测"),
        say("calibrated", "校准"),
        say("estimated", "估算"),
        say("idle", "空闲"),
    ];
    line(out, format!("| {} |", columns.join(" | ")));
    line(out, format!("|{}", " --- |".repeat(columns.len())));
    let mut row = |name: String, energy: &Energy| {
        let idle =
            energy.idle.as_ref().map_or(say("not stated", "未给出").to_owned(), |i| format!("{} %", i.percent));
        line(
            out,
            format!(
                "| {name} | {} | {} – {} | {} % | {} % | {} % | {idle} |",
                display(&energy.it_kwh),
                display(&energy.interval_kwh[0]),
                display(&energy.interval_kwh[1]),
                energy.measured.percent,
                energy.calibrated.percent,
                energy.estimated.percent,
            ),
        );
    };
    report.data_centers.iter().for_each(|dc| row(cell(&dc.name), &dc.energy));
    row(format!("**{}**", say("Total", "合计")), &report.total);
    out.push('\n');
}

fn figures(out: &mut String, figures: &[Figure], language: Language) {
    for figure in figures {
        let mut text = format!("- {}: **{}**", figure.label.of(language), cell(&value(figure, language)));
        if figure.value.is_some() && !figure.unit.is_empty() {
            let _ = write!(text, " {}", figure.unit);
        }
        let mut said: Vec<String> = Vec::new();
        said.extend(figure.absent.as_ref().map(|absent| cell(absent.of(language))));
        said.extend(figure.year.clone());
        said.extend(figure.basis.as_ref().map(|basis| cell(basis.of(language))));
        said.extend(figure.source.as_ref().map(|source| cell(source)));
        if !said.is_empty() {
            let _ = write!(text, " ({})", said.join("; "));
        }
        line(out, text);
    }
    out.push('\n');
}

fn previous(out: &mut String, report: &Report, language: Language) {
    let before = &report.previous;
    let text = match (&before.it_kwh, &before.change_percent, &before.absent) {
        (Some(kwh), Some(change), _) => format!("{} kWh, {change} %", display(kwh)),
        (_, _, Some(why)) => why.of(language).to_owned(),
        _ => "-".to_owned(),
    };
    let label = language.of("Previous period", "上一期间");
    line(out, format!("{label} ({} – {}): {text}\n", before.from, before.to));
}

fn table(out: &mut String, heading: &str, consumers: &[Consumer], language: Language) {
    if consumers.is_empty() {
        return;
    }
    let say = |english, chinese| language.of(english, chinese);
    line(
        out,
        format!("| {heading} | {} | kWh | % | {} |", say("Data center", "数据中心"), say("measured %", "实测 %")),
    );
    line(out, "| --- | --- | --- | --- | --- |".to_owned());
    for one in consumers {
        line(
            out,
            format!(
                "| {} | {} | {} | {} | {} |",
                cell(&consumer_name(one, language)),
                cell(one.site.as_deref().unwrap_or_default()),
                display(&one.kwh),
                one.percent,
                one.measured_percent.as_deref().unwrap_or_default(),
            ),
        );
    }
    out.push('\n');
}

/// Text that cannot end a table cell or begin markup of its own.
fn cell(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = matches!(c, '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#');
            escape.then_some('\\').into_iter().chain([if c.is_control() { ' ' } else { c }])
        })
        .collect()
}
