//! Plays a blow on one data center's twin in virtual time, with the controller's own self-healing at work on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evergreen_controller::{
    healing::{self, HealingContext, HealingOptions},
    nodes::detector::Settings,
};
use evergreen_telemetry::IncidentTracer;
use evergreen_twin::{Twin, apiserver::write::WriteContext, objects::meta};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{SiteFacts, WorkKey, WorkKind, condition, workloads_by_uid},
    ledger::{Ledger, Ready},
    outcome::{Capacity, Moved, Pending, PlaybookBlocked, PlaybookSeen},
    snapshot::Site,
    stage::stage,
};

/// Time for a copy to come to rest before anything is lost.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two looks.
const STEP: Duration = Duration::from_secs(1);
/// Looks in a row in which nothing is left to happen, after which a play ends early.
const QUIET: u64 = 15;
/// Kubernetes' defaults, as the twin keeps them: silence of a node, patience of its pods, a turn of its zone.
const GRACE: u64 = 50;
const TOLERATION: u64 = 300;
const TURN: u64 = 10;
/// No play goes on for longer after the blow.
const MOST: u64 = 2 * 3600;

/// A data center's copy, at rest, from which every play starts.
#[derive(Debug)]
pub struct Base<'a> {
    site: &'a Site,
    facts: &'a SiteFacts,
    twin: Twin,
    down: BTreeSet<String>,
    ledger: Ledger,
    ready: BTreeMap<WorkKey, Ready>,
    placed: BTreeMap<WorkKey, BTreeMap<String, u32>>,
    room: Room,
    /// Objects that the copy could not take in, and why.
    pub refused: Vec<(String, String)>,
}

impl<'a> Base<'a> {
    /// Makes the copy and lets it come to rest; `delay` is the virtual time between the snapshot and what happens.
    pub fn new(site: &'a Site, facts: &'a SiteFacts, taken_at: Timestamp, delay: Duration) -> Self {
        let (twin, loaded) = stage(site, taken_at, Duration::from_secs_f64(facts.start_seconds));
        twin.advance(SETTLE.max(delay));
        let down: BTreeSet<String> =
            site.all("nodes").iter().map(meta::name).filter(|name| !twin.is_node_up(name)).map(str::to_owned).collect();
        let mut ledger = Ledger::new(workloads_by_uid(site));
        ledger.follow(&twin);
        let (ready, placed, room) = (ledger.ready(&down), placed(&ledger), room(&twin, &ledger, &down));
        let refused =
            loaded.refused.into_iter().map(|refused| (format!("{} {}", refused.kind, refused.key), refused.why));
        Self { site, facts, down, ready, placed, room, refused: refused.collect(), ledger, twin }
    }
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Blow {
    /// These nodes lose power.
    Nodes(BTreeSet<String>),
    /// All replicas of a workload stop being ready.
    Silence(WorkKey),
    /// Workloads are asked for so many more replicas.
    Grow(Vec<(WorkKey, u32)>),
}

/// Replicas of a workload in the course of a play, by seconds after the blow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// Ready replicas just before the blow.
    pub before: u32,
    /// Least that truly served.
    pub low: u32,
    /// Ready replicas at the end.
    pub after: u32,
    /// Seconds from the blow until some replica served again, if there was none at first.
    pub none_until: Option<u64>,
    /// Whether there was a time without any.
    pub had_none: bool,
    /// Least that the API told.
    pub told_low: u32,
    /// When the API first told less than before.
    pub told_less_at: Option<u64>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// Workloads.
    pub series: BTreeMap<WorkKey, Series>,
    /// Pods that moved.
    pub moved: Vec<Moved>,
    /// Pods without a place.
    pub pending: Vec<Pending>,
    /// Room.
    pub capacity: Capacity,
    /// Playbooks that ran.
    pub playbooks: Vec<PlaybookSeen>,
    /// Playbooks that were kept from it.
    pub blocked: Vec<PlaybookBlocked>,
    /// Pods on lost nodes that were neither replaced nor evicted, by workload.
    pub stranded: BTreeMap<WorkKey, u32>,
}

/// Plays it on a fork of the copy.
///
/// # Panics
/// Never: a runtime without I/O can always be made.
pub fn play(base: &Base<'_>, blow: &Blow) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O needs nothing of the system").block_on(act(base, blow))
}

async fn act(base: &Base<'_>, blow: &Blow) -> Played {
    let Base { site, facts, .. } = base;
    let twin = base.twin.fork();
    let cancel = CancellationToken::new();
    let heals = !matches!(blow, Blow::Grow(_));
    let healing = heals.then(|| {
        let context = HealingContext {
            client: twin.client("evergreen-controller"),
            site: site.name.clone(),
            incidents: IncidentTracer::unexported(),
            meter: opentelemetry::global::meter("evergreen.rehearsal"),
            began: twin.api().clock().now(),
            options: HealingOptions::default(),
        };
        tokio::spawn(healing::run(context, cancel.clone()))
    });
    // The healer has seen everything before anything happens.
    tokio::time::sleep(STEP).await;
    let (mut ledger, mut down) = (base.ledger.clone(), base.down.clone());
    strike(&twin, blow, &mut down);
    let mut series: BTreeMap<WorkKey, Series> = BTreeMap::new();
    let (mut quiet, mut resting) = (0, false);
    for second in 0..=horizon(blow, facts.start_seconds) {
        if second > 0 {
            // Two clocks, one step: the data center's, and the one that its controller lives by.
            twin.advance(STEP);
            tokio::time::sleep(STEP).await;
        }
        if let Blow::Nodes(nodes) = blow
            && facts.detector
            && second == Settings::default().confirm_after.as_secs()
        {
            nodes.iter().for_each(|node| mark_lost(&twin, node));
        }
        let changed = ledger.follow(&twin) || second == 0;
        if changed {
            note(&mut series, &base.ready, &ledger.ready(&down), second);
        }
        if changed || second == GRACE {
            resting = rests(&series, &ledger, &down);
        }
        quiet = if second > GRACE && resting && !changed { quiet + 1 } else { 0 };
        if quiet > QUIET {
            break;
        }
    }
    let grown = matches!(blow, Blow::Grow(_));
    let played = Played {
        moved: if grown { Vec::new() } else { moved(&site.name, &base.placed, &ledger, &down) },
        pending: pending(&site.name, &ledger),
        capacity: capacity(&site.name, base.room, room(&twin, &ledger, &down)),
        playbooks: playbooks(&twin, site),
        blocked: blocked(&twin, site),
        stranded: stranded(&ledger, &down),
        series,
    };
    cancel.cancel();
    if let Some(healing) = healing {
        let _ = healing.await;
    }
    played
}

fn horizon(blow: &Blow, start_seconds: f64) -> u64 {
    let start = start_seconds.ceil() as u64;
    match blow {
        Blow::Nodes(nodes) => (GRACE + 5 + TOLERATION + start + 60 + TURN * nodes.len() as u64).min(MOST),
        Blow::Silence(_) => 30,
        Blow::Grow(_) => start + 30,
    }
}

fn strike(twin: &Twin, blow: &Blow, down: &mut BTreeSet<String>) {
    match blow {
        Blow::Nodes(nodes) => {
            for node in nodes {
                twin.stop_node(node);
                down.insert(node.clone());
            }
        }
        Blow::Silence(work) => {
            let owned = |pod: &Value| {
                let labels = meta::at(pod, &["metadata", "labels"]);
                let (plural, namespace) = (work.kind.plural(), &work.namespace);
                let object = twin.api().read("apps", plural, namespace, &work.name).unwrap_or_default();
                let selector = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
                !selector.is_empty() && meta::labels_fit(labels, &selector)
            };
            for pod in twin.api().read_all("", "pods", Some(&work.namespace)).iter().filter(|pod| owned(pod)) {
                amend(twin, "v1", "Pod", pod, Some("status"), |pod| {
                    for condition in pod["status"]["conditions"].as_array_mut().into_iter().flatten() {
                        if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
                            condition["status"] = json!("False");
                        }
                    }
                });
            }
        }
        Blow::Grow(works) => {
            for (work, more) in works {
                let plural = work.kind.plural();
                let Some(object) = twin.api().read("apps", plural, &work.namespace, &work.name) else { continue };
                amend(twin, "apps/v1", work.kind.name(), &object, None, |object| {
                    let now = meta::integer(object, &["spec", "replicas"]).unwrap_or(1);
                    object["spec"]["replicas"] = json!(now + i64::from(*more));
                });
            }
        }
    }
}

/// What the controller's node detector writes once enough peers agree that a node is gone.
fn mark_lost(twin: &Twin, node: &str) {
    let Some(object) = twin.api().read("", "nodes", "", node) else { return };
    let now = twin.api().clock().seconds();
    amend(twin, "v1", "Node", &object, Some("status"), |node| {
        let lost = json!({"type": "NodeLost", "status": "True", "reason": "Rehearsal", "message": "lost in a rehearsal",
            "lastTransitionTime": now, "lastHeartbeatTime": now});
        if let Some(conditions) = node["status"]["conditions"].as_array_mut() {
            conditions.retain(|condition| condition["type"] != "NodeLost");
            conditions.push(lost);
        }
    });
}

fn amend(
    twin: &Twin,
    api_version: &str,
    kind: &str,
    object: &Value,
    subresource: Option<&'static str>,
    change: impl FnOnce(&mut Value),
) {
    let Some(resource) = twin.api().registry().by_kind(api_version, kind) else { return };
    let context = WriteContext { subresource, ..WriteContext::default() };
    let written = twin.api().update(&resource, meta::namespace(object), meta::name(object), &context, |old| {
        let mut new = old.clone();
        change(&mut new);
        Ok(new)
    });
    if let Err(error) = written {
        tracing::debug!(%error, kind, name = meta::name(object), "gone meanwhile");
    }
}

fn note(
    series: &mut BTreeMap<WorkKey, Series>,
    before: &BTreeMap<WorkKey, Ready>,
    now: &BTreeMap<WorkKey, Ready>,
    second: u64,
) {
    for (work, start) in before {
        let ready = now.get(work).copied().unwrap_or_default();
        let fresh = Series { before: start.truly, low: start.truly, told_low: start.told, ..Series::default() };
        let series = series.entry(work.clone()).or_insert(fresh);
        series.low = series.low.min(ready.truly);
        series.told_low = series.told_low.min(ready.told);
        series.after = ready.truly;
        if ready.told < start.told && series.told_less_at.is_none() {
            series.told_less_at = Some(second);
        }
        if start.truly > 0 && ready.truly == 0 {
            (series.had_none, series.none_until) = (true, None);
        } else if series.had_none && series.none_until.is_none() {
            series.none_until = Some(second);
        }
    }
}

/// Whether all replicas are back and no lost node has pods that will yet be evicted.
fn rests(series: &BTreeMap<WorkKey, Series>, ledger: &Ledger, down: &BTreeSet<String>) -> bool {
    series.values().all(|series| series.after >= series.before)
        && ledger.on(down).all(|pod| pod.daemon || pod.terminating)
}

fn placed(ledger: &Ledger) -> BTreeMap<WorkKey, BTreeMap<String, u32>> {
    let mut found: BTreeMap<WorkKey, BTreeMap<String, u32>> = BTreeMap::new();
    for pod in ledger.pods.values().filter(|pod| !pod.finished && !pod.terminating) {
        if let (Some(work), Some(node)) = (&pod.work, &pod.node) {
            *found.entry(work.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
    }
    found
}

fn moved(
    site: &str,
    before: &BTreeMap<WorkKey, BTreeMap<String, u32>>,
    ledger: &Ledger,
    down: &BTreeSet<String>,
) -> Vec<Moved> {
    let after = placed(ledger);
    let nothing = BTreeMap::new();
    let works = before.iter().filter_map(|(work, from)| {
        let now = after.get(work).unwrap_or(&nothing);
        let more = |a: &BTreeMap<String, u32>, b: &BTreeMap<String, u32>| -> BTreeMap<String, u32> {
            let less = |node: &String| b.get(node).copied().unwrap_or(0);
            let rest = a.iter().map(|(node, pods)| (node.clone(), pods.saturating_sub(less(node))));
            rest.filter(|(_, pods)| *pods > 0).collect()
        };
        let (from, to) = (more(from, now), more(now, from));
        let touched = from.keys().any(|node| down.contains(node)) || !to.is_empty();
        touched.then(|| Moved { site: site.to_owned(), workload: work.to_string(), from, to })
    });
    works.collect()
}

fn pending(site: &str, ledger: &Ledger) -> Vec<Pending> {
    let mut found: BTreeMap<(String, String), Pending> = BTreeMap::new();
    let waiting = ledger.pods.values().filter(|pod| pod.node.is_none() && !pod.finished && !pod.terminating);
    for pod in waiting {
        let workload = pod.work.as_ref().map_or_else(|| "Pod".to_owned(), ToString::to_string);
        let reason = pod.waits.clone().unwrap_or_else(|| "not yet looked at by the scheduler".to_owned());
        let entry = found.entry((workload.clone(), reason.clone())).or_insert_with(|| Pending {
            site: site.to_owned(),
            workload,
            pods: 0,
            reason,
            cpu_millis: 0,
            memory_bytes: 0,
        });
        entry.pods += 1;
        entry.cpu_millis += pod.cpu_millis;
        entry.memory_bytes += pod.memory_bytes;
    }
    found.into_values().collect()
}

fn stranded(ledger: &Ledger, down: &BTreeSet<String>) -> BTreeMap<WorkKey, u32> {
    let mut found: BTreeMap<WorkKey, u32> = BTreeMap::new();
    for pod in ledger.pods.values().filter(|pod| pod.node.as_ref().is_some_and(|node| down.contains(node))) {
        // A Deployment replaces a pod that is being deleted; a StatefulSet waits until it is gone.
        if let Some(work) = pod.work.as_ref().filter(|work| !pod.terminating || work.kind == WorkKind::StatefulSet) {
            *found.entry(work.clone()).or_default() += 1;
        }
    }
    found
}

/// Nodes that take pods, what they can give and what is asked of them: cores in thousandths, bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    nodes: u32,
    cpu: [u64; 2],
    memory: [u64; 2],
}

fn room(twin: &Twin, ledger: &Ledger, down: &BTreeSet<String>) -> Room {
    let (mut room, mut names) = (Room::default(), BTreeSet::new());
    for node in twin.api().read_all("", "nodes", None) {
        let name = meta::name(&node);
        let ready = condition(&node, "Ready").is_some_and(|(status, _)| status == "True");
        if down.contains(name) || !ready || node["spec"]["unschedulable"] == true {
            continue;
        }
        let allocatable = &node["status"]["allocatable"];
        room.nodes += 1;
        room.cpu[0] += allocatable.get("cpu").and_then(meta::cpu_millis).unwrap_or(0);
        room.memory[0] += allocatable.get("memory").and_then(meta::whole).unwrap_or(0);
        names.insert(name.to_owned());
    }
    for pod in ledger.on(&names) {
        room.cpu[1] += pod.cpu_millis;
        room.memory[1] += pod.memory_bytes;
    }
    room
}

fn capacity(site: &str, before: Room, after: Room) -> Capacity {
    Capacity {
        site: site.to_owned(),
        nodes: [before.nodes, after.nodes],
        cpu_millis: [before.cpu[0], after.cpu[0]],
        cpu_requested: [before.cpu[1], after.cpu[1]],
        memory_bytes: [before.memory[0], after.memory[0]],
        memory_requested: [before.memory[1], after.memory[1]],
    }
}

/// Runs that began after the blow, those of one playbook and one course together.
fn playbooks(twin: &Twin, site: &Site) -> Vec<PlaybookSeen> {
    let known: BTreeSet<&str> = site.all("playbookruns.evergreen.dev").iter().map(meta::name).collect();
    let installed: BTreeSet<&str> = site.all("playbooks.evergreen.dev").iter().map(meta::name).collect();
    let mut found: BTreeMap<(String, bool, String, Vec<String>), Vec<String>> = BTreeMap::new();
    let runs = twin.api().read_all("evergreen.dev", "playbookruns", None);
    for run in runs.iter().filter(|run| !known.contains(meta::name(run))) {
        let text = |path: &[&str]| meta::text(run, path).unwrap_or_default().to_owned();
        let acts = run["spec"]["plan"]["mode"] == "enforce";
        let phase = match text(&["status", "phase"]) {
            phase if phase.is_empty() => "Pending".to_owned(),
            phase => phase,
        };
        let steps = meta::list(run, &["status", "log"]).iter().filter_map(|step| {
            let action = step["action"].as_str()?;
            Some(match step["outcome"].as_str() {
                Some(outcome) => format!("{action}: {outcome}"),
                None => format!("{action} ..."),
            })
        });
        let course = (text(&["spec", "playbook"]), acts, phase, steps.collect());
        found.entry(course).or_default().push(text(&["spec", "subject", "name"]));
    }
    let seen = found.into_iter().map(|((playbook, acts, phase, steps), mut nodes)| {
        nodes.sort();
        let installed = installed.contains(playbook.as_str());
        PlaybookSeen { site: site.name.clone(), playbook, nodes, installed, acts, phase, steps }
    });
    seen.collect()
}

/// What the controller's healing told in Events about playbooks that it did not start.
fn blocked(twin: &Twin, site: &Site) -> Vec<PlaybookBlocked> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in twin.api().read_all("", "events", None).iter().filter(|event| event["reason"] == "PlaybookBlocked") {
        let text = event["note"].as_str().or(event["message"].as_str()).unwrap_or_default();
        let object = if event["regarding"].is_object() { &event["regarding"] } else { &event["involvedObject"] };
        found.entry(text.to_owned()).or_default().insert(object["name"].as_str().unwrap_or_default().to_owned());
    }
    let told = found.into_iter().map(|(reason, nodes)| PlaybookBlocked {
        site: site.name.clone(),
        reason,
        nodes: nodes.into_iter().collect(),
    });
    told.collect()
}

impl WorkKind {
    /// Its kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
        }
    }
}

impl std::fmt::Display for WorkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}
