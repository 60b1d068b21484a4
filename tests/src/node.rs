//! Nodes without machines on a real control plane: a Node object whose lease is renewed and whose pods are reported
//! as a kubelet would, so that the real scheduler, controllers, evictions and budgets do the rest.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::kubernetes::MARK;

const NODE_LEASES: &str = "kube-node-lease";
/// A kubelet renews every ten seconds; the control plane gives up after forty.
const RENEW: Duration = Duration::from_secs(5);
/// A container takes this long to be ready, so that a budget has something to wait for.
const START: Duration = Duration::from_millis(700);

/// A node that exists only as objects. [`SimulatedNode::remove`] takes them away.
pub struct SimulatedNode {
    name: String,
    client: Client,
    tasks: Vec<JoinHandle<()>>,
}

impl SimulatedNode {
    /// Creates the node in `zone`, Ready, with room for a hundred pods, and begins to play its kubelet.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn create(client: &Client, name: &str, zone: &str) -> Self {
        let nodes: Api<Node> = Api::all(client.clone());
        let node: Node = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone,
                MARK: "node",
            }},
        }))
        .expect("a node");
        nodes.create(&Default::default(), &node).await.expect("a node is created");
        let status = json!({"status": {
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "100"},
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "100"},
            "nodeInfo": {
                "architecture": "amd64", "bootID": format!("boot-of-{name}"), "containerRuntimeVersion": "none://0",
                "kernelVersion": "0", "kubeProxyVersion": "v0", "kubeletVersion": "v0", "machineID": name,
                "operatingSystem": "linux", "osImage": "none", "systemUUID": name,
            },
        }});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.expect("its status");
        let mut this = Self { name: name.to_owned(), client: client.clone(), tasks: Vec::new() };
        this.condition("Ready", true, "KubeletReady").await;
        renew(client, name).await.expect("its lease");
        // The control plane taints a new node until it has seen its lease; the real one takes the taint away.
        this.tasks = vec![
            tokio::spawn(keep_lease(client.clone(), name.to_owned())),
            tokio::spawn(run_pods(client.clone(), name.to_owned())),
        ];
        this
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a condition, as an agent or a kubelet would.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn condition(&self, type_: &str, holds: bool, reason: &str) {
        let now = Timestamp::now().to_string();
        let patch = json!({"status": {"conditions": [{
            "type": type_, "status": if holds { "True" } else { "False" }, "reason": reason,
            "message": format!("{reason} on {}", self.name), "lastHeartbeatTime": now, "lastTransitionTime": now,
        }]}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(&patch)).await.expect("a condition");
    }

    /// The node as the API server has it.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn get(&self) -> Result<Node, String> {
        Api::<Node>::all(self.client.clone()).get(&self.name).await.map_err(|error| error.to_string())
    }

    /// Deletes the node, its lease and what is left of its pods.
    pub async fn remove(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NODE_LEASES);
        let pods: Api<Pod> = Api::all(self.client.clone());
        let on_node = kube::api::ListParams::default().fields(&format!("spec.nodeName={}", self.name));
        // Gone is what is wanted, whoever did it.
        let _ = nodes.delete(&self.name, &DeleteParams::default()).await;
        let _ = leases.delete(&self.name, &DeleteParams::default()).await;
        for pod in pods.list(&on_node).await.map(|list| list.items).unwrap_or_default() {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            let _ = pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        }
    }
}

impl Drop for SimulatedNode {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn renew(client: &Client, node: &str) -> kube::Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let lease = Lease {
        metadata: ObjectMeta { name: Some(node.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    let parameters = PatchParams::apply("simulated-kubelet").force();
    leases.patch(node, &parameters, &Patch::Apply(&lease)).await.map(|_| ())
}

async fn keep_lease(client: Client, node: String) {
    loop {
        tokio::time::sleep(RENEW).await;
        if let Err(error) = renew(&client, &node).await {
            eprintln!("lease of {node}: {error}");
        }
    }
}

/// Reports bound pods as running and ready, and lets deleted ones go.
async fn run_pods(client: Client, node: String) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let pods = watcher(Api::<Pod>::all(client.clone()), config).default_backoff().touched_objects();
    futures::pin_mut!(pods);
    let client = Arc::new(client);
    let mut starting: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
    while let Some(event) = pods.next().await {
        let Ok(pod) = event else { continue };
        let api: Api<Pod> = Api::namespaced((*client).clone(), &pod.namespace().unwrap_or_default());
        let uid = pod.uid().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            if let Some(start) = starting.remove(&uid) {
                start.abort();
            }
            let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let _ = api.delete(&pod.name_any(), &parameters).await;
        } else {
            starting.entry(uid).or_insert_with(|| tokio::spawn(start_pod(api, pod)));
        }
    }
}

async fn start_pod(api: Api<Pod>, pod: Pod) {
    tokio::time::sleep(START).await;
    let now = Timestamp::now().to_string();
    let condition = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": now});
    let conditions = ["Initialized", "ContainersReady", "Ready"].map(condition);
    let containers: Vec<_> = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": "none", "ready": true,
                "restartCount": 0, "started": true, "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    let status = json!({"status": {
        "phase": "Running", "startTime": now, "podIP": "192.0.2.1", "hostIP": "192.0.2.1",
        "conditions": conditions,
        "containerStatuses": containers,
    }});
    let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&status)).await;
}
