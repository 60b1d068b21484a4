//! Who asked for grants and who acknowledged dropping them: decides whether a release has to wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evergreen_api::grants::{Grant, GrantAck};
use parking_lot::Mutex;

use super::{Signer, SiteSnapshot};
use crate::quorum::Mono;

/// A node that has not asked for so long holds no grant any more.
const ASKER_MEMORY: Duration = Duration::from_secs(60);
/// Nodes remembered at most; more than any site has, so that garbage cannot grow memory.
const MAX_ASKERS: usize = 20_000;

#[derive(Debug, Default)]
struct Book {
    askers: BTreeMap<String, Mono>,
    acknowledged: BTreeMap<(String, u64, String), BTreeSet<String>>,
}

/// The book of grants of this site.
#[derive(Debug, Default)]
pub struct GrantBook {
    book: Mutex<Book>,
}

impl GrantBook {
    /// The grants that the snapshot allows at this moment; the node is remembered as one that holds them.
    pub fn grants(&self, node: &str, snapshot: &SiteSnapshot, signer: &Signer, site: &str, now: Mono) -> Vec<Grant> {
        let mut book = self.book.lock();
        if book.askers.len() < MAX_ASKERS || book.askers.contains_key(node) {
            book.askers.insert(node.to_owned(), now);
        }
        book.askers.retain(|_, asked| now.saturating_sub(*asked) < ASKER_MEMORY);
        drop(book);
        let fresh = snapshot.grantable.iter().filter(|grantable| now < grantable.valid_until);
        fresh
            .map(|grantable| Grant {
                group: grantable.group.clone(),
                site: site.to_owned(),
                epoch: grantable.epoch,
                incarnation: grantable.incarnation.0.clone(),
                // Rounded down: never longer than the lease allows.
                remaining_ms: u64::try_from((grantable.valid_until - now).as_millis()).unwrap_or(0),
                signature: signer.sign(&grantable.group, grantable.epoch, &grantable.incarnation.0),
            })
            .collect()
    }

    /// A node dropped a grant.
    pub fn acknowledge(&self, ack: GrantAck) {
        let mut book = self.book.lock();
        if book.acknowledged.len() > 10_000 {
            book.acknowledged.clear();
        }
        book.acknowledged.entry((ack.group, ack.epoch, ack.incarnation)).or_default().insert(ack.node);
    }

    /// Whether every node that may hold the grant acknowledged that it dropped it. Without any node: no.
    pub fn drained(&self, group: &str, epoch: u64, incarnation: &str, now: Mono) -> bool {
        let book = self.book.lock();
        let Some(acknowledged) = book.acknowledged.get(&(group.to_owned(), epoch, incarnation.to_owned())) else {
            return false;
        };
        let mut holders =
            book.askers.iter().filter(|(_, asked)| now.saturating_sub(**asked) < ASKER_MEMORY).map(|(node, _)| node);
        !acknowledged.is_empty() && holders.all(|node| acknowledged.contains(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(node: &str) -> GrantAck {
        GrantAck { node: node.into(), group: "g".into(), epoch: 1, incarnation: "i".into() }
    }

    #[test]
    fn a_release_waits_until_every_node_that_asked_has_acknowledged() {
        let book = GrantBook::default();
        let now = Duration::from_secs(100);
        book.book.lock().askers.extend([("n1".to_owned(), now), ("n2".to_owned(), now)]);
        assert!(!book.drained("g", 1, "i", now));
        book.acknowledge(ack("n1"));
        assert!(!book.drained("g", 1, "i", now));
        book.acknowledge(ack("n2"));
        assert!(book.drained("g", 1, "i", now));
        assert!(!book.drained("g", 2, "i", now));
    }

    #[test]
    fn without_any_node_nothing_is_drained() {
        assert!(!GrantBook::default().drained("g", 1, "i", Duration::from_secs(1)));
    }
}
