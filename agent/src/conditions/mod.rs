//! The life of problems on a node: raised with evidence, seen again, cleared when quiet or rebooted, remembered over
//! restarts, gone with their rule. Pure: what is seen and when come in as values, what changed goes out.

mod book;
#[cfg(test)]
mod lives;
mod name;

use std::time::Duration;

pub use book::ConditionBook;
use evergreen_api::{Detection, Severity, resources::NodeProblem};
pub use name::{ConditionType, MAX_NAME};
use serde::{Deserialize, Serialize};

/// One raised problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What the API shows.
    pub shown: NodeProblem,
    /// Rule that raised it.
    pub rule: String,
    /// Quiet time that ends it, milliseconds; `None`: the next boot ends it.
    pub clear_after_ms: Option<u64>,
    /// Whether it is a condition of the Node; else it is told in NodeHealth, Events and metrics only.
    pub condition: bool,
    /// Reason that the condition gives, where the rule says one.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether somebody watches the cause itself and will tell its end.
    #[serde(default)]
    pub watched: bool,
    /// When it was last seen, milliseconds since boot.
    pub seen_boot_ms: u64,
    /// Report that was counted last, and how far.
    #[serde(skip)]
    counted: Option<(u64, u64)>,
}

impl Problem {
    /// Counts a report, of which a part may have been counted before.
    fn count(&mut self, report: u64, count: u64) {
        let already = self.counted.filter(|(id, _)| *id == report).map_or(0, |(_, count)| count);
        self.shown.count = self.shown.count.saturating_add(count.saturating_sub(already));
        self.counted = Some((report, count));
    }
}

/// A problem that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// When, RFC 3339.
    pub at: String,
    /// Why it is taken to be over.
    pub why: String,
    /// Trace of its incident.
    pub traceparent: Option<String>,
    /// Rule that had raised it.
    #[serde(default)]
    pub rule: String,
    /// Report that was counted last, and how far: what goes on in it is news only behind that.
    #[serde(skip)]
    counted: Option<(u64, u64)>,
}

/// What a step changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A problem is new.
    Raised(ConditionType),
    /// It got worse, or its name changed.
    Changed(ConditionType),
    /// Its rule is gone, and it with it.
    Retired(ConditionType),
    /// Its count or its evidence grew.
    Counted(ConditionType),
    /// It ended.
    Cleared(ConditionType),
}

impl Change {
    /// Whether this must be written at once; counts may wait.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Self::Counted(_))
    }
}

/// What a condition says while nothing is wrong, as node-problem-detector's configurations give it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// Since when it is promised, RFC 3339.
    pub since: String,
}

/// A report of the detector, with what its rule says about the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Number of the report, so that its count is not added twice.
    pub report: u64,
    /// What was seen.
    pub detection: Detection,
    /// Rule that names it.
    pub rule: String,
    /// Quiet time that ends it.
    pub clear_after: Option<Duration>,
    /// Whether it becomes a condition of the Node.
    pub condition: bool,
    /// Type of the condition.
    pub about: ConditionType,
    /// Reason that the condition gives; one made of its type when left out.
    pub reason: Option<String>,
    /// Whether whoever tells this watches the cause itself and will tell its end.
    pub watched: bool,
}

/// By what rule a condition that nobody remembers lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foster {
    /// Rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// Class of a kernel crash.
    pub crash_type: Option<String>,
    /// Quiet time that ends it.
    pub clear_after: Option<Duration>,
    /// Whether somebody watches its cause.
    pub watched: bool,
}

/// A condition of ours that is on the Node though this agent has no memory of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Type.
    pub about: ConditionType,
    /// Its message.
    pub message: String,
    /// Since when it is raised.
    pub since: Option<jiff::Timestamp>,
    /// Trace of its incident.
    pub traceparent: String,
}
