//! What the loop remembers between two looks: for how long things have been as they are, on the own monotonic clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::quorum::{Entry, Mono};

/// For how long something has been as it is.
#[derive(Debug)]
pub(super) struct Since<K, V>(BTreeMap<K, (V, Mono)>);

impl<K, V> Default for Since<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: PartialEq> Since<K, V> {
    pub fn track(&mut self, key: &K, value: V, now: Mono) -> Duration {
        match self.0.get(key) {
            Some((known, since)) if *known == value => now.saturating_sub(*since),
            _ => {
                self.0.insert(key.clone(), (value, now));
                Duration::ZERO
            }
        }
    }
}

/// What was seen of one group.
#[derive(Debug, Default)]
struct Group {
    version: Option<(u64, Mono)>,
    holders: BTreeSet<String>,
    moved: Option<Mono>,
    entered: BTreeMap<String, Mono>,
}

/// How a group's entry has come to be what it is, as far as this process saw it.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<String, Group>);

/// Times of a group's entry; see the fields of the same names in the facts.
#[derive(Debug, Default)]
pub(super) struct EntryTimes {
    pub stable_for: Duration,
    pub moved_for: Option<Duration>,
    pub entered_for: BTreeMap<String, Duration>,
}

impl Groups {
    /// Takes in the entry as it is now. What was there at the first look was not seen to move; `coming` answers how long
    /// ago a site entered that was still taking its share step by step when this process began.
    pub fn observe(
        &mut self,
        name: &str,
        entry: &Entry,
        coming: impl Fn(&str) -> Option<Duration>,
        now: Mono,
    ) -> EntryTimes {
        let group = self.0.entry(name.to_owned()).or_default();
        let holders: BTreeSet<String> = entry.holders.iter().map(|holder| holder.site.clone()).collect();
        if group.holders.is_empty() {
            let entered = |site: &String| Some((site.clone(), now.saturating_sub(coming(site)?)));
            group.entered.extend(holders.iter().filter_map(entered));
        }
        match group.version {
            Some((version, _)) if version == entry.version => {}
            Some(_) => {
                if holders != group.holders && !group.holders.is_empty() {
                    group.moved = Some(now);
                    for site in holders.difference(&group.holders) {
                        group.entered.insert(site.clone(), now);
                    }
                }
                group.version = Some((entry.version, now));
            }
            None => group.version = Some((entry.version, now)),
        }
        group.entered.retain(|site, _| holders.contains(site));
        group.holders = holders;
        let since = |then: Mono| now.saturating_sub(then);
        EntryTimes {
            stable_for: group.version.map_or(Duration::ZERO, |(_, at)| since(at)),
            moved_for: group.moved.map(since),
            entered_for: group.entered.iter().map(|(site, at)| (site.clone(), since(*at))).collect(),
        }
    }

    /// Forgets groups that are gone.
    pub fn retain(&mut self, groups: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| groups(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::{Holder, Incarnation};

    fn entry(version: u64, sites: &[(&str, u64)]) -> Entry {
        let holder = |(site, epoch): &(&str, u64)| Holder {
            site: (*site).to_owned(),
            epoch: *epoch,
            incarnation: Incarnation(format!("{site}{epoch}")),
        };
        Entry { version, holders: sites.iter().map(holder).collect(), traceparent: None }
    }

    #[test]
    fn a_restart_is_no_move_and_what_was_there_at_first_was_not_seen_to_come() {
        let at = Mono::from_secs;
        let mut groups = Groups::default();
        let first = groups.observe("g", &entry(1, &[("a", 1)]), |_| None, at(0));
        assert!(first.moved_for.is_none() && first.entered_for.is_empty());
        let restarted = groups.observe("g", &entry(2, &[("a", 2)]), |_| None, at(10));
        assert!(restarted.moved_for.is_none() && restarted.stable_for.is_zero());
        groups.observe("g", &entry(3, &[("b", 1)]), |_| None, at(20));
        let later = groups.observe("g", &entry(3, &[("b", 1)]), |_| None, at(25));
        assert_eq!((later.moved_for, later.entered_for["b"]), (Some(at(5)), at(5)));
    }

    #[test]
    fn a_site_that_was_coming_back_when_the_process_began_goes_on_where_it_was() {
        let at = Mono::from_secs;
        let mut groups = Groups::default();
        let coming = |site: &str| (site == "b").then_some(at(40));
        groups.observe("g", &entry(0, &[]), coming, at(99));
        let first = groups.observe("g", &entry(7, &[("a", 1), ("b", 2)]), coming, at(100));
        assert_eq!(first.entered_for, [("b".to_owned(), at(40))].into());
        let later = groups.observe("g", &entry(7, &[("a", 1), ("b", 2)]), coming, at(110));
        assert_eq!(later.entered_for["b"], at(50));
    }
}
