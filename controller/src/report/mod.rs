//! The energy report: what data centers used over a period, and where each figure comes from.
//!
//! Rows of the plane in, a report out, as values: no clock, no network, no Kubernetes here but for [`fetch`], so that
//! the same rows give the same bytes. Facts that nobody declared (a PUE, a grid region) are never guessed: the report
//! says that they are absent. A region without a known emission factor is an error.

mod compute;
mod decimal;
mod factors;
mod fetch;
mod html;
mod markdown;
mod rows;
mod words;

pub use compute::{DataCenterEnergy, Facility, Figures, Report, ReportError, Scope2, Share, SiteFacts, compute};
pub use factors::{Factor, FactorError, Factors};
pub use fetch::{FetchError, energy_by_site};
pub use html::html;
pub use markdown::markdown;
pub use rows::{EnergyRow, EnergyRows};
use sha2::{Digest, Sha256};
pub use words::{Language, Note};

/// The report as JSON: fixed order of fields, two spaces, a line feed at the end. The same report gives the same bytes.
pub fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report is plain data");
    text.push('\n');
    text
}

/// SHA-256 of a rendered report, hex.
pub fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
