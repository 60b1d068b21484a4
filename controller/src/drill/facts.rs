//! What the drill planner may know: values only.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evergreen_api::resources::{DrillPhase, FailoverDrillSpec};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A failover group that the drill is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillServiceFacts {
    /// Sites that hold it.
    pub holders: BTreeSet<String>,
    /// Sites that held it before the drill; empty before it began.
    pub before: BTreeSet<String>,
    /// Sites that may hold it.
    pub sites: BTreeSet<String>,
    /// How many sites serve it at once.
    pub min_active: usize,
    /// It is steady: people start the drill.
    pub steady: bool,
    /// The controllers act for it.
    pub enforced: bool,
    /// Approvals that the service itself asks for before it is moved.
    pub people: usize,
    /// Why it cannot be moved now: too few sites serve, the gates are closed. None: it can.
    pub closed: Option<String>,
    /// A move that the drill asked for is being carried out.
    pub moving: bool,
    /// Loss of data if it moved now; none when nobody measures it.
    pub lag: Option<Duration>,
}

impl DrillServiceFacts {
    /// Whether it has left a site and is served by as many as wanted.
    pub fn has_left(&self, site: &str) -> bool {
        !self.holders.contains(site) && self.holders.len() >= self.min_active
    }

    /// Whether it is where it was.
    pub fn is_back(&self) -> bool {
        self.holders == self.before && !self.moving
    }
}

/// An open ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketFacts {
    /// Who asked; none: the schedule.
    pub by: Option<String>,
    /// How long it has been open.
    pub open_for: Duration,
    /// People whose approvals were verified.
    pub approved_by: BTreeSet<String>,
}

/// How the service looks to its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeFacts {
    /// Share of probes that failed in the last five seconds, 0 to 1; none when nothing was asked.
    pub error_ratio: Option<f64>,
    /// From the first failed probe to the first good one after the last failed one, or to now, of the worst move so far.
    pub without_service: Duration,
}

/// Everything about one drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillFacts {
    /// The spec.
    pub spec: FailoverDrillSpec,
    /// Where it is.
    pub phase: DrillPhase,
    /// It is the only drill of the fleet that is under way: what it claimed was compared with the other sites.
    pub begun: bool,
    /// How long it has been there, on the own monotonic clock, from zero after a restart.
    pub in_phase_for: Duration,
    /// Wall clock: for the calendar only.
    pub now: Timestamp,
    /// The schedule fired after this.
    pub since: Timestamp,
    /// The open ticket.
    pub ticket: Option<TicketFacts>,
    /// A person asks for a ticket that was not there before, verified.
    pub asked_by: Option<String>,
    /// A person breaks it off: who and why.
    pub abort: Option<String>,
    /// Its spec is being deleted.
    pub deleted: bool,
    /// Failover groups by name.
    pub services: BTreeMap<String, DrillServiceFacts>,
    /// Registers that may be lost before nobody can decide any more.
    pub tolerance: usize,
    /// A real incident: a site that is not in quorum, a move that is not the drill's.
    pub incident: Option<String>,
    /// Another drill is under way, here or at another site.
    pub other_drill: Option<String>,
    /// Somebody stopped everything.
    pub stopped: Option<String>,
    /// The probe.
    pub probe: ProbeFacts,
    /// The drill was already broken off and is moving back.
    pub breaking_off: bool,
}
