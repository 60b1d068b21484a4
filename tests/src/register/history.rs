//! What clients saw: each operation with when it was asked, when it was answered, and what came of it.

use std::time::Duration;

/// What a client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write this value, which nobody else ever writes.
    Write(String),
    /// Read.
    Read,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done by this site under this token; a read found the value.
    Ok {
        /// Site that answered.
        site: String,
        /// Its token.
        token: u64,
        /// What a read found.
        value: String,
    },
    /// It was surely not done.
    Refused(String),
    /// It may have been done, or may still be.
    Unknown(String),
}

/// One operation. Times count from the start of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who asked.
    pub client: usize,
    /// What.
    pub operation: Operation,
    /// When it was asked.
    pub invoked: Duration,
    /// When it was answered, or given up.
    pub ended: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

impl Record {
    /// Whether it was done, and by which site.
    pub fn done_by(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Ok { site, .. } => Some(site),
            _ => None,
        }
    }
}

/// Whether service was given, over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// From `since` to the first operation that was asked later and done.
    pub until_first_ok: Option<Duration>,
    /// From `since` to the end of the last operation that failed before that.
    pub last_failure: Option<Duration>,
}

/// The outage that began at `since`, as clients saw it: operations asked after it.
pub fn outage(history: &[Record], since: Duration, wanted: impl Fn(&Record) -> bool) -> Outage {
    let mut later: Vec<&Record> = history.iter().filter(|record| record.invoked >= since).collect();
    later.sort_by_key(|record| record.ended);
    let until_first_ok = later.iter().find(|r| r.done_by().is_some() && wanted(r)).map(|r| r.ended - since);
    let last_failure = later.iter().rev().find(|r| r.done_by().is_none()).map(|r| r.ended - since);
    Outage { until_first_ok, last_failure }
}
