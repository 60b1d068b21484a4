//! Plays a story on a twin and tells what was seen.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::parse::{Event, Fact, Sentence, Setting, Story};
use crate::apiserver::delete::DeleteOptions;
use crate::apiserver::subresources::{is_ready, set_condition};
use crate::faults::{Answer, Loss, Matcher};
use crate::objects::meta;
use crate::sim::Timing;
use crate::twin::{NodeSpec, Twin};

/// The time that every story begins at.
const EPOCH: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z
/// Between two looks at what has changed.
const LOOK: Duration = Duration::from_secs(1);
/// Time for a data center to come up before a story begins.
const RISE: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The story as it went, line by line.
    pub text: String,
    /// Facts that were not the case, with what was.
    pub wrong: Vec<String>,
}

/// Plays a story. The runtime's clock has to be paused: then it takes a moment and is the same every time.
///
/// # Errors
/// What there is cannot be set up.
pub async fn play(story: &Story) -> Result<Told, String> {
    let twin = stage(story)?;
    let cancel = CancellationToken::new();
    let running = twin.start(cancel.clone());
    tokio::time::sleep(RISE).await;
    let mut player = Player {
        twin,
        begin: Instant::now(),
        told: Told { text: format!("{}\n", story.title), wrong: Vec::new() },
        seen: Seen::default(),
        granted: None,
    };
    player.seen = player.look();
    for (time, sentence) in &story.steps {
        player.wait_until(*time).await;
        match sentence {
            Sentence::When(event, words) => {
                player.say("when", words);
                player.cause(event)?;
                // The event is through before anything is asked about it.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Sentence::Then(fact, words) => player.check(fact, words),
        }
    }
    cancel.cancel();
    let _ = running.await;
    Ok(player.told)
}

fn stage(story: &Story) -> Result<Twin, String> {
    let (mut cores, mut memory, mut timing) = (32, 64, Timing::kubernetes());
    for setting in &story.given {
        match setting {
            Setting::NodeSize { cores: c, gibibytes } => (cores, memory) = (*c, *gibibytes),
            Setting::DemoTime => timing = Timing::short(),
            _ => {}
        }
    }
    let mut built = None;
    for setting in &story.given {
        if let Setting::DataCenter { name, nodes, zones } = setting {
            let epoch = Timestamp::from_second(EPOCH).map_err(|e| e.to_string())?;
            let mut builder = Twin::builder(name).epoch(epoch).timing(timing.clone());
            for n in 0..*nodes {
                let mut node = NodeSpec::new(&format!("{name}-{}", n + 1)).capacity(cores, memory << 30);
                if !zones.is_empty() {
                    node = node.zone(&zones[n as usize % zones.len()]);
                }
                builder = builder.node(node);
            }
            built = Some(builder.build());
        }
    }
    let twin = built.ok_or("the story has no data center")?;
    let patience = |name: &str| {
        story.given.iter().find_map(|s| match s {
            Setting::Patience { name: of, seconds } if of == name => Some(*seconds),
            _ => None,
        })
    };
    for setting in &story.given {
        let object = match setting {
            Setting::Deployment { name, replicas, millicores } => {
                Some(workload("Deployment", name, Some(*replicas), *millicores, patience(name)))
            }
            Setting::StatefulSet { name, replicas } => {
                Some(workload("StatefulSet", name, Some(*replicas), 100, patience(name)))
            }
            Setting::DaemonSet { name } => Some(workload("DaemonSet", name, None, 50, patience(name))),
            Setting::Budget { name, keeps, of } => Some(json!({
                "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "default"},
                "spec": {"minAvailable": keeps, "selector": {"matchLabels": {"app": of}}},
            })),
            _ => None,
        };
        if let Some(object) = object {
            twin.api().create_object(&object).map_err(|e| format!("{setting:?}: {e}"))?;
        }
    }
    Ok(twin)
}

fn workload(kind: &str, name: &str, replicas: Option<u32>, millicores: u32, patience: Option<u32>) -> Value {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "main", "image": format!("{name}:1"),
            "resources": {"requests": {"cpu": format!("{millicores}m"), "memory": "64Mi"}}}],
    });
    if let Some(seconds) = patience {
        let bears =
            |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        spec["tolerations"] = json!([bears("node.kubernetes.io/not-ready"), bears("node.kubernetes.io/unreachable")]);
    }
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec}},
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = json!(replicas);
    }
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!(name);
    }
    object
}

/// What the teller notices by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    nodes: std::collections::BTreeMap<String, String>,
    pods: std::collections::BTreeMap<String, (usize, usize)>,
}

struct Player {
    twin: Twin,
    begin: Instant,
    told: Told,
    seen: Seen,
    granted: Option<bool>,
}

impl Player {
    fn say(&mut self, kind: &str, words: &str) {
        let time = clock(self.begin.elapsed());
        let _ = writeln!(self.told.text, "{time:>9}  {kind:<4}  {words}");
    }

    /// Lets time pass and tells what changes meanwhile.
    async fn wait_until(&mut self, time: Duration) {
        loop {
            let now = self.begin.elapsed();
            if now >= time {
                return;
            }
            tokio::time::sleep((time - now).min(LOOK)).await;
            self.notice();
        }
    }

    fn notice(&mut self) {
        let now = self.look();
        let mut lines = Vec::new();
        for (name, state) in &now.nodes {
            if self.seen.nodes.get(name) != Some(state) {
                lines.push(format!("node {name} is {state}"));
            }
        }
        for (name, (ready, all)) in &now.pods {
            if self.seen.pods.get(name) != Some(&(*ready, *all)) {
                lines.push(format!("{name}: {ready} of {all} pods ready"));
            }
        }
        lines.iter().for_each(|line| self.say("", line));
        self.seen = now;
    }

    fn look(&self) -> Seen {
        let mut seen = Seen::default();
        for node in self.twin.api().read_all("", "nodes", None) {
            let mut state = match ready_status(&node) {
                "True" => "ready",
                "False" => "not ready",
                _ => "unknown",
            }
            .to_owned();
            if drives_out(&node) {
                state.push_str(" and drives its pods out");
            }
            seen.nodes.insert(meta::name(&node).to_owned(), state);
        }
        for pod in self.twin.api().read_all("", "pods", Some("default")) {
            if let Some(app) = pod["metadata"]["labels"]["app"].as_str() {
                let counts = seen.pods.entry(app.to_owned()).or_default();
                counts.1 += usize::from(!meta::is_deleting(&pod));
                counts.0 += usize::from(!meta::is_deleting(&pod) && is_ready(&pod));
            }
        }
        seen
    }

    fn pods_of(&self, app: &str) -> Vec<Value> {
        let pods = self.twin.api().read_all("", "pods", Some("default"));
        pods.into_iter().filter(|p| p["metadata"]["labels"]["app"] == app && !meta::is_deleting(p)).collect()
    }

    fn nodes_in(&self, zone: &str) -> Vec<String> {
        let nodes = self.twin.api().read_all("", "nodes", None);
        let label = evergreen_api::names::LABEL_ZONE;
        nodes.iter().filter(|n| n["metadata"]["labels"][label] == zone).map(|n| meta::name(n).to_owned()).collect()
    }

    fn power(&self, node: &str, on: bool) -> Result<(), String> {
        if on {
            self.twin.start_node(node).map_err(|e| e.to_string())?;
        } else {
            self.twin.stop_node(node);
        }
        Ok(())
    }

    fn cause(&mut self, event: &Event) -> Result<(), String> {
        let api = self.twin.api().clone();
        match event {
            Event::NodePower { node, on } => self.power(node, *on)?,
            Event::ZonePower { zone, on } => {
                for node in self.nodes_in(zone) {
                    self.power(&node, *on)?;
                }
            }
            Event::SitePower { on: false } => self.twin.lose_site(Loss::Reset),
            Event::SitePower { on: true } => self.twin.return_site(),
            Event::Cordon { node, on } => {
                let on = *on;
                api.amend("", "nodes", "", node, None, |n| n["spec"]["unschedulable"] = json!(on));
            }
            Event::Taint { node, key, value, effect } => {
                let taint = json!({"key": key, "value": value, "effect": effect});
                api.amend("", "nodes", "", node, None, |n| {
                    let taints = meta::object_mut(n, "spec").entry("taints").or_insert_with(|| json!([]));
                    if let Some(list) = taints.as_array_mut() {
                        list.push(taint);
                    }
                });
            }
            Event::SaysNotReady { node } => {
                let now = api.clock().seconds();
                let condition = json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "told so by the story"});
                api.amend("", "nodes", "", node, Some("status"), |n| {
                    set_condition(&mut n["status"], &condition, &now);
                });
            }
            Event::Scale { deployment, replicas } => {
                let replicas = *replicas;
                api.amend("apps", "deployments", "default", deployment, None, |d| {
                    d["spec"]["replicas"] = json!(replicas);
                });
            }
            Event::Evict { of } => {
                let pod = self.pods_of(of).into_iter().find(is_ready).ok_or(format!("no pod of {of} is ready"))?;
                let answer = api.evict("default", meta::name(&pod), &json!({"kind": "Eviction"}), false);
                self.granted = Some(answer.is_ok());
            }
            Event::Delete { of } => {
                let pod = self.pods_of(of).into_iter().next().ok_or(format!("there is no pod of {of}"))?;
                let pods = api.builtin("", "pods");
                api.delete(&pods, "default", meta::name(&pod), &DeleteOptions::default()).map_err(|e| e.to_string())?;
            }
            Event::Reach { everybody: false } => self.twin.faults().lose(Loss::Silent),
            Event::Reach { everybody: true } => self.twin.faults().heal(""),
            Event::Forget => api.compact(),
            Event::Answers { count, verb, resource, status } => {
                let answer = match status {
                    409 => Answer::Conflict,
                    410 => Answer::Gone,
                    429 => Answer::TooManyRequests(1),
                    500 => Answer::InternalError,
                    _ => Answer::Unavailable(1),
                };
                self.twin.faults().inject(Matcher::of(verb, resource), answer, *count);
            }
        }
        Ok(())
    }

    fn check(&mut self, fact: &Fact, words: &str) {
        let api = self.twin.api();
        let (fine, is) = match fact {
            Fact::Ready { of, count, at_least } => {
                let ready = self.pods_of(of).iter().filter(|p| is_ready(p)).count();
                (if *at_least { ready >= *count as usize } else { ready == *count as usize }, format!("{ready} are"))
            }
            Fact::Pending { of, count } => {
                let pending = self.pods_of(of).iter().filter(|p| p["status"]["phase"] == "Pending").count();
                (pending == *count as usize, format!("{pending} are"))
            }
            Fact::Count { of, count } => {
                let all = self.pods_of(of).len();
                (all == *count as usize, format!("there are {all}"))
            }
            Fact::NotOnNode { of, node } => {
                let found = self.pods_of(of).iter().filter(|p| p["spec"]["nodeName"] == node.as_str()).count();
                (found == 0, format!("{found} are"))
            }
            Fact::NotInZone { of, zone } => {
                let nodes = self.nodes_in(zone);
                let there = |p: &&Value| p["spec"]["nodeName"].as_str().is_some_and(|n| nodes.iter().any(|x| x == n));
                let found = self.pods_of(of).iter().filter(there).count();
                (found == 0, format!("{found} are"))
            }
            Fact::Node { node, status } => {
                let node = api.read("", "nodes", "", node).unwrap_or_default();
                let is = ready_status(&node).to_owned();
                (is == *status, format!("its Ready condition is {is}"))
            }
            Fact::ReadyNodes { count } => {
                let nodes = api.read_all("", "nodes", None);
                let ready = nodes.iter().filter(|n| ready_status(n) == "True").count();
                (ready == *count as usize, format!("{ready} are"))
            }
            Fact::DrivenOut { count } => {
                let found = api.read_all("", "nodes", None).iter().filter(|n| drives_out(n)).count();
                (found == *count as usize, format!("{found} do"))
            }
            Fact::Budget { name, allows } => {
                let budget = api.read("policy", "poddisruptionbudgets", "default", name).unwrap_or_default();
                let is = meta::integer(&budget, &["status", "disruptionsAllowed"]).unwrap_or(0);
                (is == *allows, format!("it allows {is}"))
            }
            Fact::LastEviction { granted } => match self.granted {
                Some(was) => (was == *granted, format!("it was {}", if was { "granted" } else { "refused" })),
                None => (false, "there was none".to_owned()),
            },
        };
        if fine {
            self.say("then", words);
        } else {
            self.say("NOT", &format!("{words}: {is}"));
            self.told.wrong.push(format!("{}: {words}: {is}", clock(self.begin.elapsed()).trim()));
        }
    }
}

fn ready_status(node: &Value) -> &str {
    let conditions = meta::list(node, &["status", "conditions"]);
    conditions.iter().find(|c| c["type"] == "Ready").and_then(|c| c["status"].as_str()).unwrap_or("Unknown")
}

fn drives_out(node: &Value) -> bool {
    meta::list(node, &["spec", "taints"]).iter().any(|t| t["effect"] == "NoExecute")
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, s) => format!("{h}h {m:02}m {s:02}s"),
    }
}
