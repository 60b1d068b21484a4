//! How many nodes of a failure domain are out of service, and how many may be.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::resources::{Budget, FailureDomain};

use super::Facts;
use crate::view::NodeView;

/// Share of nodes of which nothing is heard, in percent, from which on the observer is more likely cut off than the nodes
/// are dead: nothing is started, whatever playbooks say.
const MAX_SILENT_PERCENT: usize = 60;

/// Every domain that a node is in, in the order of [`domain_index`].
const DOMAINS: [FailureDomain; 4] =
    [FailureDomain::Zone, FailureDomain::Rack, FailureDomain::Pool, FailureDomain::DataCenter];

const fn domain_index(per: FailureDomain) -> usize {
    match per {
        FailureDomain::Zone => 0,
        FailureDomain::Rack => 1,
        FailureDomain::Pool => 2,
        FailureDomain::DataCenter => 3,
    }
}

/// State of service of all nodes, updated while a plan is made.
pub(crate) struct Service {
    /// Name -> domains, whether it is out of service, whether it is unhealthy.
    nodes: BTreeMap<String, NodeService>,
    silent: usize,
    unhealthy: usize,
    /// Runs at once that are for other objects, by failure domain.
    others: BTreeMap<String, usize>,
}

struct NodeService {
    domains: [String; 4],
    out: bool,
    unhealthy: bool,
}

impl Service {
    pub(crate) fn of(facts: &Facts) -> Self {
        let active = || facts.runs.iter().filter(|run| run.is_active());
        let busy: BTreeSet<&str> =
            active().filter(|run| run.subject.kind == "Node").map(|run| &*run.subject.name).collect();
        let nodes: BTreeMap<String, NodeService> = facts
            .nodes
            .iter()
            .map(|node| {
                let unhealthy = !node.ready() || facts.playbooks.iter().any(|playbook| playbook.is_for(node));
                let out = node.unschedulable || !node.ready() || busy.contains(&*node.name);
                let domains = DOMAINS.map(|per| node.failure_domain(per));
                (node.name.clone(), NodeService { domains, out, unhealthy })
            })
            .collect();
        let unhealthy = nodes.values().filter(|node| node.unhealthy).count();
        let silent = facts.nodes.iter().filter(|node| node.silent()).count();
        let mut service = Self { nodes, silent, unhealthy, others: BTreeMap::new() };
        for run in active().filter(|run| run.subject.kind != "Node") {
            service.take_other(run.node.as_deref());
        }
        service
    }

    /// Counts a run for an object other than a node.
    pub(crate) fn take_other(&mut self, node: Option<&str>) {
        for per in DOMAINS {
            *self.others.entry(self.other_domain(node, per)).or_default() += 1;
        }
    }

    /// The domain of an object: that of its node, or the data center where it is on none.
    fn other_domain(&self, node: Option<&str>, per: FailureDomain) -> String {
        let known = node.and_then(|node| self.nodes.get(node));
        known.map_or_else(|| "the data center".to_owned(), |node| node.domains[domain_index(per)].clone())
    }

    /// Why no more runs for objects other than nodes may be under way; `Ok` says what is left.
    pub(crate) fn other_budget(&self, node: Option<&str>, budget: &Budget) -> Result<String, String> {
        let domain = self.other_domain(node, budget.per);
        let after = self.others.get(&domain).copied().unwrap_or(0) + 1;
        let most = budget.max_unavailable.of_at_least_one(0);
        if after > most {
            return Err(format!(
                "budget: {} runs are under way in {domain}, at most {most} may be with this one",
                after - 1
            ));
        }
        Ok(format!("{after} of at most {most} runs at once in {domain}"))
    }

    /// Takes a node out of service.
    pub(crate) fn take_out(&mut self, node: &str) {
        if let Some(service) = self.nodes.get_mut(node) {
            service.out = true;
        }
    }

    /// Why so much is wrong that nothing may be started at all.
    pub(crate) fn blindness(&self) -> Option<String> {
        let total = self.nodes.len();
        (self.silent > 1 && self.silent * 100 >= total * MAX_SILENT_PERCENT).then(|| {
            format!(
                "nothing is heard of {} of {total} nodes: this looks like a cut network, not like broken nodes",
                self.silent
            )
        })
    }

    /// Why so much is wrong that a playbook may not start.
    pub(crate) fn storm(&self, most: evergreen_api::resources::Amount) -> Option<String> {
        let (unhealthy, total) = (self.unhealthy, self.nodes.len());
        let most = most.of_at_least_one(total);
        (unhealthy > most).then(|| {
            format!(
                "storm: {unhealthy} of {total} nodes are unhealthy, at most {most} may be when something is started"
            )
        })
    }

    /// Why a node may not be taken out of service under a budget; `Ok` says what is left.
    pub(crate) fn budget(&self, node: &NodeView, budget: &Budget) -> Result<String, String> {
        let domain = node.failure_domain(budget.per);
        let members: Vec<(&String, &NodeService)> =
            self.nodes.iter().filter(|(_, service)| service.domains[domain_index(budget.per)] == domain).collect();
        let total = members.len();
        let out_after = members.iter().filter(|(name, service)| service.out || **name == node.name).count();
        let most = budget.max_unavailable.of_at_least_one(total);
        if out_after > most {
            return Err(format!(
                "budget: {} of {total} nodes of {domain} are out of service, at most {most} may be with this one",
                out_after - 1
            ));
        }
        let healthy =
            members.iter().filter(|(name, service)| !service.out && !service.unhealthy && **name != node.name).count();
        let least = budget.min_healthy.of_rounded_up(total);
        if healthy < least {
            return Err(format!(
                "budget: {healthy} of {total} nodes of {domain} would be healthy without this one, at least {least} must be"
            ));
        }
        Ok(format!("{out_after} of at most {most} out of service in {domain}, {healthy} healthy of at least {least}"))
    }
}
