//! Says which part of the network is to blame, and when that is over: log, Event, incident. Decides nothing.

use std::collections::BTreeMap;

use evergreen_api::{
    TraceParent,
    telemetry::{attribute, span},
};
use evergreen_telemetry::{IncidentTracer, KeyValue};

use super::{
    blame::{Culprit, Fault},
    stable::Change,
};
use crate::nodes::events::{About, Events, Note};

/// Tells changes.
pub(super) struct Teller {
    incidents: IncidentTracer,
    site: String,
    events: Events,
    open: BTreeMap<Culprit, TraceParent>,
}

impl Teller {
    pub(super) fn new(incidents: IncidentTracer, site: String, events: Events) -> Self {
        Self { incidents, site, events, open: BTreeMap::new() }
    }

    pub(super) fn tell(&mut self, change: Change) {
        match change {
            Change::Raised(fault) => self.raised(&fault),
            Change::Cleared(culprit) => self.cleared(culprit),
        }
    }

    fn raised(&mut self, fault: &Fault) {
        let (kind, subject, summary) = (fault.culprit.kind(), fault.culprit.subject(), fault.summary());
        tracing::warn!(kind, subject, evidence = ?fault.evidence, "{summary}");
        // The agent of a node that is to blame raises the condition, and with it begins the incident.
        let trace = (!self.is_own_node(&fault.culprit)).then(|| {
            let attributes = vec![
                KeyValue::new(attribute::INCIDENT, true),
                KeyValue::new(attribute::INCIDENT_TITLE, format!("The network fails at {}", fault.culprit)),
                KeyValue::new(attribute::PROBLEM_KIND, "NetworkUnreachable"),
                KeyValue::new(attribute::PROBLEM_SEVERITY, "degraded"),
                KeyValue::new(attribute::PROBLEM_SUMMARY, summary.clone()),
                KeyValue::new(attribute::PROBLEM_EVIDENCE, fault.evidence.join("\n")),
                KeyValue::new(attribute::SITE, self.site.clone()),
            ];
            let root = self.incidents.root(span::PROBLEM_DETECTED, attributes);
            let trace = root.traceparent();
            root.end();
            self.open.insert(fault.culprit.clone(), trace);
            trace
        });
        let note = Note { reason: "NetworkFault", action: "Blame", note: summary, bad: true, trace };
        self.events.send(self.about(&fault.culprit), note);
    }

    fn cleared(&mut self, culprit: Culprit) {
        let note = format!("the network is well again at {culprit}");
        tracing::info!(kind = culprit.kind(), subject = culprit.subject(), "{note}");
        let trace = self.open.remove(&culprit);
        if let Some(trace) = trace {
            let attributes = vec![
                KeyValue::new(attribute::INCIDENT_VERDICT, "healed"),
                KeyValue::new(attribute::SITE, self.site.clone()),
                KeyValue::new("evergreen.incident.message", note.clone()),
            ];
            self.incidents.child(trace, span::INCIDENT_CLOSE, attributes).end();
        }
        let note = Note { reason: "NetworkWell", action: "Blame", note, bad: false, trace };
        self.events.send(self.about(&culprit), note);
    }

    fn is_own_node(&self, culprit: &Culprit) -> bool {
        matches!(culprit, Culprit::Node { site, .. } if *site == self.site)
    }

    /// A node of this site is an object of its own; everything else is told of the data center.
    fn about(&self, culprit: &Culprit) -> About {
        match culprit {
            Culprit::Node { site, node } if *site == self.site => About::Node(node.clone()),
            _ => About::DataCenter(self.site.clone()),
        }
    }
}
