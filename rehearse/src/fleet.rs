//! A fleet as rehearsals see it: data centers with their nodes, and services with what runs them where.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use evergreen_api::names::{LABEL_ZONE, SYSTEM_NAMESPACE};
use evergreen_twin::objects::meta;
use serde::Serialize;
use serde_json::Value;

use crate::{
    failover::{Group, Members},
    snapshot::{Site, Snapshot},
    words::{Words, count, words},
};

/// A pod without a measured start is taken to need this long, in seconds; images are taken to be on the node.
const ASSUMED_START: f64 = 5.0;

/// A fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Data centers.
    pub sites: BTreeMap<String, SiteFacts>,
    /// Services, by name.
    pub services: Vec<Service>,
    /// Who votes.
    pub members: Members,
}

/// A data center.
#[derive(Clone, Debug, Default)]
pub struct SiteFacts {
    /// Nodes, by name.
    pub nodes: Vec<NodeFacts>,
    /// Seconds from being scheduled to being ready: median of its pods.
    pub start_seconds: f64,
    /// Pods that the median is of; zero when it is assumed.
    pub start_samples: usize,
    /// Whether the controller's node detector marks its nodes.
    pub detector: bool,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Name.
    pub name: String,
    /// Zone.
    pub zone: Option<String>,
}

/// Kind of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum WorkKind {
    /// Deployment.
    Deployment,
    /// StatefulSet.
    StatefulSet,
}

/// A workload's kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WorkKey {
    /// Kind.
    pub kind: WorkKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A workload at one data center.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// Replicas asked for.
    pub replicas: u32,
    /// Ready replicas in the snapshot.
    pub ready: u32,
    /// Requests of one pod, in thousandths of a core.
    pub cpu_millis: u64,
    /// Requests of one pod, in bytes.
    pub memory_bytes: u64,
    /// Whether it has volumes of its own.
    pub volumes: bool,
}

/// Something that people miss when it is gone.
#[derive(Clone, Debug)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name: of the MultiActiveService, or of the workload.
    pub name: String,
    /// The workload behind it, the same at every data center.
    pub work: WorkKey,
    /// Where it runs.
    pub at: BTreeMap<String, Workload>,
    /// Its MultiActiveService; without one nothing moves it between data centers.
    pub group: Option<Group>,
}

impl Service {
    /// `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match (&self.group, self.work.kind) {
            (Some(_), _) => "MultiActiveService",
            (None, WorkKind::Deployment) => "Deployment",
            (None, WorkKind::StatefulSet) => "StatefulSet",
        }
    }
}

/// Namespaces whose workloads are simulated and not judged.
fn is_system(namespace: &str) -> bool {
    namespace.starts_with("kube-") || namespace == SYSTEM_NAMESPACE
}

impl Fleet {
    /// The fleet of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let sites = snapshot.sites.iter().map(|site| (site.name.clone(), SiteFacts::of(site))).collect();
        let mut works: BTreeMap<WorkKey, BTreeMap<String, Workload>> = BTreeMap::new();
        for site in &snapshot.sites {
            for (kind, key) in
                [(WorkKind::Deployment, "deployments.apps"), (WorkKind::StatefulSet, "statefulsets.apps")]
            {
                for object in site.all(key) {
                    let (namespace, name) = (meta::namespace(object).to_owned(), meta::name(object).to_owned());
                    if !is_system(&namespace) {
                        let key = WorkKey { kind, namespace, name };
                        works.entry(key).or_default().insert(site.name.clone(), Workload::of(object));
                    }
                }
            }
        }
        let mut services = Vec::new();
        let groups = Group::all(snapshot);
        let mut moved = BTreeSet::new();
        for group in groups {
            let work = group.workload();
            let at = works.get(&work).cloned().unwrap_or_default();
            moved.insert(work.clone());
            let (namespace, name) = (group.namespace.clone(), group.name.clone());
            services.push(Service { namespace, name, work, at, group: Some(group) });
        }
        for (work, at) in works.into_iter().filter(|(work, _)| !moved.contains(work)) {
            if at.values().any(|workload| workload.replicas > 0) {
                let (namespace, name) = (work.namespace.clone(), work.name.clone());
                services.push(Service { namespace, name, work, at, group: None });
            }
        }
        services.sort_by_key(Service::id);
        Self { sites, services, members: Members::of(snapshot) }
    }

    /// What a rehearsal of this fleet takes for granted.
    pub fn assumptions(&self, snapshot: &Snapshot) -> Vec<Words> {
        let mut all = self.members.assumptions(snapshot);
        for (name, site) in &self.sites {
            let start = crate::words::seconds(site.start_seconds, crate::Lang::En);
            let start_zh = crate::words::seconds(site.start_seconds, crate::Lang::Zh);
            all.push(if site.start_samples > 0 {
                words(
                    format!(
                        "{name}: a new pod is ready {start} after it was scheduled (median of {})",
                        count(site.start_samples, "pod", "pods")
                    ),
                    format!("{name}：新 Pod 调度后 {start_zh} 就绪（{} 个 Pod 的中位数）", site.start_samples),
                )
            } else {
                words(
                    format!("{name}: a new pod is ready {start} after it was scheduled (no pod of the snapshot tells)"),
                    format!("{name}：假定新 Pod 调度后 {start_zh} 就绪（快照中没有可用样本）"),
                )
            });
            if !site.detector {
                all.push(words(
                    format!("{name}: no node has the condition NodeLost, so the controller's node detector is taken to be off"),
                    format!("{name}：节点上没有 NodeLost 状况，视为控制器的节点探测未启用"),
                ));
            }
        }
        for service in &self.services {
            if let Some(drift) = service.group.as_ref().and_then(Group::assumption) {
                all.push(drift);
            }
        }
        let unready = snapshot.sites.iter().flat_map(|site| site.all("pods")).filter(|pod| is_stuck(pod)).count();
        if unready > 0 {
            all.push(words(
                format!("{} not ready in the snapshot; they stay so", count(unready, "pod is", "pods are")),
                format!("快照中有 {unready} 个 Pod 未就绪；演练中保持未就绪"),
            ));
        }
        let zonal = snapshot.sites.iter().flat_map(|site| site.all("persistentvolumes"));
        let zonal = zonal.filter(|volume| volume["spec"]["nodeAffinity"].is_object()).count();
        if zonal > 0 {
            all.push(words(
                format!(
                    "{} bound to a zone or node; a pod that is moved away from its volume would wait for it",
                    count(zonal, "volume is", "volumes are")
                ),
                format!("有 {zonal} 个存储卷绑定到可用区或节点；离开其卷的 Pod 在现实中会一直等待"),
            ));
        }
        let scaled: usize =
            snapshot.sites.iter().map(|site| site.all("horizontalpodautoscalers.autoscaling").len()).sum();
        if scaled > 0 {
            all.push(words(
                format!("{} rest: nobody adds replicas by load", count(scaled, "autoscaler", "autoscalers")),
                format!("{scaled} 个自动伸缩器不动作：不会按负载增加副本"),
            ));
        }
        all.push(words(
            "load is not simulated: capacity is counted in ready replicas and in requests",
            "不模拟业务负载：容量按就绪副本数与资源请求计算",
        ));
        all
    }
}

/// Whether a pod of the snapshot is on a node and does not get ready.
pub(crate) fn is_stuck(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let on_node = pod["spec"]["nodeName"].is_string() && pod["metadata"]["deletionTimestamp"].is_null();
    on_node
        && matches!(phase, "Running" | "Pending")
        && condition(pod, "Ready").is_none_or(|(status, _)| status != "True")
}

/// Status and last change of a condition.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, Option<jiff::Timestamp>)> {
    let found = meta::list(object, &["status", "conditions"]).iter().find(|c| c["type"] == kind)?;
    let at = found["lastTransitionTime"].as_str().and_then(|text| text.parse().ok());
    Some((found["status"].as_str().unwrap_or_default(), at))
}

impl SiteFacts {
    fn of(site: &Site) -> Self {
        let nodes = site.all("nodes");
        let facts = nodes.iter().map(|node| NodeFacts {
            name: meta::name(node).to_owned(),
            zone: node["metadata"]["labels"][LABEL_ZONE].as_str().map(str::to_owned),
        });
        let mut starts: Vec<f64> = site
            .all("pods")
            .iter()
            .filter_map(|pod| {
                let restarted =
                    meta::list(pod, &["status", "containerStatuses"]).iter().any(|c| c["restartCount"] != 0);
                let (scheduled, ready) = (condition(pod, "PodScheduled")?.1?, condition(pod, "Ready")?);
                let took = ready.1?.duration_since(scheduled).as_secs_f64();
                // A restart, or a node that was away, moves the time of Ready; that was no start.
                (ready.0 == "True" && !restarted && (0.0..=600.0).contains(&took)).then_some(took)
            })
            .collect();
        starts.sort_by(f64::total_cmp);
        Self {
            nodes: facts.collect(),
            start_seconds: starts.get(starts.len() / 2).copied().unwrap_or(ASSUMED_START).max(1.0),
            start_samples: starts.len(),
            detector: nodes.iter().any(|node| condition(node, "NodeLost").is_some()),
        }
    }
}

impl Workload {
    fn of(object: &Value) -> Self {
        let number =
            |path: &[&str], default: i64| u32::try_from(meta::integer(object, path).unwrap_or(default)).unwrap_or(0);
        let spec = &object["spec"]["template"]["spec"];
        let (cpu_millis, memory_bytes) = requests(spec);
        Self {
            replicas: number(&["spec", "replicas"], 1),
            ready: number(&["status", "readyReplicas"], 0),
            cpu_millis,
            memory_bytes,
            volumes: !meta::list(spec, &["volumes"]).is_empty()
                || !meta::list(object, &["spec", "volumeClaimTemplates"]).is_empty(),
        }
    }
}

/// What a pod asks for: thousandths of a core, bytes.
pub(crate) fn requests(spec: &Value) -> (u64, u64) {
    let containers = meta::list(spec, &["containers"]);
    let sum = |name: &str, read: fn(&Value) -> Option<u64>| {
        containers.iter().filter_map(|c| c["resources"]["requests"].get(name).and_then(read)).sum()
    };
    (sum("cpu", meta::cpu_millis), sum("memory", meta::whole))
}

/// UID of a ReplicaSet -> its Deployment; of a StatefulSet -> itself.
pub(crate) fn workloads_by_uid(site: &Site) -> HashMap<String, WorkKey> {
    let mut found = HashMap::new();
    let key = |kind, object: &Value, name: &str| WorkKey {
        kind,
        namespace: meta::namespace(object).to_owned(),
        name: name.to_owned(),
    };
    for set in site.all("replicasets.apps") {
        let owners = meta::list(set, &["metadata", "ownerReferences"]);
        if let Some(owner) = owners.iter().find(|owner| owner["kind"] == "Deployment") {
            let name = owner["name"].as_str().unwrap_or_default();
            found.insert(meta::uid(set).to_owned(), key(WorkKind::Deployment, set, name));
        }
    }
    for set in site.all("statefulsets.apps") {
        found.insert(meta::uid(set).to_owned(), key(WorkKind::StatefulSet, set, meta::name(set)));
    }
    found
}

/// Names of nodes of a zone.
pub fn nodes_of_zone(site: &SiteFacts, zone: &str) -> BTreeSet<String> {
    site.nodes.iter().filter(|node| node.zone.as_deref() == Some(zone)).map(|node| node.name.clone()).collect()
}
