//! The failover loop of a site: facts, plan, goal for the core, weights, status. The only choices are the planner's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evergreen_api::{Validate, resources::Enforcement};
use evergreen_telemetry::IncidentTracer;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    facts::{ServiceFacts, SiteFacts},
    gather::{self, Name, Objects, Peer},
    incidents::SiteIncidents,
    planner::{Actor, Decision, Verdict, plan},
    routes, status,
    weights::weights,
};
use crate::{
    quorum::{Entry, Goal, Mono, Standing},
    site::{BootClock, GrantBook, SiteHandle, SiteSnapshot},
};

/// The world is looked at this often, and at once when the map changes.
const INTERVAL: Duration = Duration::from_millis(500);
/// Status of data centers is compared this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// What the loop works with.
pub struct FailoverContext {
    /// Own site.
    pub site: String,
    /// Client of the own API server.
    pub client: Client,
    /// Member sites, the own one included.
    pub members: Vec<Peer>,
    /// The protocol core.
    pub handle: SiteHandle,
    /// Who holds grants.
    pub book: Arc<GrantBook>,
    /// Spans.
    pub incidents: IncidentTracer,
}

/// For how long something has been as it is.
#[derive(Debug, Default)]
struct Since<K, V>(BTreeMap<K, (V, Mono)>);

impl<K: Ord + Clone, V: PartialEq> Since<K, V> {
    fn track(&mut self, key: &K, value: V, now: Mono) -> Duration {
        match self.0.get(key) {
            Some((known, since)) if *known == value => now.saturating_sub(*since),
            _ => {
                self.0.insert(key.clone(), (value, now));
                Duration::ZERO
            }
        }
    }
}

/// Runs until cancelled.
pub async fn run(context: FailoverContext, cancel: CancellationToken) {
    let objects = gather::start(context.members.clone(), cancel.clone());
    let mut incidents = SiteIncidents::new(&context.site, context.incidents.clone());
    let mut fresh_since: Since<String, bool> = Since::default();
    let mut entry_since: Since<String, u64> = Since::default();
    let mut applied: BTreeMap<Name, (BTreeMap<String, u32>, u64)> = BTreeMap::new();
    let mut said: BTreeMap<String, String> = BTreeMap::new();
    let mut status_due = Mono::ZERO;
    let mut snapshots = context.handle.snapshot.clone();
    let mut ballot = 0;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
            () = map_changes(&mut snapshots, ballot) => {}
        }
        if !context.handle.speaks() {
            continue;
        }
        let now = BootClock.now();
        let snapshot = context.handle.now();
        ballot = snapshot.map_ballot;
        let objects: Arc<Objects> = objects.borrow().clone();
        let sites = site_facts(&context, &snapshot, &mut fresh_since, now);
        let coordinator = coordinator(&context, &snapshot);
        let coordinating =
            coordinator == Some(context.site.as_str()) && matches!(snapshot.standing, Standing::InQuorum { .. });
        let mut decisions = Vec::new();
        let wall = jiff::Timestamp::now().to_string();
        for (name, (service, _)) in objects.get(&context.site).map(|own| &own.services).into_iter().flatten() {
            let facts = service_facts(&context, name, service, &objects, &sites, &snapshot, &mut entry_since, now);
            let understood = service.spec.validate().is_empty() && snapshot.map.is_some();
            let decision = understood.then(|| plan(&facts)).flatten();
            let split = weights(&facts, &context.site).filter(|_| understood);
            let known = applied.get(name);
            if let Some(split) = split.filter(|_| facts.spec.enforcement == Enforcement::Enforce)
                && known.is_none_or(|(weights, at)| *weights != split || *at != ballot)
                && route(&context, name, &facts, &split, ballot, &incidents).await
            {
                applied.insert(name.clone(), (split, ballot));
            }
            let shown = applied.get(name).map(|(weights, _)| weights.clone()).unwrap_or_default();
            let status = status::of_service(service, &facts, decision.as_ref(), &shown, &context.site, &wall);
            status::write_service(&context.client, service, &status).await;
            decisions.extend(decision);
        }
        say(&decisions, &mut said);
        let pursued = goal(&context, &decisions, coordinating, &incidents, now);
        context.handle.pursue(pursued);
        let members: Vec<String> = context.members.iter().map(|peer| peer.site.clone()).collect();
        let fresh: BTreeSet<&str> = snapshot.fresh.keys().map(String::as_str).collect();
        incidents.observe(&fresh, &members, coordinating, &decisions, &snapshot.goal);
        if now >= status_due {
            status_due = now + STATUS_INTERVAL;
            status::write_data_centers(&context.client, &snapshot, &context.site, coordinator, &wall).await;
        }
    }
}

async fn map_changes(snapshots: &mut watch::Receiver<Arc<SiteSnapshot>>, known: u64) {
    // The sender lives as long as the core; when it is gone the loop is about to be cancelled.
    if snapshots.wait_for(|snapshot| snapshot.map_ballot != known).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The first member, by name, whose lease is fresh: moves the map so that nobody duels.
fn coordinator<'a>(context: &'a FailoverContext, snapshot: &SiteSnapshot) -> Option<&'a str> {
    let mut names: Vec<&str> = context.members.iter().map(|peer| peer.site.as_str()).collect();
    names.sort_unstable();
    names.into_iter().find(|site| snapshot.fresh.contains_key(*site))
}

fn site_facts(
    context: &FailoverContext,
    snapshot: &SiteSnapshot,
    since: &mut Since<String, bool>,
    now: Mono,
) -> BTreeMap<String, SiteFacts> {
    let facts = context.members.iter().map(|peer| {
        let fresh = snapshot.fresh.get(&peer.site).cloned();
        let lasting = since.track(&peer.site, fresh.is_some(), now);
        let silent = snapshot.silent_for.get(&peer.site).copied().unwrap_or_default();
        let (fresh_for, unfresh_for) =
            if fresh.is_some() { (lasting, Duration::ZERO) } else { (Duration::ZERO, lasting.max(silent)) };
        (peer.site.clone(), SiteFacts { fresh, fresh_for, unfresh_for, ready: None })
    });
    facts.collect()
}

fn service_facts(
    context: &FailoverContext,
    name: &Name,
    service: &evergreen_api::resources::MultiActiveService,
    objects: &Objects,
    sites: &BTreeMap<String, SiteFacts>,
    snapshot: &SiteSnapshot,
    entry_since: &mut Since<String, u64>,
    now: Mono,
) -> ServiceFacts {
    let group = service.spec.group_of(&name.0, &name.1);
    let entry: Entry = snapshot.map.as_ref().map(|map| map.entry(&group)).unwrap_or_default();
    let deployment = (name.0.clone(), service.spec.workload.deployment.clone());
    let own_hash = evergreen_api::resources::spec_hash(&service.spec);
    let same = |site: &&Peer| {
        objects.get(&site.site).and_then(|o| o.services.get(name)).is_some_and(|(_, hash)| *hash == own_hash)
    };
    let mut sites = sites.clone();
    for (site, facts) in &mut sites {
        facts.ready = objects.get(site).map(|objects| objects.ready.get(&deployment).copied().unwrap_or(0));
    }
    ServiceFacts {
        same_spec_at: context.members.iter().filter(same).count(),
        members: context.members.len(),
        entry_stable_for: entry_since.track(&group, entry.version, now),
        spec: service.spec.clone(),
        group,
        entry,
        sites,
    }
}

/// The goal that this site has to pursue, if any: one at a time, in the order of the services' names.
fn goal(
    context: &FailoverContext,
    decisions: &[Decision],
    coordinating: bool,
    incidents: &SiteIncidents,
    now: Mono,
) -> Option<Goal> {
    let mine = |decision: &&Decision| {
        decision.verdict == Verdict::Act
            && match &decision.actor {
                Actor::Coordinator => coordinating,
                Actor::Leaver(site) => *site == context.site,
            }
    };
    decisions.iter().find(mine).map(|decision| {
        let version = decision.old.version;
        let released = context.handle.now().released.get(&(decision.group.clone(), version)).copied();
        let drained = released.is_some_and(|released| {
            context.book.drained(&decision.group, version, released, &context.handle.timing, now)
        });
        Goal {
            group: decision.group.clone(),
            old: decision.old.clone(),
            holders: decision.holders.clone(),
            drained,
            traceparent: incidents.traceparent(decision),
        }
    })
}

async fn route(
    context: &FailoverContext,
    name: &Name,
    facts: &ServiceFacts,
    split: &BTreeMap<String, u32>,
    ballot: u64,
    incidents: &SiteIncidents,
) -> bool {
    let mut all = true;
    for actuator in facts.spec.traffic.iter().filter_map(|actuator| actuator.http_route.as_ref()) {
        match routes::apply(&context.client, &name.0, &context.site, actuator, split, ballot).await {
            Ok(true) => {
                tracing::info!(service = name.1, route = actuator.name, weights = ?split, "traffic weights written");
                incidents.routed(facts.entry.traceparent.as_deref(), &name.1, split);
            }
            Ok(false) => {}
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(service = name.1, %error, why, "traffic weights not written; they will be tried again");
                all = false;
            }
        }
    }
    all
}

/// Logs a decision once, when it or its verdict changes.
fn say(decisions: &[Decision], said: &mut BTreeMap<String, String>) {
    said.retain(|group, _| decisions.iter().any(|decision| decision.group == *group));
    for decision in decisions {
        let key = format!("{:?} {:?}", decision.cause, decision.verdict);
        if said.get(&decision.group) != Some(&key) {
            let sites: Vec<&str> = decision.holders.iter().map(|holder| holder.site.as_str()).collect();
            tracing::info!(
                group = decision.group,
                cause = ?decision.cause,
                verdict = ?decision.verdict,
                holders = sites.join(","),
                rejected = decision.rejected.join("; "),
                "{}",
                decision.reason
            );
            said.insert(decision.group.clone(), key);
        }
    }
}
