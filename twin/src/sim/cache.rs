//! What the controllers remember of the store, so that no step reads a whole table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::apiserver::clock::Moment;
use serde_json::Value;

use super::company::Term;
use super::fitting::{Requests, Used};
use super::{Simulation, Work};
use crate::apiserver::store::{Change, Entry};
use crate::apiserver::subresources::is_ready;
use crate::objects::meta;
use crate::objects::selectors::LabelSelector;

/// The few facts of a pod that controllers decide by.
#[derive(Debug, Clone)]
pub(crate) struct PodFacts {
    pub(crate) entry: Arc<Entry>,
    pub(crate) key: Arc<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) controller: Option<Arc<str>>,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) phase: &'static str,
    pub(crate) ready: bool,
    /// Seconds of grace, when deletion has begun.
    pub(crate) deleting: Option<i64>,
    pub(crate) address: Option<Box<str>>,
    pub(crate) requests: Requests,
    pub(crate) cpu_limit_millis: Option<u64>,
    pub(crate) qos: &'static str,
    pub(crate) created: Box<str>,
    pub(crate) priority: i64,
    /// Whether its containers are started anew whatever their end.
    pub(crate) restarts: bool,
    /// Name of the first container.
    pub(crate) container: Box<str>,
    /// Whether annotations say how it behaves.
    pub(crate) peculiar: bool,
    /// Required anti-affinity.
    pub(crate) repels: Box<[Term]>,
}

impl PodFacts {
    fn of(entry: &Arc<Entry>, nodes: &BTreeMap<Arc<str>, Arc<NodeInfo>>) -> Self {
        let pod = entry.value();
        let node = meta::text(&pod, &["spec", "nodeName"]).filter(|n| !n.is_empty());
        let controller = meta::controller_uid(&pod);
        PodFacts {
            entry: entry.clone(),
            key: entry.key.clone(),
            uid: entry.uid.clone(),
            // The owner's UID and the node's name are shared with the owner references and the node.
            controller: controller
                .map(|uid| entry.owners().iter().find(|o| ***o == *uid).map_or_else(|| uid.into(), Arc::clone)),
            node: node.map(|n| nodes.get_key_value(n).map_or_else(|| n.into(), |(name, _)| name.clone())),
            phase: known(meta::text(&pod, &["status", "phase"]), &PHASES),
            ready: is_ready(&pod),
            deleting: meta::is_deleting(&pod)
                .then(|| meta::integer(&pod, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0)),
            address: meta::text(&pod, &["status", "podIP"]).map(Box::from),
            requests: Requests::of(&pod),
            cpu_limit_millis: meta::list(&pod, &["spec", "containers"])
                .iter()
                .filter_map(|c| c["resources"]["limits"].get("cpu").and_then(meta::cpu_millis))
                .reduce(|a, b| a + b),
            qos: known(meta::text(&pod, &["status", "qosClass"]), &CLASSES),
            created: meta::text(&pod, &["metadata", "creationTimestamp"]).unwrap_or_default().into(),
            priority: meta::integer(&pod, &["spec", "priority"]).unwrap_or(0),
            restarts: meta::text(&pod, &["spec", "restartPolicy"]).is_none_or(|p| p == "Always"),
            container: pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default().into(),
            peculiar: super::behaviour::is_peculiar(&pod["metadata"]),
            repels: Term::required(&pod["spec"], "podAntiAffinity", entry.namespace()),
        }
    }

    /// Whether it runs or may yet run.
    pub(crate) fn is_active(&self) -> bool {
        self.deleting.is_none() && !self.is_over()
    }

    /// Whether its containers have ended for good.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, "Succeeded" | "Failed")
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.entry.label(key)
    }

    pub(crate) fn fits(&self, selector: &LabelSelector) -> bool {
        selector.fits(|key| self.entry.label(key))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.entry.namespace()
    }

    pub(crate) fn name(&self) -> &str {
        self.entry.name()
    }
}

const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
const CLASSES: [&str; 3] = ["Guaranteed", "Burstable", "BestEffort"];

fn known(text: Option<&str>, words: &[&'static str]) -> &'static str {
    words.iter().find(|w| Some(**w) == text).copied().unwrap_or_default()
}

/// What the controllers know of a node.
#[derive(Debug)]
pub(crate) struct NodeInfo {
    pub(crate) entry: Arc<Entry>,
    pub(crate) zone: Box<str>,
    /// The status of the condition Ready; `None` for Unknown.
    pub(crate) ready: Option<bool>,
    pub(crate) taints: Box<[Value]>,
    pub(crate) cordoned: bool,
    pub(crate) deleting: bool,
    /// What pods may ask for together; `None` if the node does not say.
    pub(crate) room: Option<Requests>,
    pub(crate) pods: Option<u64>,
    pub(crate) address: Value,
}

impl NodeInfo {
    fn of(entry: &Arc<Entry>) -> Self {
        let node = entry.value();
        let room = &node["status"]["allocatable"];
        let ready = meta::list(&node, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
        NodeInfo {
            zone: entry.label(evergreen_api::names::LABEL_ZONE).unwrap_or_default().into(),
            ready: match ready.and_then(|c| c["status"].as_str()) {
                Some("True") => Some(true),
                Some("False") => Some(false),
                _ => None,
            },
            taints: meta::list(&node, &["spec", "taints"]).into(),
            cordoned: node["spec"]["unschedulable"] == true,
            deleting: meta::is_deleting(&node),
            room: room.is_object().then(|| Requests::read(room)),
            pods: room.get("pods").and_then(meta::whole),
            address: node["status"]["addresses"][0]["address"].clone(),
            entry: entry.clone(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.entry.name()
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.entry.label(key)
    }

    /// Its domain under a topology key; every node is its own host, labelled or not.
    pub(crate) fn domain(&self, topology: &str) -> Option<&str> {
        self.label(topology).or_else(|| (topology == "kubernetes.io/hostname").then(|| self.name()))
    }
}

/// How far the kubelet is with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Creating,
    /// A container has crashed and waits to be started again.
    BackOff,
    Running,
    Ready,
    Stopping,
    Ended,
    Failed,
}

type Keys = BTreeSet<Arc<str>>;

/// The large maps are shared with forks until one side writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cache {
    pub(crate) pods: Arc<BTreeMap<Arc<str>, Arc<PodFacts>>>,
    pub(crate) nodes: Arc<BTreeMap<Arc<str>, Arc<NodeInfo>>>,
    by_node: Arc<HashMap<Arc<str>, Keys>>,
    by_controller: Arc<HashMap<Arc<str>, Keys>>,
    /// What the pods on a node ask for.
    used: Arc<HashMap<Arc<str>, Used>>,
    /// Pods with anti-affinity of their own.
    pub(crate) repelling: Keys,
    /// Pods whose containers have ended for good.
    pub(crate) over: Keys,
    /// Whether there may be pods on nodes that are not there.
    pub(crate) strays: bool,
    pub(crate) unscheduled: Keys,
    /// Services and budgets with their selectors.
    services: Arc<BTreeMap<Arc<str>, Option<LabelSelector>>>,
    budgets: Arc<BTreeMap<Arc<str>, Option<LabelSelector>>>,
    /// UID of a ReplicaSet -> its key.
    owners: Arc<HashMap<Arc<str>, Arc<str>>>,
    pub(crate) daemon_sets: Keys,
    pub(crate) suspects: Keys,
    pub(crate) terminating_namespaces: bool,
    /// Kubelet stages by pod UID, with the instant of the next step.
    stages: Arc<HashMap<Arc<str>, (Stage, Moment)>>,
}

impl Cache {
    pub(crate) fn clear_pods(&mut self) {
        self.pods = Arc::default();
        self.by_node = Arc::default();
        self.by_controller = Arc::default();
        self.used = Arc::default();
        self.repelling.clear();
        self.over.clear();
        self.unscheduled.clear();
    }

    pub(crate) fn clear_nodes(&mut self) {
        self.nodes = Arc::default();
    }

    pub(crate) fn stage(&self, uid: &str) -> Option<(Stage, Moment)> {
        self.stages.get(uid).copied()
    }

    pub(crate) fn set_stage(&mut self, uid: &Arc<str>, stage: Stage, next: Moment) {
        Arc::make_mut(&mut self.stages).insert(uid.clone(), (stage, next));
    }

    pub(crate) fn forget_stage(&mut self, uid: &str) {
        if self.stages.contains_key(uid) {
            Arc::make_mut(&mut self.stages).remove(uid);
        }
    }

    /// What is taken on a node; none if nothing is.
    pub(crate) fn used(&self, node: &str) -> Option<&Used> {
        self.used.get(node)
    }

    /// The budgets that hold a pod.
    pub(crate) fn budgets_of(&self, facts: &PodFacts) -> Vec<(Arc<str>, LabelSelector)> {
        let own =
            self.budgets.iter().filter(|(key, _)| key.split_once('/').is_some_and(|(ns, _)| ns == facts.namespace()));
        own.filter_map(|(key, selector)| Some((key.clone(), selector.clone().filter(|s| facts.fits(s))?))).collect()
    }

    pub(crate) fn on_node(&self, node: &str) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.by_node.get(node).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    pub(crate) fn of_controller(&self, uid: &str) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.by_controller.get(uid).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    pub(crate) fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<PodFacts>> {
        let from: Arc<str> = format!("{namespace}/").into();
        self.pods.range(from..).map(|(_, p)| p).take_while(move |p| p.namespace() == namespace)
    }

    pub(crate) fn budgets_in(&self, namespace: &str) -> Vec<Arc<str>> {
        self.budgets.keys().filter(|k| k.split_once('/').is_some_and(|(ns, _)| ns == namespace)).cloned().collect()
    }

    pub(crate) fn note_owner(&mut self, entry: &Entry, deleted: bool) {
        if deleted {
            Arc::make_mut(&mut self.owners).remove(&*entry.uid);
        } else if self.owners.get(&entry.uid) != Some(&entry.key) {
            Arc::make_mut(&mut self.owners).insert(entry.uid.clone(), entry.key.clone());
        }
    }

    pub(crate) fn replica_set_key(&self, uid: &str) -> Option<Arc<str>> {
        self.owners.get(uid).cloned()
    }

    pub(crate) fn note_selector(&mut self, entry: &Entry, deleted: bool, service: bool) {
        let table = Arc::make_mut(if service { &mut self.services } else { &mut self.budgets });
        if deleted {
            table.remove(&entry.key);
            return;
        }
        let value = entry.value();
        let selector = value["spec"].get("selector");
        let selector = if service { LabelSelector::from_map(selector) } else { LabelSelector::from_object(selector) };
        table.insert(entry.key.clone(), selector);
    }

    fn insert(&mut self, facts: Arc<PodFacts>) {
        if let Some(node) = &facts.node {
            Arc::make_mut(&mut self.by_node).entry(node.clone()).or_default().insert(facts.key.clone());
            if !facts.is_over() {
                Arc::make_mut(&mut self.used).entry(node.clone()).or_default().put(&facts);
            }
        }
        if let Some(uid) = &facts.controller {
            Arc::make_mut(&mut self.by_controller).entry(uid.clone()).or_default().insert(facts.key.clone());
        }
        self.strays |= facts.node.as_ref().is_some_and(|n| !self.nodes.contains_key(n));
        if facts.is_over() {
            self.over.insert(facts.key.clone());
        }
        if !facts.repels.is_empty() {
            self.repelling.insert(facts.key.clone());
        }
        if facts.node.is_none() && facts.is_active() {
            self.unscheduled.insert(facts.key.clone());
        } else {
            self.unscheduled.remove(&facts.key);
        }
        Arc::make_mut(&mut self.pods).insert(facts.key.clone(), facts);
    }

    /// Counts a pod on a node before its binding comes back through the changes.
    pub(crate) fn place(&mut self, key: &Arc<str>, node: &Arc<str>) {
        if let Some(facts) = self.remove(key) {
            self.insert(Arc::new(PodFacts { node: Some(node.clone()), ..(*facts).clone() }));
        }
    }

    fn remove(&mut self, key: &str) -> Option<Arc<PodFacts>> {
        if !self.pods.contains_key(key) {
            return None;
        }
        let facts = Arc::make_mut(&mut self.pods).remove(key)?;
        self.unscheduled.remove(key);
        self.repelling.remove(key);
        self.over.remove(key);
        if let Some(node) = facts.node.as_ref().filter(|_| !facts.is_over())
            && let Some(used) = Arc::make_mut(&mut self.used).get_mut(node)
        {
            used.take(&facts);
        }
        for (index, name) in [(&mut self.by_node, &facts.node), (&mut self.by_controller, &facts.controller)] {
            if let Some(name) = name {
                let index = Arc::make_mut(index);
                if let Some(keys) = index.get_mut(name) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.remove(name);
                    }
                }
            }
        }
        Some(facts)
    }

    /// Pods that are bound to nodes that are not there.
    pub(crate) fn on_unknown_nodes(&self) -> Vec<Arc<PodFacts>> {
        let mut lost: Vec<&Arc<str>> = self.by_node.keys().filter(|n| !self.nodes.contains_key(*n)).collect();
        lost.sort();
        lost.into_iter().flat_map(|node| self.on_node(node)).cloned().collect()
    }

    /// Services and budgets that hold a pod.
    fn holders(&self, facts: &PodFacts) -> Vec<Work> {
        let of = |table: &BTreeMap<Arc<str>, Option<LabelSelector>>, work: fn(Arc<str>) -> Work| {
            let from: Arc<str> = format!("{}/", facts.namespace()).into();
            table
                .range(from..)
                .take_while(|(key, _)| key.split_once('/').is_some_and(|(ns, _)| ns == facts.namespace()))
                .filter(|(_, selector)| selector.as_ref().is_some_and(|s| facts.fits(s)))
                .map(|(key, _)| work(key.clone()))
                .collect::<Vec<_>>()
        };
        let mut found = of(&self.services, Work::Service);
        found.extend(of(&self.budgets, Work::Budget));
        found
    }
}

impl Simulation {
    pub(crate) fn take_in_pod(&mut self, change: &Change) {
        let key = change.after.key.clone();
        let before = self.cache.remove(&key);
        if let Some(before) = &before {
            self.mark_around(before);
        }
        if change.deleted {
            self.cache.forget_stage(&change.after.uid);
            self.lives.remove(&change.after.uid);
            self.world.load.forget(&change.after.uid);
            self.mark(Work::Schedule);
            return;
        }
        let facts = Arc::new(PodFacts::of(&change.after, &self.cache.nodes));
        if facts.node.is_none() && facts.is_active() {
            self.mark(Work::Schedule);
        }
        self.mark_around(&facts);
        if let Some(node) = facts.node.as_ref().filter(|n| facts.is_active() && self.evictions.is_tainted(n)) {
            self.mark(Work::Evict(node.clone()));
        }
        self.cache.insert(facts);
        self.mark(Work::Pod(key));
    }

    pub(crate) fn take_in_node(&mut self, change: &Change) {
        let key: Arc<str> = change.after.name().into();
        if change.deleted {
            Arc::make_mut(&mut self.cache.nodes).remove(&key);
            self.cache.strays = true;
        } else {
            let info = Arc::new(NodeInfo::of(&change.after));
            Arc::make_mut(&mut self.cache.nodes).insert(key.clone(), info);
        }
        self.look_out_for(&key);
    }

    fn mark_around(&mut self, facts: &PodFacts) {
        for work in self.cache.holders(facts) {
            self.mark(work);
        }
        let Some(uid) = &facts.controller else { return };
        if let Some(key) = self.cache.replica_set_key(uid) {
            self.mark(Work::ReplicaSet(key));
        } else if let Some((table, key)) = self.api().store().find_uid(uid) {
            match &*table {
                "daemonsets.apps" => self.mark(Work::DaemonSet(key)),
                "statefulsets.apps" => self.mark(Work::StatefulSet(key)),
                "jobs.batch" => self.mark(Work::Job(key)),
                "cronjobs.batch" => self.mark(Work::CronJob(key)),
                _ => {}
            }
        }
    }

    pub(crate) fn mark_owner_of(&mut self, entry: &Entry) {
        for uid in entry.owners() {
            if let Some((table, key)) = self.api().store().find_uid(uid) {
                match &*table {
                    "deployments.apps" => self.mark(Work::Deployment(key)),
                    "cronjobs.batch" => self.mark(Work::CronJob(key)),
                    _ => {}
                }
            }
        }
    }
}
