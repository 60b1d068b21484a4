//! The report as one HTML page: fit for print on A4, no script, no request to anywhere, charts as SVG.

use std::fmt::Write;

use super::{charts, consumer_name, period, standard_name, value, word};
use crate::{
    decimal::display,
    json,
    model::{Consumer, DataCenter, Energy, Figure, Report},
    sha256,
    standards::Standards,
    text::{Language, Text},
};

/// A whole HTML document around `body`, with styles of its own. Nothing else of it is loaded from anywhere.
pub fn document(language_tag: &str, title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"{language_tag}\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{}</title><style>{style}</style></head>\n\
         <body>\n{body}</body>\n</html>\n",
        escape(title)
    )
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
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

/// The report as a self-contained, print-ready HTML page, in one language. The same report gives the same bytes.
pub fn html(report: &Report, language: Language) -> String {
    let page = Page { report, language, standards: Standards::shipped() };
    let mut out = String::with_capacity(64 << 10);
    page.head(&mut out);
    page.cards(&mut out);
    page.energy(&mut out);
    page.charts(&mut out);
    for dc in &report.data_centers {
        page.data_center(&mut out, dc);
    }
    if let Some(sci) = &report.sci {
        let _ = writeln!(out, "<h2>{}</h2>", page.of(&sci.title));
        page.figures(&mut out, &sci.figures);
    }
    page.consumers(&mut out);
    page.recommendations(&mut out);
    page.sources(&mut out);
    page.foot(&mut out);
    document(language.tag(), page.title(), include_str!("report.css"), &out)
}

struct Page<'a> {
    report: &'a Report,
    language: Language,
    standards: Standards,
}

impl Page<'_> {
    fn say<'b>(&self, english: &'b str, chinese: &'b str) -> &'b str {
        self.language.of(english, chinese)
    }

    fn of(&self, text: &Text) -> String {
        escape(text.of(self.language))
    }

    fn title(&self) -> &'static str {
        self.language.of("Energy report", "能耗报告")
    }

    fn head(&self, out: &mut String) {
        let report = self.report;
        let _ = write!(
            out,
            "<header><div><div class=\"brand\">Evergreen 常青</div><h1>{}</h1></div><dl class=\"meta\">",
            self.title()
        );
        let zone = period(report);
        for (name, value) in [
            (self.say("Period", "期间"), zone.as_str()),
            (self.say("Scope", "范围"), report.scope.as_str()),
            (self.say("Standards", "标准"), standard_name(report.standard, self.language)),
        ] {
            let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escape(value));
        }
        out.push_str("</dl></header>\n");
    }

    fn cards(&self, out: &mut String) {
        let total = &self.report.total;
        out.push_str("<dl class=\"cards\">");
        let mut card = |name: &str, value: Option<String>, unit: &str, says: &str| {
            let class = if value.is_some() { "" } else { " class=\"none\"" };
            let value = value.unwrap_or_else(|| self.say("not stated", "未给出").to_owned());
            let unit =
                if class.is_empty() && !unit.is_empty() { format!(" <small>{unit}</small>") } else { String::new() };
            let _ = write!(
                out,
                "<div{class}><dt>{}</dt><dd>{}{unit}</dd><p>{}</p></div>",
                escape(name),
                escape(&value),
                escape(says)
            );
        };
        let interval = format!(
            "{} {} – {}",
            self.say("interval", "区间"),
            display(&total.interval_kwh[0]),
            display(&total.interval_kwh[1])
        );
        card(self.say("IT energy", "IT 设备能耗"), Some(display(&total.it_kwh)), "kWh", &interval);
        let shares = format!(
            "{} {} %, {} {} %",
            self.say("calibrated", "校准"),
            total.calibrated.percent,
            self.say("estimated", "估算"),
            total.estimated.percent
        );
        card(self.say("Measured share", "实测占比"), Some(total.measured.percent.clone()), "%", &shares);
        let before = &self.report.previous;
        let says = match (&before.it_kwh, &before.absent) {
            (Some(kwh), _) => format!("{} kWh", display(kwh)),
            (None, Some(why)) => why.of(self.language).to_owned(),
            (None, None) => String::new(),
        };
        card(self.say("Against the previous period", "与上一期间相比"), before.change_percent.clone(), "%", &says);
        let idle = total.idle.as_ref();
        let says = idle.map_or_else(
            || self.say("the ledger does not tell", "账本未记录").to_owned(),
            |i| format!("{} kWh", display(&i.kwh)),
        );
        card(self.say("Idle share", "空闲占比"), idle.map(|idle| idle.percent.clone()), "%", &says);
        for figure in &self.report.summary {
            let says = figure.absent.as_ref().or(figure.basis.as_ref()).map_or("", |text| text.of(self.language));
            let value = figure.value.as_ref().map(|value| display(value));
            card(figure.label.of(self.language), value, figure.unit, says);
        }
        out.push_str("</dl>\n");
    }

    fn energy(&self, out: &mut String) {
        let _ = write!(
            out,
            "<h2>{}</h2><div class=\"scroll\"><table><thead><tr><th>{}</th>",
            self.say("IT energy and where it comes from", "IT 能耗及其来源"),
            self.say("Data center", "数据中心")
        );
        for column in [
            "kWh",
            self.say("interval kWh", "区间 kWh"),
            self.say("measured", "实测"),
            self.say("calibrated", "校准"),
            self.say("estimated", "估算"),
            self.say("idle", "空闲"),
        ] {
            let _ = write!(out, "<th class=\"n\">{column}</th>");
        }
        out.push_str("</tr></thead><tbody>");
        for dc in &self.report.data_centers {
            self.energy_row(out, "", &escape(&dc.name), &dc.energy);
        }
        self.energy_row(out, " class=\"sum\"", self.say("Total", "合计"), &self.report.total);
        out.push_str("</tbody></table></div>\n");
    }

    fn energy_row(&self, out: &mut String, class: &str, name: &str, energy: &Energy) {
        let idle =
            energy.idle.as_ref().map_or(self.say("not stated", "未给出").to_owned(), |i| format!("{} %", i.percent));
        let _ = write!(
            out,
            "<tr{class}><td>{name}</td><td class=\"n\">{}</td><td class=\"n\">{} – {}</td><td class=\"n\">{} %</td>\
             <td class=\"n\">{} %</td><td class=\"n\">{} %</td><td class=\"n\">{idle}</td></tr>",
            display(&energy.it_kwh),
            display(&energy.interval_kwh[0]),
            display(&energy.interval_kwh[1]),
            energy.measured.percent,
            energy.calibrated.percent,
            energy.estimated.percent,
        );
    }

    fn charts(&self, out: &mut String) {
        let _ = write!(out, "<h2>{}</h2><figure>", self.say("Energy by day", "每日能耗"));
        charts::days(out, self.report, self.language);
        let _ = writeln!(
            out,
            "<figcaption><span class=\"key\"><i style=\"background:#1f7a4d\"></i>{}</span>\
             <span class=\"key\"><i style=\"background:#2f6fb0\"></i>{}</span>\
             <span class=\"key\"><i class=\"e\"></i>{}</span></figcaption></figure>",
            self.say("measured", "实测"),
            self.say("calibrated", "校准"),
            self.say("estimated", "估算")
        );
        let names = &self.report.namespace_days.names;
        if !names.is_empty() {
            let _ = write!(out, "<h3>{}</h3><figure>", self.say("Pods by namespace", "按命名空间的 Pod 能耗"));
            charts::namespaces(out, self.report, self.language);
            out.push_str("<figcaption>");
            for (name, fill) in names.iter().zip(charts::fills(names)) {
                let name = if name.is_empty() { self.say("all others", "其他") } else { name };
                let _ = write!(out, "<span class=\"key\"><i style=\"background:{fill}\"></i>{}</span>", escape(name));
            }
            out.push_str("</figcaption></figure>\n");
        }
    }

    fn data_center(&self, out: &mut String, dc: &DataCenter) {
        let _ = writeln!(out, "<h2>{}</h2>", escape(&dc.name));
        if !dc.pue_over_time.is_empty() {
            out.push_str("<figure>");
            charts::pue(out, dc, &self.standards.gb40879.grades, self.language);
            let _ = writeln!(out, "<figcaption>{}</figcaption></figure>", self.say("PUE over time", "PUE 变化"));
        }
        for section in &dc.sections {
            let _ = writeln!(out, "<h3>{}</h3>", self.of(&section.title));
            self.figures(out, &section.figures);
        }
        let mut notes: Vec<String> = Vec::new();
        if let (Some(first), Some(last)) = (&dc.first_sample, &dc.last_sample) {
            notes.push(format!("{} {} – {}", self.say("Samples:", "采样："), escape(first), escape(last)));
        }
        notes.extend(dc.notes.iter().map(|note| self.of(note)));
        self.list(out, &notes);
    }

    fn list(&self, out: &mut String, notes: &[String]) {
        if notes.is_empty() {
            return;
        }
        out.push_str("<ul class=\"notes\">");
        for note in notes {
            let warn = note.starts_with("Warning") || note.starts_with("警告");
            let class = if warn { " class=\"warn\"" } else { "" };
            let _ = write!(out, "<li{class}>{note}</li>");
        }
        out.push_str("</ul>\n");
    }

    fn figures(&self, out: &mut String, figures: &[Figure]) {
        let _ = write!(
            out,
            "<div class=\"scroll\"><table class=\"figures\"><thead><tr><th>{}</th><th class=\"n\">{}</th><th>{}</th><th>{}</th>\
             <th>{}</th></tr></thead><tbody>",
            self.say("Figure", "指标"),
            self.say("Value", "数值"),
            self.say("Unit", "单位"),
            self.say("Year", "年份"),
            self.say("Basis and source", "依据与来源")
        );
        for figure in figures {
            let class = if figure.value.is_some() { "v" } else { "none" };
            let mut says: Vec<String> = Vec::new();
            says.extend(figure.absent.as_ref().map(|text| self.of(text)));
            says.extend(figure.basis.as_ref().map(|text| self.of(text)));
            says.extend(figure.source.as_ref().map(|source| escape(source)));
            let is_word = figure.value.as_deref().is_some_and(|value| word(value, self.language).is_some());
            let unit = if figure.value.is_some() && !is_word { figure.unit } else { "" };
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=\"{class}\">{}</td><td>{unit}</td><td>{}</td><td class=\"s\">{}</td></tr>",
                self.of(&figure.label),
                escape(&value(figure, self.language)),
                escape(figure.year.as_deref().unwrap_or_default()),
                says.join("<br>")
            );
        }
        out.push_str("</tbody></table></div>\n");
    }

    fn consumers(&self, out: &mut String) {
        let consumers = &self.report.consumers;
        if consumers.split.is_empty() && consumers.namespaces.is_empty() && consumers.nodes.is_empty() {
            return;
        }
        let _ = write!(out, "<h2>{}</h2><div class=\"two\">", self.say("Where the energy went", "能耗去向"));
        self.table(out, self.say("Pods, system, idle", "Pod、系统、空闲"), &consumers.split);
        self.table(out, self.say("Top namespaces", "命名空间排名"), &consumers.namespaces);
        self.table(out, self.say("Top workloads", "工作负载排名"), &consumers.workloads);
        self.table(out, self.say("Top nodes", "节点排名"), &consumers.nodes);
        out.push_str("</div>\n");
    }

    fn table(&self, out: &mut String, caption: &str, consumers: &[Consumer]) {
        if consumers.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "<div><table><caption>{caption}</caption><thead><tr><th>{}</th><th class=\"n\">kWh</th><th class=\"n\">%</th>\
             <th class=\"n\">{}</th></tr></thead><tbody>",
            self.say("Name", "名称"),
            self.say("measured %", "实测 %")
        );
        for one in consumers {
            let site = one.site.as_ref().map(|site| format!(" <small>{}</small>", escape(site))).unwrap_or_default();
            let _ = write!(
                out,
                "<tr><td>{}{site}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&consumer_name(one, self.language)),
                display(&one.kwh),
                one.percent,
                one.measured_percent.as_deref().unwrap_or_default()
            );
        }
        out.push_str("</tbody></table></div>");
    }

    fn recommendations(&self, out: &mut String) {
        if self.report.recommendations.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "<h2>{}</h2><table><thead><tr><th>{}</th><th>{}</th><th class=\"n\">{}</th><th>{}</th></tr></thead><tbody>",
            self.say("Recommendations (estimates)", "节能建议（估算）"),
            self.say("Data center", "数据中心"),
            self.say("What", "措施"),
            self.say("expected kWh in the period", "本期间预期节能 kWh"),
            self.say("Method", "方法")
        );
        for advice in &self.report.recommendations {
            let about = if advice.about.is_empty() {
                String::new()
            } else {
                format!("<br><small>{}</small>", escape(&advice.about.join(", ")))
            };
            let _ = write!(
                out,
                "<tr><td>{}</td><td>{}{about}</td><td class=\"v\">{}</td><td class=\"s\">{}</td></tr>",
                escape(&advice.site),
                self.of(&advice.title),
                advice.expected_kwh.as_ref().map_or_else(|| "–".to_owned(), |kwh| display(kwh)),
                self.of(&advice.method)
            );
        }
        out.push_str("</tbody></table>\n");
    }

    fn sources(&self, out: &mut String) {
        let _ = write!(
            out,
            "<h2>{}</h2><div class=\"scroll\"><table><thead><tr><th>{}</th><th class=\"n\">{}</th><th>{}</th><th>{}</th><th>{}</th></tr></thead><tbody>",
            self.say("Factors and facts used", "采用的因子与数据"),
            self.say("What", "项目"),
            self.say("Value", "数值"),
            self.say("Year", "年份"),
            self.say("Basis", "依据"),
            self.say("Source", "来源")
        );
        for source in &self.report.sources {
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"s\">{}</td><td class=\"s\">{}</td></tr>",
                self.of(&source.what),
                escape(&source.value),
                escape(&source.year),
                self.of(&source.basis),
                escape(&source.source)
            );
        }
        out.push_str("</tbody></table></div>\n");
        let notes: Vec<String> = self.report.notes.iter().map(|note| self.of(note)).collect();
        self.list(out, &notes);
    }

    fn foot(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "<div class=\"sign\"><div>{}</div><div>{}</div><div>{}</div></div><footer>{} {}<br>{}</footer>",
            self.say("Prepared by", "编制"),
            self.say("Reviewed by", "复核"),
            self.say("Date", "日期"),
            self.say("SHA-256 of the JSON form of this report:", "本报告 JSON 形式的 SHA-256："),
            sha256(&json(self.report)),
            self.say(
                "Figures on this page are shown shortened; the JSON and CSV forms hold every digit.",
                "本页数值为简写显示；JSON 与 CSV 形式保留全部位数。"
            )
        );
    }
}
