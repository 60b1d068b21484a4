//! The report as Markdown.

use std::fmt::Write;

use super::{compute::Report, words::Language};

/// The report as Markdown, in one language. The same report gives the same bytes.
pub fn markdown(report: &Report, language: Language) -> String {
    let say = |english, chinese| language.of(english, chinese);
    let mut out = String::new();
    let absent = say("not stated", "未给出");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("# {}\n", say("Energy report", "能耗报告")));
    line(format!("{}: {} – {}\n", say("Period", "期间"), report.from, report.to));
    let columns = [
        say("Data center", "数据中心"),
        say("IT kWh", "IT 能耗 kWh"),
        say("measured", "实测"),
        say("calibrated", "校准"),
        say("estimated", "估算"),
        say("idle", "空闲"),
        say("facility kWh", "设施总能耗 kWh"),
        say("Scope 2 kgCO2 (location-based)", "范围二 kgCO2（基于位置）"),
    ];
    line(format!("| {} |", columns.join(" | ")));
    line(format!("|{}", " --- |".repeat(columns.len())));
    for dc in &report.data_centers {
        let figures = &dc.figures;
        line(format!(
            "| {} | {} | {} % | {} % | {} % | {} | {} | {} |",
            cell(&dc.name),
            figures.it_kwh,
            figures.measured.percent,
            figures.calibrated.percent,
            figures.estimated.percent,
            figures.idle.as_ref().map_or(absent.to_owned(), |idle| format!("{} %", idle.percent)),
            dc.facility.as_ref().map_or(absent, |facility| &facility.kwh),
            dc.scope2.as_ref().map_or(absent, |scope2| &scope2.kg_co2),
        ));
    }
    let total = &report.total;
    line(format!(
        "| **{}** | **{}** | {} % | {} % | {} % | {} | {} | {} |\n",
        say("Total", "合计"),
        total.it_kwh,
        total.measured.percent,
        total.calibrated.percent,
        total.estimated.percent,
        total.idle.as_ref().map_or(absent.to_owned(), |idle| format!("{} %", idle.percent)),
        report.total_facility_kwh.as_deref().unwrap_or(absent),
        report.total_scope2_kg_co2.as_deref().unwrap_or(absent),
    ));
    for dc in &report.data_centers {
        let mut facts = String::new();
        if let Some(facility) = &dc.facility {
            let _ = writeln!(
                facts,
                "- PUE {} ({} {}, {})",
                facility.pue,
                say("declared on", "申报日期"),
                facility.declared_on,
                cell(&facility.declared_by)
            );
        }
        if let Some(scope2) = &dc.scope2 {
            let _ = writeln!(
                facts,
                "- {} {} kgCO2/kWh, {}, {} ({}; {})",
                say("Emission factor", "排放因子"),
                scope2.factor,
                scope2.region,
                scope2.year,
                scope2.basis,
                scope2.source
            );
        }
        for note in &dc.notes {
            let _ = writeln!(facts, "- {}", note.says(language));
        }
        line(format!("## {}\n\n{facts}", cell(&dc.name)));
    }
    out
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
