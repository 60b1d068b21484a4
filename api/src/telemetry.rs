//! Names of what is published: metrics, spans and attributes. OpenTelemetry semantic conventions where they have one,
//! our own under `evergreen.` where they do not.

/// Metric names.
pub mod metric {
    /// Counter, J: energy of a host. Attributes: provenance, source.
    pub const HOST_ENERGY: &str = "hw.host.energy";
    /// Gauge, W: power of a host now.
    pub const HOST_POWER: &str = "hw.host.power";
    /// Counter, J: energy of a pod.
    pub const POD_ENERGY: &str = "k8s.pod.energy";
    /// Counter, J: energy of a node by consumer (pods, system, idle); the three sum exactly to the host's.
    pub const NODE_ENERGY: &str = "evergreen.node.energy";
    /// Counter, J: energy of a data center's facility feed, from its own meter; several feeds are added up.
    pub const FACILITY_ENERGY: &str = "evergreen.facility.energy";
    /// Counter, L: water that a data center took in, from its own meter.
    pub const FACILITY_WATER: &str = "evergreen.facility.water";
    /// Gauge, 1: a problem is raised on a node.
    pub const NODE_PROBLEM: &str = "evergreen.node.problem";
    /// Gauge, 0 or 1: a source of the agent is present.
    pub const SOURCE_PRESENT: &str = "evergreen.source.present";
    /// Gauge, 0..1.
    pub const CPU_UTILIZATION: &str = "system.cpu.utilization";
    /// Gauge, By.
    pub const MEMORY_USAGE: &str = "system.memory.usage";
    /// Gauge, By.
    pub const MEMORY_LIMIT: &str = "system.memory.limit";
    /// Gauge, 0..1.
    pub const FILESYSTEM_UTILIZATION: &str = "system.filesystem.utilization";
    /// Gauge, percent of time: pressure stall information.
    pub const PRESSURE: &str = "system.linux.pressure";
    /// Gauge, 0 or 1: this site renewed its record at a majority.
    pub const SITE_IN_QUORUM: &str = "evergreen.site.in_quorum";
    /// Gauge: epoch of the site's lease.
    pub const SITE_EPOCH: &str = "evergreen.site.epoch";
    /// Gauge, ms: how long the site may go on granting.
    pub const SITE_LEASE_REMAINING: &str = "evergreen.site.lease_remaining";
    /// Gauge, 1: a site holds a group.
    pub const GROUP_HOLDER: &str = "evergreen.group.holder";
    /// Counter: playbook runs by phase.
    pub const PLAYBOOK_RUNS: &str = "evergreen.playbook.runs";
}

/// Attribute names.
pub mod attribute {
    /// Resource: name of the site.
    pub const SITE: &str = "evergreen.site";
    /// Resource and span: name of the node.
    pub const NODE: &str = "k8s.node.name";
    /// Pod name.
    pub const POD: &str = "k8s.pod.name";
    /// Pod UID.
    pub const POD_UID: &str = "k8s.pod.uid";
    /// Namespace name.
    pub const NAMESPACE: &str = "k8s.namespace.name";
    /// How an energy figure came to be: measured, calibrated, estimated.
    pub const PROVENANCE: &str = "evergreen.energy.provenance";
    /// Which source an energy figure came from.
    pub const ENERGY_SOURCE: &str = "evergreen.energy.source";
    /// pods, system or idle.
    pub const CONSUMER: &str = "evergreen.energy.consumer";
    /// Kind of a problem.
    pub const PROBLEM_KIND: &str = "evergreen.problem.kind";
    /// Severity of a problem.
    pub const PROBLEM_SEVERITY: &str = "evergreen.problem.severity";
    /// One line about a problem.
    pub const PROBLEM_SUMMARY: &str = "evergreen.problem.summary";
    /// Lines that support a problem.
    pub const PROBLEM_EVIDENCE: &str = "evergreen.problem.evidence";
    /// Name of a source.
    pub const SOURCE_NAME: &str = "evergreen.source.name";
    /// Why a source is absent.
    pub const SOURCE_REASON: &str = "evergreen.source.reason";
    /// True on the root span of an incident.
    pub const INCIDENT: &str = "evergreen.incident";
    /// Title of an incident.
    pub const INCIDENT_TITLE: &str = "evergreen.incident.title";
    /// How an incident ended: healed, failed, observed, rolled_back.
    pub const INCIDENT_VERDICT: &str = "evergreen.incident.verdict";
    /// Failover group.
    pub const FAILOVER_GROUP: &str = "evergreen.group";
    /// Site that holds a group.
    pub const HOLDER: &str = "evergreen.group.holder";
    /// Epoch of a lease or an assignment.
    pub const EPOCH: &str = "evergreen.epoch";
    /// Playbook name.
    pub const PLAYBOOK: &str = "evergreen.playbook";
    /// Name of a PlaybookRun.
    pub const RUN: &str = "evergreen.run";
    /// Phase of a PlaybookRun.
    pub const RUN_PHASE: &str = "evergreen.run.phase";
    /// Why a decision was made.
    pub const REASON: &str = "evergreen.decision.reason";
    /// What a decision rejected, and why.
    pub const REJECTED: &str = "evergreen.decision.rejected";
}

/// Names of predictions.
pub mod prediction {
    /// Gauge, s: something is predicted of a node; the value is when it is expected, Unix time, or 0 where no time is
    /// known. An export without it withdraws it.
    pub const NODE_PREDICTION: &str = "evergreen.node.prediction";
    /// timeToLimit, errorTrend or anomaly.
    pub const BASIS: &str = "evergreen.prediction.basis";
    /// Kind of the problem to be expected.
    pub const KIND: &str = "evergreen.prediction.kind";
    /// What it is about.
    pub const SUBJECT: &str = "evergreen.prediction.subject";
    /// One line.
    pub const SUMMARY: &str = "evergreen.prediction.summary";
    /// How it was concluded.
    pub const METHOD: &str = "evergreen.prediction.method";
    /// When it was first made, RFC 3339, as all times below.
    pub const MADE: &str = "evergreen.prediction.made";
    /// Not sooner than this.
    pub const EARLIEST: &str = "evergreen.prediction.earliest";
    /// Nor later than this.
    pub const LATEST: &str = "evergreen.prediction.latest";
    /// Figures that support it, one a line.
    pub const EVIDENCE: &str = "evergreen.prediction.evidence";
    /// Series that it rests on.
    pub const SERIES: &str = "evergreen.prediction.series";
    /// First reading that it rests on.
    pub const FROM: &str = "evergreen.prediction.from";
    /// Last one.
    pub const TO: &str = "evergreen.prediction.to";
    /// How many.
    pub const COUNT: &str = "evergreen.prediction.count";
}

/// Names of the network mesh.
pub mod mesh {
    /// Gauge, 0..1: share of the newest probes of a peer that were lost.
    pub const LOSS: &str = "evergreen.mesh.loss";
    /// Gauge, 0..1: share of the newest probes of a peer that came far too late.
    pub const LATE: &str = "evergreen.mesh.late";
    /// Gauge, s: median time to a peer and back.
    pub const RTT: &str = "evergreen.mesh.rtt";
    /// Gauge, s: time to a peer and back that 99 % stay within.
    pub const RTT_P99: &str = "evergreen.mesh.rtt.p99";
    /// Gauge, By: largest IP packet that reaches a peer in one piece.
    pub const MTU: &str = "evergreen.mesh.mtu";
    /// Gauge, s: time in which the site endpoint's name was resolved.
    pub const DNS: &str = "evergreen.mesh.dns";
    /// Counter: lookups of that name that failed.
    pub const DNS_FAILURES: &str = "evergreen.mesh.dns.failures";
    /// Counter: probes of others, by outcome.
    pub const ECHOES: &str = "evergreen.mesh.echoes";
    /// Gauge, 1: the site's controller blames this for what fails. Attributes: kind, subject, summary.
    pub const FAULT: &str = "evergreen.mesh.fault";
    /// Attribute: node that is probed.
    pub const PEER: &str = "evergreen.mesh.peer";
    /// Attribute: its data center.
    pub const PEER_SITE: &str = "evergreen.mesh.peer.site";
    /// Attribute: rack, zone, site or remote.
    pub const SCOPE: &str = "evergreen.mesh.scope";
    /// Attribute: node, link, rack, zone, site, between_racks, between_zones, between_sites, everywhere.
    pub const FAULT_KIND: &str = "evergreen.mesh.fault.kind";
    /// Attribute: which one.
    pub const FAULT_SUBJECT: &str = "evergreen.mesh.fault.subject";
    /// Attribute: one line about it.
    pub const FAULT_SUMMARY: &str = "evergreen.mesh.fault.summary";
}

/// Span names.
pub mod span {
    /// Root of a node incident.
    pub const PROBLEM_DETECTED: &str = "problem.detected";
    /// The agent wrote the Node condition.
    pub const CONDITION_WRITE: &str = "condition.write";
    /// A playbook matched a problem.
    pub const PLAYBOOK_MATCH: &str = "playbook.match";
    /// A run from its first intent to its verdict.
    pub const PLAYBOOK_RUN: &str = "playbook.run";
    /// Prefix of a step's span.
    pub const STEP_PREFIX: &str = "step.";
    /// Verification of a run.
    pub const VERIFY: &str = "verify";
    /// Last span of an incident; carries the verdict.
    pub const INCIDENT_CLOSE: &str = "incident.close";
    /// Root of a lost site's incident.
    pub const SITE_SUSPECTED: &str = "site.suspected";
    /// A majority no longer holds the lost site's lease.
    pub const LEASE_REVOKE: &str = "lease.revoke";
    /// The assignment map names another holder.
    pub const MAP_COMMIT: &str = "map.commit";
    /// Traffic weights were written.
    pub const ROUTE_UPDATE: &str = "route.update";
    /// A returned site took its share back.
    pub const FAILBACK: &str = "failback";
}
