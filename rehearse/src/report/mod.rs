//! A report for people and for programs.

mod html;
mod phrases;
mod terminal;

pub use html::html;
pub use terminal::terminal;

use crate::outcome::Report;

/// The report as JSON; every text for people is there in both languages.
///
/// # Errors
/// Never for a report that was made by this program.
pub fn json(report: &Report) -> serde_json::Result<String> {
    serde_json::to_string_pretty(report).map(|text| text + "\n")
}
