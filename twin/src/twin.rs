//! A twin: one simulated data center with everything that belongs to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::apiserver::clock::Clock;
use crate::apiserver::http::router;
use crate::apiserver::leases;
use crate::apiserver::load::Loaded;
use crate::apiserver::server::ApiServer;
use crate::apiserver::store::DEFAULT_RING;
use crate::apiserver::subresources::is_ready;
use crate::faults::{Faults, Loss};
use crate::host::SimulatedHost;
use crate::objects::meta;
use crate::sim::load::LoadBook;
use crate::sim::{SimulatedNode, Simulation, Timing, World, nodes};
use crate::transport::{InProcess, Served, serve};

/// A node of a twin.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Name.
    pub name: String,
    /// Zone; the site's name if not set.
    pub zone: Option<String>,
    /// Further labels.
    pub labels: BTreeMap<String, String>,
    /// CPU capacity in cores.
    pub cpu_cores: u32,
    /// Memory capacity in bytes.
    pub memory_bytes: u64,
    /// Pods that it takes.
    pub max_pods: u32,
    /// The host whose files the node's life moves; a node without one exists in the API only.
    pub host: Option<SimulatedHost>,
}

impl NodeSpec {
    /// A node of 32 cores, 64 GiB and 110 pods, without a host.
    pub fn new(name: &str) -> Self {
        NodeSpec {
            name: name.to_owned(),
            zone: None,
            labels: BTreeMap::new(),
            cpu_cores: 32,
            memory_bytes: 64 << 30,
            max_pods: 110,
            host: None,
        }
    }

    /// Sets the zone.
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the capacity.
    pub fn capacity(mut self, cpu_cores: u32, memory_bytes: u64) -> Self {
        (self.cpu_cores, self.memory_bytes) = (cpu_cores, memory_bytes);
        self
    }

    /// Gives it a host.
    pub fn host(mut self, host: SimulatedHost) -> Self {
        self.host = Some(host);
        self
    }
}

/// Collects what a twin is made of.
#[derive(Debug)]
pub struct TwinBuilder {
    site: String,
    seed: u64,
    epoch: Timestamp,
    ring: usize,
    timing: Timing,
    nodes: Vec<NodeSpec>,
    held: bool,
}

impl TwinBuilder {
    /// Seed of all random choices (UIDs, name suffixes); the site's name gives the default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The time that the data center's clock starts at; now, if not set.
    pub fn epoch(mut self, epoch: Timestamp) -> Self {
        self.epoch = epoch;
        self
    }

    /// How many changes a watch may lag behind before it gets 410.
    pub fn watch_ring(mut self, changes: usize) -> Self {
        self.ring = changes;
        self
    }

    /// Timing of nodes and pods; that of Kubernetes, if not set.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Holds the clock: time passes only by [`Twin::advance`], until [`Twin::start`].
    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// Adds a node.
    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.push(node);
        self
    }

    /// Makes the twin. Its nodes are registered; nothing runs in it before [`Twin::start`].
    pub fn build(self) -> Twin {
        let clock = if self.held { Clock::held_at(self.epoch) } else { Clock::starting_at(self.epoch) };
        let api = ApiServer::with_clock(&self.site, self.seed, clock, self.ring);
        api.set_default_toleration_seconds(self.timing.unreachable_toleration.as_secs());
        // Clients in a cluster look for their API server under this name.
        let own = serde_json::json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}});
        if let Err(error) = api.create_object(&own) {
            tracing::warn!(%error, "the API server's own Service could not be created");
        }
        for (index, spec) in self.nodes.iter().enumerate() {
            nodes::register(&api, spec, index);
        }
        let nodes: BTreeMap<String, SimulatedNode> = self
            .nodes
            .into_iter()
            .map(|spec| (spec.name.clone(), SimulatedNode { host: spec.host, up: true }))
            .collect();
        let world = World {
            api,
            timing: self.timing,
            up: Mutex::new(Arc::new(nodes.keys().cloned().collect())),
            nodes: Mutex::new(nodes),
            switched: Mutex::default(),
            load: LoadBook::default(),
            nudge: tokio::sync::Notify::new(),
            site_down: watch::Sender::new(false),
        };
        Twin::of(Arc::new(world), None)
    }
}

#[derive(Debug)]
struct Inner {
    world: Arc<World>,
    simulation: Arc<Mutex<Simulation>>,
}

/// A simulated data center. Clones share everything.
#[derive(Debug, Clone)]
pub struct Twin {
    inner: Arc<Inner>,
}

impl Twin {
    /// A twin of that site.
    pub fn builder(site: &str) -> TwinBuilder {
        let seed = site
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        TwinBuilder {
            site: site.to_owned(),
            seed,
            epoch: Timestamp::now(),
            ring: DEFAULT_RING,
            timing: Timing::kubernetes(),
            nodes: Vec::new(),
            held: false,
        }
    }

    fn of(world: Arc<World>, simulation: Option<Simulation>) -> Self {
        let simulation = simulation.unwrap_or_else(|| Simulation::new(world.clone()));
        Twin { inner: Arc::new(Inner { world, simulation: Arc::new(Mutex::new(simulation)) }) }
    }

    /// Name of the site.
    pub fn site(&self) -> &str {
        self.api().site()
    }

    /// The API server, for direct reads and set-up.
    pub fn api(&self) -> &ApiServer {
        &self.inner.world.api
    }

    /// The API as a router.
    pub fn router(&self) -> Router {
        router(self.api().clone())
    }

    /// An in-process client. Must be called inside a tokio runtime.
    pub fn client(&self, identity: &str) -> kube::Client {
        InProcess::client(self.router(), identity, "default")
    }

    /// Serves the API over plain HTTP; port 0 picks a free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn serve(&self, addr: SocketAddr) -> std::io::Result<Served> {
        serve(self.router(), Some(self.faults()), None, addr, self.site()).await
    }

    /// Serves the API over TLS to clients that have a token or a certificate of an authority of its own.
    ///
    /// # Errors
    /// The address cannot be listened on, or no certificate can be made.
    pub async fn serve_tls(&self, addr: SocketAddr) -> std::io::Result<Served> {
        let access = Access::new(self.site(), &[addr.ip()])?;
        serve(self.router(), Some(self.faults()), Some(Arc::new(access)), addr, self.site()).await
    }

    /// Runs scheduler, kubelets, workload and node controllers until cancelled, and lets a held clock run. To be
    /// called once, inside a runtime.
    pub fn start(&self, cancel: CancellationToken) -> JoinHandle<()> {
        self.api().clock().run();
        tokio::spawn(Simulation::run(self.inner.simulation.clone(), cancel))
    }

    /// Another twin in the same state, which goes its own way from here: its clock is held, it has no faults but a
    /// lost site stays lost, and its nodes have no hosts. Same state and same doings give the same future, bit by bit.
    /// Takes a moment whatever the size: what both share is copied when one of them first changes it.
    pub fn fork(&self) -> Twin {
        let mut simulation = self.inner.simulation.lock();
        simulation.catch_up();
        let world = Arc::new(self.inner.world.fork());
        Twin::of(world.clone(), Some(simulation.fork(world)))
    }

    /// Lets so much time pass, at once: whatever falls due in it is done in order. Returns how many instants there
    /// were at which something was due. Only for a twin whose clock is held (a fork, or one built with
    /// [`TwinBuilder::held`]); another one stays as it is.
    pub fn advance(&self, by: Duration) -> u64 {
        if !self.api().clock().is_held() {
            tracing::warn!(
                site = self.site(),
                "only a held clock can be moved forward: fork the twin or build it held"
            );
            return 0;
        }
        self.inner.simulation.lock().advance(by)
    }

    /// Takes a snapshot of a cluster in as it is: see [`ApiServer::load`]. Its nodes are simulated from here on: those
    /// that report ready are up, the others are not. No controller acts before [`Twin::start`] or [`Twin::advance`].
    pub fn load(&self, objects: impl IntoIterator<Item = serde_json::Value>) -> Loaded {
        let mut simulation = self.inner.simulation.lock();
        let mut nodes = Vec::new();
        let loaded = self.api().load(objects.into_iter().inspect(|object| {
            if object["kind"] == "Node" {
                nodes.push(meta::name(object).to_owned());
            }
        }));
        for name in nodes {
            if let Some(node) = self.api().read("", "nodes", "", &name) {
                self.inner.world.switch(&name, is_ready(&node));
            }
        }
        simulation.relist_all();
        loaded
    }

    /// The faults of this data center's API server.
    pub fn faults(&self) -> Faults {
        self.api().faults().clone()
    }

    /// Loses the whole data center, as a power cut does: its API server for everyone, its gateways, its hosts (whose
    /// counters stand still) and all that its pods do.
    pub fn lose_site(&self, loss: Loss) {
        self.faults().lose(loss);
        self.inner.world.site_down.send_replace(true);
    }

    /// Brings a lost data center back as it was. Other faults stay.
    pub fn return_site(&self) {
        self.faults().heal("");
        self.inner.world.site_down.send_replace(false);
    }

    /// Tells whether the site is lost, to its gateways.
    pub(crate) fn site_down(&self) -> watch::Receiver<bool> {
        self.inner.world.site_down.subscribe()
    }

    /// Stops a node at once, as a power cut does. Says whether there is such a node.
    pub fn stop_node(&self, name: &str) -> bool {
        self.set_node_up(name, false)
    }

    /// Starts a stopped node. Its host, if it has one, boots anew. Says whether there is such a node.
    ///
    /// # Errors
    /// The host's files cannot be written.
    pub fn start_node(&self, name: &str) -> std::io::Result<bool> {
        if let Some(host) = self.host(name) {
            host.reboot()?;
        }
        Ok(self.set_node_up(name, true))
    }

    fn set_node_up(&self, name: &str, up: bool) -> bool {
        let known = self.inner.world.nodes.lock().contains_key(name);
        if known {
            // What it renewed while it was up stays renewed.
            self.api().show_lease(leases::TABLE, name);
            self.inner.world.switch(name, up);
        }
        self.inner.world.nudge.notify_one();
        known
    }

    /// Whether a node is up.
    pub fn is_node_up(&self, name: &str) -> bool {
        self.inner.world.is_up(name)
    }

    /// Energy at the wall of all nodes without a host since the simulation began, in joules, computed from the curves
    /// of [`crate::sim::curves`] in steps of a minute.
    pub fn computed_joules(&self) -> f64 {
        self.inner.simulation.lock().energy.values().sum()
    }

    /// Makes the API server forget: all objects are as they were when `past` was forked from this twin, and so is the
    /// resourceVersion, as after the restore of a backup. Clients are not cut off; new watches from later versions
    /// hear nothing until the version is reached again.
    pub fn restore(&self, past: &Twin) {
        let mut simulation = self.inner.simulation.lock();
        self.api().restore(past.api());
        simulation.relist_all();
    }

    /// Makes the data center's clock gain or lose: 1.01 gains 36 s an hour.
    pub fn set_clock_rate(&self, rate: f64) {
        self.api().clock().set_rate(rate);
        self.inner.world.nudge.notify_one();
    }

    /// The host of a node.
    pub fn host(&self, node: &str) -> Option<SimulatedHost> {
        self.inner.world.nodes.lock().get(node).and_then(|n| n.host.clone())
    }

    /// Adds CPU work, in seconds of one core, to a pod.
    pub fn add_load(&self, pod_uid: &str, cpu: Duration) {
        self.inner.world.load.add(pod_uid, cpu.as_secs_f64());
    }
}
