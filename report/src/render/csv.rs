//! The report as CSV (RFC 4180): one figure a line, each with unit, year, basis, source or the reason of its absence.

use super::consumer_name;
use crate::{
    model::{Consumer, Energy, Figure, Report},
    text::Language,
};

struct Csv {
    out: String,
    language: Language,
}

/// The report as CSV with a line of headings, in one language. The same report gives the same bytes.
pub fn csv(report: &Report, language: Language) -> String {
    let mut csv = Csv { out: String::with_capacity(16 << 10), language };
    csv.line(&["section", "where", "id", "label", "value", "unit", "year", "basis", "source", "absent"]);
    let period = format!("{} / {}", report.from, report.to);
    csv.plain("report", "", "period", &period, report.time_zone.as_str());
    csv.plain("report", "", "scope", &report.scope, "");
    csv.energy("total", "", &report.total);
    report.summary.iter().for_each(|figure| csv.figure("total", "", figure));
    let previous = &report.previous;
    csv.plain("previous", "", "it_energy", previous.it_kwh.as_deref().unwrap_or_default(), "kWh");
    csv.plain("previous", "", "change", previous.change_percent.as_deref().unwrap_or_default(), "%");
    for dc in &report.data_centers {
        csv.energy("data_center", &dc.name, &dc.energy);
        for section in &dc.sections {
            section.figures.iter().for_each(|figure| csv.figure(section.id, &dc.name, figure));
        }
        for point in &dc.pue_over_time {
            csv.plain("pue_over_time", &dc.name, &format!("{}/{}", point.from, point.to), &point.pue, "");
        }
    }
    if let Some(sci) = &report.sci {
        sci.figures.iter().for_each(|figure| csv.figure("sci", "", figure));
    }
    for day in &report.days {
        csv.plain("day", &day.date, "measured", &day.measured_kwh, "kWh");
        csv.plain("day", &day.date, "calibrated", &day.calibrated_kwh, "kWh");
        csv.plain("day", &day.date, "estimated", &day.estimated_kwh, "kWh");
    }
    csv.consumers("split", &report.consumers.split);
    csv.consumers("namespace", &report.consumers.namespaces);
    csv.consumers("workload", &report.consumers.workloads);
    csv.consumers("node", &report.consumers.nodes);
    for advice in &report.recommendations {
        let kwh = advice.expected_kwh.as_deref().unwrap_or_default();
        let texts = (advice.title.of(language), advice.method.of(language));
        csv.line(&["recommendation", &advice.site, advice.id, texts.0, kwh, "kWh", "", texts.1, "", ""]);
    }
    for source in &report.sources {
        let texts = (source.what.of(language), source.basis.of(language));
        csv.line(&["source", "", "", texts.0, &source.value, "", &source.year, texts.1, &source.source, ""]);
    }
    csv.out
}

impl Csv {
    fn line(&mut self, cells: &[&str]) {
        for (index, text) in cells.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            // A name that a spreadsheet would take for a formula is text; numbers stay numbers.
            let formula =
                text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err() && *text != "-";
            let text = if formula { format!("'{text}") } else { (*text).to_owned() };
            if text.contains([',', '"', '\n', '\r']) {
                self.out.push('"');
                self.out.push_str(&text.replace('"', "\"\""));
                self.out.push('"');
            } else {
                self.out.push_str(&text);
            }
        }
        self.out.push_str("\r\n");
    }

    fn plain(&mut self, section: &str, place: &str, id: &str, value: &str, unit: &str) {
        self.line(&[section, place, id, "", value, unit, "", "", "", ""]);
    }

    fn figure(&mut self, section: &str, place: &str, figure: &Figure) {
        let of = |text: &Option<crate::text::Text>| text.as_ref().map_or("", |t| t.of(self.language)).to_owned();
        let (basis, absent) = (of(&figure.basis), of(&figure.absent));
        self.line(&[
            section,
            place,
            figure.id,
            figure.label.of(self.language),
            figure.value.as_deref().unwrap_or_default(),
            figure.unit,
            figure.year.as_deref().unwrap_or_default(),
            &basis,
            figure.source.as_deref().unwrap_or_default(),
            &absent,
        ]);
    }

    fn energy(&mut self, section: &str, place: &str, energy: &Energy) {
        self.plain(section, place, "it_energy", &energy.it_kwh, "kWh");
        self.plain(section, place, "it_energy_least", &energy.interval_kwh[0], "kWh");
        self.plain(section, place, "it_energy_most", &energy.interval_kwh[1], "kWh");
        for (id, share) in [
            ("measured", Some(&energy.measured)),
            ("calibrated", Some(&energy.calibrated)),
            ("estimated", Some(&energy.estimated)),
            ("idle", energy.idle.as_ref()),
        ] {
            if let Some(share) = share {
                self.plain(section, place, id, &share.kwh, "kWh");
                self.plain(section, place, &format!("{id}_share"), &share.percent, "%");
            }
        }
    }

    fn consumers(&mut self, section: &str, consumers: &[Consumer]) {
        for one in consumers {
            let name = consumer_name(one, self.language);
            let site = one.site.as_deref().unwrap_or_default();
            self.line(&[section, site, "energy", &name, &one.kwh, "kWh", "", "", "", ""]);
            self.line(&[section, site, "share", &name, &one.percent, "%", "", "", "", ""]);
        }
    }
}
