//! Keeps what the planner needs of every member site's API server: watches of cut-down objects, and a short probe that
//! tells within seconds when a site cannot be read, however its watches hang.

mod kept;
mod quantity;
mod room;
mod trim;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evergreen_api::resources::{DataCenter, MultiActiveService, RoomStatus};
use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v1::HorizontalPodAutoscaler,
    core::v1::{Namespace, ResourceQuota},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client, Resource, core::DeserializeGuard};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    kept::Kept,
    room::OwnRoom,
    trim::{Name, QuotaRoom, Service, Workload},
};
use super::facts::WorkloadFacts;
use crate::site::Register;

/// A site is probed this often.
const INTERVAL: Duration = Duration::from_secs(1);
/// A site that does not answer in this time counts as unreadable.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// A peer's Secret that cannot be read yet is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// A member site.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name.
    pub site: String,
    /// How to reach its API server.
    pub register: Arc<Register>,
}

/// What is kept of one site.
#[derive(Debug, Default)]
pub(crate) struct SiteStore {
    pub services: Kept<Name, Service>,
    pub workloads: Kept<Name, Workload>,
    pub autoscalers: Kept<Name, (String, u32)>,
    pub quotas: Kept<Name, QuotaRoom>,
    pub budgets: Kept<Name, BTreeMap<String, String>>,
    /// Stability classes of namespaces; only of the own site.
    pub namespaces: Kept<String, String>,
    room: RwLock<Option<RoomStatus>>,
    readable: AtomicBool,
}

impl SiteStore {
    /// Whether the site answers now and its services and workloads are known.
    pub fn readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed) && self.services.synced() && self.workloads.synced()
    }

    /// Room that the site's controller published.
    pub fn room(&self) -> Option<RoomStatus> {
        self.room.read().clone()
    }

    /// Ready replicas of a Deployment; none when the site cannot be read.
    pub fn ready(&self, name: &Name) -> Option<u32> {
        self.readable().then(|| self.workloads.with(|all| all.get(name).map_or(0, |workload| workload.ready)))
    }

    /// What these Deployments ask for and may grow to. Known also while the site cannot be read: it is what would have to
    /// be carried elsewhere.
    pub fn workload_facts(&self, names: &BTreeSet<Name>) -> BTreeMap<Name, WorkloadFacts> {
        let scaled: BTreeMap<Name, u32> = self
            .autoscalers
            .with(|all| all.iter().map(|(key, (target, max))| ((key.0.clone(), target.clone()), *max)).collect());
        let mut quotas: BTreeMap<String, Vec<QuotaRoom>> = BTreeMap::new();
        self.quotas.with(|all| all.iter().for_each(|(key, room)| quotas.entry(key.0.clone()).or_default().push(*room)));
        let short: Vec<(String, BTreeMap<String, String>)> =
            self.budgets.with(|all| all.iter().map(|(key, labels)| (key.0.clone(), labels.clone())).collect());
        self.workloads.with(|all| {
            let known = names.iter().filter_map(|name| Some((name, all.get(name)?)));
            let facts = |(name, workload): (&Name, &Workload)| {
                let left = quotas.get(&name.0).into_iter().flatten().filter_map(|room| replicas(room, workload)).min();
                let selected = |(namespace, labels): &(String, BTreeMap<String, String>)| {
                    *namespace == name.0 && labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
                };
                let facts = WorkloadFacts {
                    wanted: workload.wanted,
                    cpu_millis: workload.requests.cpu_millis,
                    memory_bytes: workload.requests.memory_bytes,
                    max_replicas: scaled.get(name).copied(),
                    quota_replicas: left,
                    budget_short: short.iter().any(selected),
                };
                (name.clone(), facts)
            };
            known.map(facts).collect()
        })
    }
}

/// Replicas that fit into what a quota leaves; none where it does not bound them.
fn replicas(room: &QuotaRoom, workload: &Workload) -> Option<u32> {
    let of = |left: Option<u64>, each: u64| left.filter(|_| each > 0).map(|left| left / each);
    let bounds = [
        of(room.cpu_millis, workload.requests.cpu_millis),
        of(room.memory_bytes, workload.requests.memory_bytes),
        room.pods,
    ];
    bounds.into_iter().flatten().min().map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

/// Starts keeping what a site shows. `own` keeps whole services.
pub(crate) fn start(peer: Peer, own: bool, cancel: CancellationToken) -> Arc<SiteStore> {
    let store = Arc::new(SiteStore::default());
    let kept = store.clone();
    tokio::spawn(async move {
        let work = async {
            let client = loop {
                match peer.register.client().await {
                    Ok(client) => break client,
                    Err(error) => tracing::debug!(site = peer.site, %error, "site cannot be read yet"),
                }
                tokio::time::sleep(RETRY).await;
            };
            follow(&client, &peer.site, own, &kept).await;
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    });
    store
}

async fn follow(client: &Client, site: &str, own: bool, store: &SiteStore) {
    let services = store.services.follow(
        Api::<DeserializeGuard<MultiActiveService>>::all(client.clone()),
        "services",
        // One that cannot be read says so when it is linted; it is no reason to stop watching the others.
        |guarded| {
            let meta = guarded.meta();
            let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
            (key, guarded.0.ok().map(|service| trim::service(service, own)))
        },
    );
    let workloads = store.workloads.follow(Api::<Deployment>::all(client.clone()), "deployments", trim::deployment);
    let autoscalers =
        store.autoscalers.follow(Api::<HorizontalPodAutoscaler>::all(client.clone()), "autoscalers", trim::autoscaler);
    let quotas = store.quotas.follow(Api::<ResourceQuota>::all(client.clone()), "quotas", trim::quota);
    let budgets =
        store.budgets.follow(Api::<PodDisruptionBudget>::all(client.clone()), "disruption budgets", trim::budget);
    let namespaces = async {
        if own {
            store.namespaces.follow(Api::<Namespace>::all(client.clone()), "namespaces", trim::namespace).await;
        }
    };
    tokio::join!(services, workloads, autoscalers, quotas, budgets, namespaces, probe(client, site, store));
}

async fn probe(client: &Client, site: &str, store: &SiteStore) {
    let api: Api<DataCenter> = Api::all(client.clone());
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = tokio::time::timeout(PATIENCE, api.get_opt(site)).await;
        let readable = matches!(answer, Ok(Ok(_)));
        store.readable.store(readable, Ordering::Relaxed);
        if let Ok(Ok(found)) = answer {
            *store.room.write() = found.and_then(|found| found.status).and_then(|status| status.room);
        }
    }
}
