//! How an actuator ends.

use std::time::Duration;

/// What an actuator did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was so already.
    Unchanged,
    /// It was written.
    Written,
    /// It has to be called again: at the earliest after this time, for this reason.
    Waiting {
        /// At the earliest.
        remaining: Duration,
        /// Why.
        why: String,
    },
}

/// Why an actuator did not do what the plan says. Nothing secret is in any of these.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// An object could not be read or written.
    #[error("{0} could not be read or written")]
    Api(String, #[source] Box<kube::Error>),
    /// Somebody wrote the object in between.
    #[error("{0} was changed by somebody else meanwhile; it is read again and tried again")]
    Conflict(String),
    /// No answer.
    #[error("{0} did not answer in time; whether the change landed is not known, it is read again before the next one")]
    Timeout(String),
    /// A backend, server, rule or object that the plan needs is not there.
    #[error("{what} has no {missing}: {remedy}")]
    Missing {
        /// Where.
        what: String,
        /// What.
        missing: String,
        /// What to do about it.
        remedy: String,
    },
    /// A newer plan was applied already.
    #[error("{what} was already written for epoch {found}, this plan is of epoch {planned}: it is refused")]
    Stale {
        /// Where.
        what: String,
        /// Epoch found there.
        found: u64,
        /// Epoch of the plan.
        planned: u64,
    },
    /// The plan would leave nobody to serve.
    #[error("{0}: nothing was taken away")]
    LastEndpoint(String),
    /// This actuator cannot express the plan.
    #[error("{what} cannot do this: {why}")]
    Unsupported {
        /// Which.
        what: String,
        /// Why, and what can.
        why: String,
    },
    /// An address that may not be connected to.
    #[error("{address} is not allowed ({why}); the controller's --traffic-allow lists what is: {allowed}")]
    NotAllowed {
        /// Address.
        address: String,
        /// Why.
        why: String,
        /// The list.
        allowed: String,
    },
    /// A Secret is missing or incomplete.
    #[error("Secret {name} in {namespace}: {why}", namespace = evergreen_api::names::SYSTEM_NAMESPACE)]
    Secret {
        /// Name.
        name: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// It answered that it will not.
    #[error("{what} refused: {why}")]
    Refused {
        /// Which.
        what: String,
        /// Its answer, shortened, and what to do about it.
        why: String,
    },
    /// It could not be reached, or what it answered is no answer.
    #[error("{what} could not be asked: {why}")]
    Unreachable {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
}

impl TrafficError {
    /// Whether the plan is older than what is there: it is not tried again.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }
}

/// The first line of what somebody else's program said, shortened: it goes into logs and status.
pub(super) fn brief(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no text");
    let clean: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    clean
}
