//! How the product's programs are started in the demo: which flags, files and addresses each gets. Names and places
//! only; nothing is started here.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{
    certs::{Authority, Identity, Purpose},
    manifests::SitePlan,
    ports::Ports,
    processes::{Recipe, find_program},
};
use crate::exit::Outcome;

/// Simulated nodes of each site.
pub const NODES: usize = 3;
/// Ports that a demo needs: three of the plane; API, entry, site endpoint, metrics and agents of each site; this machine.
pub const PORTS: u16 = 3 + 3 * (4 + NODES as u16) + 1;

/// The product's programs.
#[derive(Clone, Debug)]
pub struct Programs {
    agent: PathBuf,
    controller: PathBuf,
    plane: PathBuf,
}

impl Programs {
    /// Finds them.
    ///
    /// # Errors
    /// When one is missing.
    pub fn find() -> Outcome<Self> {
        Ok(Self {
            agent: find_program("evergreen-agent")?,
            controller: find_program("evergreen-controller")?,
            plane: find_program("evergreen-plane")?,
        })
    }
}

/// Addresses of the plane.
#[derive(Clone, Copy, Debug)]
pub struct PlanePorts {
    /// OTLP over gRPC.
    pub grpc: SocketAddr,
    /// OTLP over HTTP.
    pub http: SocketAddr,
    /// Page and API.
    pub web: SocketAddr,
}

impl PlanePorts {
    /// Takes three ports.
    pub fn take(ports: &mut Ports) -> Self {
        Self { grpc: ports.take(), http: ports.take(), web: ports.take() }
    }

    /// Address of page and API.
    pub fn url(&self) -> String {
        format!("http://{}", self.web)
    }
}

/// Addresses of a site.
#[derive(Clone, Copy, Debug)]
pub struct SitePorts {
    /// API server.
    pub api: SocketAddr,
    /// Entry for clients.
    pub entry: SocketAddr,
    /// Controller's site endpoint.
    pub endpoint: SocketAddr,
    /// Controller's metrics.
    pub metrics: SocketAddr,
}

impl SitePorts {
    /// Takes four ports.
    pub fn take(ports: &mut Ports) -> Self {
        Self { api: ports.take(), entry: ports.take(), endpoint: ports.take(), metrics: ports.take() }
    }
}

/// A node that an agent reads.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Name.
    pub name: String,
    /// Root of the tree that the agent reads: the simulated host's, or `/`.
    pub root: PathBuf,
    /// Where the agent listens.
    pub agent: SocketAddr,
}

/// Writes recipes.
pub struct Recipes<'a> {
    /// Programs.
    pub programs: &'a Programs,
    /// Folder of the demo.
    pub out: &'a Path,
    /// The plane.
    pub plane: PlanePorts,
    /// Certificates.
    pub authority: &'a Authority,
}

impl Recipes<'_> {
    /// The plane.
    pub fn plane(&self) -> Recipe {
        let data = self.out.join("plane");
        Recipe {
            name: "plane".into(),
            program: self.programs.plane.clone(),
            args: flags(&[
                ("grpc-listen", &self.plane.grpc),
                ("http-listen", &self.plane.http),
                ("web-listen", &self.plane.web),
                ("data-dir", &data.display()),
                ("max-size", &"256MiB"),
            ]),
            env: vec![("RUST_LOG".into(), "info".into())],
        }
    }

    /// A site's controller.
    ///
    /// # Errors
    /// When its certificate cannot be made.
    pub fn controller(&self, plan: &SitePlan, ports: &SitePorts, kubeconfig: &Path) -> anyhow::Result<Recipe> {
        let name = format!("controller-{}", plan.name);
        let Identity { cert, key } = self.authority.issue(&name, Purpose::Server)?;
        Ok(Recipe {
            args: flags(&[
                ("site", &plan.name),
                ("kubeconfig", &kubeconfig.display()),
                ("listen", &ports.endpoint),
                ("tls-cert", &cert.display()),
                ("tls-key", &key.display()),
                ("tls-client-ca", &self.authority.ca().display()),
                ("metrics-listen", &ports.metrics),
                ("plane-url", &self.plane.url()),
                ("replica", &name),
            ]),
            name,
            program: self.programs.controller.clone(),
            env: self.telemetry(),
        })
    }

    /// A node's agent.
    ///
    /// # Errors
    /// When its certificate cannot be made.
    pub fn agent(
        &self,
        plan: &SitePlan,
        ports: &SitePorts,
        node: &NodePlan,
        kubeconfig: &Path,
    ) -> anyhow::Result<Recipe> {
        let name = format!("agent-{}", node.name);
        let Identity { cert, key } = self.authority.issue(&name, Purpose::Client)?;
        let state = self.state(&name)?;
        let token = state.join("token");
        super::certs::write(&token, &format!("agent:{}/{}", plan.name, node.name))?;
        Ok(Recipe {
            args: flags(&[
                ("node-name", &node.name),
                ("site", &plan.name),
                ("root", &node.root.display()),
                ("kubeconfig", &kubeconfig.display()),
                ("listen", &node.agent),
                ("state-dir", &state.display()),
                ("site-endpoint", &format_args!("https://{}", ports.endpoint)),
                ("site-ca", &self.authority.ca().display()),
                ("site-cert", &cert.display()),
                ("site-key", &key.display()),
                ("site-token-file", &token.display()),
                // Ten seconds would be most of a story.
                ("otlp-interval", &"2s"),
                ("pod-interval", &"5s"),
                ("health-interval", &"2s"),
            ]),
            name,
            program: self.programs.agent.clone(),
            env: self.telemetry(),
        })
    }

    fn telemetry(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.plane.grpc);
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "2000"),
            ("RUST_LOG", "info"),
        ]
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
    }

    fn state(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.out.join("state").join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }
}

fn flags(pairs: &[(&str, &dyn std::fmt::Display)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// Name of this machine as a node: its host name, made fit for Kubernetes.
pub fn own_node_name() -> String {
    let raw = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let clean: String = raw
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' })
        .take(60)
        .collect();
    let clean = clean.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if clean.is_empty() || clean == "localhost" { "this-machine".to_owned() } else { clean.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_that_kubernetes_takes() {
        let name = own_node_name();
        assert!(
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        );
    }
}
