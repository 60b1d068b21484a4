//! The report as one HTML page: print-ready, no request to anywhere, bars as SVG.

use std::fmt::Write;

use super::{
    compute::{DataCenterEnergy, Figures, Report},
    words::Language,
};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b2420;--soft:#5b6a63;--line:#d5ddd9;--paper:#fff;--measured:#1f7a4d;--calibrated:#2f6fb0;--estimated:#c9a227}\
@media(prefers-color-scheme:dark){:root{--ink:#e7efea;--soft:#9db0a6;--line:#34423b;--paper:#141a17}}\
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI','PingFang SC','Microsoft YaHei',sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1.2rem}\
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .4rem}.soft{color:var(--soft)}\
.figure{font-size:2rem;font-variant-numeric:tabular-nums}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{border-bottom:1px solid var(--line);padding:.35rem .5rem;text-align:right}th:first-child,td:first-child{text-align:left}th{font-weight:600}\
.scroll{overflow-x:auto}svg{display:block;width:100%;height:auto}.m{fill:var(--measured)}.c{fill:var(--calibrated)}.e{fill:var(--estimated)}\
.key span{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em;vertical-align:-.05em}ul{padding-left:1.2rem}\
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff}body{margin:0;max-width:none}h2{break-after:avoid}table,svg{break-inside:avoid}}";

/// The report as a self-contained HTML page, in one language. The same report gives the same bytes.
pub fn html(report: &Report, language: Language) -> String {
    let say = |english, chinese| language.of(english, chinese);
    let title = say("Energy report", "能耗报告");
    let mut out = String::with_capacity(16 * 1024);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"{}\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n<p class=\"soft\">{} – {}</p>\n\
         <p><span class=\"figure\">{} kWh</span> {}</p>\n",
        language.tag(),
        escape(&report.from),
        escape(&report.to),
        report.total.it_kwh,
        say("used by IT equipment", "IT 设备用能"),
    );
    key(&mut out, language);
    bars(&mut out, report, language);
    table(&mut out, report, language);
    for dc in &report.data_centers {
        details(&mut out, dc, language);
    }
    let _ = write!(
        out,
        "<p class=\"soft\">{}</p>\n</body>\n</html>\n",
        say(
            "Figures are sums of whole microjoules; each was rounded once, when printed. Measured: by a sensor. \
             Calibrated: by a model that a sensor calibrated. Estimated: by a model alone.",
            "所有数值均为整微焦之和，仅在输出时取整一次。实测：来自传感器；校准：由传感器校准的模型；估算：仅由模型得出。",
        )
    );
    out
}

fn key(out: &mut String, language: Language) {
    out.push_str("<p class=\"key soft\">");
    for (variable, english, chinese) in
        [("measured", "measured", "实测"), ("calibrated", "calibrated", "校准"), ("estimated", "estimated", "估算")]
    {
        let _ = write!(out, "<span style=\"background:var(--{variable})\"></span>{}", language.of(english, chinese));
    }
    out.push_str("</p>\n");
}

/// One bar a data center, as long as its energy, split by provenance. Coordinates are whole numbers.
fn bars(out: &mut String, report: &Report, language: Language) {
    const WIDTH: u128 = 900;
    const LABEL: u128 = 140;
    const ROW: usize = 34;
    let most = report.data_centers.iter().map(|dc| dc.figures.it_microjoules).max().unwrap_or(0).max(1);
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
        ROW * report.data_centers.len(),
        language.of("IT energy of each data center", "各数据中心 IT 能耗")
    );
    for (index, dc) in report.data_centers.iter().enumerate() {
        let y = index * ROW;
        let _ = write!(
            out,
            "<text x=\"0\" y=\"{}\" fill=\"currentColor\" font-size=\"15\">{}</text>",
            y + 21,
            escape(&dc.name)
        );
        let full = dc.figures.it_microjoules * (WIDTH - LABEL) / most;
        let mut x = LABEL;
        for (class, share) in [("m", &dc.figures.measured), ("c", &dc.figures.calibrated), ("e", &dc.figures.estimated)]
        {
            let tenths: u128 = share.percent.replace('.', "").parse().unwrap_or(0);
            let width = full * tenths / 1000;
            if width > 0 {
                let _ = write!(
                    out,
                    "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"20\"><title>{} kWh</title></rect>",
                    y + 6,
                    share.kwh
                );
                x += width;
            }
        }
        out.push('\n');
    }
    out.push_str("</svg>\n");
}

fn table(out: &mut String, report: &Report, language: Language) {
    let say = |english, chinese| language.of(english, chinese);
    out.push_str("<div class=\"scroll\"><table>\n<tr>");
    for column in [
        say("Data center", "数据中心"),
        say("IT kWh", "IT 能耗 kWh"),
        say("measured", "实测"),
        say("calibrated", "校准"),
        say("estimated", "估算"),
        say("idle", "空闲"),
        say("facility kWh", "设施总能耗 kWh"),
        say("Scope 2 kgCO2", "范围二 kgCO2"),
    ] {
        let _ = write!(out, "<th>{column}</th>");
    }
    out.push_str("</tr>\n");
    for dc in &report.data_centers {
        let facility = dc.facility.as_ref().map(|facility| facility.kwh.as_str());
        let scope2 = dc.scope2.as_ref().map(|scope2| scope2.kg_co2.as_str());
        row(out, &dc.name, &dc.figures, facility, scope2, language);
    }
    let (facility, scope2) = (report.total_facility_kwh.as_deref(), report.total_scope2_kg_co2.as_deref());
    row(out, say("Total", "合计"), &report.total, facility, scope2, language);
    out.push_str("</table></div>\n");
}

fn row(
    out: &mut String,
    name: &str,
    figures: &Figures,
    facility: Option<&str>,
    scope2: Option<&str>,
    language: Language,
) {
    let absent = language.of("not stated", "未给出");
    let _ = writeln!(
        out,
        "<tr><td>{}</td><td>{}</td><td>{} %</td><td>{} %</td><td>{} %</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        escape(name),
        figures.it_kwh,
        figures.measured.percent,
        figures.calibrated.percent,
        figures.estimated.percent,
        figures.idle.as_ref().map_or(absent.to_owned(), |idle| format!("{} %", idle.percent)),
        facility.unwrap_or(absent),
        scope2.unwrap_or(absent),
    );
}

fn details(out: &mut String, dc: &DataCenterEnergy, language: Language) {
    let say = |english, chinese| language.of(english, chinese);
    let _ = writeln!(out, "<h2>{}</h2>\n<ul>", escape(&dc.name));
    if let Some(facility) = &dc.facility {
        let _ = writeln!(
            out,
            "<li>PUE {} · {} {} · {}</li>",
            facility.pue,
            say("declared on", "申报日期"),
            escape(&facility.declared_on),
            escape(&facility.declared_by)
        );
    }
    if let Some(scope2) = &dc.scope2 {
        let _ = writeln!(
            out,
            "<li>{} {} kgCO2/kWh · {} · {} · {} · {}</li>",
            say("Emission factor (location-based)", "排放因子（基于位置）"),
            scope2.factor,
            escape(&scope2.region),
            scope2.year,
            escape(&scope2.basis),
            escape(&scope2.source)
        );
    }
    if let (Some(first), Some(last)) = (&dc.first_sample, &dc.last_sample) {
        let _ = writeln!(out, "<li>{} {} – {}</li>", say("Samples", "采样"), escape(first), escape(last));
    }
    for note in &dc.notes {
        let _ = writeln!(out, "<li>{}</li>", escape(&note.says(language)));
    }
    out.push_str("</ul>\n");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    fn report(name: &str) -> Report {
        let row = EnergyRow { key: name.to_owned(), microjoules: 9, measured_microjoules: 9, ..EnergyRow::default() };
        let rows =
            EnergyRows { from: "2026-01-01T00:00:00Z".into(), to: "2026-01-02T00:00:00Z".into(), rows: vec![row] };
        compute(&rows, &[], &[], &Factors::shipped()).unwrap()
    }

    #[test]
    fn the_page_asks_nobody_for_anything_and_says_what_is_absent() {
        for language in [Language::English, Language::Chinese] {
            let page = html(&report("dc-a"), language);
            assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"), "{page}");
            assert!(page.contains(language.of("No PUE is declared", "未申报 PUE")));
        }
    }

    #[test]
    fn names_cannot_carry_markup_into_the_page() {
        let page = html(&report("<img src=x onerror=alert(1)>"), Language::English);
        assert!(!page.contains("<img") && page.contains("&lt;img"));
        assert!(!markdown(&report("<img>|"), Language::English).contains("<img>|"));
    }
}
