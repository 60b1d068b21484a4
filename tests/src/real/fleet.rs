//! Three data centers of real parts: API servers, controllers, agents, a load balancer, and the register that they guard.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::try_join_all;
use serde_json::Value;

use super::{
    control_plane::{ControlPlane, Etcd, assets},
    gateway::{self, Backend, Gateway},
    links::{Links, Quality},
    logs::LogMark,
    objects,
};
use crate::{
    http::Http,
    programs::{Process, bounded, free_port, program},
    register::{
        check::{Violation, check},
        clients::{Kind, Workload},
        history::Record,
        store::Store,
    },
    site_tls,
    wait::eventually,
};

/// Member sites, in the order in which the services prefer them.
pub const SITES: [&str; 3] = ["dc-a", "dc-b", "dc-c"];
/// The register: one site at a time.
pub const REGISTER: &str = "register";
/// A service without state: two sites at once.
pub const WEB: &str = "web";
/// Longest wait for the fleet to be whole again.
const WHOLE: Duration = Duration::from_secs(90);

/// Failover group of a service.
pub fn group(service: &str) -> String {
    format!("{}.{service}", objects::NAMESPACE)
}

/// One data center.
pub struct Site {
    /// Name.
    pub name: &'static str,
    /// API server and etcd.
    pub plane: ControlPlane,
    /// Controller, unless it is dead.
    pub controller: Option<Process>,
    /// Agent of the node that the register runs on, unless it is dead.
    pub agent: Option<Process>,
    /// The register's server, unless it is dead.
    pub register: Option<Process>,
    controller_at: SocketAddr,
    agent_at: SocketAddr,
    register_at: SocketAddr,
}

/// The fleet.
pub struct Fleet {
    /// Sites by name.
    pub sites: BTreeMap<&'static str, Site>,
    /// Links between all parts.
    pub links: Links,
    /// The register's store.
    pub store: Store,
    gateway: Gateway,
    store_etcd: Etcd,
    fenced: bool,
    workloads: u64,
    http: Http,
    dir: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

/// What is missing for a fleet, with the remedy.
pub fn missing() -> Option<String> {
    if !gateway::installed() {
        return Some("no HAProxy; apt install haproxy".into());
    }
    assets().err()
}

impl Fleet {
    /// Starts everything and waits until both services are served.
    ///
    /// # Errors
    /// When something cannot be started.
    pub async fn start(seed: u64) -> anyhow::Result<Self> {
        let (dir, kept) = folder()?;
        let assets = assets().map_err(anyhow::Error::msg)?;
        let planes = try_join_all(SITES.map(|name| ControlPlane::start(name, &assets, &dir))).await?;
        let store_etcd = Etcd::start("store", &assets, &dir)?;
        let store = Store::new(&format!("http://127.0.0.1:{}", store_etcd.port), true);
        site_tls::certificates(&dir, &[], &SITES.map(node).each_ref().map(String::as_str));
        let links = Links::new(seed);
        let mut sites = BTreeMap::new();
        for plane in planes {
            let name = SITES.into_iter().find(|name| *name == plane.name).expect("a known site");
            let [controller_at, agent_at, register_at] =
                [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
            for from in SITES {
                let api = SocketAddr::from(([127, 0, 0, 1], plane.port));
                links.between(&format!("controller:{from}"), &format!("api:{name}"), api).await;
            }
            links.between(&format!("agent:{name}"), &format!("controller:{name}"), controller_at).await;
            links.between("gateway", &format!("agent:{name}"), agent_at).await;
            links.between("gateway", &format!("register:{name}"), register_at).await;
            let (controller, agent, register) = (None, None, None);
            let site = Site { name, plane, controller, agent, register, controller_at, agent_at, register_at };
            sites.insert(name, site);
        }
        let groups = [group(REGISTER), group(WEB)];
        let backends: Vec<Backend> = SITES
            .iter()
            .map(|site| Backend {
                site: (*site).to_owned(),
                server: links.address("gateway", &format!("register:{site}")),
                agent: links.address("gateway", &format!("agent:{site}")),
            })
            .collect();
        let gateway = Gateway::start(&groups.each_ref().map(|group| (group.as_str(), backends.clone())), &dir)?;
        let http = Http::new(Duration::from_millis(500));
        let mut fleet =
            Self { sites, links, store, gateway, store_etcd, fenced: true, workloads: 0, http, dir, _dir: kept };
        futures::future::join_all(fleet.sites.values().map(|site| fleet.furnish(site))).await;
        for name in SITES {
            fleet.start_agent(name)?;
            fleet.start_controller(name)?;
            fleet.start_register(name)?;
        }
        eventually("the store answers", Duration::from_secs(30), || async {
            fleet.store.reset().await.map_err(|error| error.to_string())
        })
        .await;
        fleet.whole().await;
        Ok(fleet)
    }

    async fn furnish(&self, site: &Site) {
        let client = &site.plane.client;
        objects::foundation(client).await;
        for other in self.sites.values() {
            let link = self.links.address(&format!("controller:{}", site.name), &format!("api:{}", other.name));
            let kubeconfig = other.plane.kubeconfig(link.port());
            objects::data_center(client, other.name, "member", &kubeconfig).await;
        }
        for (name, active) in [(REGISTER, 1), (WEB, 2)] {
            objects::service(client, site.name, &SITES, name, objects::service_spec(name, &SITES, active)).await;
        }
    }

    /// Folder with the processes' logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A site.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn site(&self, name: &str) -> &Site {
        &self.sites[name]
    }

    /// A site, to be disturbed.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn site_mut(&mut self, name: &str) -> &mut Site {
        self.sites.get_mut(name).expect("a known site")
    }

    /// The sites but one.
    pub fn others(name: &str) -> Vec<&'static str> {
        SITES.into_iter().filter(|site| *site != name).collect()
    }

    /// Starts the controller of a site, as a process of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_controller(&mut self, name: &str) -> anyhow::Result<()> {
        let dir = self.dir.clone();
        let site = self.sites.get_mut(name).expect("a known site");
        let kubeconfig = dir.join(format!("{name}.kubeconfig"));
        let link = self.links.address(&format!("controller:{name}"), &format!("api:{name}"));
        std::fs::write(&kubeconfig, site.plane.kubeconfig(link.port()))?;
        let mut command = bounded(program("evergreen-controller"));
        command.args(["--site", name, "--replica", &format!("{name}-1"), "--kubeconfig"]).arg(&kubeconfig);
        command.args(["--listen", &site.controller_at.to_string()]);
        command.args(["--metrics-listen", &format!("127.0.0.1:{}", free_port())]);
        command.arg("--tls-cert").arg(dir.join("server.crt")).arg("--tls-key").arg(dir.join("server.key"));
        command.arg("--tls-client-ca").arg(dir.join("ca.crt"));
        command.env_remove("KUBECONFIG").env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env("RUST_LOG", "info");
        site.controller = Some(Process::start(&format!("controller-{name}"), command, &dir)?);
        Ok(())
    }

    /// Starts the agent of a site's node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self, name: &str) -> anyhow::Result<()> {
        let dir = self.dir.clone();
        let node = node(name);
        let host = dir.join(format!("host-{name}"));
        if !host.exists() {
            evergreen_twin::SimulatedHost::create(&host, evergreen_twin::HostSpec::server(&node))?;
        }
        let link = self.links.address(&format!("agent:{name}"), &format!("controller:{name}"));
        let site = self.sites.get_mut(name).expect("a known site");
        let mut command = bounded(program("evergreen-agent"));
        command
            .args(["--node-name", &node, "--site", name, "--listen", &site.agent_at.to_string(), "--root"])
            .arg(host);
        command.arg("--state-dir").arg(dir.join(format!("state-{name}")));
        command.args(["--site-endpoint", &format!("https://localhost:{}", link.port()), "--site-ca"]);
        command.arg(dir.join("ca.crt")).arg("--site-cert").arg(dir.join(format!("agent-{node}.crt")));
        command.arg("--site-key").arg(dir.join(format!("agent-{node}.key")));
        command.args(["--sample-interval", "30s", "--health-interval", "60s"]);
        command.env_remove("KUBECONFIG").env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env("RUST_LOG", "info");
        site.agent = Some(Process::start(&format!("agent-{name}"), command, &dir)?);
        Ok(())
    }

    /// Starts the register's server at a site.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_register(&mut self, name: &str) -> anyhow::Result<()> {
        let dir = self.dir.clone();
        let site = self.sites.get_mut(name).expect("a known site");
        let mut command = bounded(program("register"));
        command.args([name, &site.register_at.to_string(), &format!("http://{}", site.agent_at), &group(REGISTER)]);
        command.arg(format!("http://127.0.0.1:{}", self.store_etcd.port));
        command.arg(if self.fenced { "fenced" } else { "unfenced" });
        site.register = Some(Process::start(&format!("register-{name}"), command, &dir)?);
        Ok(())
    }

    /// Restarts the register, empty, on a store that compares tokens, or on one that does not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn fence(&mut self, fenced: bool) -> anyhow::Result<()> {
        self.fenced = fenced;
        for site in self.sites.values_mut() {
            site.register = None;
        }
        self.store = Store::new(&format!("http://127.0.0.1:{}", self.store_etcd.port), fenced);
        self.store.reset().await?;
        SITES.into_iter().try_for_each(|name| self.start_register(name))
    }

    /// The power of a whole site fails: nothing answers any more, connections stay open.
    pub fn site_dies(&mut self, name: &str) {
        let site = self.site_mut(name);
        for process in site.controller.iter().chain(&site.agent).chain(&site.register) {
            process.freeze();
        }
        site.plane.freeze();
    }

    /// The site boots: what its API server held is there, every other process is a new one.
    ///
    /// # Errors
    /// When something cannot be started.
    pub fn site_returns(&mut self, name: &str) -> anyhow::Result<()> {
        let site = self.site_mut(name);
        (site.controller, site.agent, site.register) = (None, None, None);
        site.plane.thaw();
        self.start_agent(name)?;
        self.start_controller(name)?;
        self.start_register(name)
    }

    /// Changes all links between two different sites; links inside a site and from clients stay as they are.
    pub fn between_sites(&self, change: impl Fn(&mut Quality)) {
        self.links.set(|from, to| matches!((place(from), place(to)), (Some(a), Some(b)) if a != b), change);
    }

    /// Cuts a site from the other sites in both directions; clients and everything inside still reach it.
    pub fn cut_off(&self, name: &str) {
        let between = |from: &str, to: &str| match (place(from), place(to)) {
            (Some(a), Some(b)) => a != b && (a == name || b == name),
            _ => false,
        };
        self.links.set(between, |quality| (quality.cut_there, quality.cut_back) = (true, true));
    }

    /// Mends what [`Self::cut_off`] cut and leaves loss and delay as they are.
    pub fn replug(&self) {
        self.links.set(|_, _| true, |quality| (quality.cut_there, quality.cut_back) = (false, false));
    }

    /// Mends, thaws and starts everything, and waits until the fleet is whole.
    ///
    /// # Panics
    /// When it does not get whole.
    pub async fn restore(&mut self) {
        self.links.mend();
        self.links.release_old();
        if !self.fenced {
            self.fence(true).await.expect("the register starts");
        }
        for name in SITES {
            let site = self.site_mut(name);
            site.plane.thaw();
            for process in site.controller.iter().chain(&site.agent).chain(&site.register) {
                process.thaw();
            }
            site.plane.revive().await.expect("a control plane that was killed starts again");
            for service in [REGISTER, WEB] {
                objects::ready(&site.plane.client, service, 2).await;
            }
            let runs = |process: &mut Option<Process>| process.as_mut().is_some_and(Process::runs);
            let dead = [runs(&mut site.controller), runs(&mut site.agent), runs(&mut site.register)].map(|runs| !runs);
            if dead[0] {
                self.start_controller(name).expect("a controller starts");
            }
            if dead[1] {
                self.start_agent(name).expect("an agent starts");
            }
            if dead[2] {
                self.start_register(name).expect("a register starts");
            }
        }
        self.whole().await;
    }

    /// Waits until the register has one holder, the other service two, all sites agree, and nothing is planned.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn whole(&self) {
        eventually("the fleet is whole", WHOLE, || async {
            for (service, wanted) in [(REGISTER, 1), (WEB, 2)] {
                let granted = self.granted(service).await;
                if granted.len() != wanted {
                    return Err(format!("{service} is granted at {granted:?}; {}", self.explain(service).await));
                }
                for site in SITES {
                    let status = self.status(site, service).await?;
                    let active = status["activeSites"].as_str().unwrap_or_default().to_owned();
                    let planned = status["plan"].as_array().is_some_and(|plan| !plan.is_empty());
                    let names: Vec<&str> = granted.keys().copied().collect();
                    if active != names.join(",") || planned && service == WEB {
                        return Err(format!("{service}, as {site} sees it: {status}"));
                    }
                }
            }
            for at in SITES {
                for site in SITES {
                    let center = self.data_center(at, site).await?;
                    let conditions = center["conditions"].as_array().cloned().unwrap_or_default();
                    if !conditions.iter().any(|c| c["type"] == "InQuorum" && c["status"] == "True") {
                        return Err(format!("{site}, as {at} sees it: {center}"));
                    }
                }
            }
            Ok(())
        })
        .await;
    }

    async fn explain(&self, service: &str) -> String {
        let mut told = Vec::new();
        for site in SITES {
            let status = self.status(site, service).await.unwrap_or_default();
            told.push(format!("{site}: active {}, plan {}", status["activeSites"], status["plan"]));
        }
        told.join("; ")
    }

    /// Sites whose agent grants a service now, with the version of the map's entry; past all links.
    pub async fn granted(&self, service: &str) -> BTreeMap<&'static str, u64> {
        let asked = self.sites.values().map(|site| async {
            let answer = self.http.get(&format!("http://{}/grants/{}", site.agent_at, group(service))).await;
            match answer {
                Ok((200, body)) => {
                    let grant: Value = serde_json::from_str(&body).ok()?;
                    Some((site.name, grant["version"].as_u64()?))
                }
                _ => None,
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// The only site that holds the register.
    ///
    /// # Panics
    /// When none or several do within half a minute.
    pub async fn holder(&self) -> &'static str {
        eventually("the register has one holder", Duration::from_secs(30), || async {
            let granted = self.granted(REGISTER).await;
            match granted.keys().copied().collect::<Vec<_>>()[..] {
                [holder] => Ok(holder),
                _ => Err(format!("{granted:?}")),
            }
        })
        .await
    }

    /// Status of a service as a site's API server holds it, past all links.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn status(&self, at: &str, service: &str) -> Result<Value, String> {
        let client = &self.site(at).plane.client;
        let api = objects::api(client, "evergreen.dev", "v1alpha1", "MultiActiveService", Some(objects::NAMESPACE));
        let object = api.get(service).await.map_err(|error| error.to_string())?;
        Ok(object.data.get("status").cloned().unwrap_or_default())
    }

    /// Status of a data center as a site's API server holds it, past all links.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn data_center(&self, at: &str, site: &str) -> Result<Value, String> {
        let api = objects::api(&self.site(at).plane.client, "evergreen.dev", "v1alpha1", "DataCenter", None);
        let object = api.get(site).await.map_err(|error| error.to_string())?;
        Ok(object.data.get("status").cloned().unwrap_or_default())
    }

    /// What the register holds.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn value(&self) -> String {
        self.store.value().await.expect("the store answers")
    }

    /// Ends the clients of the register and checks everything that they and the store saw; `initial` is what the
    /// register held before.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn verdict(&self, clients: Workload, initial: &str) -> (Vec<Record>, Vec<Violation>) {
        let history = clients.stop().await;
        let effective = self.store.effective().await.expect("the store answers");
        let violations = check(&history, &effective, initial);
        (history, violations)
    }

    /// Clients of the register through the load balancer, and others that go to each site by themselves.
    pub fn register_clients(&mut self, through: usize, direct: usize) -> Workload {
        self.workloads += 1;
        let gateway = vec![format!("http://127.0.0.1:{}", self.gateway.ports[0])];
        let sites: Vec<String> = self.sites.values().map(|site| format!("http://{}", site.register_at)).collect();
        let clients = std::iter::repeat_n(gateway, through).chain(std::iter::repeat_n(sites, direct)).collect();
        Workload::start(&format!("w{}", self.workloads), Kind::Register, clients)
    }

    /// Clients of the service without state, through the load balancer.
    pub fn web_clients(&self, clients: usize) -> Workload {
        let gateway = vec![format!("http://127.0.0.1:{}", self.gateway.ports[1])];
        Workload::start("web", Kind::Stateless, vec![gateway; clients])
    }

    /// Address of the register's server at a site, past all links.
    pub fn register_url(&self, site: &str) -> String {
        format!("http://{}", self.site(site).register_at)
    }

    /// The last lines of every controller's log.
    pub fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.dir.join(format!("controller-{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("---- controller-{name}\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        SITES.map(tail).concat()
    }

    /// The ends of the logs of all controllers that live.
    pub fn controller_logs(&self) -> Vec<LogMark> {
        let controllers = self.sites.values().filter_map(|site| site.controller.as_ref());
        controllers.map(|controller| LogMark::end_of(controller.log())).collect()
    }
}

/// Name of the node of a site.
fn node(site: &str) -> String {
    format!("node-{site}")
}

/// The site of a link's end; clients and the load balancer are at none.
fn place(end: &str) -> Option<&str> {
    end.split_once(':').map(|(_, site)| site)
}

/// A folder that is removed afterwards, unless EVERGREEN_FAILOVER_DIR names one to keep.
fn folder() -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(dir) = std::env::var_os("EVERGREEN_FAILOVER_DIR").filter(|dir| !dir.is_empty()) {
        // Each fleet of a run has its own.
        let free = |n: &u32| !PathBuf::from(&dir).join(format!("{}-{n}", std::process::id())).exists();
        let number = (1..).find(free).unwrap_or(0);
        let dir = PathBuf::from(&dir).join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        return Ok((dir, None));
    }
    let dir = tempfile::tempdir()?;
    Ok((dir.path().to_owned(), Some(dir)))
}
