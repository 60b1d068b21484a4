//! What the planner may know: values only, so that a decision can be recorded with them and made again.

mod database;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evergreen_api::resources::{MultiActiveServiceSpec, Stability, TimingProfile};
use serde::{Deserialize, Serialize};

pub use self::database::{DatabaseFacts, HookAnswer, HookCall, HookToken, HookTrouble, HookVerb, HookWish};
use crate::quorum::{Entry, Holder};

/// One site, as the own site sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteFacts {
    /// Its current incarnation, if its lease is fresh at a majority.
    pub fresh: Option<Holder>,
    /// For how long the lease has been fresh without a break.
    pub fresh_for: Duration,
    /// For how long it has not been fresh; zero while it is.
    pub unfresh_for: Duration,
    /// Ready replicas of the service's workload there; none when it cannot be asked.
    pub ready: Option<u32>,
    /// What the workload asks for and may grow to; none when it is not known.
    #[serde(default)]
    pub workload: Option<WorkloadFacts>,
    /// Room at the site; none when it is not known.
    #[serde(default)]
    pub room: Option<Room>,
    /// Where the site's data stand; none when the service has no data gate.
    #[serde(default)]
    pub data: Option<DataFacts>,
}

/// What a workload asks for at one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadFacts {
    /// Replicas that it shall have.
    pub wanted: u32,
    /// CPU that each replica requests, in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory that each replica requests, in bytes.
    pub memory_bytes: u64,
    /// Replicas that an autoscaler may grow it to; none without one.
    pub max_replicas: Option<u32>,
    /// Replicas that the namespace's quota leaves room for; none without a quota.
    pub quota_replicas: Option<u32>,
    /// A disruption budget is short: fewer pods are healthy than it demands.
    pub budget_short: bool,
}

/// Room at a site: allocatable of its schedulable, ready nodes and what its pods request of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Allocatable CPU, in thousandths of a core.
    pub cpu_millis: u64,
    /// Allocatable memory, in bytes.
    pub memory_bytes: u64,
    /// Requested CPU, in thousandths of a core.
    pub cpu_requested_millis: u64,
    /// Requested memory, in bytes.
    pub memory_requested_bytes: u64,
}

/// Where the data of one site stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataFacts {
    /// It answered.
    Answer(DataPosition),
    /// It did not, and why; what it answered last, if ever.
    Silent {
        /// Why there is no answer.
        why: String,
        /// The last answer.
        last: Option<DataPosition>,
    },
}

impl DataFacts {
    /// The last position that is known.
    pub fn position(&self) -> Option<u64> {
        match self {
            Self::Answer(at) => at.position,
            Self::Silent { last, .. } => last.as_ref()?.position,
        }
    }
}

/// An answer of a data gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPosition {
    /// Position in the log, where the source tells one: larger is later, comparable between sites.
    pub position: Option<u64>,
    /// How far behind the leader, as the site itself knows.
    pub lag: Duration,
    /// Whether the source vouches that every acknowledged commit is here (a synchronous standby, a leader).
    pub complete: bool,
    /// Whether this site leads.
    pub leads: bool,
    /// How long ago it was answered.
    pub age: Duration,
}

/// A service that this one depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyFacts {
    /// `namespace/name`.
    pub name: String,
    /// Sites that it may be at; empty when there is no such service.
    pub sites: BTreeSet<String>,
    /// Sites that hold it and can serve.
    pub serves_at: BTreeSet<String>,
    /// It shares the failover group: both move in one act.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub same_group: bool,
}

/// What a person asked for, signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// Digest of the signed statement.
    pub id: String,
    /// Who.
    pub by: String,
    /// Site that shall hold it; the best other one if none is named.
    pub to: Option<String>,
    /// Site that shall leave; for a service with several holders.
    pub from: Option<String>,
    /// Loss that the person accepts.
    pub accept_loss: Option<AcceptedLoss>,
    /// A shortage of room is accepted.
    pub accept_shortage: bool,
    /// Made with a break-glass key.
    pub break_glass: bool,
    /// It is a drill's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillMark>,
}

/// People who approve a drill of a steady service.
pub const DRILL_APPROVALS: usize = 2;

/// What a drill that asks brings with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillMark {
    /// Drill.
    pub name: String,
    /// Digest of its ticket.
    pub ticket: String,
    /// Nothing is asked for but that nothing moves by itself.
    pub hold: bool,
    /// Trace that the move belongs to.
    pub traceparent: Option<String>,
    /// Who approved the ticket, verified.
    pub approved_by: Vec<String>,
}

/// Loss that a person accepts by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AcceptedLoss {
    /// What was written within this time before the failure.
    UpTo(Duration),
    /// However much it is.
    Unknown,
}

/// Who approved which proposal, signed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Approved {
    /// Proposal.
    pub proposal: String,
    /// Who.
    pub by: String,
}

/// What people said, as far as it concerns this group and the version of its entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// The kill switch is on, and why.
    pub paused: Option<String>,
    /// The newest request.
    pub request: Option<MoveRequest>,
    /// Approvals.
    pub approvals: BTreeSet<Approved>,
    /// For how long each proposal has been open.
    pub open_for: BTreeMap<String, Duration>,
}

/// One failover group and the service it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// `namespace/name`.
    #[serde(default)]
    pub name: String,
    /// Failover group.
    pub group: String,
    /// Sites that may hold the group, best first: those of the service or of the cell.
    pub candidates: Vec<String>,
    /// The spec at the own site.
    pub spec: MultiActiveServiceSpec,
    /// How much change the service bears.
    pub stability: Stability,
    /// Timing profile that the sites run with.
    pub profile: TimingProfile,
    /// Member sites that hold exactly this spec, the own one included.
    pub same_spec_at: usize,
    /// Member sites.
    pub members: usize,
    /// The group's entry in the map.
    pub entry: Entry,
    /// For how long the entry has not changed.
    pub entry_stable_for: Duration,
    /// How long ago the group was seen to move from one set of sites to another; none when it was not.
    pub moved_for: Option<Duration>,
    /// For how long each holder that was seen to come in has held it.
    pub entered_for: BTreeMap<String, Duration>,
    /// All member sites by name.
    pub sites: BTreeMap<String, SiteFacts>,
    /// Services that this one depends on.
    pub dependencies: Vec<DependencyFacts>,
    /// What people said.
    pub consent: Consent,
    /// Why the group cannot be decided about at all: a dependency cycle, services of one group that contradict.
    pub blocked: Option<String>,
    /// The one lost site that automatic moves may take from at this time.
    pub automatic_site: Option<String>,
    /// What is known of the hooks of its database; none where it has none.
    #[serde(default)]
    pub database: Option<DatabaseFacts>,
}

impl ServiceFacts {
    /// Whether a site is alive and has enough ready replicas for this service.
    pub fn can_serve(&self, site: &str) -> bool {
        self.sites.get(site).is_some_and(|facts| {
            facts.fresh.is_some() && facts.ready.is_some_and(|r| r >= self.spec.workload.min_ready)
        })
    }

    /// Current incarnation of a site whose lease is fresh.
    pub fn fresh(&self, site: &str) -> Option<&Holder> {
        self.sites.get(site).and_then(|facts| facts.fresh.as_ref())
    }

    /// What people or a drill ask for. A drill asks for nothing while a holder is lost: that is no exercise.
    pub fn request(&self) -> Option<&MoveRequest> {
        let lost = self.entry.holders.iter().any(|holder| self.fresh(&holder.site).is_none());
        self.consent.request.as_ref().filter(|request| match &request.drill {
            Some(drill) => !drill.hold && !lost,
            None => true,
        })
    }

    /// A drill wants nothing moved back, and no holder is lost.
    pub fn held_by_drill(&self) -> bool {
        let drill = self.consent.request.as_ref().and_then(|request| request.drill.as_ref());
        drill.is_some_and(|drill| drill.hold)
    }

    /// Place of a site in the order of preference.
    pub fn rank(&self, site: &str) -> usize {
        self.candidates.iter().position(|known| known == site).unwrap_or(usize::MAX)
    }
}
