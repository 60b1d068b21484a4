//! Writes the node's verdict to its cluster: Node conditions, NodeHealth, Events. On change only, never more than one
//! write to the Node a second, and always the latest state: what could not be written is not queued but replaced.
//!
//! It decides nothing about problems. An API server that is away is waited for, for ever, with back-off.

mod body;
pub mod cluster;
pub mod pods;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

pub use body::Desired;
use evergreen_api::{
    TraceParent, names,
    resources::{NodeHealth, NodeHealthSpec, NodeHealthStatus},
    telemetry::{attribute, span},
};
use evergreen_telemetry::{IncidentTracer, KeyValue};
use k8s_openapi::api::{core::v1::Node, events::v1::Event};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rand::Rng;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::conditions::{Adopted, ConditionType};

/// A Node is written at most this often.
const NODE_WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for one answer of the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Events that wait for the API server; the oldest goes first when there are more.
const MAX_EVENTS: usize = 64;
/// Where Events about nodes live: in the first of these that the cluster takes. Before Kubernetes 1.22 it was the second.
const EVENT_NAMESPACES: [&str; 2] = ["default", "kube-system"];
/// Name under which fields are written.
const FIELD_MANAGER: &str = "evergreen-agent";

/// A call to the API server that failed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It answered with an error, or not at all.
    #[error("{what} failed")]
    Call {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: kube::Error,
    },
    /// No answer in time.
    #[error("{what} got no answer within {} s", CALL_TIMEOUT.as_secs())]
    Late {
        /// What was tried.
        what: &'static str,
    },
}

/// Writes one node's verdict.
pub struct Publisher {
    client: Client,
    node: String,
    site: String,
    incidents: IncidentTracer,
    ready: Arc<AtomicBool>,
    adopted: mpsc::Sender<Adopted>,
    /// Conditions of our kinds as the Node has them; `None` until it was read.
    conditions: Option<BTreeMap<ConditionType, Value>>,
    health: Option<NodeHealthStatus>,
    health_kind_missing: bool,
    /// Problems whose beginning was told in an Event, and when they began.
    announced: BTreeMap<ConditionType, String>,
    events: VecDeque<Event>,
    dropped_events: u64,
    event_namespace: usize,
    last_node_write: Option<Instant>,
}

impl Publisher {
    /// A publisher that has written nothing. What it finds on the Node without knowing it goes to `adopted`.
    pub fn new(
        client: Client,
        node: String,
        site: String,
        incidents: IncidentTracer,
        ready: Arc<AtomicBool>,
        adopted: mpsc::Sender<Adopted>,
    ) -> Self {
        Self {
            client,
            node,
            site,
            incidents,
            ready,
            adopted,
            conditions: None,
            health: None,
            health_kind_missing: false,
            announced: BTreeMap::new(),
            events: VecDeque::new(),
            dropped_events: 0,
            event_namespace: 0,
            last_node_write: None,
        }
    }

    /// Publishes until cancelled.
    pub async fn run(mut self, mut desired: watch::Receiver<Desired>, cancel: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let changed = async {
                if failures == 0 {
                    // The sender lives as long as the agent; when it is gone there is nothing left to write.
                    if desired.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                } else {
                    tokio::time::sleep(backoff(failures)).await;
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = changed => {}
            }
            let step = async {
                if let Some(last) = self.last_node_write {
                    tokio::time::sleep_until(last + NODE_WRITE_INTERVAL).await;
                }
                let latest = desired.borrow_and_update().clone();
                self.sync(&latest).await
            };
            let outcome = tokio::select! {
                () = cancel.cancelled() => return,
                outcome = step => outcome,
            };
            match outcome {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!("the API server answers again; the node's state is written");
                    }
                    failures = 0;
                    self.ready.store(true, Ordering::Release);
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the node's state cannot be written; trying again"
                        );
                    }
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// Brings the cluster to the desired state.
    ///
    /// # Errors
    /// When a call failed; what was written by then is remembered, the rest is tried again.
    pub async fn sync(&mut self, desired: &Desired) -> Result<(), PublishError> {
        if self.conditions.is_none() {
            let found = self.read_node(desired).await?;
            self.conditions = Some(found);
        }
        self.announce(desired);
        self.write_conditions(desired).await?;
        self.write_health(desired).await?;
        self.write_events().await
    }

    async fn read_node(&self, desired: &Desired) -> Result<BTreeMap<ConditionType, Value>, PublishError> {
        let node = call("reading the Node", self.nodes().get(&self.node)).await?;
        let annotations = node.metadata.annotations.unwrap_or_default();
        let mut found = BTreeMap::new();
        for condition in node.status.and_then(|status| status.conditions).unwrap_or_default() {
            let trace = annotations.get(&names::node_traceparent_annotation(&condition.type_));
            // A condition without our annotation is another program's, until we have something to say about it.
            let Some(traceparent) = trace else { continue };
            let kind = ConditionType::named(&condition.type_);
            if condition.status == "True" && !desired.knows(kind) {
                let adopted = Adopted {
                    about: kind,
                    message: condition.message.clone().unwrap_or_default(),
                    since: condition.last_transition_time.as_ref().map(|time| time.0),
                    traceparent: traceparent.clone(),
                };
                // Full only when the agent is stopping.
                let _ = self.adopted.send(adopted).await;
            }
            found.insert(kind, serde_json::to_value(&condition).unwrap_or_default());
        }
        Ok(found)
    }

    async fn write_conditions(&mut self, desired: &Desired) -> Result<(), PublishError> {
        let Some(written) = &self.conditions else { return Ok(()) };
        let wanted = desired.conditions();
        let changed: Vec<(ConditionType, Value)> = wanted
            .iter()
            .filter(|(kind, condition)| match written.get(kind) {
                Some(before) => !body::says_the_same(before, condition),
                // The end of what the Node never had is no news for the Node.
                None => condition["status"] == "True" || desired.is_promised(**kind),
            })
            .map(|(kind, condition)| (*kind, condition.clone()))
            .collect();
        let removed: Vec<ConditionType> =
            desired.retired.iter().copied().filter(|kind| written.contains_key(kind)).collect();
        if changed.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let flips: Vec<(ConditionType, bool)> = changed
            .iter()
            .filter(|(kind, condition)| {
                written.get(kind).and_then(|before| before.get("status")) != condition.get("status")
            })
            .map(|(kind, condition)| (*kind, condition["status"] == "True"))
            .collect();
        let annotations = desired.annotations(&changed, &removed);
        let patch = body::node_patch(&changed, &removed, &annotations);
        let begun = SystemTime::now();
        self.last_node_write = Some(Instant::now());
        let params = patch_params();
        let nodes = self.nodes();
        let answer =
            call("writing the Node's conditions", nodes.patch_status(&self.node, &params, &Patch::Strategic(&patch)))
                .await?;
        // Annotations ride along with the status; where they do not, they get a write of their own.
        let have = answer.metadata.annotations.unwrap_or_default();
        if annotations.iter().any(|(name, value)| value.as_str() != have.get(name).map(String::as_str)) {
            let patch = json!({"metadata": {"annotations": annotations}});
            call("writing the Node's annotations", nodes.patch(&self.node, &params, &Patch::Merge(&patch))).await?;
        }
        for (kind, raised) in flips {
            self.trace_write(desired, kind, raised, begun);
        }
        if let Some(written) = &mut self.conditions {
            written.extend(changed);
            removed.iter().for_each(|kind| drop(written.remove(kind)));
        }
        Ok(())
    }

    fn trace_write(&self, desired: &Desired, kind: ConditionType, raised: bool, begun: SystemTime) {
        let Some(parent) = desired.traceparent(kind).and_then(|text| text.parse::<TraceParent>().ok()) else { return };
        let attributes = vec![
            KeyValue::new(attribute::PROBLEM_KIND, kind.kind().condition_type()),
            KeyValue::new(attribute::NODE, self.node.clone()),
            KeyValue::new(attribute::SITE, self.site.clone()),
            KeyValue::new("evergreen.condition.status", if raised { "True" } else { "False" }),
        ];
        self.incidents.child_since(parent, span::CONDITION_WRITE, attributes, begun).end();
    }

    /// Tells beginnings and ends that were not told yet.
    fn announce(&mut self, desired: &Desired) {
        let ended: Vec<ConditionType> =
            self.announced.keys().copied().filter(|kind| !desired.is_raised(*kind)).collect();
        for kind in ended {
            self.announced.remove(&kind);
            self.queue_event(desired, kind, false);
        }
        for (about, problem) in &desired.problems {
            let began = self.announced.insert(*about, problem.first_seen.clone());
            // After a restart old problems are known, not new; the Event's name keeps young ones from doubling.
            if began.as_ref() != Some(&problem.first_seen) && body::is_young(problem) {
                self.queue_event(desired, *about, true);
            }
        }
    }

    fn queue_event(&mut self, desired: &Desired, kind: ConditionType, raised: bool) {
        let Some(event) = desired.event(&self.node, kind, raised) else { return };
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            self.dropped_events += 1;
            tracing::warn!(
                dropped = self.dropped_events,
                "an Event waited too long and was dropped; the condition was not"
            );
        }
        self.events.push_back(event);
    }

    async fn write_health(&mut self, desired: &Desired) -> Result<(), PublishError> {
        let status = desired.health();
        if self.health.as_ref().is_some_and(|written| body::same_health(written, &status)) {
            return Ok(());
        }
        let api: Api<NodeHealth> = Api::all(self.client.clone());
        let patch = json!({"status": status});
        let params = patch_params();
        let first = call("writing the NodeHealth", api.patch_status(&self.node, &params, &Patch::Merge(&patch))).await;
        let outcome = match first {
            Err(PublishError::Call { source: kube::Error::Api(answer), .. }) if answer.is_not_found() => {
                let health = NodeHealth::new(&self.node, NodeHealthSpec { node_name: self.node.clone() });
                match call("creating the NodeHealth", api.create(&post_params(), &health)).await {
                    // The kind itself is not there: its definition comes with the chart. Conditions work without it.
                    Err(PublishError::Call { source: kube::Error::Api(answer), .. }) if answer.is_not_found() => {
                        if !std::mem::replace(&mut self.health_kind_missing, true) {
                            tracing::warn!(
                                "this cluster has no NodeHealth resource; install the custom resource definitions to see it"
                            );
                        }
                        return Ok(());
                    }
                    Err(PublishError::Call { source: kube::Error::Api(answer), .. }) if answer.is_already_exists() => {}
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
                call("writing the NodeHealth", api.patch_status(&self.node, &params, &Patch::Merge(&patch))).await
            }
            other => other,
        };
        outcome?;
        self.health_kind_missing = false;
        self.health = Some(status);
        Ok(())
    }

    async fn write_events(&mut self) -> Result<(), PublishError> {
        while let Some(event) = self.events.front_mut() {
            let namespace = EVENT_NAMESPACES[self.event_namespace];
            event.metadata.namespace = Some(namespace.to_owned());
            let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
            match call("writing an Event", api.create(&post_params(), event)).await {
                // Written before an answer that was lost.
                Err(PublishError::Call { source: kube::Error::Api(answer), .. }) if answer.is_already_exists() => {}
                Err(PublishError::Call { source: kube::Error::Api(answer), .. })
                    if answer.is_invalid() && self.event_namespace + 1 < EVENT_NAMESPACES.len() =>
                {
                    self.event_namespace += 1;
                    continue;
                }
                Err(PublishError::Call { source: kube::Error::Api(answer), .. })
                    if answer.is_forbidden() || answer.is_not_found() || answer.is_invalid() =>
                {
                    tracing::warn!(reason = %answer.message, "an Event was refused and is not tried again");
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            self.events.pop_front();
        }
        Ok(())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }
}

fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn post_params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

async fn call<T>(what: &'static str, work: impl Future<Output = kube::Result<T>>) -> Result<T, PublishError> {
    match tokio::time::timeout(CALL_TIMEOUT, work).await {
        Ok(outcome) => outcome.map_err(|source| PublishError::Call { what, source }),
        Err(_) => Err(PublishError::Late { what }),
    }
}

/// Doubles with every failure up to a limit; the random half keeps a thousand agents from returning at once.
fn backoff(failures: u32) -> Duration {
    let longest = BACKOFF.0.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(BACKOFF.1);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests;
