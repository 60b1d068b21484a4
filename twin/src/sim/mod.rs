//! What runs in a data center besides its API server: workload controllers, scheduler, kubelets, node life cycle.
//!
//! One task does it all, in a fixed order, on tokio's clock: same seed and same requests, same result.
//! It reads and writes the store like any client would, only without HTTP; while the API server is lost it stands still.

mod behaviour;
mod budget;
mod cache;
mod collect;
mod company;
mod cronjob;
pub mod curves;
mod daemonset;
mod deployment;
mod endpoints;
mod eviction;
mod fitting;
mod job;
pub mod kubelet;
pub mod load;
pub(crate) mod nodes;
mod preempt;
mod replicaset;
mod scheduler;
mod statefulset;
mod timers;
mod zones;

pub use deployment::template_hash;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use tokio_util::sync::CancellationToken;

use crate::apiserver::clock::Moment;
use crate::apiserver::leases::Names;
use crate::apiserver::server::ApiServer;
use crate::apiserver::store::{Change, Filter};
use crate::host::SimulatedHost;
use cache::Cache;
use load::LoadBook;
use timers::Timers;

/// Timing of nodes, pods and their controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Between renewals of a node's Lease.
    pub lease_renewal: Duration,
    /// A Lease unchanged for this long makes its node Unknown.
    pub node_grace: Duration,
    /// Between looks of the node life cycle controller.
    pub node_monitor: Duration,
    /// Pods stay this long on an unreachable node before they are deleted.
    pub unreachable_toleration: Duration,
    /// From binding to running containers.
    pub pod_start: Duration,
    /// From running to ready.
    pub pod_ready: Duration,
    /// From the stop signal to the end of a container that obeys; never longer than the pod's own grace.
    pub pod_stop: Duration,
    /// From ready to the successful end of a container that is not restarted for ever.
    pub pod_run: Duration,
    /// Between two lost nodes of a zone that lose their pods; ten times that in large, partially disrupted zones.
    pub eviction_interval: Duration,
    /// Between steps of the simulated hosts' counters.
    pub host_tick: Duration,
}

impl Timing {
    /// The defaults of Kubernetes, with pods that take a few seconds to start.
    pub fn kubernetes() -> Self {
        Timing {
            lease_renewal: Duration::from_secs(10),
            node_grace: Duration::from_secs(50),
            node_monitor: Duration::from_secs(5),
            unreachable_toleration: Duration::from_secs(300),
            pod_start: Duration::from_secs(2),
            pod_ready: Duration::from_secs(3),
            pod_stop: Duration::from_secs(1),
            pod_run: Duration::from_secs(5),
            eviction_interval: Duration::from_secs(10),
            host_tick: Duration::from_millis(200),
        }
    }

    /// Short ones, for a demo of a minute.
    pub fn short() -> Self {
        Timing {
            lease_renewal: Duration::from_secs(1),
            node_grace: Duration::from_secs(4),
            node_monitor: Duration::from_millis(500),
            unreachable_toleration: Duration::from_secs(10),
            pod_start: Duration::from_millis(400),
            pod_ready: Duration::from_millis(600),
            pod_stop: Duration::from_millis(300),
            pod_run: Duration::from_secs(1),
            eviction_interval: Duration::from_millis(500),
            host_tick: Duration::from_millis(200),
        }
    }
}

/// A node as the simulation runs it.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedNode {
    pub(crate) host: Option<SimulatedHost>,
    /// Whether kubelet and containers run.
    pub(crate) up: bool,
}

/// A node that has gone down or come up.
#[derive(Debug, Clone)]
pub(crate) struct Switched {
    pub(crate) name: String,
    pub(crate) up: bool,
    /// When the kubelets had last renewed by then.
    pub(crate) renewed: Moment,
}

/// What the simulation shares with the twin's handles.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) api: ApiServer,
    pub(crate) timing: Timing,
    pub(crate) nodes: Mutex<BTreeMap<String, SimulatedNode>>,
    /// The nodes that are up.
    pub(crate) up: Mutex<Names>,
    /// Nodes that have gone down or come up since the simulation last looked.
    pub(crate) switched: Mutex<Vec<Switched>>,
    pub(crate) load: LoadBook,
    /// Wakes the simulation after a change that is not in the store.
    pub(crate) nudge: tokio::sync::Notify,
    /// The whole site is lost: hosts stand still, gateways refuse connections.
    pub(crate) site_down: tokio::sync::watch::Sender<bool>,
}

impl World {
    /// Whether a node's kubelet and containers run.
    pub(crate) fn is_up(&self, node: &str) -> bool {
        self.up.lock().contains(node)
    }

    /// Whether any node has a host whose files move.
    pub(crate) fn has_hosts(&self) -> bool {
        self.nodes.lock().values().any(|n| n.host.is_some())
    }

    /// Switches a node on or off, or adds one that has no host. Says whether it was known.
    pub(crate) fn switch(&self, name: &str, up: bool) -> bool {
        let mut nodes = self.nodes.lock();
        let known = nodes.contains_key(name);
        let node = nodes.entry(name.to_owned()).or_insert(SimulatedNode { host: None, up: !up });
        if node.up != up {
            node.up = up;
            let mut names = self.up.lock();
            if up {
                Arc::make_mut(&mut names).insert(name.to_owned());
            } else {
                Arc::make_mut(&mut names).remove(name);
            }
            self.switched.lock().push(Switched { name: name.to_owned(), up, renewed: self.api.last_renewal() });
        }
        known
    }

    /// Another world in the same state, with another future: see [`ApiServer::fork`]. Its nodes have no hosts.
    pub(crate) fn fork(&self) -> World {
        let nodes =
            self.nodes.lock().iter().map(|(n, s)| (n.clone(), SimulatedNode { host: None, up: s.up })).collect();
        World {
            api: self.api.fork(),
            timing: self.timing.clone(),
            nodes: Mutex::new(nodes),
            up: Mutex::new(self.up.lock().clone()),
            switched: Mutex::new(self.switched.lock().clone()),
            load: LoadBook::default(),
            nudge: tokio::sync::Notify::new(),
            site_down: tokio::sync::watch::Sender::new(*self.site_down.borrow()),
        }
    }
}

/// One thing to bring in order. The order of the variants is the order of work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Collect,
    Namespaces,
    Deployment(Arc<str>),
    ReplicaSet(Arc<str>),
    DaemonSet(Arc<str>),
    StatefulSet(Arc<str>),
    CronJob(Arc<str>),
    Job(Arc<str>),
    Schedule,
    Evict(Arc<str>),
    Pod(Arc<str>),
    Service(Arc<str>),
    Budget(Arc<str>),
}

/// Tables that the controllers follow.
const FOLLOWED: [&str; 12] = [
    // Before the pods, which share the nodes' names.
    "nodes",
    "pods",
    "services",
    "namespaces",
    "deployments.apps",
    "replicasets.apps",
    "daemonsets.apps",
    "statefulsets.apps",
    "cronjobs.batch",
    "jobs.batch",
    "poddisruptionbudgets.policy",
    "endpointslices.discovery.k8s.io",
];
/// Items of work between two looks at the runtime, so that other tasks run too.
const WORK_PER_TURN: usize = 64;

#[derive(Debug)]
pub(crate) struct Simulation {
    pub(crate) world: Arc<World>,
    pub(crate) cache: Cache,
    pub(crate) timers: Timers,
    cursors: [u64; FOLLOWED.len()],
    dirty: BTreeSet<Work>,
    pub(crate) leases: nodes::LeaseWatch,
    pub(crate) turns: zones::Turns,
    pub(crate) evictions: eviction::Evictions,
    pub(crate) next_eviction: Option<Moment>,
    pub(crate) last_tick: Option<Moment>,
    pub(crate) next_address: u32,
    /// Lives of pods that crash.
    pub(crate) lives: HashMap<Arc<str>, kubelet::Life>,
    /// When CronJobs are looked at next.
    pub(crate) cron_times: HashMap<Arc<str>, Moment>,
    pub(crate) energy: curves::Energy,
    /// (hash of the template, name of the revision) of StatefulSets, by UID.
    pub(crate) revisions: HashMap<Arc<str>, (String, String)>,
    /// The node at which the search for a pod's node begins, in large fleets.
    pub(crate) next_node: usize,
    /// Whether it has taken in what was there before it.
    primed: bool,
}

/// What comes after a step.
enum Next {
    /// More work, now.
    Work,
    /// Nothing before that moment.
    Wait(Option<Moment>),
}

impl Simulation {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Simulation {
            world,
            cache: Cache::default(),
            timers: Timers::default(),
            cursors: [0; FOLLOWED.len()],
            dirty: BTreeSet::from([Work::Collect, Work::Namespaces, Work::Schedule]),
            leases: nodes::LeaseWatch::default(),
            turns: zones::Turns::default(),
            evictions: eviction::Evictions::default(),
            next_eviction: None,
            last_tick: None,
            next_address: 1,
            lives: HashMap::new(),
            cron_times: HashMap::new(),
            energy: curves::Energy::default(),
            revisions: HashMap::new(),
            next_node: 0,
            primed: false,
        }
    }

    /// The same state in another world.
    pub(crate) fn fork(&self, world: Arc<World>) -> Self {
        Simulation {
            world,
            cache: self.cache.clone(),
            timers: self.timers.clone(),
            cursors: self.cursors.map(|_| 0),
            dirty: self.dirty.clone(),
            leases: self.leases.clone(),
            turns: self.turns.clone(),
            evictions: self.evictions.clone(),
            next_eviction: self.next_eviction,
            last_tick: None,
            next_address: self.next_address,
            lives: self.lives.clone(),
            cron_times: self.cron_times.clone(),
            energy: self.energy.clone(),
            revisions: self.revisions.clone(),
            next_node: self.next_node,
            primed: self.primed,
        }
        .caught_up()
    }

    /// With the changes up to now known: a fork's rings are empty.
    fn caught_up(mut self) -> Self {
        let version = self.api().store().version();
        self.cursors = [version; FOLLOWED.len()];
        self
    }

    pub(crate) fn api(&self) -> &ApiServer {
        &self.world.api
    }

    pub(crate) fn now(&self) -> Moment {
        self.world.api.clock().moment()
    }

    pub(crate) fn mark(&mut self, work: Work) {
        self.dirty.insert(work);
    }

    /// Takes in what is there and sets the first timers; once.
    pub(crate) fn prime(&mut self) {
        if std::mem::replace(&mut self.primed, true) {
            return;
        }
        for table in 0..FOLLOWED.len() {
            self.relist(table);
        }
        self.start_timers();
    }

    /// Takes everything in anew after the store was replaced or loaded.
    pub(crate) fn relist_all(&mut self) {
        if self.primed {
            (0..FOLLOWED.len()).for_each(|table| self.relist(table));
        }
    }

    /// Takes in all that is there up to now, without acting on it.
    pub(crate) fn catch_up(&mut self) {
        self.prime();
        self.welcome_switched();
        self.follow();
    }

    /// Looks at what has changed and does a piece of work.
    fn step(&mut self) -> Next {
        self.welcome_switched();
        self.follow();
        if self.turn() { Next::Work } else { Next::Wait(self.timers.next()) }
    }

    /// Fires the timers that are due.
    fn wake(&mut self) {
        if self.cache.terminating_namespaces {
            // Whatever woke us may have been the end of something that held a namespace.
            self.mark(Work::Namespaces);
        }
        while let Some(timer) = self.timers.due(self.now()) {
            self.follow();
            self.fire(timer);
        }
    }

    /// Time in which nobody could renew a lease is no proof against a node.
    fn forget_silence(&mut self) {
        self.leases.forget();
        self.turns.forget();
    }

    /// Lets the held clock run on, from timer to timer, and does all that falls due. Returns how many timers fired.
    pub(crate) fn advance(&mut self, by: Duration) -> u64 {
        self.prime();
        let target = self.now() + by;
        let world = self.world.clone();
        let clock = world.api.clock();
        let mut fired = 0;
        loop {
            if world.api.faults().is_lost() {
                self.forget_silence();
                break;
            }
            match self.step() {
                Next::Work => {}
                Next::Wait(Some(at)) if at <= target => {
                    clock.move_to(at);
                    self.wake();
                    fired += 1;
                }
                Next::Wait(_) => break,
            }
        }
        clock.move_to(target);
        fired
    }

    /// Runs until cancelled. The simulation is locked only while it works.
    pub(crate) async fn run(simulation: Arc<Mutex<Simulation>>, cancel: CancellationToken) {
        let world = simulation.lock().world.clone();
        let clock = world.api.clock();
        let mut changed = world.api.store().any_change();
        let mut faults = world.api.faults().changes();
        simulation.lock().prime();
        while !cancel.is_cancelled() {
            if world.api.faults().is_lost() {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = faults.changed() => {}
                    // A lost API server stops no host.
                    () = tokio::time::sleep(world.timing.host_tick) => {
                        let mut simulation = simulation.lock();
                        let now = simulation.now();
                        simulation.tick_hosts(now);
                    }
                }
                simulation.lock().forget_silence();
                continue;
            }
            changed.borrow_and_update();
            let next = simulation.lock().step();
            let wait = match next {
                Next::Work => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Next::Wait(Some(at)) => clock.until(at),
                Next::Wait(None) => Duration::from_secs(3600),
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = changed.changed() => {}
                _ = faults.changed() => {}
                () = world.nudge.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            simulation.lock().wake();
        }
    }

    /// Does some work; says whether there may be more.
    fn turn(&mut self) -> bool {
        for _ in 0..WORK_PER_TURN {
            let Some(work) = self.dirty.pop_first() else { return false };
            match work {
                Work::Collect => self.collect(),
                Work::Namespaces => self.finish_namespaces(),
                Work::Deployment(key) => self.reconcile_deployment(&key),
                Work::ReplicaSet(key) => self.reconcile_replica_set(&key),
                Work::DaemonSet(key) => self.reconcile_daemon_set(&key),
                Work::StatefulSet(key) => self.reconcile_stateful_set(&key),
                Work::CronJob(key) => self.reconcile_cron_job(&key),
                Work::Job(key) => self.reconcile_job(&key),
                Work::Schedule => self.schedule(),
                Work::Evict(node) => self.evict_intolerant(&node),
                Work::Pod(key) => self.reconcile_pod(&key),
                Work::Service(key) => self.reconcile_service(&key),
                Work::Budget(key) => self.reconcile_budget(&key),
            }
            self.follow();
        }
        true
    }

    /// Takes the changes of all followed tables in.
    fn follow(&mut self) {
        for (index, table) in FOLLOWED.iter().enumerate() {
            match self.world.api.store().changes_since(table, self.cursors[index], usize::MAX) {
                Ok(changes) => {
                    for change in changes {
                        self.cursors[index] = change.after.version;
                        self.take_in(table, &change);
                    }
                }
                Err(_) => self.relist(index),
            }
        }
        let suspects = self.world.api.store().take_suspects();
        if !suspects.is_empty() {
            self.cache.suspects.extend(suspects);
            self.mark(Work::Collect);
        }
    }

    fn relist(&mut self, index: usize) {
        let table = FOLLOWED[index];
        let (entries, version) = self.world.api.store().list(table, &Filter::default());
        match table {
            "pods" => self.cache.clear_pods(),
            "nodes" => self.cache.clear_nodes(),
            _ => {}
        }
        for after in entries {
            self.take_in(table, &Change { before: None, after, deleted: false });
        }
        self.cursors[index] = version;
    }

    fn take_in(&mut self, table: &str, change: &Change) {
        let key = change.after.key.clone();
        let namespace = change.after.namespace().to_owned();
        match table {
            "pods" => self.take_in_pod(change),
            "nodes" => {
                let now = self.now();
                if self.evictions.take_in(change, now) {
                    self.mark(Work::Evict(change.after.name().into()));
                }
                self.take_in_node(change);
                self.mark(Work::Schedule);
                self.cache.daemon_sets.clone().into_iter().for_each(|k| self.mark(Work::DaemonSet(k)));
            }
            "services" => {
                self.cache.note_selector(&change.after, change.deleted, true);
                self.mark(Work::Service(key));
            }
            "endpointslices.discovery.k8s.io" => {
                if let Some(service) = change.after.label("kubernetes.io/service-name").filter(|_| change.deleted) {
                    self.mark(Work::Service(format!("{namespace}/{service}").into()));
                }
            }
            "namespaces" => self.mark(Work::Namespaces),
            "deployments.apps" => {
                self.mark_budgets(&namespace);
                self.mark(Work::Deployment(key));
            }
            "replicasets.apps" => {
                self.cache.note_owner(&change.after, change.deleted);
                self.mark_owner_of(&change.after);
                self.mark(Work::ReplicaSet(key));
            }
            "daemonsets.apps" => {
                if change.deleted {
                    self.cache.daemon_sets.remove(&key);
                } else {
                    self.cache.daemon_sets.insert(key.clone());
                }
                self.mark(Work::DaemonSet(key));
            }
            "statefulsets.apps" if change.deleted => {
                self.revisions.remove(&change.after.uid);
            }
            "statefulsets.apps" => self.mark(Work::StatefulSet(key)),
            "cronjobs.batch" => self.mark(Work::CronJob(key)),
            "jobs.batch" => {
                self.mark_owner_of(&change.after);
                self.mark(Work::Job(key));
            }
            _ => {
                self.cache.note_selector(&change.after, change.deleted, false);
                self.mark(Work::Budget(key));
            }
        }
    }

    fn mark_budgets(&mut self, namespace: &str) {
        for key in self.cache.budgets_in(namespace) {
            self.mark(Work::Budget(key));
        }
    }
}
