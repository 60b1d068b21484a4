//! Energy reports: what data centers used over a period, where each figure comes from, and how it looks.
//!
//! A ledger and declared facts in, a report out, as values: no clock, no network, no Kubernetes here but for [`source`],
//! so that the same ledger gives the same bytes in every form. Facts that nobody declared are never guessed: the figure
//! is absent, with the reason. An unknown region, overlapping factors, an impossible PUE and meters that conflict are
//! errors. Controller, plane and command line share this; none of them computes on its own.

mod advice;
mod compute;
mod days;
mod decimal;
mod drill;
mod factors;
mod ledger;
mod make;
mod model;
pub mod render;
pub mod schedule;
mod sections;
mod site;
pub mod source;
mod standards;
mod text;

pub use compute::{Before, Request, compute, in_scope};
pub use days::{Days, PeriodError};
pub use drill::{DrillField, DrillReport, drill_html, drill_report};
pub use factors::{Factor, FactorError, Factors};
pub use ledger::{Kind, Ledger, LedgerPage, Parts, Row, workload};
pub use make::{MakeError, Wanted, make, with_data_centers};
pub use model::*;
use sha2::{Digest, Sha256};
pub use standards::Standards;
pub use text::{Language, Text};

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Nothing was recorded in the period.
    #[error("no energy was recorded from {from} to {to} for {scope}; nothing is reported rather than zero")]
    NoData {
        /// Start of the period.
        from: String,
        /// End of the period.
        to: String,
        /// What was asked for.
        scope: String,
    },
    /// A PUE is impossible.
    #[error(
        "data center {site}: a PUE of {value} is impossible ({why}); facility energy includes IT energy, so it is at least 1"
    )]
    ImpossiblePue {
        /// Data center.
        site: String,
        /// The value.
        value: String,
        /// Where it comes from.
        why: String,
    },
    /// Two meters of the same feed do not agree.
    #[error(
        "data center {site}: two meters conflict from {from} to {to}: the facility meter says {metered_kwh} kWh, the reading by {by} says {read_kwh} kWh; correct the reading or leave one of the two out"
    )]
    MetersConflict {
        /// Data center.
        site: Box<str>,
        /// First day.
        from: Box<str>,
        /// The day after the last.
        to: Box<str>,
        /// What the meter says.
        metered_kwh: Box<str>,
        /// What the reading says.
        read_kwh: Box<str>,
        /// Who read.
        by: Box<str>,
    },
    /// An emission factor is missing.
    #[error(transparent)]
    Factor(#[from] FactorError),
}

impl ReportError {
    /// A word for conditions and programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoData { .. } => "NoData",
            Self::ImpossiblePue { .. } => "ImpossiblePue",
            Self::MetersConflict { .. } => "MetersConflict",
            Self::Factor(_) => "UnknownGridRegion",
        }
    }
}

/// Reads facts from YAML and checks them.
///
/// # Errors
/// A sentence that names the place and what is wrong there.
pub fn facts(yaml: &str) -> Result<evergreen_api::resources::EnergyFacts, String> {
    let facts: evergreen_api::resources::EnergyFacts = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
    let errors = facts.errors("facts");
    if errors.is_empty() { Ok(facts) } else { Err(evergreen_api::validate::summary(&errors)) }
}

/// The report as JSON: fixed order of fields, two spaces, a line feed at the end. The same report gives the same bytes;
/// this is the form that is hashed and signed.
pub fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report is plain data");
    text.push('\n');
    text
}

/// SHA-256 of a rendered report, hex.
pub fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
