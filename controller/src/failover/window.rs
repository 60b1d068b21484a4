//! What drills see of the failover loop: the facts of the groups that concern them, and what was decided, look by look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evergreen_api::resources::HeadroomStatus;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    facts::{MoveRequest, ServiceFacts},
    planner::{Cause, Decision, Verdict, plan},
};
use crate::{
    quorum::{Mono, Standing},
    site::SiteSnapshot,
};

/// A group in one look.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Service that it belongs to, `namespace/name`.
    pub service: String,
    /// Everything that is known of it.
    pub facts: ServiceFacts,
    /// What was decided.
    pub decision: Option<Decision>,
    /// Room without each site.
    pub headroom: Option<HeadroomStatus>,
    /// The own site has let go of it and the map does not say so yet.
    pub released: bool,
}

impl Seen {
    /// What would be decided if this were asked for now.
    pub fn would(&self, request: MoveRequest) -> Option<Decision> {
        let mut facts = self.facts.clone();
        facts.consent.request = Some(request);
        plan(&facts)
    }

    /// A move that a drill asked for is being carried out.
    pub fn moving(&self) -> bool {
        let ours = |decision: &Decision| decision.request.is_some() && matches!(decision.cause, Cause::Asked(_));
        self.released || self.decision.as_ref().is_some_and(|d| ours(d) && (d.demotes || d.verdict == Verdict::Act))
    }
}

/// One look.
#[derive(Clone, Debug)]
pub struct Look {
    /// When, on the own monotonic clock.
    pub at: Mono,
    /// The own site is in quorum.
    pub in_quorum: bool,
    /// Registers that may be lost before nobody can decide any more.
    pub tolerance: usize,
    /// Groups.
    pub groups: BTreeMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Wanted {
    site: Option<String>,
    groups: BTreeSet<String>,
}

/// The window; clones share it.
#[derive(Clone, Debug)]
pub struct Window {
    wanted: Arc<Mutex<Wanted>>,
    sender: watch::Sender<Option<Arc<Look>>>,
}

impl Default for Window {
    fn default() -> Self {
        Self { wanted: Arc::default(), sender: watch::Sender::new(None) }
    }
}

impl Window {
    /// Wants to see what a site holds, and these groups; none: nothing.
    pub fn want(&self, site: Option<&str>, groups: BTreeSet<String>) {
        *self.wanted.lock() = Wanted { site: site.map(str::to_owned), groups };
    }

    /// What is to be seen.
    pub fn looks(&self) -> watch::Receiver<Option<Arc<Look>>> {
        self.sender.subscribe()
    }

    /// Shows a look, as far as somebody wants to see it.
    pub(super) fn show<'a>(
        &self,
        snapshot: &SiteSnapshot,
        all: impl Iterator<Item = (&'a ServiceFacts, Option<&'a Decision>)>,
        headroom: &BTreeMap<String, HeadroomStatus>,
        at: Mono,
    ) {
        let wanted = self.wanted.lock();
        let Some(site) = &wanted.site else { return };
        let concerns = |facts: &ServiceFacts| facts.entry.at(site).is_some() || wanted.groups.contains(&facts.group);
        let seen = |(facts, decision): (&ServiceFacts, Option<&Decision>)| {
            let seen = Seen {
                service: facts.name.clone(),
                facts: facts.clone(),
                decision: decision.cloned(),
                headroom: headroom.get(&facts.group).cloned(),
                released: snapshot.released.contains_key(&(facts.group.clone(), facts.entry.version)),
            };
            (facts.group.clone(), seen)
        };
        let groups = all.filter(|(facts, _)| concerns(facts)).map(seen).collect();
        let trusted = snapshot.reachable.iter().filter(|s| snapshot.quarantined.iter().all(|(q, _)| q != *s)).count();
        let look = Look {
            at,
            in_quorum: matches!(snapshot.standing, Standing::InQuorum { .. }),
            tolerance: trusted.saturating_sub(snapshot.majority),
            groups,
        };
        self.sender.send_replace(Some(Arc::new(look)));
    }
}
