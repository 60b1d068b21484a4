//! Tells the actuators of a service who serves, and what of it is done. Makes no choices: shares are computed elsewhere.

use std::collections::BTreeMap;

use evergreen_api::resources::TrafficScope;

use super::{
    facts::ServiceFacts,
    gather::Name,
    incidents::SiteIncidents,
    weights::{fleet_weights, weights},
};
use crate::traffic::{ActuatorState, TrafficContext, TrafficPlan, TrafficWriters};

/// The actuators of all services, and the weights that they were last seen to have.
pub(super) struct Router {
    writers: TrafficWriters,
    applied: BTreeMap<Name, BTreeMap<String, u32>>,
}

impl Router {
    pub fn new(context: TrafficContext) -> Self {
        Self { writers: TrafficWriters::new(context), applied: BTreeMap::new() }
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
            whitelist: None,
        };
        let Some(local) = weights(facts, own).map(plan) else { return };
        let fleet = fleet_weights(facts).filter(|_| coordinating).map(plan);
        let (mut done, mut written) = (true, false);
        for (place, actuator) in facts.spec.traffic.iter().enumerate() {
            let plan = match actuator.scope() {
                TrafficScope::Site => Some(&local),
                TrafficScope::Fleet => fleet.as_ref(),
            };
            let Some(plan) = plan else { continue };
            match self.writers.drive(&name.0, place, actuator, plan, facts.entry_stable_for) {
                ActuatorState::Done(now) => written |= now,
                ActuatorState::Pending(_) | ActuatorState::Failed(_) => done = false,
            }
        }
        if written {
            incidents.routed(facts.entry.traceparent.as_deref(), &name.1, &local.shares);
        }
        if done {
            self.applied.insert(name.clone(), local.shares);
        }
    }

    /// Weights that this site's entry was last seen to have.
    pub fn applied(&self, name: &Name) -> BTreeMap<String, u32> {
        self.applied.get(name).cloned().unwrap_or_default()
    }
}
