//! node-problem-detector's JSON configurations, read as they are: system log monitors (kernel, docker, abrt, read-only,
//! systemd) and custom plugin monitors. What is not understood is an error with line and column; keys that are unknown
//! are let pass, as there.

mod read;

use std::{path::PathBuf, time::Duration};

pub use read::parse;
use regex::bytes::Regex;

use crate::conditions::ConditionType;

/// A configuration file.
#[derive(Clone, Debug)]
pub enum Config {
    /// Watches a log.
    Log(LogConfig),
    /// Runs commands.
    Custom(CustomConfig),
}

/// A condition that the Node shows from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Type.
    pub about: ConditionType,
    /// Reason while nothing is wrong.
    pub reason: String,
    /// Message while nothing is wrong.
    pub message: String,
}

/// What a match or a failed check becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Type of the condition; of a temporary problem its reason.
    pub about: ConditionType,
    /// Whether it is a condition of the Node, until the next boot or until the check succeeds.
    pub permanent: bool,
    /// Reason.
    pub reason: String,
}

/// Which log a monitor watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlugin {
    /// The kernel log.
    Kmsg,
    /// A file.
    File {
        /// Expression whose last group is the time of a line.
        timestamp: String,
        /// Expression whose last group is what the line says.
        message: String,
        /// Layout of the time, by Go's reference time.
        layout: String,
    },
    /// The systemd journal.
    Journald {
        /// Who must have said it: the field SYSLOG_IDENTIFIER.
        identifier: String,
    },
}

/// A system log monitor.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Name.
    pub source: String,
    /// Log.
    pub plugin: LogPlugin,
    /// Path of the log.
    pub path: PathBuf,
    /// How old lines may be when the agent starts.
    pub lookback: Duration,
    /// Lines that an expression may span.
    pub buffer: usize,
    /// What the Node shows while nothing is wrong.
    pub defaults: Vec<Promise>,
    /// Rules.
    pub rules: Vec<LogRule>,
}

impl LogConfig {
    /// Whether both read the same log in the same way, whatever their rules.
    pub fn reads_the_same(&self, other: &Self) -> bool {
        self.plugin == other.plugin && self.path == other.path
    }
}

/// One rule of a system log monitor.
#[derive(Clone, Debug)]
pub struct LogRule {
    /// What a match becomes.
    pub effect: Effect,
    /// Expression; a match ends with the last line read.
    pub pattern: Regex,
    /// Its text, closed with the end of the log.
    pub closed: String,
    /// What is added to the message.
    pub suffix: String,
}

/// A custom plugin monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomConfig {
    /// Name.
    pub source: String,
    /// How often the commands run.
    pub every: Duration,
    /// Characters of output that are kept.
    pub max_output: usize,
    /// Commands that run at a time.
    pub concurrency: usize,
    /// What the Node shows while nothing is wrong.
    pub defaults: Vec<Promise>,
    /// Commands.
    pub rules: Vec<CustomRule>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomRule {
    /// What failing becomes.
    pub effect: Effect,
    /// Program; no shell.
    pub path: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// Whether a text is one of these files rather than rules of ours: they are JSON objects.
pub fn is_json(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_start().starts_with('{')
}

/// A duration as Go writes it: `1h30m`, `0.5s`, `300ms`.
pub fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, scale) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        seconds += number * scale;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests;
