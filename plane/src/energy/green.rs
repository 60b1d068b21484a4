//! The green data center view: per data center PUE over time, REF, WUE, CUE and the grade by GB 40879, made by the same
//! computation as the reports. One data center's impossible meter does not hide the others.

use std::{io::Read, path::Path};

use evergreen_api::resources::{EnergyFacts, ReportScope, ReportStandard};
use evergreen_report::{Before, DataCenter, Factors, Ledger, ReportError, Request, Standards, Text, compute};
use jiff::Timestamp;
use serde::Serialize;

/// Longest file of facts.
const MOST_BYTES: u64 = 1 << 20;

/// The view.
#[derive(Debug, Serialize)]
pub struct Green {
    /// RFC 3339.
    pub from: String,
    /// RFC 3339, not included.
    pub to: String,
    /// Time zone of the days.
    pub time_zone: String,
    /// Whether a file of facts was given.
    pub facts: bool,
    /// Data centers, by name.
    pub sites: Vec<Site>,
}

/// One data center: its figures, or why there are none.
#[derive(Debug, Serialize)]
pub struct Site {
    /// Name.
    pub name: String,
    /// Figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<DataCenter>,
    /// Why there are none: code and words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<(&'static str, String)>,
}

/// Reads facts from a YAML file.
///
/// # Errors
/// A sentence with the place.
pub fn read_facts(path: &Path) -> Result<EnergyFacts, String> {
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| format!("{}: {error}", path.display()))?;
    evergreen_report::facts(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The view of a ledger.
pub fn view(ledger: &Ledger, facts: &EnergyFacts, given: bool) -> Green {
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or_default();
    let (from, to) = (time(ledger.days.from_ms()), time(ledger.days.to_ms()));
    let mut names: Vec<String> = ledger.nodes.keys().map(|(site, _)| site.clone()).collect();
    names.extend(ledger.meters.keys().cloned());
    names.extend(facts.sites.iter().map(|site| site.data_center.clone()));
    names.sort();
    names.dedup();
    let before = Before { from, to, energy: Err(Text::default()) };
    let (factors, standards) = (Factors::shipped(), Standards::shipped());
    let sites = names
        .into_iter()
        .map(|name| {
            let scope = ReportScope::DataCenters(vec![name.clone()]);
            let request = Request { scope, standard: ReportStandard::Cn };
            match compute(&request, ledger, &before, facts, &factors, &standards) {
                Ok(report) => Site { name, figures: report.data_centers.into_iter().next(), error: None },
                Err(error) => Site { name, figures: None, error: Some(said(&error)) },
            }
        })
        .collect();
    Green { from: from.to_string(), to: to.to_string(), time_zone: ledger.days.zone().to_owned(), facts: given, sites }
}

fn said(error: &ReportError) -> (&'static str, String) {
    (error.reason(), error.to_string())
}
