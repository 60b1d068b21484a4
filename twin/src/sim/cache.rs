//! What the controllers remember of the store, so that no step reads a whole table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use super::{Simulation, Work};
use crate::apiserver::store::{Change, Entry};
use crate::apiserver::subresources::is_ready;
use crate::objects::meta;
use crate::objects::selectors::LabelSelector;

/// The few facts of a pod that controllers decide by.
#[derive(Debug, Clone)]
pub(crate) struct PodFacts {
    pub(crate) key: Arc<str>,
    pub(crate) uid: String,
    pub(crate) labels: Value,
    pub(crate) controller: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) phase: String,
    pub(crate) ready: bool,
    /// Seconds of grace, when deletion has begun.
    pub(crate) deleting: Option<i64>,
    pub(crate) address: Option<String>,
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_limit_millis: Option<u64>,
    pub(crate) qos: String,
    pub(crate) created: String,
    pub(crate) priority: i64,
    /// Whether its containers are started anew whatever their end.
    pub(crate) restarts: bool,
    /// Name of the first container.
    pub(crate) container: String,
}

impl PodFacts {
    fn of(entry: &Entry) -> Self {
        let pod = entry.value();
        let sum = |what: &str, resource: &str, read: fn(&Value) -> Option<u64>| {
            meta::list(&pod, &["spec", "containers"])
                .iter()
                .filter_map(|c| c["resources"][what].get(resource).and_then(read))
                .reduce(|a, b| a + b)
        };
        let text = |path: &[&str]| meta::text(&pod, path).map(str::to_owned);
        PodFacts {
            key: entry.key.clone(),
            uid: entry.uid.to_string(),
            labels: pod["metadata"]["labels"].clone(),
            controller: meta::controller_uid(&pod).map(str::to_owned),
            node: text(&["spec", "nodeName"]),
            phase: text(&["status", "phase"]).unwrap_or_default(),
            ready: is_ready(&pod),
            deleting: meta::is_deleting(&pod)
                .then(|| meta::integer(&pod, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0)),
            address: text(&["status", "podIP"]),
            cpu_millis: sum("requests", "cpu", meta::cpu_millis).unwrap_or(0),
            memory_bytes: sum("requests", "memory", meta::whole).unwrap_or(0),
            cpu_limit_millis: sum("limits", "cpu", meta::cpu_millis),
            qos: text(&["status", "qosClass"]).unwrap_or_default(),
            created: text(&["metadata", "creationTimestamp"]).unwrap_or_default(),
            priority: meta::integer(&pod, &["spec", "priority"]).unwrap_or(0),
            restarts: meta::text(&pod, &["spec", "restartPolicy"]).is_none_or(|p| p == "Always"),
            container: pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// Whether it runs or may yet run.
    pub(crate) fn is_active(&self) -> bool {
        self.deleting.is_none() && !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    pub(crate) fn fits(&self, selector: &LabelSelector) -> bool {
        selector.fits(|key| self.labels.get(key).and_then(Value::as_str))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(ns, _)| ns)
    }

    pub(crate) fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }
}

/// How far the kubelet is with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Creating,
    Running,
    Ready,
    Stopping,
    Ended,
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    pub(crate) pods: BTreeMap<Arc<str>, PodFacts>,
    by_node: HashMap<String, BTreeSet<Arc<str>>>,
    by_controller: HashMap<String, BTreeSet<Arc<str>>>,
    pub(crate) unscheduled: BTreeSet<Arc<str>>,
    /// Services and budgets with their selectors.
    services: BTreeMap<Arc<str>, Option<LabelSelector>>,
    budgets: BTreeMap<Arc<str>, Option<LabelSelector>>,
    /// UID of a ReplicaSet -> its key.
    owners: HashMap<String, Arc<str>>,
    pub(crate) daemon_sets: BTreeSet<Arc<str>>,
    pub(crate) suspects: BTreeSet<Arc<str>>,
    pub(crate) terminating_namespaces: bool,
    /// Kubelet stages by pod UID, with the instant of the next step.
    pub(crate) stages: HashMap<String, (Stage, Instant)>,
}

impl Cache {
    pub(crate) fn clear_pods(&mut self) {
        self.pods.clear();
        self.by_node.clear();
        self.by_controller.clear();
        self.unscheduled.clear();
    }

    pub(crate) fn on_node(&self, node: &str) -> impl Iterator<Item = &PodFacts> {
        self.by_node.get(node).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    pub(crate) fn of_controller(&self, uid: &str) -> impl Iterator<Item = &PodFacts> {
        self.by_controller.get(uid).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    pub(crate) fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a PodFacts> {
        let from: Arc<str> = format!("{namespace}/").into();
        self.pods.range(from..).map(|(_, p)| p).take_while(move |p| p.namespace() == namespace)
    }

    pub(crate) fn budgets_in(&self, namespace: &str) -> Vec<Arc<str>> {
        self.budgets.keys().filter(|k| k.split_once('/').is_some_and(|(ns, _)| ns == namespace)).cloned().collect()
    }

    pub(crate) fn note_owner(&mut self, entry: &Entry, deleted: bool) {
        if deleted {
            self.owners.remove(&*entry.uid);
        } else {
            self.owners.insert(entry.uid.to_string(), entry.key.clone());
        }
    }

    pub(crate) fn replica_set_key(&self, uid: &str) -> Option<Arc<str>> {
        self.owners.get(uid).cloned()
    }

    pub(crate) fn note_selector(&mut self, entry: &Entry, deleted: bool, service: bool) {
        let table = if service { &mut self.services } else { &mut self.budgets };
        if deleted {
            table.remove(&entry.key);
            return;
        }
        let value = entry.value();
        let selector = value["spec"].get("selector");
        let selector = if service { LabelSelector::from_map(selector) } else { LabelSelector::from_object(selector) };
        table.insert(entry.key.clone(), selector);
    }

    fn insert(&mut self, facts: PodFacts) {
        if let Some(node) = &facts.node {
            self.by_node.entry(node.clone()).or_default().insert(facts.key.clone());
        }
        if let Some(uid) = &facts.controller {
            self.by_controller.entry(uid.clone()).or_default().insert(facts.key.clone());
        }
        if facts.node.is_none() && facts.is_active() {
            self.unscheduled.insert(facts.key.clone());
        } else {
            self.unscheduled.remove(&facts.key);
        }
        self.pods.insert(facts.key.clone(), facts);
    }

    /// Counts a pod on a node before its binding comes back through the changes.
    pub(crate) fn place(&mut self, key: &Arc<str>, node: &str) {
        if let Some(mut facts) = self.remove(key) {
            facts.node = Some(node.to_owned());
            self.insert(facts);
        }
    }

    fn remove(&mut self, key: &str) -> Option<PodFacts> {
        let facts = self.pods.remove(key)?;
        self.unscheduled.remove(key);
        for (index, name) in [(&mut self.by_node, &facts.node), (&mut self.by_controller, &facts.controller)] {
            if let Some(name) = name
                && let Some(keys) = index.get_mut(name)
            {
                keys.remove(key);
                if keys.is_empty() {
                    index.remove(name);
                }
            }
        }
        Some(facts)
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
            self.cache.stages.remove(&*change.after.uid);
            self.world.load.forget(&change.after.uid);
            self.mark(Work::Schedule);
            return;
        }
        let facts = PodFacts::of(&change.after);
        if facts.node.is_none() && facts.is_active() {
            self.mark(Work::Schedule);
        }
        self.mark_around(&facts);
        if facts.node.as_deref().is_some_and(|node| self.evictions.is_tainted(node)) {
            self.mark(Work::Evict);
        }
        self.cache.insert(facts);
        self.mark(Work::Pod(key));
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
                _ => {}
            }
        }
    }

    pub(crate) fn mark_owner_of(&mut self, entry: &Entry) {
        for uid in entry.owners() {
            if let Some((table, key)) = self.api().store().find_uid(uid)
                && &*table == "deployments.apps"
            {
                self.mark(Work::Deployment(key));
            }
        }
    }
}
