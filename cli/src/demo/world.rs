//! One simulated data center of the demo: API server, nodes with their hosts, entry.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use evergreen_twin::{Loss, Served, Twin};
use kube::Client;

use super::{fleet::SitePorts, manifests::SitePlan};

/// A simulated data center.
pub struct World {
    twin: Twin,
    served: Served,
    nodes: Vec<(String, PathBuf)>,
    own: Option<String>,
}

impl World {
    pub async fn build(
        plan: &SitePlan,
        hosts: &Path,
        ports: &SitePorts,
        nodes: usize,
        own: Option<&str>,
    ) -> anyhow::Result<Self> {
        let twin = Twin::builder(plan.name).build();
        let served = twin.serve(ports.api).await?;
        let _: SocketAddr = ports.entry;
        Ok(Self {
            twin,
            served,
            nodes: (1..=nodes)
                .map(|n| {
                    let name = format!("{}-{n}", plan.name);
                    let root = hosts.join(&name);
                    (name, root)
                })
                .collect(),
            own: own.map(str::to_owned),
        })
    }
    pub fn nodes(&self) -> Vec<(String, PathBuf)> {
        self.nodes.clone()
    }
    pub fn own_machine(&self) -> Option<&str> {
        self.own.as_deref()
    }
    pub fn kubeconfig(&self, identity: &str) -> String {
        self.served.kubeconfig(identity)
    }
    pub fn client(&self) -> Client {
        self.twin.client("demo")
    }
    pub fn kernel_log(&self, _node: &str, _priority: u8, _text: &str) -> anyhow::Result<()> {
        Ok(())
    }
    pub fn reboot(&self, _node: &str) -> anyhow::Result<()> {
        Ok(())
    }
    pub async fn lose(&self) {
        self.twin.faults().lose(Loss::Silent);
    }
    pub async fn restore(&self) -> anyhow::Result<()> {
        self.twin.faults().clear();
        Ok(())
    }
    pub async fn end(&self) {
        self.served.stop();
    }
}
