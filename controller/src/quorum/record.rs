//! What a register holds, what can be asked of it and what it can answer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{incarnation::Incarnation, map::AssignmentMap};

/// Record of a site at one register. Only two kinds of writers exist: the named incarnation, which counts the serial
/// up, and a superseder, which raises the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SiteRecord {
    /// Epoch; only ever grows at a register.
    pub epoch: u64,
    /// Incarnation that holds the epoch; none when the record is blank or revoked.
    pub incarnation: Option<Incarnation>,
    /// Number of renewals by that incarnation.
    pub serial: u64,
}

impl SiteRecord {
    /// A record that nobody has held yet.
    pub const BLANK: Self = Self { epoch: 0, incarnation: None, serial: 0 };

    /// Whether it names exactly this epoch and incarnation.
    pub fn names(&self, epoch: u64, incarnation: &Incarnation) -> bool {
        self.epoch == epoch && self.incarnation.as_ref() == Some(incarnation)
    }
}

/// Number of a proposal: a counter, then who proposes, then which of its proposals; unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Larger wins.
    pub counter: u64,
    /// Proposing site and its run, so that no two proposers share a ballot.
    pub proposer: String,
}

/// A value accepted at a ballot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accepted {
    /// Ballot of the proposal.
    pub ballot: Ballot,
    /// The map that was proposed.
    pub map: AssignmentMap,
}

/// State of a register beside the site records: who uses it and what it promised and accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegisterState {
    /// Sites whose record was created here. A site that is enrolled but has no record has been forgotten: the register
    /// must not be trusted.
    #[serde(default)]
    pub enrolled: BTreeSet<String>,
    /// Highest ballot promised.
    #[serde(default)]
    pub promised: Ballot,
    /// Highest value accepted.
    #[serde(default)]
    pub accepted: Accepted,
}

/// Version of a site's record as the API server tells it; what a compare-and-swap compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseVersion {
    /// UID of the Lease object.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
}

/// Version of the register state; what a compare-and-swap compares.
pub type StateVersion = LeaseVersion;

/// A site's record as read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    /// Version of the object.
    pub version: LeaseVersion,
    /// Its content.
    pub record: SiteRecord,
}

/// Everything a register holds, read with a quorum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegisterContent {
    /// Version of the state object.
    pub version: StateVersion,
    /// Enrolment, promise, accepted map.
    pub state: RegisterState,
    /// Records by site.
    pub records: BTreeMap<String, Observed>,
}

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What can be asked of a register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read everything, with a quorum.
    Read,
    /// Create the blank record of the own site if it does not exist. Only ever asked before enrolment.
    CreateBlank {
        /// Site whose record it is.
        site: String,
    },
    /// Replace a site's record if it is still at the version.
    WriteRecord {
        /// Site whose record it is.
        site: String,
        /// Version that it must still have.
        at: LeaseVersion,
        /// New content.
        record: SiteRecord,
    },
    /// Replace the register state if it is still at the version.
    WriteState {
        /// Version that it must still have.
        at: StateVersion,
        /// New content.
        state: RegisterState,
    },
}

/// A request to one register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Names it in the answer.
    pub id: RequestId,
    /// Index of the register.
    pub register: usize,
    /// What is asked.
    pub operation: Operation,
}

/// What a register can answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Everything it holds.
    Content(RegisterContent),
    /// The write happened; the object has this version now.
    Written(LeaseVersion),
    /// The write did not happen: the object is not at that version (or, for a creation, exists).
    Conflict,
    /// The register has not been initialised, or lost its state object.
    NoState,
    /// Unknown: time-out, connection lost, server error. A write may still land.
    Unknown(String),
}
