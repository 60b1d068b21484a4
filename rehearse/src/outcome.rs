//! What a rehearsal found: the shape of its JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    check::Finding,
    loss::Loss,
    snapshot::{KindNotRead, KindRead},
    words::{Words, words},
};

/// How a service, or a fleet, comes out of a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Served as before, within its objective, without a person.
    #[default]
    Survives,
    /// Served, but less, late, or only after a person acts.
    Degraded,
    /// Not served.
    Lost,
}

impl Verdict {
    /// For people.
    pub fn words(self) -> Words {
        match self {
            Self::Survives => words("survives", "可承受"),
            Self::Degraded => words("degraded", "降级"),
            Self::Lost => words("lost", "中断"),
        }
    }
}

/// A whole rehearsal.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// Program that made it.
    pub made_by: String,
    /// The time of the snapshot, at which every rehearsal begins.
    pub taken_at: Timestamp,
    /// Seconds of virtual time between the snapshot and the loss.
    pub lost_after_seconds: u64,
    /// The worst outcome.
    pub verdict: Verdict,
    /// What was read of which cluster.
    pub sites: Vec<SiteRead>,
    /// Services that are judged.
    pub services: usize,
    /// Losses, the worst first.
    pub losses: Vec<LossOutcome>,
    /// How many of each kind were tried.
    pub tried: BTreeMap<String, usize>,
    /// How sure it is.
    pub sureness: Sureness,
}

/// How sure a report is, and why not more.
#[derive(Clone, Debug, Serialize)]
pub struct Sureness {
    /// `high`, `medium` or `low`, by the rule in docs/rehearsal.md.
    pub level: &'static str,
    /// Why.
    pub why: Vec<Words>,
    /// Objects that could not be used.
    pub left_out: Vec<Finding>,
    /// What is taken for granted.
    pub assumptions: Vec<Words>,
    /// In what the twin differs from a cluster.
    pub deviations: Vec<String>,
}

/// What was read of a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct SiteRead {
    /// Name.
    pub name: String,
    /// Where the name is from.
    pub name_from: String,
    /// Kubeconfig.
    pub source: String,
    /// Address.
    pub server: String,
    /// Version of Kubernetes.
    pub kubernetes: String,
    /// Nodes.
    pub nodes: usize,
    /// Kinds.
    pub read: Vec<KindRead>,
    /// Kinds that were not read.
    pub not_read: Vec<KindNotRead>,
}

/// What one loss does.
#[derive(Clone, Debug, Serialize)]
pub struct LossOutcome {
    /// What is lost; of nodes with equal effect the first.
    pub loss: Loss,
    /// Further nodes whose loss was tried and had the same effect.
    pub same: Vec<String>,
    /// The worst service.
    pub verdict: Verdict,
    /// Services that the loss touches, the worst first.
    pub services: Vec<ServiceOutcome>,
    /// Services that it does not touch.
    pub untouched: usize,
    /// Pods that moved, by workload.
    pub moved: Vec<Moved>,
    /// Pods that found no place.
    pub pending: Vec<Pending>,
    /// Room by data center.
    pub capacity: Vec<Capacity>,
    /// Playbooks that would run.
    pub playbooks: Vec<PlaybookSeen>,
    /// Playbooks that matched and were kept from running.
    pub blocked: Vec<PlaybookBlocked>,
    /// What is worth knowing besides.
    pub notes: Vec<Words>,
}

/// What a loss does to a service.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceOutcome {
    /// `namespace/name`.
    pub service: String,
    /// `MultiActiveService`, `Deployment` or `StatefulSet`.
    pub kind: &'static str,
    /// How it comes out.
    pub verdict: Verdict,
    /// What breaks, in a sentence.
    pub breaks: Option<Words>,
    /// Replicas that serve: before, at the worst moment, at the end.
    pub serving: [u32; 3],
    /// Data centers that serve it: before, at the end.
    pub sites: [Vec<String>; 2],
    /// What the failover planner decides.
    pub moves: Vec<Move>,
    /// Traffic weights by entry, where they change: before and at the end.
    pub weights: BTreeMap<String, [BTreeMap<String, u32>; 2]>,
    /// Expected time until it is served again; none when it does not stop, or does not come back.
    pub rto: Option<Rto>,
    /// Its objective, in seconds.
    pub objective_seconds: Option<f64>,
    /// What happens to its data.
    pub data_loss: Words,
    /// The smallest thing that would help.
    pub remedy: Option<Remedy>,
}

/// A time with what it is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rto {
    /// All of it.
    pub seconds: f64,
    /// Its parts.
    pub parts: Vec<RtoPart>,
}

/// A part of a time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RtoPart {
    /// What passes.
    pub what: Words,
    /// How long.
    pub seconds: f64,
}

/// A decision of the failover planner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Why.
    pub cause: String,
    /// Holders before.
    pub from: Vec<String>,
    /// Holders after.
    pub to: Vec<String>,
    /// Whether it is carried out.
    pub done: bool,
    /// What keeps it from being carried out.
    pub held: Option<String>,
    /// The planner's sentence.
    pub reason: String,
    /// What it considered and did not take.
    pub rejected: Vec<String>,
}

/// The smallest thing that would help.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Remedy {
    /// In a sentence.
    pub what: Words,
    /// Data center that it is for.
    pub site: Option<String>,
    /// Replicas.
    pub replicas: u32,
    /// What they ask for, in thousandths of a core.
    pub cpu_millis: u64,
    /// What they ask for, in bytes.
    pub memory_bytes: u64,
    /// How many of them found a place when it was tried.
    pub fits: Option<u32>,
}

/// Pods of a workload that left a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Data center.
    pub site: String,
    /// `Kind namespace/name`.
    pub workload: String,
    /// Nodes that were left, and how many pods did.
    pub from: BTreeMap<String, u32>,
    /// Nodes that took them.
    pub to: BTreeMap<String, u32>,
}

/// Pods of a workload that found no place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Data center.
    pub site: String,
    /// `Kind namespace/name`.
    pub workload: String,
    /// How many.
    pub pods: u32,
    /// What the scheduler says.
    pub reason: String,
    /// What they ask for together, in thousandths of a core.
    pub cpu_millis: u64,
    /// What they ask for together, in bytes.
    pub memory_bytes: u64,
}

/// Room at a data center: requests against what nodes that take pods can give.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Data center.
    pub site: String,
    /// Nodes that take pods: before, at the end.
    pub nodes: [u32; 2],
    /// Thousandths of a core that they can give: before, at the end.
    pub cpu_millis: [u64; 2],
    /// Thousandths of a core that pods on them ask for: before, at the end.
    pub cpu_requested: [u64; 2],
    /// Bytes that they can give: before, at the end.
    pub memory_bytes: [u64; 2],
    /// Bytes that pods on them ask for: before, at the end.
    pub memory_requested: [u64; 2],
}

/// A playbook that ran in the rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PlaybookSeen {
    /// Data center.
    pub site: String,
    /// Playbook.
    pub playbook: String,
    /// Nodes that it ran for.
    pub nodes: Vec<String>,
    /// Whether it is the fleet's own, or one that ships and was not installed.
    pub installed: bool,
    /// Whether it acts, or only tells what it would do.
    pub acts: bool,
    /// How far it came.
    pub phase: String,
    /// Its steps as far as they went.
    pub steps: Vec<String>,
}

/// A playbook that was kept from running.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PlaybookBlocked {
    /// Data center.
    pub site: String,
    /// What the controller says: playbook and reason.
    pub reason: String,
    /// Nodes that it was for.
    pub nodes: Vec<String>,
}
