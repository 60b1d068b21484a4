//! Changes of a run's log, applied to its status.

use evergreen_api::resources::{PlaybookRunSpec, PlaybookRunStatus, RunPhase, StepOutcome, StepRecord};
use jiff::Timestamp;

/// One change of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A step is about to be taken.
    Intend {
        /// What, with what was there before.
        record: StepRecord,
        /// Phase of the run from now on.
        phase: RunPhase,
    },
    /// The outcome of the open step is known.
    Settle {
        /// What came of it.
        outcome: StepOutcome,
        /// One line for people.
        message: String,
    },
    /// It may not go on for now; what was done stays.
    Park {
        /// Why.
        message: String,
    },
    /// It may not go on; what was done is undone.
    Stop {
        /// Why.
        message: String,
    },
    /// The run is over.
    Finish {
        /// How it ended.
        phase: RunPhase,
        /// One line for people.
        message: String,
        /// Playbook that is to run now for the same object.
        follow_up: Option<String>,
    },
}

/// The status after a change.
pub fn apply(status: &PlaybookRunStatus, spec: &PlaybookRunSpec, change: &Change, now: Timestamp) -> PlaybookRunStatus {
    let mut next = status.clone();
    next.started_at.get_or_insert_with(|| now.to_string());
    match change {
        Change::Intend { record, phase } => {
            next.phase = *phase;
            next.log.push(record.clone());
            next.message = progress(spec, record);
        }
        Change::Settle { outcome, message } => {
            if let Some(open) = next.log.last_mut().filter(|record| record.outcome.is_none()) {
                open.outcome = Some(*outcome);
                open.finished_at = Some(now.to_string());
                open.message.clone_from(message);
            }
        }
        Change::Park { message } => {
            next.phase = RunPhase::Parked;
            next.message.clone_from(message);
        }
        Change::Stop { message } => {
            next.phase = RunPhase::RollingBack;
            next.stopped = Some(message.clone());
            next.message.clone_from(message);
        }
        Change::Finish { phase, message, follow_up } => {
            next.follow_up.clone_from(follow_up);
            next.phase = *phase;
            next.finished_at = Some(now.to_string());
            next.message.clone_from(message);
        }
    }
    next
}

/// Where a run stands, for people.
pub fn progress(spec: &PlaybookRunSpec, record: &StepRecord) -> String {
    let total = spec.plan.steps.len();
    let index = record.index as usize;
    match (record.undo, index < total) {
        (true, _) => format!("undoing step {} of {total}: {}", index + 1, record.action),
        (false, true) => format!("step {} of {total}: {}", index + 1, record.action),
        (false, false) if index > total => format!("after the failure: {}", record.action),
        (false, false) => "verifying the result".to_owned(),
    }
}
