//! One trace per lost site: suspected, revoked, moved, routed, back, closed. Observes; decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::{
    TraceParent,
    telemetry::{attribute, span},
};
use evergreen_telemetry::{IncidentSpan, IncidentTracer, KeyValue};

use super::planner::{Cause, Decision, Verdict};
use crate::quorum::GoalState;

/// An open incident of a site.
#[derive(Debug)]
struct Incident {
    root: TraceParent,
    revoke: Option<IncidentSpan>,
    commit: Option<IncidentSpan>,
    failback: Option<IncidentSpan>,
}

/// The incidents that this controller opened.
pub(super) struct SiteIncidents {
    own: String,
    tracer: IncidentTracer,
    open: BTreeMap<String, Incident>,
    seen_fresh: BTreeSet<String>,
}

impl SiteIncidents {
    pub fn new(own: &str, tracer: IncidentTracer) -> Self {
        Self { own: own.to_owned(), tracer, open: BTreeMap::new(), seen_fresh: BTreeSet::new() }
    }

    /// Takes in one round: who is fresh, what was decided, how far the pursued goal is.
    pub fn observe(
        &mut self,
        fresh: &BTreeSet<&str>,
        members: &[String],
        coordinating: bool,
        decisions: &[Decision],
        goal: &GoalState,
    ) {
        for site in members {
            if *site == self.own {
                continue;
            }
            let is_fresh = fresh.contains(site.as_str());
            if is_fresh {
                self.seen_fresh.insert(site.clone());
            } else if self.seen_fresh.remove(site) && coordinating {
                self.suspect(site);
            }
            let Some(mut incident) = self.open.remove(site) else { continue };
            self.advance(site, &mut incident, decisions, goal);
            // It is over when the site is back and nothing more will be done about it by itself.
            let pending = decisions.iter().any(|decision| !matches!(decision.verdict, Verdict::Hold(_)));
            if is_fresh && !pending {
                self.close(site, incident);
            } else {
                self.open.insert(site.clone(), incident);
            }
        }
    }

    fn suspect(&mut self, site: &str) {
        let attributes = vec![
            KeyValue::new(attribute::INCIDENT, true),
            KeyValue::new(attribute::INCIDENT_TITLE, format!("Data center {site} does not renew its lease")),
            KeyValue::new(attribute::PROBLEM_SEVERITY, "fatal"),
            KeyValue::new(attribute::SITE, site.to_owned()),
        ];
        let root = self.tracer.root(span::SITE_SUSPECTED, attributes);
        let incident = Incident { root: root.traceparent(), revoke: None, commit: None, failback: None };
        tracing::warn!(site, trace_id = %format_args!("{:032x}", incident.root.trace_id), "data center suspected: its lease is not fresh at a majority");
        root.end();
        self.open.insert(site.to_owned(), incident);
    }

    fn advance(&self, site: &str, incident: &mut Incident, decisions: &[Decision], goal: &GoalState) {
        let acted = |cause: &Cause| decisions.iter().find(|d| d.cause == *cause && d.verdict == Verdict::Act);
        match acted(&Cause::SiteLost(site.to_owned())) {
            Some(decision) => {
                if incident.commit.is_none() {
                    incident.revoke.get_or_insert_with(|| self.child(incident.root, span::LEASE_REVOKE, decision));
                }
                if *goal == GoalState::Committing && incident.commit.is_none() {
                    if let Some(revoke) = incident.revoke.take() {
                        revoke.end();
                    }
                    incident.commit = Some(self.child(incident.root, span::MAP_COMMIT, decision));
                }
            }
            None => {
                if let Some(revoke) = incident.revoke.take() {
                    // The commit followed between two looks, or the site came back before it was revoked.
                    revoke.end();
                }
                if let Some(commit) = incident.commit.take() {
                    tracing::info!(site, "the lost data center's share was moved");
                    commit.end();
                }
            }
        }
        if let Some(decision) = acted(&Cause::Failback(site.to_owned())) {
            incident.failback.get_or_insert_with(|| self.child(incident.root, span::FAILBACK, decision));
        }
    }

    fn child(&self, root: TraceParent, name: &'static str, decision: &Decision) -> IncidentSpan {
        let attributes = vec![
            KeyValue::new(attribute::FAILOVER_GROUP, decision.group.clone()),
            KeyValue::new(attribute::REASON, decision.reason.clone()),
            KeyValue::new(attribute::REJECTED, decision.rejected.join("; ")),
            KeyValue::new(attribute::SITE, self.own.clone()),
        ];
        self.tracer.child(root, name, attributes)
    }

    fn close(&self, site: &str, incident: Incident) {
        if let Some(failback) = incident.failback {
            failback.end();
        }
        let attributes =
            vec![KeyValue::new(attribute::INCIDENT_VERDICT, "healed"), KeyValue::new(attribute::SITE, site.to_owned())];
        self.tracer.child(incident.root, span::INCIDENT_CLOSE, attributes).end();
        tracing::info!(site, "the lost data center is back and holds its share");
    }

    /// Trace context that a change belongs to, if it belongs to an incident.
    pub fn traceparent(&self, decision: &Decision) -> Option<String> {
        let site = match &decision.cause {
            Cause::SiteLost(site) | Cause::Failback(site) | Cause::Restarted(site) => site,
            Cause::DatabaseLed(_) | Cause::Asked(_) => {
                // It belongs to the incident of the site that leaves, if that is lost.
                let lost = decision.leaving().find_map(|holder| self.open.get(&holder.site));
                return lost.map(|incident| incident.root.to_string());
            }
            // What follows a failback belongs to the incident that made it necessary, whoever opened that.
            Cause::TooMany(_) | Cause::TooFew => return decision.old.traceparent.clone(),
            Cause::FirstPlacement => return None,
        };
        self.open.get(site).map(|incident| incident.root.to_string())
    }

    /// Weights were written at this site for a map entry that carries a trace context.
    pub fn routed(&self, traceparent: Option<&str>, service: &str, weights: &BTreeMap<String, u32>) {
        let Some(parent) = traceparent.and_then(|text| text.parse::<TraceParent>().ok()) else { return };
        let attributes = vec![
            KeyValue::new(attribute::SITE, self.own.clone()),
            KeyValue::new("evergreen.route", service.to_owned()),
            KeyValue::new("evergreen.route.weights", format!("{weights:?}")),
        ];
        self.tracer.child(parent, span::ROUTE_UPDATE, attributes).end();
    }
}
