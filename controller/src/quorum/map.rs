//! The assignment map: failover group -> who holds it. A pure value with guarded changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    incarnation::Incarnation,
    mutants::{Mutant, broken},
};

/// A site that holds a group, under exactly one epoch and incarnation (R1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// Site.
    pub site: String,
    /// Epoch of its lease.
    pub epoch: u64,
    /// Incarnation of its lease.
    pub incarnation: Incarnation,
}

/// Holders of one group. A single-writer group has at most one; a stateless one may have several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Counts the changes of this entry.
    pub version: u64,
    /// Who holds it, sorted by site.
    pub holders: Vec<Holder>,
    /// W3C trace context of the incident that the last change belongs to, so that every site adds to one trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Entry {
    /// Whether it names exactly this site, epoch and incarnation.
    pub fn names(&self, site: &str, epoch: u64, incarnation: &Incarnation) -> bool {
        let any_life = broken(Mutant::MapWithoutIncarnation);
        self.holders.iter().any(|h| h.site == site && (any_life || h.epoch == epoch && &h.incarnation == incarnation))
    }

    /// The holder at a site.
    pub fn at(&self, site: &str) -> Option<&Holder> {
        self.holders.iter().find(|h| h.site == site)
    }
}

/// Failover group -> holders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssignmentMap(pub BTreeMap<String, Entry>);

impl AssignmentMap {
    /// The entry of a group; an unknown group has version 0 and no holder.
    pub fn entry(&self, group: &str) -> Entry {
        self.0.get(group).cloned().unwrap_or_default()
    }

    /// The change function of R5: if the group's entry is exactly `old`, a map with `holders` instead and the next
    /// version; otherwise none, and nothing may change.
    #[must_use]
    pub fn changed(&self, group: &str, old: &Entry, holders: &[Holder], traceparent: Option<&str>) -> Option<Self> {
        if self.entry(group) != *old && !broken(Mutant::UnguardedChange) {
            return None;
        }
        let mut holders = holders.to_vec();
        holders.sort();
        let mut map = self.clone();
        map.0.insert(
            group.to_owned(),
            Entry { version: old.version + 1, holders, traceparent: traceparent.map(str::to_owned) },
        );
        Some(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(site: &str, epoch: u64) -> Holder {
        Holder { site: site.into(), epoch, incarnation: Incarnation(format!("{site}-{epoch}")) }
    }

    #[test]
    fn a_change_happens_only_on_exactly_the_old_entry() {
        let map = AssignmentMap::default();
        let first = map.changed("g", &Entry::default(), &[holder("b", 1), holder("a", 1)], None).unwrap();
        assert_eq!(first.entry("g").holders[0].site, "a");
        assert!(first.changed("g", &Entry::default(), &[], None).is_none());
        let second = first.changed("g", &first.entry("g"), &[holder("c", 4)], None).unwrap();
        assert_eq!(second.entry("g").version, 2);
        assert!(second.changed("g", &first.entry("g"), &[], None).is_none());
    }

    #[test]
    fn a_holder_is_named_only_with_its_epoch_and_incarnation() {
        let entry = Entry { version: 1, holders: vec![holder("a", 3)], traceparent: None };
        assert!(entry.names("a", 3, &Incarnation("a-3".into())));
        assert!(!entry.names("a", 4, &Incarnation("a-4".into())));
        assert!(!entry.names("a", 3, &Incarnation("other".into())));
    }
}
