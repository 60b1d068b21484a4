//! What the process that drives a run remembers of the open step. It may be lost: then holds begin again and refused
//! evictions are asked for again.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::StepOutcome;
use jiff::Timestamp;

use crate::planner::later;

/// First pause after a failed act; doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longest pause after failed acts.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// First pause after a refused eviction that names no delay; a PodDisruptionBudget opens when another pod is ready.
const FIRST_EVICTION_BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause after refused evictions that name no delay: what `kubectl drain` waits.
const MAX_EVICTION_BACKOFF: Duration = Duration::from_secs(5);

/// Memory of the open step.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    holding_since: Option<Timestamp>,
    failure: Option<ActFailure>,
    failures: u32,
    evictions: BTreeMap<String, Eviction>,
    intended_here: bool,
    succeeded: bool,
    answer: Option<(StepOutcome, String)>,
}

/// Why an act did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActFailure {
    /// Whether trying again cannot help.
    pub permanent: bool,
    /// Why.
    pub message: String,
    /// When to try again.
    pub retry_at: Timestamp,
}

/// What came of asking for an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The API server took it; the pod ends by itself.
    Accepted,
    /// Not now: a disruption budget, a fault. With the delay that the server named.
    Refused {
        /// Why.
        message: String,
        /// Delay that the server asked for.
        retry_after: Option<Duration>,
        /// How often it was refused in a row; kept by [`Memory`].
        times: u32,
        /// When to ask again; kept by [`Memory`].
        retry_at: Timestamp,
    },
}

impl Memory {
    /// Since when the condition of the open verification holds without a break.
    pub fn holding_since(&self) -> Option<Timestamp> {
        self.holding_since
    }

    /// Takes note of whether the condition holds at this moment.
    pub fn note_hold(&mut self, holds: bool, now: Timestamp) {
        self.holding_since = holds.then(|| self.holding_since.unwrap_or(now));
    }

    /// Takes note that this process itself has just persisted the intent of the open step: nothing was sent before.
    pub fn note_intended(&mut self) {
        self.intended_here = true;
    }

    /// Whether nobody else can have acted on the open step before this process.
    pub fn intended_here(&self) -> bool {
        self.intended_here
    }

    /// Takes note of what came of a message that was sent, or may have been.
    pub fn note_answer(&mut self, outcome: StepOutcome, message: String) {
        self.answer = Some((outcome, message));
    }

    /// What came of the message of the open step.
    pub fn answer(&self) -> Option<&(StepOutcome, String)> {
        self.answer.as_ref()
    }

    /// The last failure of the open step's act.
    pub fn failure(&self) -> Option<&ActFailure> {
        self.failure.as_ref()
    }

    /// Whether an act of the open step succeeded in this process.
    pub fn succeeded(&self) -> bool {
        self.succeeded
    }

    /// Takes note that an act succeeded.
    pub fn note_success(&mut self) {
        self.succeeded = true;
        self.failure = None;
        self.failures = 0;
    }

    /// Takes note that an act failed; it may be tried again later unless that cannot help.
    pub fn note_failure(&mut self, permanent: bool, message: String, now: Timestamp) {
        let pause = backoff(FIRST_BACKOFF, MAX_BACKOFF, self.failures);
        self.failures += 1;
        self.failure = Some(ActFailure { permanent, message, retry_at: later(now, pause) });
    }

    /// Takes note that an eviction was accepted.
    pub fn note_evicted(&mut self, uid: &str) {
        self.evictions.insert(uid.to_owned(), Eviction::Accepted);
    }

    /// Takes note that an eviction was refused for now.
    pub fn note_refused(&mut self, uid: &str, message: String, retry_after: Option<Duration>, now: Timestamp) {
        let times = match self.evictions.get(uid) {
            Some(Eviction::Refused { times, .. }) => *times + 1,
            _ => 0,
        };
        let pause = match retry_after {
            // A budget that is exhausted names 0 s: asking again at once would only ask again at once.
            Some(named) => named.clamp(FIRST_EVICTION_BACKOFF, Duration::from_secs(60)),
            None => backoff(FIRST_EVICTION_BACKOFF, MAX_EVICTION_BACKOFF, times),
        };
        let refused = Eviction::Refused { message, retry_after, times, retry_at: later(now, pause) };
        self.evictions.insert(uid.to_owned(), refused);
    }

    pub(crate) fn eviction_due(&self, uid: &str, now: Timestamp) -> bool {
        match self.evictions.get(uid) {
            None => true,
            Some(Eviction::Accepted) => false,
            Some(Eviction::Refused { retry_at, .. }) => *retry_at <= now,
        }
    }

    pub(crate) fn eviction_retry(&self, uid: &str) -> Option<Timestamp> {
        match self.evictions.get(uid) {
            Some(Eviction::Refused { retry_at, .. }) => Some(*retry_at),
            _ => None,
        }
    }

    pub(crate) fn refusal(&self, uid: &str) -> Option<&str> {
        match self.evictions.get(uid) {
            Some(Eviction::Refused { message, .. }) => Some(message),
            _ => None,
        }
    }

    /// Forgets pods that are gone.
    pub fn keep_evictions(&mut self, is_there: impl Fn(&str) -> bool) {
        self.evictions.retain(|uid, _| is_there(uid));
    }
}

fn backoff(first: Duration, most: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}
