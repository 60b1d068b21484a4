//! Everything that stands on the demo's stage: three data centers with their programs, the plane, the clients. It sets
//! up, tears down, and leaves the stories to others.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use evergreen_api::{
    names,
    resources::{MultiActiveService, all_crds},
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, Client, api::ListParams};
use parking_lot::Mutex;

use super::{
    balancer::{Balancer, Load, SiteEntry},
    budget_watch::is_ready,
    certs::{self, Authority},
    fleet::{NODES, NodePlan, PORTS, PlanePorts, Programs, Recipes, SitePorts, own_node_name},
    install,
    manifests::{self, NAMESPACE, REPLICAS, SERVICE, SITES, SitePlan},
    messages::{self, Text},
    ports::Ports,
    processes::{Recipe, Supervisor},
    timeline::{Chapter, Mark, Timeline},
    traffic::Traffic,
    void::Void,
    wait::until,
    world::World,
};
use crate::{
    exit::{Failure, Outcome},
    http::Http,
    plane::Plane,
};

/// Requests a second of the demo's clients.
const RATE: u32 = 100;
/// A debug build on a busy machine needs seconds for each of these, not tens of seconds.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The stage.
pub struct Stage {
    /// What happens when.
    pub timeline: Arc<Timeline>,
    /// Child processes.
    pub supervisor: Supervisor,
    /// The plane, as its clients see it.
    pub plane: Plane,
    /// Data centers.
    pub sites: Vec<Site>,
    /// The clients' balancer.
    pub balancer: Balancer,
    /// What clients saw.
    pub traffic: Arc<Traffic>,
    load: Load,
    plane_recipe: Recipe,
}

/// One data center with its programs.
pub struct Site {
    /// What it is.
    pub plan: SitePlan,
    /// Its simulation.
    pub world: World,
    /// A client of its API server that no fault touches.
    pub client: Client,
    ports: SitePorts,
    controller: Recipe,
    agents: Vec<Recipe>,
    agent_addresses: Vec<SocketAddr>,
    dark: Mutex<Vec<Void>>,
}

impl Stage {
    /// Builds the stage in `out`: simulations are served, files written; no program runs yet.
    ///
    /// # Errors
    /// When a program is missing, a port is taken, or a file cannot be written.
    pub async fn build(
        out: &Path,
        port_base: Option<u16>,
        timeline: Arc<Timeline>,
        supervisor: Supervisor,
    ) -> Outcome<Self> {
        let programs = Programs::find()?;
        let mut ports = Ports::find(port_base, PORTS)?;
        let plane_ports = PlanePorts::take(&mut ports);
        let authority = Authority::create(&out.join("pki"))?;
        let recipes = Recipes { programs: &programs, out, plane: plane_ports, authority: &authority };

        let mut half_built = Vec::new();
        for plan in SITES {
            let site_ports = SitePorts::take(&mut ports);
            let own = (plan.name == SITES[0].name).then(own_node_name);
            let world = World::build(&plan, &out.join("hosts"), &site_ports, NODES, own.as_deref()).await?;
            let nodes: Vec<NodePlan> =
                world.nodes().into_iter().map(|(name, root)| NodePlan { name, root, agent: ports.take() }).collect();
            half_built.push((plan, site_ports, world, nodes));
        }
        let entries: Vec<(String, String)> = half_built
            .iter()
            .map(|(plan, site_ports, ..)| (plan.name.to_owned(), format!("http://{}", site_ports.entry)))
            .collect();
        let clients: Vec<SiteEntry> = half_built
            .iter()
            .map(|(plan, site_ports, _, nodes)| SiteEntry {
                name: plan.name.to_owned(),
                entry: format!("http://{}/", site_ports.entry),
                agents: nodes.iter().map(|node| format!("http://{}", node.agent)).collect(),
            })
            .collect();

        // What each site needs to reach every site, itself included, as its own controller.
        let secrets: Vec<Vec<(&str, String)>> = SITES
            .iter()
            .map(|reader| {
                let identity = format!("controller:{}", reader.name);
                half_built.iter().map(|(plan, _, world, _)| (plan.name, world.kubeconfig(&identity))).collect()
            })
            .collect();

        let mut sites = Vec::new();
        for ((plan, site_ports, world, nodes), secrets) in half_built.into_iter().zip(secrets) {
            let client = world.client();
            furnish(&client, &plan, &secrets, &entries).await?;
            let folder = out.join("kubeconfig");
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            let kubeconfig = |identity: &str, file: String| -> anyhow::Result<std::path::PathBuf> {
                let path = folder.join(file);
                certs::write(&path, &world.kubeconfig(identity))?;
                Ok(path)
            };
            let own = kubeconfig(&format!("controller:{}", plan.name), format!("controller-{}", plan.name))?;
            kubeconfig("admin", plan.name.to_owned())?;
            let controller = recipes.controller(&plan, &site_ports, &own)?;
            let agents = nodes
                .iter()
                .map(|node| {
                    let identity = format!("agent:{}/{}", plan.name, node.name);
                    let file = kubeconfig(&identity, format!("agent-{}", node.name))?;
                    recipes.agent(&plan, &site_ports, node, &file)
                })
                .collect::<anyhow::Result<Vec<Recipe>>>()?;
            let agent_addresses = nodes.iter().map(|node| node.agent).collect();
            let dark = Mutex::default();
            sites.push(Site { plan, world, client, ports: site_ports, controller, agents, agent_addresses, dark });
        }

        let names = SITES.iter().map(|plan| plan.name.to_owned()).collect();
        let load =
            Load { group: names::default_group(NAMESPACE, SERVICE), host: manifests::HOST.to_owned(), rate: RATE };
        Ok(Self {
            plane: Plane::new(&plane_ports.url(), Http::new()),
            plane_recipe: recipes.plane(),
            traffic: Arc::new(Traffic::new(timeline.origin, names)),
            balancer: Balancer::start(clients, &load),
            load,
            timeline,
            supervisor,
            sites,
        })
    }

    /// Starts every program, waits until the service is up at the sites that shall hold it, and lets the clients begin.
    ///
    /// # Errors
    /// What could not be started, or was waited for in vain.
    pub async fn raise(&self) -> Result<(), Text> {
        let broke = |error: anyhow::Error| messages::broke(&format!("{error:#}"));
        let say = |mark, text| self.timeline.say(Chapter::Prepare, mark, text);
        self.supervisor.start(&self.plane_recipe).map_err(broke)?;
        until(&self.timeline, messages::waiting_plane(), START_LIMIT, || async {
            self.plane.ready().await.then_some(())
        })
        .await?;
        say(Mark::Step, messages::plane_ready(self.plane.url()));
        for site in &self.sites {
            say(Mark::Note, messages::site_ready(site.name(), NODES, &format!("http://{}", site.ports.api)));
            site.start(&self.supervisor).map_err(broke)?;
        }
        let agents = self.sites.iter().map(|site| site.agents.len()).sum();
        say(Mark::Step, messages::processes_started(agents, self.sites.len()));
        if let Some(own) = self.sites[0].world.own_machine() {
            say(Mark::Note, messages::own_machine(self.sites[0].name(), own));
        }
        until(&self.timeline, messages::waiting_pods(), START_LIMIT, || self.all_pods_ready()).await?;
        let wanted: Vec<&str> = SITES[..2].iter().map(|plan| plan.name).collect();
        let pair = wanted.join(" + ");
        until(&self.timeline, messages::waiting_holders(&pair), START_LIMIT, || self.held_by(&wanted)).await?;
        until(&self.timeline, messages::waiting_rotation(&pair), START_LIMIT, || async {
            (self.balancer.rotation() == wanted).then_some(())
        })
        .await?;
        say(Mark::Good, messages::service_up(&pair));
        until(&self.timeline, messages::waiting_agents(), START_LIMIT, || async {
            let fleet = self.plane.fleet().await.ok()?;
            let seen: usize = fleet.sites.iter().map(|site| site.nodes.len()).sum();
            (seen >= agents).then_some(())
        })
        .await?;
        self.balancer.open(&self.load, Arc::clone(&self.traffic));
        say(Mark::Step, messages::clients_open(RATE));
        Ok(())
    }

    async fn all_pods_ready(&self) -> Option<()> {
        for site in &self.sites {
            let pods: Api<Pod> = Api::namespaced(site.client.clone(), NAMESPACE);
            let list = pods.list(&ListParams::default().labels(&format!("app={SERVICE}"))).await.ok()?;
            if list.items.iter().filter(|pod| is_ready(pod)).count() < REPLICAS as usize {
                return None;
            }
            let deployments: Api<Deployment> = Api::namespaced(site.client.clone(), NAMESPACE);
            deployments.get_opt(SERVICE).await.ok()??;
        }
        Some(())
    }

    async fn held_by(&self, wanted: &[&str]) -> Option<()> {
        let services: Api<MultiActiveService> = Api::namespaced(self.sites[0].client.clone(), NAMESPACE);
        let mut holders: Vec<String> =
            services.get_opt(SERVICE).await.ok()??.status?.holders.into_iter().map(|holder| holder.site).collect();
        holders.sort();
        (holders == wanted).then_some(())
    }

    /// One line about what the clients see now.
    pub fn clients_now(&self) -> String {
        let total = self.traffic.total();
        if total.requests == 0 {
            return String::new();
        }
        let now = tokio::time::Instant::now();
        let answering = self.traffic.answering(now, Duration::from_secs(1)).join(" ");
        format!("{} requests, {} errors, answered by {answering}", total.requests, total.errors)
    }

    /// Ends the clients, every program and every simulation.
    pub async fn clear(&self) {
        self.balancer.stop().await;
        // The plane last, so that nobody's last words are lost.
        let programs = self.sites.iter().flat_map(|site| site.agents.iter().chain([&site.controller]));
        futures::future::join_all(programs.map(|recipe| self.supervisor.stop(&recipe.name))).await;
        self.supervisor.stop_all().await;
        for site in &self.sites {
            site.world.end().await;
        }
    }
}

impl Site {
    /// Name.
    pub fn name(&self) -> &'static str {
        self.plan.name
    }

    fn start(&self, supervisor: &Supervisor) -> anyhow::Result<()> {
        supervisor.start(&self.controller)?;
        self.agents.iter().try_for_each(|agent| supervisor.start(agent))
    }

    /// The whole data center vanishes: its hosts stand still, its programs are killed without a word, and at the
    /// addresses that others ask nobody answers any more, not even with a refusal.
    pub async fn lose(&self, supervisor: &Supervisor) {
        self.world.lose();
        let names = self.agents.iter().chain([&self.controller]).map(|recipe| recipe.name.as_str());
        let killed = futures::future::join_all(names.map(|name| supervisor.kill(name)));
        let entry = Void::open(self.ports.entry);
        let (entry, _) = tokio::join!(entry, killed);
        let nodes = futures::future::join_all(self.agent_addresses.iter().map(|address| Void::open(*address))).await;
        self.dark.lock().extend(entry.into_iter().chain(nodes.into_iter().flatten()));
    }

    /// It comes back: its hosts boot, its API server and entry answer, its programs start with the state they left.
    ///
    /// # Errors
    /// When something cannot be started.
    pub async fn restore(&self, supervisor: &Supervisor) -> anyhow::Result<()> {
        let dark = std::mem::take(&mut *self.dark.lock());
        futures::future::join_all(dark.into_iter().map(Void::close)).await;
        self.world.restore()?;
        self.start(supervisor)
    }
}

/// Puts everything into a site that a person would apply.
async fn furnish(
    client: &Client,
    plan: &SitePlan,
    kubeconfigs: &[(&str, String)],
    entries: &[(String, String)],
) -> Outcome {
    for crd in all_crds() {
        install::create(client, &serde_json::to_value(crd).map_err(anyhow::Error::from)?).await?;
    }
    let mut objects = manifests::namespaces();
    objects.push(manifests::register());
    objects.extend(kubeconfigs.iter().map(|(site, text)| manifests::secret(site, text)));
    objects.extend(SITES.iter().map(manifests::data_center));
    objects.extend(manifests::playbooks()?);
    objects.extend(manifests::service(plan.name, entries));
    objects.push(manifests::multi_active_service());
    for object in &objects {
        install::create(client, object)
            .await
            .map_err(|error| Failure::no(format_args!("cannot furnish {}: {error:#}", plan.name)))?;
    }
    Ok(())
}
