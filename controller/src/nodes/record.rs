//! Writes what the detector decided into the Nodes: condition, trace context, spans. Takes over what stands there.
//!
//! It decides nothing. The newest word about a node wins; a write that failed is tried again until it succeeds, or the
//! node is no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evergreen_api::{
    TraceParent, names,
    telemetry::{attribute, span},
};
use evergreen_telemetry::KeyValue;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::{
    NodesContext,
    detector::{Event, Evidence},
    events::{About, Events, Note},
};
use crate::{
    mesh::place::Place,
    site::{BootClock, clients::CALL_TIMEOUT},
};

/// Type of the condition.
pub const NODE_LOST: &str = "NodeLost";
const FIELD_MANAGER: &str = "evergreen-controller";
/// Writes at a time: a rack that dies is written within a call's time, and the API server is not flooded.
const WRITES: usize = 8;
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often zones, racks and removed nodes are looked at.
const LOOK: Duration = Duration::from_secs(60);
/// Pause after a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const PAGE: u32 = 500;
/// A node that is heard but has no Node object yet is registering; after so many looks it is taken to be gone.
const ABSENT_LOOKS: u32 = 3;

/// What a Node should show.
#[derive(Clone, Debug, PartialEq)]
struct Word {
    lost: bool,
    reason: &'static str,
    message: String,
    at: Timestamp,
    trace: Option<TraceParent>,
}

/// Writes for one term.
pub(super) struct Recorder {
    context: NodesContext,
    events: Events,
    pending: Mutex<BTreeMap<String, Word>>,
    /// Traces of the losses that are open.
    traces: Mutex<BTreeMap<String, TraceParent>>,
    wake: Notify,
}

impl Recorder {
    pub(super) fn new(context: NodesContext, events: Events) -> Self {
        Self { context, events, pending: Mutex::default(), traces: Mutex::default(), wake: Notify::new() }
    }

    /// Takes a decision in; returns at once.
    pub(super) fn take(&self, event: Event) {
        let (node, word) = match event {
            Event::Lost { node, evidence } => {
                let (reason, message) = describe(&evidence);
                let trace = self.open_incident(&node, reason, &message);
                self.traces.lock().insert(node.clone(), trace);
                self.event(&node, "NodeLost", "Confirm", &format!("{reason}: {message}"), true, Some(trace));
                (node, Word { lost: true, reason, message, at: Timestamp::now(), trace: Some(trace) })
            }
            Event::Returned { node, rebooted } => {
                let trace = self.traces.lock().remove(&node);
                let (reason, message) = if rebooted {
                    ("NodeRebooted", "the node was started anew and its agent sends heartbeats")
                } else {
                    ("HeartbeatsResumed", "the node's agent has been sending heartbeats again for 3 s")
                };
                self.event(&node, "NodeReturned", "Confirm", &format!("{reason}: {message}"), false, trace);
                // Whatever playbooks did or did not do about it: the incident began here, and it ends here.
                if let Some(trace) = trace {
                    self.close_incident(&node, message, trace);
                }
                (node, Word { lost: false, reason, message: message.to_owned(), at: Timestamp::now(), trace })
            }
            Event::Unheard { node, silent_for } => {
                let note = format!(
                    "no heartbeat for {:.1} s, but peers reach the node: it is not lost, the controller cannot hear it",
                    silent_for.as_secs_f64()
                );
                return self.event(&node, "NodeUnheard", "Listen", &note, true, None);
            }
            _ => return,
        };
        self.pending.lock().insert(node, word);
        self.wake.notify_one();
    }

    fn event(
        &self,
        node: &str,
        reason: &'static str,
        action: &'static str,
        note: &str,
        bad: bool,
        trace: Option<TraceParent>,
    ) {
        let note = Note { reason, action, note: note.to_owned(), bad, trace };
        self.events.send(About::Node(node.to_owned()), note);
    }

    fn close_incident(&self, node: &str, message: &str, trace: TraceParent) {
        let attributes = vec![
            KeyValue::new(attribute::NODE, node.to_owned()),
            KeyValue::new(attribute::SITE, self.context.site.clone()),
            KeyValue::new(attribute::INCIDENT_VERDICT, "healed"),
            KeyValue::new("evergreen.incident.message", message.to_owned()),
        ];
        self.context.incidents.child(trace, span::INCIDENT_CLOSE, attributes).end();
    }

    fn open_incident(&self, node: &str, reason: &str, message: &str) -> TraceParent {
        let attributes = vec![
            KeyValue::new(attribute::INCIDENT, true),
            KeyValue::new(attribute::INCIDENT_TITLE, format!("Node {node} is lost")),
            KeyValue::new(attribute::PROBLEM_KIND, NODE_LOST),
            KeyValue::new(attribute::PROBLEM_SEVERITY, "fatal"),
            KeyValue::new(attribute::PROBLEM_SUMMARY, reason.to_owned()),
            KeyValue::new(attribute::PROBLEM_EVIDENCE, message.to_owned()),
            KeyValue::new(attribute::NODE, node.to_owned()),
            KeyValue::new(attribute::SITE, self.context.site.clone()),
        ];
        let root = self.context.incidents.root(span::PROBLEM_DETECTED, attributes);
        let trace = root.traceparent();
        root.end();
        trace
    }

    /// Writes what is pending, for ever.
    pub(super) async fn write(&self) {
        loop {
            let words: Vec<(String, Word)> =
                self.pending.lock().iter().map(|(node, word)| (node.clone(), word.clone())).collect();
            if words.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let outcomes: Vec<bool> = futures::stream::iter(words)
                .map(|(node, word)| async move { self.write_one(&node, &word).await })
                .buffer_unordered(WRITES)
                .collect()
                .await;
            if outcomes.contains(&false) {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Whether nothing is left to do about this word.
    async fn write_one(&self, node: &str, word: &Word) -> bool {
        let begun = std::time::SystemTime::now();
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = patch(word);
        let written = async {
            let answer = nodes.patch_status(node, &parameters, &Patch::Strategic(&patch)).await?;
            // The annotation rides along with the status; where it does not, it gets a write of its own.
            let wanted = patch.pointer("/metadata/annotations").and_then(Value::as_object);
            let missing = wanted
                .into_iter()
                .flatten()
                .any(|(name, value)| answer.annotations().get(name).map(String::as_str) != value.as_str());
            if missing {
                let alone = json!({"metadata": patch["metadata"]});
                nodes.patch(node, &parameters, &Patch::Merge(&alone)).await?;
            }
            Ok::<_, kube::Error>(())
        };
        let outcome = tokio::time::timeout(CALL_TIMEOUT, written).await;
        match outcome {
            Ok(Ok(())) => {
                if let Some(trace) = word.trace {
                    let attributes = vec![
                        KeyValue::new(attribute::NODE, node.to_owned()),
                        KeyValue::new(attribute::SITE, self.context.site.clone()),
                        KeyValue::new("evergreen.condition", NODE_LOST),
                        KeyValue::new("evergreen.condition.status", word.lost),
                    ];
                    self.context.incidents.child_since(trace, span::CONDITION_WRITE, attributes, begun).end();
                }
            }
            Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => {
                tracing::info!(node, "the Node is no more; nothing is written about it");
                self.context.watch.with(|detector| detector.forget(node));
            }
            failed => {
                match failed {
                    Ok(Err(error)) => {
                        tracing::warn!(
                            node,
                            error = &error as &dyn std::error::Error,
                            "NodeLost cannot be written; trying again"
                        );
                    }
                    _ => {
                        tracing::warn!(node, "NodeLost cannot be written: no answer from the API server; trying again")
                    }
                }
                return false;
            }
        }
        let mut pending = self.pending.lock();
        if pending.get(node) == Some(word) {
            pending.remove(node);
        }
        true
    }

    /// Learns where nodes stand and which were lost before this term, and forgets those that are no more.
    pub(super) async fn follow_nodes(&self) {
        let mut absent: BTreeMap<String, u32> = BTreeMap::new();
        let mut adopted = false;
        loop {
            let begun = Instant::now();
            match self.look().await {
                Ok(nodes) => {
                    self.compare(&nodes, &mut adopted, &mut absent);
                    tokio::time::sleep_until(begun + LOOK).await;
                }
                Err(error) => {
                    tracing::warn!(error, "Nodes cannot be listed; trying again");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    fn compare(&self, nodes: &BTreeMap<String, Seen>, adopted: &mut bool, absent: &mut BTreeMap<String, u32>) {
        let now = BootClock.now();
        self.context.watch.with(|detector| {
            detector.place(nodes.iter().map(|(name, seen)| (name.clone(), seen.place.clone())).collect());
            if !std::mem::replace(adopted, true) {
                for (name, seen) in nodes.iter().filter(|(_, seen)| seen.lost) {
                    detector.adopt_lost(name, now);
                    if let Some(trace) = seen.trace {
                        self.traces.lock().insert(name.clone(), trace);
                    }
                }
            }
            let known: BTreeSet<String> = detector.standings().map(|(name, _)| name.to_owned()).collect();
            absent.retain(|name, _| known.contains(name) && !nodes.contains_key(name));
            for name in known.iter().filter(|name| !nodes.contains_key(*name)) {
                let looks = absent.entry(name.clone()).or_default();
                *looks += 1;
                if *looks >= ABSENT_LOOKS {
                    detector.forget(name);
                }
            }
        });
    }

    async fn look(&self) -> Result<BTreeMap<String, Seen>, String> {
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        let mut found = BTreeMap::new();
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = tokio::time::timeout(CALL_TIMEOUT, nodes.list(&parameters)).await;
            let page = page.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
            found.extend(page.items.iter().map(|node| (node.name_any(), Seen::of(node))));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}

/// What matters of a Node.
struct Seen {
    place: Place,
    lost: bool,
    trace: Option<TraceParent>,
}

impl Seen {
    fn of(node: &Node) -> Self {
        let label = |name: &str| node.labels().get(name).cloned().unwrap_or_default();
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        Self {
            place: Place { zone: label(names::LABEL_ZONE), rack: label(names::LABEL_RACK) },
            lost: conditions.into_iter().flatten().any(|c| c.type_ == NODE_LOST && c.status == "True"),
            trace: node.annotations().get(&names::node_traceparent_annotation(NODE_LOST)).and_then(|t| t.parse().ok()),
        }
    }
}

/// Reason and message with the evidence.
fn describe(evidence: &Evidence) -> (&'static str, String) {
    let refused = evidence.witnesses.iter().filter(|witness| witness.refused).count();
    let all_refused = refused > 0 && refused == evidence.witnesses.len();
    let peers: Vec<String> = evidence
        .witnesses
        .iter()
        .map(|witness| {
            let how = if witness.refused { ", refused by the host" } else { "" };
            format!("{} ({} tries{how})", witness.peer, witness.tries)
        })
        .collect();
    let silent = format!("no heartbeat for {:.1} s", evidence.silent_for.as_secs_f64());
    let peers = peers.join(", ");
    if all_refused {
        return ("AgentGone", format!("{silent}; peers found the host up but its agent gone: {peers}"));
    }
    ("NodeSilent", format!("{silent}; peers cannot reach it: {peers}"))
}

fn patch(word: &Word) -> Value {
    let at = format!("{:.0}", word.at);
    let mut patch = json!({"status": {"conditions": [{
        "type": NODE_LOST,
        "status": if word.lost { "True" } else { "False" },
        "reason": word.reason,
        "message": word.message,
        "lastTransitionTime": at,
        "lastHeartbeatTime": at,
    }]}});
    if let Some(trace) = word.trace.filter(|_| word.lost) {
        patch["metadata"] = json!({"annotations": {names::node_traceparent_annotation(NODE_LOST): trace.to_string()}});
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::{super::detector::Witness, *};

    fn evidence(refused: [bool; 2]) -> Evidence {
        let witness = |peer: &str, refused| Witness { peer: peer.into(), tries: 6, refused };
        Evidence {
            silent_for: Duration::from_millis(4_120),
            witnesses: vec![witness("n1", refused[0]), witness("n2", refused[1])],
        }
    }

    #[test]
    fn the_message_carries_the_evidence_and_tells_a_gone_agent_from_a_silent_host() {
        let (reason, message) = describe(&evidence([false, true]));
        assert_eq!(reason, "NodeSilent");
        assert_eq!(
            message,
            "no heartbeat for 4.1 s; peers cannot reach it: n1 (6 tries), n2 (6 tries, refused by the host)"
        );
        assert_eq!(describe(&evidence([true, true])).0, "AgentGone");
    }

    #[test]
    fn the_patch_names_one_condition_and_the_trace_of_a_loss() {
        let trace: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        let mut word = Word {
            lost: true,
            reason: "NodeSilent",
            message: "m".into(),
            at: "2026-03-01T10:00:00.7Z".parse().unwrap(),
            trace: Some(trace),
        };
        let written = patch(&word);
        assert_eq!(written["status"]["conditions"][0]["status"], "True");
        assert_eq!(
            written["metadata"]["annotations"]["evergreen.dev/traceparent.NodeLost"],
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        );
        word.lost = false;
        let cleared = patch(&word);
        assert_eq!(cleared["status"]["conditions"][0]["status"], "False");
        assert_eq!(cleared.get("metadata"), None);
    }
}
