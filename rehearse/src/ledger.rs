//! Follows the pods of a twin: how many of a workload truly serve, how many the API calls ready, and where they are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use evergreen_twin::{
    Twin,
    apiserver::store::{Entry, Filter},
    objects::meta,
};
use serde_json::Value;

use crate::fleet::{WorkKey, condition, requests};

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) work: Option<WorkKey>,
    pub(crate) node: Option<String>,
    pub(crate) ready: bool,
    pub(crate) finished: bool,
    pub(crate) terminating: bool,
    pub(crate) daemon: bool,
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    /// Why it is on no node.
    pub(crate) waits: Option<String>,
}

/// Ready replicas of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// On nodes that run.
    pub(crate) truly: u32,
    /// By the API, which learns of a lost node late.
    pub(crate) told: u32,
}

/// All pods of a twin.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    owners: Arc<HashMap<String, WorkKey>>,
    pub(crate) pods: BTreeMap<Arc<str>, Pod>,
    cursor: u64,
}

impl Ledger {
    pub(crate) fn new(owners: HashMap<String, WorkKey>) -> Self {
        Self { owners: Arc::new(owners), pods: BTreeMap::new(), cursor: 0 }
    }

    /// Takes in what has changed; says whether anything has.
    pub(crate) fn follow(&mut self, twin: &Twin) -> bool {
        let store = twin.api().store();
        match store.changes_since("pods", self.cursor, usize::MAX) {
            Ok(changes) if self.cursor > 0 => {
                let any = !changes.is_empty();
                for change in changes {
                    self.cursor = change.after.version;
                    if change.deleted {
                        self.pods.remove(&change.after.key);
                    } else {
                        self.take(&change.after);
                    }
                }
                any
            }
            _ => {
                let (entries, version) = store.list("pods", &Filter::default());
                self.pods.clear();
                entries.iter().for_each(|entry| self.take(entry));
                self.cursor = version;
                true
            }
        }
    }

    fn take(&mut self, entry: &Entry) {
        let pod = entry.value();
        let owners = meta::list(&pod, &["metadata", "ownerReferences"]);
        let (cpu_millis, memory_bytes) = requests(&pod["spec"]);
        let node = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        let waits = meta::list(&pod, &["status", "conditions"])
            .iter()
            .find(|c| c["type"] == "PodScheduled" && c["status"] == "False")
            .and_then(|c| c["message"].as_str().map(str::to_owned));
        let facts = Pod {
            work: meta::controller_uid(&pod).and_then(|uid| self.owners.get(uid)).cloned(),
            waits: waits.filter(|_| node.is_none()),
            node,
            ready: condition(&pod, "Ready").is_some_and(|(status, _)| status == "True"),
            finished: matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")),
            terminating: meta::is_deleting(&pod),
            daemon: owners.iter().any(|owner: &Value| owner["kind"] == "DaemonSet" || owner["kind"] == "Node"),
            cpu_millis,
            memory_bytes,
        };
        self.pods.insert(entry.key.clone(), facts);
    }

    /// Ready replicas by workload, with `down` nodes not running.
    pub(crate) fn ready(&self, down: &BTreeSet<String>) -> BTreeMap<WorkKey, Ready> {
        let mut found: BTreeMap<WorkKey, Ready> = BTreeMap::new();
        for pod in self.pods.values() {
            let Some(work) = &pod.work else { continue };
            let ready = found.entry(work.clone()).or_default();
            if pod.ready && !pod.finished {
                let runs = pod.node.as_ref().is_some_and(|node| !down.contains(node));
                ready.told += u32::from(!pod.terminating);
                ready.truly += u32::from(runs && !pod.terminating);
            }
        }
        found
    }

    /// Pods that hold a place on these nodes.
    pub(crate) fn on<'a>(&'a self, nodes: &'a BTreeSet<String>) -> impl Iterator<Item = &'a Pod> {
        self.pods.values().filter(|pod| !pod.finished && pod.node.as_ref().is_some_and(|node| nodes.contains(node)))
    }
}
