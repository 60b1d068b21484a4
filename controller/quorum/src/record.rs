//! What a register holds, what can be asked of it and what it can answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{incarnation::Incarnation, map::AssignmentMap};

/// Record of a site at one register. Only two kinds of writers exist: the named incarnation, which counts the serial
/// up, and a superseder, which raises the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SiteRecord {
    /// Epoch; only ever grows at a register.
    pub epoch: u64,
    /// Incarnation that holds the epoch; none when the record is blank or revoked.
    pub incarnation: Option<Incarnation>,
    /// Number of renewals by that incarnation.
    pub serial: u64,
    /// What the site last saw and had acknowledged at every register, by register: the memory that a register has outside
    /// of itself (R9). A superseder carries it on.
    pub seen: Arc<Marks>,
}

/// What one site knows of the registers, by site of the register.
pub type Marks = BTreeMap<String, Mark>;

/// The least that a register has to show to somebody who asks it after this was written, unless it forgot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Generation of the register that this speaks of.
    #[serde(default)]
    pub generation: u64,
    /// Epoch of the marking site's own record there.
    pub epoch: u64,
    /// Serial of that record.
    pub serial: u64,
    /// Highest ballot that it promised.
    pub promised: Ballot,
    /// Ballot of the map that it accepted last.
    pub accepted: Ballot,
    /// The marking site has proof that this generation forgot.
    #[serde(default)]
    pub forgot: bool,
}

impl SiteRecord {
    /// A record that nobody has held yet.
    pub fn blank() -> Self {
        Self::default()
    }

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
    /// How often it was made anew after it forgot (R9); the map says which generation counts.
    #[serde(default)]
    pub generation: u64,
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
    /// Create a site's record if it does not exist: blank before enrolment, or copied when a register is made anew.
    CreateRecord {
        /// Site whose record it is.
        site: String,
        /// Its content.
        record: SiteRecord,
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
    /// Delete a site's record if it is still at the version; only while a register is made anew.
    DeleteRecord {
        /// Site whose record it is.
        site: String,
        /// Version that it must still have.
        at: LeaseVersion,
    },
    /// Delete the register state if it is still at the version: the register is out of use from then on.
    DeleteState {
        /// Version that it must still have.
        at: StateVersion,
    },
    /// Create the register state if it does not exist: the last step of making a register anew.
    CreateState {
        /// Its content.
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
    /// The register has not been initialised, or lost its state object; the records that it holds.
    NoState(BTreeMap<String, Observed>),
    /// The deletion happened.
    Deleted,
    /// Unknown: time-out, connection lost, server error. A write may still land.
    Unknown(String),
}
