//! Grants as agents ask for them: signed, for what is left of the lease, and remembered until they are dropped.

use evergreen_api::grants::{Grant, GrantAck};
use std::collections::BTreeMap;

use parking_lot::{Mutex, RwLock};

use super::{Signer, SiteSnapshot};
use crate::quorum::{Edges, Mono, Timing};

/// The book of grants of this site.
#[derive(Debug, Default)]
pub struct GrantBook {
    edges: Mutex<Edges>,
    /// Groups with a database, and the version of the entry under which it was promoted. None until the services of the
    /// site are known: until then nothing is granted, because no group is known to have none.
    raised: RwLock<Option<BTreeMap<String, Option<u64>>>>,
}

impl GrantBook {
    /// Takes in which groups wait for their database, and under which version it was promoted (R10: the resource first).
    pub fn raise(&self, raised: BTreeMap<String, Option<u64>>) {
        *self.raised.write() = Some(raised);
    }

    /// Whether the resource behind a group knows this version of its entry.
    fn is_raised(&self, group: &str, version: u64) -> bool {
        let raised = self.raised.read();
        raised.as_ref().is_some_and(|all| all.get(group).is_none_or(|at| *at == Some(version)))
    }

    /// The grants that the snapshot allows at this moment; the node is remembered as one that holds them.
    pub fn grants(&self, node: &str, snapshot: &SiteSnapshot, signer: &Signer, site: &str, now: Mono) -> Vec<Grant> {
        if !self.edges.lock().ask(node, now) {
            return Vec::new();
        }
        let fresh = snapshot
            .grantable
            .iter()
            .filter(|grantable| now < grantable.valid_until && self.is_raised(&grantable.group, grantable.version));
        fresh
            .map(|grantable| Grant {
                group: grantable.group.clone(),
                site: site.to_owned(),
                epoch: grantable.epoch,
                incarnation: grantable.incarnation.0.clone(),
                version: grantable.version,
                // Rounded down: never longer than the lease allows.
                remaining_ms: u64::try_from((grantable.valid_until - now).as_millis()).unwrap_or(0),
                signature: signer.sign(&grantable.group, grantable.epoch, &grantable.incarnation.0),
            })
            .collect()
    }

    /// What an answer made now is stamped with; rounded down, so that it never seems made later than it was.
    pub fn stamp(now: Mono) -> u64 {
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    /// A node dropped a grant.
    pub fn acknowledge(&self, ack: &GrantAck, now: Mono) {
        let answered = Mono::from_millis(ack.answered_ms);
        self.edges.lock().acknowledge(&ack.node, &ack.group, ack.version, answered, now);
    }

    /// Whether the edge has surely stopped serving what it was granted under this version of the group's entry, which
    /// the site released at `released`.
    pub fn drained(&self, group: &str, version: u64, released: Mono, timing: &Timing, now: Mono) -> bool {
        self.edges.lock().drained(group, version, released, timing, now)
    }
}
