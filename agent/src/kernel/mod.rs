//! Kernel problems: reading the log, taking prefixes off, matching rules, one report a crash.
//!
//! [`line`], [`rules`] and [`detector`] are pure and bounded; only [`kmsg`] touches files.

pub mod detector;
pub mod kmsg;
pub mod line;
pub mod rules;

pub use detector::{Detector, Report, ReportPhase};
pub use line::{Format, Message};
pub use rules::{RuleSet, RulesError};
