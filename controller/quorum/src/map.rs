//! The assignment map: failover group -> who holds it. A pure value with guarded changes.

use std::{collections::BTreeMap, sync::Arc};

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

/// Entries with this prefix belong to registers, not to groups: the version of `register/dc-b` is the generation of the
/// register of dc-b, its holder is who makes it anew (R9).
const REGISTER: &str = "register/";

/// Failover group -> holders. Cheap to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssignmentMap(pub Arc<BTreeMap<String, Entry>>);

impl AssignmentMap {
    /// The entry of a group; an unknown group has version 0 and no holder.
    pub fn entry(&self, group: &str) -> Entry {
        self.0.get(group).cloned().unwrap_or_default()
    }

    /// Groups and their entries, without what speaks of registers.
    pub fn groups(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.0.iter().filter(|(group, _)| !group.starts_with(REGISTER))
    }

    /// The entry that speaks of a site's register.
    pub fn register(&self, site: &str) -> Entry {
        self.entry(&register_key(site))
    }

    /// Generation of a site's register that counts.
    pub fn generation(&self, site: &str) -> u64 {
        self.register(site).version
    }

    /// Whether the group's entry is exactly this one.
    pub fn is(&self, group: &str, entry: &Entry) -> bool {
        self.0.get(group).map_or_else(|| *entry == Entry::default(), |known| known == entry)
    }

    /// The change function of R5, for several groups at once: each whose entry is exactly the old one gets its new
    /// holders and the next version; of the others nothing changes. None when no entry fits.
    #[must_use]
    pub fn changed(&self, changes: &[Change]) -> Option<Self> {
        let fits = |change: &&Change| self.is(&change.group, &change.old) || broken(Mutant::UnguardedChange);
        let mut fitting = changes.iter().filter(fits).peekable();
        fitting.peek()?;
        let mut map = (*self.0).clone();
        for Change { group, old, holders, traceparent } in fitting {
            let mut holders = holders.clone();
            holders.sort();
            let entry = Entry { version: old.version + 1, holders, traceparent: traceparent.clone() };
            map.insert(group.clone(), entry);
        }
        Some(Self(Arc::new(map)))
    }
}

/// A change of one group's entry, guarded by the exact old entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Failover group, or the key of a register's entry.
    pub group: String,
    /// The entry that it must still have.
    pub old: Entry,
    /// Holders that it gets.
    pub holders: Vec<Holder>,
    /// Trace context of the incident that the change belongs to.
    pub traceparent: Option<String>,
}

/// Key of the entry that speaks of a site's register.
pub(super) fn register_key(site: &str) -> String {
    format!("{REGISTER}{site}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(group: &str, on: &AssignmentMap, holders: Vec<Holder>) -> Change {
        Change { group: group.into(), old: on.entry(group), holders, traceparent: None }
    }

    fn holder(site: &str, epoch: u64) -> Holder {
        Holder { site: site.into(), epoch, incarnation: Incarnation(format!("{site}-{epoch}")) }
    }

    #[test]
    fn a_change_happens_only_on_exactly_the_old_entry() {
        let map = AssignmentMap::default();
        let first = map.changed(&[change("g", &map, vec![holder("b", 1), holder("a", 1)])]).unwrap();
        assert_eq!(first.entry("g").holders[0].site, "a");
        assert!(first.changed(&[change("g", &map, Vec::new())]).is_none());
        let second = first.changed(&[change("g", &first, vec![holder("c", 4)])]).unwrap();
        assert_eq!(second.entry("g").version, 2);
        assert!(second.changed(&[change("g", &first, Vec::new())]).is_none());
    }

    #[test]
    fn of_several_changes_each_is_guarded_by_its_own_entry() {
        let empty = AssignmentMap::default();
        let known = empty.changed(&[change("g", &empty, vec![holder("a", 1)])]).unwrap();
        let both = [change("g", &empty, vec![holder("b", 1)]), change("h", &empty, vec![holder("b", 1)])];
        let map = known.changed(&both).unwrap();
        assert_eq!(map.entry("g"), known.entry("g"), "it was decided on an older entry");
        assert_eq!(map.entry("h").holders[0].site, "b");
    }

    #[test]
    fn a_holder_is_named_only_with_its_epoch_and_incarnation() {
        let entry = Entry { version: 1, holders: vec![holder("a", 3)], traceparent: None };
        assert!(entry.names("a", 3, &Incarnation("a-3".into())));
        assert!(!entry.names("a", 4, &Incarnation("a-4".into())));
        assert!(!entry.names("a", 3, &Incarnation("other".into())));
    }
}
