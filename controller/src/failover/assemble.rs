//! Puts together what the planner may know, from what is kept of the sites, the core's snapshot and the memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evergreen_api::names::LABEL_STABILITY;
use evergreen_api::resources::{MultiActiveService, RoomStatus, ServiceMode, Stability, TimingProfile};
use kube::ResourceExt;

use super::{
    facts::{Consent, DataFacts, DependencyFacts, Room, ServiceFacts, SiteFacts, WorkloadFacts},
    gather::{Name, SiteStore},
    memory::{Groups, Since},
    weights::held_by_share,
};
use crate::{quorum::Mono, site::SiteSnapshot};

/// What workloads ask for is put together anew this often.
const WORKLOADS: Duration = Duration::from_secs(5);

/// Everything that is kept of the sites.
pub(super) struct Sites {
    pub own: String,
    pub profile: TimingProfile,
    witnesses: Vec<String>,
    pub stores: BTreeMap<String, Arc<SiteStore>>,
    workloads: BTreeMap<String, BTreeMap<Name, WorkloadFacts>>,
    workloads_at: Option<Mono>,
    fresh: Since<String, bool>,
    groups: Groups,
}

/// One group with the service that it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub name: Name,
    pub service: Arc<MultiActiveService>,
    pub cell: Option<String>,
}

impl Sites {
    pub fn new(
        own: &str,
        profile: TimingProfile,
        witnesses: Vec<String>,
        stores: BTreeMap<String, Arc<SiteStore>>,
    ) -> Self {
        Self {
            own: own.to_owned(),
            profile,
            witnesses,
            stores,
            workloads: BTreeMap::new(),
            workloads_at: None,
            fresh: Since::default(),
            groups: Groups::default(),
        }
    }

    /// Services of the own site with the digests of their specs, in the order of their names.
    fn services(&self) -> Vec<(Name, Arc<MultiActiveService>, String)> {
        let Some(own) = self.stores.get(&self.own) else { return Vec::new() };
        own.services.with(|all| {
            all.iter()
                .filter_map(|(name, kept)| Some((name.clone(), kept.object.clone()?, kept.hash.clone())))
                .collect()
        })
    }

    /// Facts of every group whose spec is understood; `consent` and `data` add what people and databases said.
    pub fn facts(
        &mut self,
        snapshot: &SiteSnapshot,
        understood: impl Fn(&MultiActiveService) -> bool,
        consent: impl Fn(&str, u64) -> Consent,
        data: impl Fn(&str, &str) -> Option<DataFacts>,
        now: Mono,
    ) -> Vec<(Known, ServiceFacts)> {
        let services = self.services();
        self.refresh_workloads(&services, now);
        let seen = self.sites_seen(snapshot, now);
        let serving = Serving::of(&services, snapshot, &self.stores, &seen);
        let mut all = Vec::with_capacity(services.len());
        for (name, service, hash) in &services {
            if !understood(service) {
                continue;
            }
            let deployment = (name.0.clone(), service.spec.workload.deployment.clone());
            // The spec that a lost site had when it was last read counts; a site that was never read and is lost cannot
            // be asked, and two sites of which one is lost could do nothing otherwise.
            let knows = |(site, store): &(&String, &Arc<SiteStore>)| {
                store.services.synced() || seen.get(*site).is_some_and(|facts| facts.fresh.is_some())
            };
            let asked: Vec<_> = self.stores.iter().filter(knows).collect();
            let same = |(_, store): &&(&String, &Arc<SiteStore>)| {
                store.services.with(|all| all.get(name).is_some_and(|kept| kept.hash == *hash))
            };
            let (members, same_spec_at) = (asked.len(), asked.iter().filter(same).count());
            let cells: Vec<Option<String>> = match (&service.spec.units, service.spec.mode) {
                (Some(units), ServiceMode::Unitized) => {
                    units.cells.iter().map(|cell| Some(cell.name.clone())).collect()
                }
                _ => vec![None],
            };
            for ((group, candidates), cell) in service.spec.groups(&name.0, &name.1).into_iter().zip(cells) {
                let entry = snapshot.map.as_ref().map(|map| map.entry(&group)).unwrap_or_default();
                let coming = |site: &str| {
                    let services = &self.stores.get(site)?.services;
                    let share = services.with(|all| all.get(name)?.weights.get(site).copied())?;
                    held_by_share(&service.spec.failback, share)
                };
                let times = self.groups.observe(&group, &entry, coming, now);
                let mut sites = seen.clone();
                for (site, facts) in &mut sites {
                    let store = self.stores.get(site);
                    facts.ready = store.and_then(|store| store.ready(&deployment));
                    facts.workload = self.workloads.get(site).and_then(|all| all.get(&deployment)).copied();
                    facts.data = service.spec.data_gate.as_ref().and_then(|_| data(&group, site));
                }
                let facts = ServiceFacts {
                    name: format!("{}/{}", name.0, name.1),
                    candidates: candidates.to_vec(),
                    spec: service.spec.clone(),
                    stability: self.stability(name, service, &deployment),
                    profile: self.profile,
                    same_spec_at,
                    members,
                    consent: consent(&group, entry.version),
                    entry,
                    entry_stable_for: times.stable_for,
                    moved_for: times.moved_for,
                    entered_for: times.entered_for,
                    sites,
                    dependencies: service
                        .spec
                        .dependencies(&name.0)
                        .map(|other| serving.of_dependency(&other, &group))
                        .collect(),
                    blocked: candidates.iter().find(|site| self.witnesses.contains(site)).map(|site| {
                        format!(
                            "{site} is a witness: it only votes and runs nothing; take it out of the service's sites"
                        )
                    }),
                    automatic_site: None,
                    database: None,
                    group,
                };
                all.push((Known { name: name.clone(), service: service.clone(), cell }, facts));
            }
        }
        let groups: BTreeSet<&str> = all.iter().map(|(_, facts)| facts.group.as_str()).collect();
        self.groups.retain(|group| groups.contains(group));
        all
    }

    /// Services whose specs are not understood, so that their status can say so.
    pub fn not_understood(&self, understood: impl Fn(&MultiActiveService) -> bool) -> Vec<Arc<MultiActiveService>> {
        self.services().into_iter().map(|(_, service, _)| service).filter(|service| !understood(service)).collect()
    }

    /// Whether the own site's services are known.
    pub fn ready(&self) -> bool {
        self.stores.get(&self.own).is_some_and(|own| own.services.synced())
    }

    fn refresh_workloads(&mut self, services: &[(Name, Arc<MultiActiveService>, String)], now: Mono) {
        if self.workloads_at.is_some_and(|at| now.saturating_sub(at) < WORKLOADS) {
            return;
        }
        self.workloads_at = Some(now);
        let names: BTreeSet<Name> = services
            .iter()
            .map(|(name, service, _)| (name.0.clone(), service.spec.workload.deployment.clone()))
            .collect();
        self.workloads = self.stores.iter().map(|(site, store)| (site.clone(), store.workload_facts(&names))).collect();
    }

    /// What all services share: who is fresh, and the room.
    fn sites_seen(&mut self, snapshot: &SiteSnapshot, now: Mono) -> BTreeMap<String, SiteFacts> {
        let mut seen = BTreeMap::new();
        for (site, store) in &self.stores {
            let fresh = snapshot.fresh.get(site).cloned();
            let lasting = self.fresh.track(site, fresh.is_some(), now);
            let silent = snapshot.silent_for.get(site).copied().unwrap_or_default();
            let (fresh_for, unfresh_for) =
                if fresh.is_some() { (lasting, Duration::ZERO) } else { (Duration::ZERO, lasting.max(silent)) };
            let room = store.room().map(room);
            seen.insert(site.clone(), SiteFacts { fresh, fresh_for, unfresh_for, room, ..SiteFacts::default() });
        }
        seen
    }

    /// The service's own label says first, then its workload's, then its namespace's.
    fn stability(&self, name: &Name, service: &MultiActiveService, deployment: &Name) -> Stability {
        let Some(own) = self.stores.get(&self.own) else { return Stability::Steady };
        let workload = own.workloads.with(|all| all.get(deployment).and_then(|workload| workload.stability.clone()));
        let namespace = own.namespaces.with(|all| all.get(&name.0).cloned());
        Stability::of_labels([
            service.labels().get(LABEL_STABILITY).map(String::as_str),
            workload.as_deref(),
            namespace.as_deref(),
        ])
    }
}

fn room(status: RoomStatus) -> Room {
    Room {
        cpu_millis: status.cpu_millis,
        memory_bytes: status.memory_bytes,
        cpu_requested_millis: status.cpu_requested_millis,
        memory_requested_bytes: status.memory_requested_bytes,
    }
}

/// Where each service may be and where it serves, for those that depend on it.
struct Serving(BTreeMap<Name, Served>);

/// Sites that a service may be at, those where it serves, and its groups.
#[derive(Clone, Debug, Default)]
struct Served {
    sites: BTreeSet<String>,
    at: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Serving {
    fn of(
        services: &[(Name, Arc<MultiActiveService>, String)],
        snapshot: &SiteSnapshot,
        stores: &BTreeMap<String, Arc<SiteStore>>,
        seen: &BTreeMap<String, SiteFacts>,
    ) -> Self {
        // Only what somebody depends on is looked at.
        let wanted: BTreeSet<Name> =
            services.iter().flat_map(|(name, service, _)| service.spec.dependencies(&name.0)).collect();
        let mut serving = BTreeMap::new();
        for (name, service, _) in services.iter().filter(|(name, ..)| wanted.contains(name)) {
            let deployment = (name.0.clone(), service.spec.workload.deployment.clone());
            let groups = service.spec.groups(&name.0, &name.1);
            let holders = groups
                .iter()
                .flat_map(|(group, _)| snapshot.map.as_ref().map(|map| map.entry(group)).unwrap_or_default().holders);
            let serves = holders.filter(|holder| {
                let fresh = seen.get(&holder.site).and_then(|site| site.fresh.as_ref()) == Some(holder);
                let ready = stores.get(&holder.site).and_then(|store| store.ready(&deployment));
                fresh && ready.is_some_and(|ready| ready >= service.spec.workload.min_ready)
            });
            let at = serves.map(|holder| holder.site).collect();
            let sites = service.spec.sites.iter().cloned().collect();
            let groups = groups.iter().map(|(group, _)| group.clone()).collect();
            serving.insert(name.clone(), Served { sites, at, groups });
        }
        Self(serving)
    }

    /// What a service of this group may know of a service that it depends on.
    fn of_dependency(&self, name: &Name, group: &str) -> DependencyFacts {
        let Served { sites, at, groups } = self.0.get(name).cloned().unwrap_or_default();
        let same_group = groups.contains(group);
        DependencyFacts { name: format!("{}/{}", name.0, name.1), sites, serves_at: at, same_group }
    }
}
