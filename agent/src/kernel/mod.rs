//! Kernel problems: reading the log, taking prefixes off, matching rules, one report a crash.
//!
//! [`line`], [`rules`] and [`detector`] are pure and bounded; only [`kmsg`] and what it opens touch files.

pub mod detector;
pub mod journal;
pub mod kmsg;
pub mod line;
pub mod position;
pub mod records;
pub mod ring;
pub mod rules;
mod syslog;
mod tail;

pub use detector::{Detector, Report, ReportPhase};
pub use line::{Format, Message};
pub use rules::{RuleSet, RulesError};
