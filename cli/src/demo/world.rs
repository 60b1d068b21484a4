//! One simulated data center of the demo: its API server, its nodes with their hosts, its entry for clients.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use evergreen_twin::{
    Loss, NodeSpec, Served, Twin,
    gateway::{self, Gateway},
    host::{HostSpec, SimulatedHost},
    sim::Timing,
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{fleet::SitePorts, manifests::SitePlan};
use crate::exit::{Failure, Outcome};

/// How long a repaired node is down; a real one needs minutes.
const REBOOT: Duration = Duration::from_millis(800);
/// Taint that keeps pods off the node that stands for this machine: it has no simulated kubelet to run them.
const TAINT: &str = "evergreen.dev/demo-machine";

/// A simulated data center.
pub struct World {
    twin: Twin,
    served: Served,
    entry: Gateway,
    client: Client,
    simulated: Vec<(String, PathBuf)>,
    own: Option<String>,
    cancel: CancellationToken,
    running: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl World {
    /// Builds, serves and starts a data center; its hosts' trees are below `hosts`.
    ///
    /// # Errors
    /// When a port is taken or a file cannot be written.
    pub async fn build(
        plan: &SitePlan,
        hosts: &Path,
        ports: &SitePorts,
        nodes: usize,
        own: Option<&str>,
    ) -> Outcome<Self> {
        let mut builder = Twin::builder(plan.name).timing(Timing::short());
        let mut simulated = Vec::new();
        for number in 1..=nodes {
            let name = format!("{}-{number}", plan.name);
            let root = hosts.join(&name);
            let spec = HostSpec { powercap: plan.measured, ..HostSpec::server(&name) };
            let host = SimulatedHost::create(&root, spec)
                .with_context(|| format!("cannot write the simulated host {}", root.display()))?;
            builder = builder.node(labelled(NodeSpec::new(&name), plan).host(host));
            simulated.push((name, root));
        }
        if let Some(own) = own {
            builder = builder.node(labelled(NodeSpec::new(own), plan).label(TAINT, "true"));
        }
        let twin = builder.build();
        let taken = |what: &str, error: std::io::Error| {
            Failure::usage(format_args!("cannot serve the {what} of {}: {error}", plan.name))
                .remedy("another --port-base")
        };
        let served = twin.serve(ports.api).await.map_err(|error| taken("API", error))?;
        let entry = gateway::serve(&twin, ports.entry).await.map_err(|error| taken("entry", error))?;
        let cancel = CancellationToken::new();
        let client = twin.client("demo");
        if let Some(own) = own {
            keep_free(&client, own).await?;
        }
        let running = parking_lot::Mutex::new(Some(twin.start(cancel.clone())));
        Ok(Self { twin, served, entry, client, simulated, own: own.map(str::to_owned), cancel, running })
    }

    /// Nodes and the roots that their agents read; this machine last, with its own root.
    pub fn nodes(&self) -> Vec<(String, PathBuf)> {
        let own = self.own.iter().map(|name| (name.clone(), PathBuf::from("/")));
        self.simulated.iter().cloned().chain(own).collect()
    }

    /// Name of the node that stands for this machine.
    pub fn own_machine(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// A kubeconfig for a client of the served API.
    pub fn kubeconfig(&self, identity: &str) -> String {
        self.served.kubeconfig(identity)
    }

    /// The demo's own client, in process.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Appends a record to the kernel log of a node's host.
    ///
    /// # Errors
    /// When there is no such host or its file cannot be written.
    pub fn kernel_log(&self, node: &str, priority: u8, text: &str) -> anyhow::Result<()> {
        let host = self.twin.host(node).with_context(|| format!("{node} has no simulated host"))?;
        host.kernel_log(priority, text).with_context(|| format!("cannot write the kernel log of {node}"))
    }

    /// Takes a node down and boots it again.
    ///
    /// # Errors
    /// When its host's files cannot be written.
    pub async fn reboot(&self, node: &str) -> anyhow::Result<()> {
        self.twin.stop_node(node);
        tokio::time::sleep(REBOOT).await;
        self.twin.start_node(node).with_context(|| format!("cannot boot {node}"))?;
        Ok(())
    }

    /// The whole data center vanishes, as in a power cut: nothing runs and nothing answers.
    pub fn lose(&self) {
        self.twin.lose_site(Loss::Silent);
        for (name, _) in &self.simulated {
            self.twin.stop_node(name);
        }
    }

    /// It comes back: its hosts boot, its API server and its entry answer.
    ///
    /// # Errors
    /// When a host's files cannot be written.
    pub fn restore(&self) -> anyhow::Result<()> {
        for (name, _) in &self.simulated {
            self.twin.start_node(name).with_context(|| format!("cannot boot {name}"))?;
        }
        self.twin.return_site();
        Ok(())
    }

    /// Ends the simulation.
    pub async fn end(&self) {
        self.cancel.cancel();
        self.entry.stop();
        self.served.stop();
        let running = self.running.lock().take();
        if let Some(running) = running {
            let _ = running.await;
        }
    }
}

fn labelled(node: NodeSpec, plan: &SitePlan) -> NodeSpec {
    node.zone(plan.name).label(evergreen_api::names::LABEL_SITE, plan.name)
}

/// Taints a node so that nothing is scheduled on it.
async fn keep_free(client: &Client, node: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let taint = json!({"spec": {"taints": [{"key": TAINT, "value": "true", "effect": "NoSchedule"}]}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(taint))
        .await
        .with_context(|| format!("cannot taint {node}"))?;
    Ok(())
}
