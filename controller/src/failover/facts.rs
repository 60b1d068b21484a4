//! What the planner may know: values only.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::MultiActiveServiceSpec;

use crate::quorum::{Entry, Holder};

/// One site, as the own site sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteFacts {
    /// Its current incarnation, if its lease is fresh at a majority.
    pub fresh: Option<Holder>,
    /// For how long the lease has been fresh without a break.
    pub fresh_for: Duration,
    /// For how long it has not been fresh; zero while it is.
    pub unfresh_for: Duration,
    /// Ready replicas of the service's workload there; none when it cannot be asked.
    pub ready: Option<u32>,
}

/// One service and its group.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFacts {
    /// Failover group.
    pub group: String,
    /// The spec at the own site.
    pub spec: MultiActiveServiceSpec,
    /// Member sites that hold exactly this spec, the own one included.
    pub same_spec_at: usize,
    /// Member sites.
    pub members: usize,
    /// The group's entry in the map.
    pub entry: Entry,
    /// For how long the entry has not changed.
    pub entry_stable_for: Duration,
    /// All member sites by name.
    pub sites: BTreeMap<String, SiteFacts>,
}

impl ServiceFacts {
    /// Whether a site is alive and has enough ready replicas for this service.
    pub fn can_serve(&self, site: &str) -> bool {
        self.sites.get(site).is_some_and(|facts| {
            facts.fresh.is_some() && facts.ready.is_some_and(|r| r >= self.spec.workload.min_ready)
        })
    }
}
