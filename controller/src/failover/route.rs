//! Tells the actuators of a service who serves, and what of it is done. Makes no choices: shares are computed elsewhere.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use evergreen_api::resources::TrafficScope;
use kube::Client;
use tokio::task::JoinHandle;

use super::{
    conditions::{self, Said},
    facts::ServiceFacts,
    gather::Name,
    incidents::SiteIncidents,
    order, routing,
    weights::{fleet_weights, weights, whitelist},
};
use crate::traffic::{ActuatorState, Outcome, TrafficContext, TrafficError, TrafficPlan, TrafficWriters, publish};

/// A table that is as wanted is compared again after this time; after a failure it is tried again after a shorter one.
const COMPARE_AGAIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(2);

/// The actuators of all services, and the weights that they were last seen to have.
pub(super) struct Router {
    writers: TrafficWriters,
    applied: BTreeMap<Name, BTreeMap<String, u32>>,
    /// Version of the entry at which all actuators of a service (`namespace/name`) were last seen to do as they are told.
    followed: BTreeMap<String, u64>,
    said: BTreeMap<Name, Said>,
    tables: Tables,
}

impl Router {
    pub fn new(context: TrafficContext) -> Self {
        let tables = Tables { client: context.client.clone(), known: BTreeMap::new() };
        Self {
            writers: TrafficWriters::new(context),
            applied: BTreeMap::new(),
            followed: BTreeMap::new(),
            said: BTreeMap::new(),
            tables,
        }
    }

    /// Drives the actuators of one service; those before all sites only where `coordinating`. The epoch of what they are
    /// told is the version of the group's entry in the assignment map: it counts who holds the group, and nothing else.
    pub fn drive(
        &mut self,
        own: &str,
        name: &Name,
        facts: &ServiceFacts,
        coordinating: bool,
        incidents: &SiteIncidents,
    ) {
        let plan = |shares: BTreeMap<String, u32>| TrafficPlan {
            service: format!("{}/{}", name.0, name.1),
            group: facts.group.clone(),
            own: own.to_owned(),
            epoch: facts.entry.version,
            shares,
            units: BTreeMap::new(),
            whitelist: whitelist(facts),
        };
        if let Some(first) = order::waits_for(facts, |name| self.followed.get(name).copied()) {
            self.said.insert(name.clone(), conditions::traffic(Some(first), &[]));
            return;
        }
        let Some(local) = weights(facts, own).map(plan) else { return };
        let fleet = fleet_weights(facts).filter(|_| coordinating).map(plan);
        self.tell(name, facts, &local, fleet.as_ref(), facts.entry_stable_for, incidents);
    }

    /// Publishes the routing table of a Unitized service and drives its actuators: each cell to its holder. The epoch is
    /// the version of the table.
    pub fn drive_cells(
        &mut self,
        own: &str,
        name: &Name,
        cells: &[&ServiceFacts],
        coordinating: bool,
        incidents: &SiteIncidents,
    ) {
        let Some((first, units)) = cells.first().and_then(|first| Some((first, first.spec.units.as_ref()?))) else {
            return;
        };
        let Some(table) = routing::table(units, cells) else { return };
        let version = table.version;
        let into = units.routing_table.clone().unwrap_or_else(|| format!("{}-routing", name.1));
        self.tables.publish(name, &into, version, table.text());
        let plan = |at: Option<&str>| {
            let (units, shares) = routing::shares(units, cells, at)?;
            Some(TrafficPlan {
                service: format!("{}/{}", name.0, name.1),
                group: first.spec.group_of(&name.0, &name.1),
                own: own.to_owned(),
                epoch: version,
                shares,
                units,
                whitelist: None,
            })
        };
        let followed = |name: &str| self.followed.get(name).copied();
        if let Some(first) = cells.iter().find_map(|facts| order::waits_for(facts, followed)) {
            self.said.insert(name.clone(), conditions::traffic(Some(first), &[]));
            return;
        }
        let Some(local) = plan(Some(own)) else { return };
        let fleet = plan(None).filter(|_| coordinating);
        let stable = cells.iter().map(|facts| facts.entry_stable_for).min().unwrap_or_default();
        self.tell(name, first, &local, fleet.as_ref(), stable, incidents);
    }

    fn tell(
        &mut self,
        name: &Name,
        facts: &ServiceFacts,
        local: &TrafficPlan,
        fleet: Option<&TrafficPlan>,
        epoch_for: Duration,
        incidents: &SiteIncidents,
    ) {
        let (mut done, mut written, mut states) = (true, false, Vec::new());
        for (place, actuator) in facts.spec.traffic.iter().enumerate() {
            let plan = match actuator.scope() {
                TrafficScope::Site => Some(local),
                TrafficScope::Fleet => fleet,
            };
            let Some(plan) = plan else { continue };
            let state = self.writers.drive(&name.0, place, actuator, plan, epoch_for);
            match &state {
                ActuatorState::Done(now) => written |= now,
                ActuatorState::Pending(_) | ActuatorState::Failed(_) => done = false,
            }
            states.push((actuator.describe(), state));
        }
        if written {
            incidents.routed(facts.entry.traceparent.as_deref(), &name.1, &local.shares);
        }
        self.said.insert(name.clone(), conditions::traffic(None, &states));
        if done {
            self.followed.insert(local.service.clone(), facts.entry.version);
            self.applied.insert(name.clone(), local.shares.clone());
        }
    }

    /// Whether a service's traffic follows its group, and what keeps it; none while nothing drives it.
    pub fn said(&self, name: &Name) -> Option<&Said> {
        self.said.get(name)
    }

    /// Weights that this site's entry was last seen to have.
    pub fn applied(&self, name: &Name) -> BTreeMap<String, u32> {
        self.applied.get(name).cloned().unwrap_or_default()
    }
}

/// Routing tables that this site publishes; one call in flight for each.
struct Tables {
    client: Client,
    known: BTreeMap<Name, Published>,
}

#[derive(Default)]
struct Published {
    done: Option<String>,
    not_before: Option<Instant>,
    flight: Option<(String, JoinHandle<Result<Outcome, TrafficError>>)>,
}

impl Tables {
    fn publish(&mut self, name: &Name, into: &str, version: u64, text: String) {
        use futures::FutureExt as _;
        let known = self.known.entry(name.clone()).or_default();
        let now = Instant::now();
        if known.flight.as_ref().is_some_and(|(_, task)| !task.is_finished()) {
            return;
        }
        if let Some((sent, mut task)) = known.flight.take() {
            let ended = (&mut task).now_or_never();
            match ended {
                Some(Ok(Ok(_))) => {
                    known.done = Some(sent);
                    known.not_before = Some(now + COMPARE_AGAIN);
                }
                Some(Ok(Err(error))) => {
                    tracing::warn!(
                        service = name.1,
                        error = &error as &dyn std::error::Error,
                        "the routing table was not published; it is tried again"
                    );
                    (known.done, known.not_before) = (None, Some(now + PAUSE));
                }
                Some(Err(_)) | None => known.not_before = Some(now + PAUSE),
            }
        }
        let changed = known.done.as_ref().is_some_and(|done| *done != text);
        if !changed && known.not_before.is_some_and(|at| now < at) {
            return;
        }
        let (client, namespace, into, with) = (self.client.clone(), name.0.clone(), into.to_owned(), text.clone());
        let task = tokio::spawn(async move { publish(&client, &namespace, &into, version, &with).await });
        known.flight = Some((text, task));
    }
}
