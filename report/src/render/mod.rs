//! The forms of a report: HTML page, print-ready page, Markdown, CSV. JSON is [`crate::json`]. They write down what the
//! report says and compute nothing; the same report gives the same bytes.

mod charts;
mod csv;
mod html;
mod markdown;

pub use csv::csv;
pub use html::{document, escape, html};
pub use markdown::markdown;

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    decimal::display,
    model::{Consumer, Figure, Report},
    text::Language,
};

/// The period in its own time zone, as people read it.
fn period(report: &Report) -> String {
    let local = |text: &str| {
        let zone = TimeZone::get(&report.time_zone).ok()?;
        let time = text.parse::<Timestamp>().ok()?.to_zoned(zone);
        Some(time.strftime("%Y-%m-%d %H:%M:%S").to_string())
    };
    let (from, to) = (local(&report.from), local(&report.to));
    let (from, to) = (from.unwrap_or_else(|| report.from.clone()), to.unwrap_or_else(|| report.to.clone()));
    format!("{from} – {to} ({})", report.time_zone)
}

/// Value of a figure for people, or why there is none.
fn value(figure: &Figure, language: Language) -> String {
    match &figure.value {
        Some(value) => word(value, language).map_or_else(|| display(value), str::to_owned),
        None => language.of("not stated", "未给出").to_owned(),
    }
}

/// Words that figures have for values.
fn word(value: &str, language: Language) -> Option<&'static str> {
    let (en, zh) = match value {
        "yes" => ("yes", "是"),
        "no" => ("no", "否"),
        "by reference" => ("by reference", "参照执行"),
        "met" => ("met", "达到"),
        "not met" => ("not met", "未达到"),
        "not known" => ("not known", "无法判定"),
        "-" => ("beyond grade 3", "未达 3 级（限定值）"),
        _ => return None,
    };
    Some(language.of(en, zh))
}

/// Name of a consumer for people.
fn consumer_name(consumer: &Consumer, language: Language) -> String {
    match (consumer.name.as_str(), &consumer.site, consumer.measured_percent.is_none()) {
        ("pods", None, true) => language.of("Pods", "Pod").to_owned(),
        ("system", None, true) => language.of("System (outside of pods)", "系统（Pod 之外）").to_owned(),
        ("idle", None, true) => language.of("Idle", "空闲").to_owned(),
        (name, ..) => name.to_owned(),
    }
}

fn standard_name(standard: &str, language: Language) -> &'static str {
    match standard {
        "cn" => language.of("China", "中国"),
        "eu" => language.of("European Union", "欧盟"),
        "sci" => language.of("Software carbon intensity", "软件碳强度"),
        _ => language.of("China, European Union, software carbon intensity", "中国、欧盟、软件碳强度"),
    }
}
