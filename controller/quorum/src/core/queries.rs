//! What a core answers about itself; nothing here changes anything.

use std::collections::BTreeMap;

use super::{
    super::{
        incarnation::Incarnation,
        map::{AssignmentMap, Holder},
        record::SiteRecord,
        timing::Mono,
    },
    Core, Grantable, Standing,
};

impl Core {
    pub(super) fn in_quorum(&self, now: Mono) -> bool {
        self.lease.valid_until(self.majority(), &self.config.timing).is_some_and(|until| now < until)
    }

    /// How the own site stands.
    pub fn standing(&self, now: Mono) -> Standing {
        match (self.lease.held(), self.lease.valid_until(self.majority(), &self.config.timing)) {
            (Some((epoch, incarnation)), Some(valid_until)) if now < valid_until => {
                Standing::InQuorum { epoch, incarnation: incarnation.clone(), valid_until }
            }
            (Some(_), _) => Standing::Out("the lease was not renewed at a majority in time".into()),
            (None, _) => Standing::Out(self.why_not_held(now)),
        }
    }

    fn why_not_held(&self, now: Mono) -> String {
        let forgot: Vec<&str> = self.quarantined().into_iter().map(|(site, _)| site).collect();
        if self.views.len() - forgot.len() < self.majority() {
            return format!(
                "registers that forgot: {}; no majority remembers, so a person has to say what holds",
                forgot.join(", ")
            );
        }
        let silent: Vec<&str> = (0..self.views.len())
            .filter(|register| !self.reachable(*register, now))
            .map(|register| self.config.registers[register].as_str())
            .collect();
        if self.views.len() - silent.len() < self.majority() {
            return format!("no answer from a majority of registers; silent: {}", silent.join(", "));
        }
        "waiting until the previous incarnation of this site has surely ended".into()
    }

    /// What this site may grant now: groups whose map entry names exactly its current incarnation (R1), unless released.
    pub fn grantable(&self, now: Mono) -> Vec<Grantable> {
        let Standing::InQuorum { epoch, incarnation, valid_until } = self.standing(now) else { return Vec::new() };
        let Some(chosen) = &self.chosen else { return Vec::new() };
        let named = chosen.map.groups().filter(|(group, entry)| {
            entry.names(&self.config.site, epoch, &incarnation)
                && !self.released.contains_key(&((*group).clone(), entry.version))
        });
        named
            .map(|(group, entry)| Grantable {
                group: group.clone(),
                epoch,
                incarnation: incarnation.clone(),
                version: entry.version,
                valid_until,
            })
            .collect()
    }

    /// Since when this site does not grant a group any more under an entry that still names it (R7).
    pub fn released_since(&self, group: &str, version: u64) -> Option<Mono> {
        self.released.get(&(group.to_owned(), version)).copied()
    }

    /// Everything that this site released and that the map still names, and since when.
    pub fn released(&self) -> &BTreeMap<(String, u64), Mono> {
        &self.released
    }

    /// The map as far as a majority showed it, and its ballot counter.
    pub fn map(&self) -> Option<(&AssignmentMap, u64)> {
        self.chosen.as_ref().map(|accepted| (&accepted.map, accepted.ballot.counter))
    }

    /// A site's current incarnation if its record is fresh at a majority. Of the own one the acknowledgements tell.
    pub fn fresh_holder(&self, site: &str, now: Mono) -> Option<Holder> {
        if let (true, Some((epoch, incarnation))) = (site == self.config.site && self.in_quorum(now), self.lease.held())
        {
            return Some(Holder { site: site.to_owned(), epoch, incarnation: incarnation.clone() });
        }
        let mut votes: BTreeMap<(u64, &Incarnation), usize> = BTreeMap::new();
        for view in self.trusted() {
            let fresh = view.age(site, now).is_some_and(|age| age < self.config.timing.suspect_after());
            if let (true, Some(seen)) = (fresh, view.record(site))
                && let Some(incarnation) = &seen.record.incarnation
            {
                *votes.entry((seen.record.epoch, incarnation)).or_default() += 1;
            }
        }
        let majority = self.majority();
        votes.into_iter().find(|(_, count)| *count >= majority).map(|((epoch, incarnation), _)| Holder {
            site: site.to_owned(),
            epoch,
            incarnation: incarnation.clone(),
        })
    }

    /// How much is left of a site's lease: of the own one by its acknowledgements, of another's at most what its records
    /// show at a majority. None where it is not fresh.
    pub fn lease_left(&self, site: &str, now: Mono) -> Option<Mono> {
        if site == self.config.site {
            let until = self.lease.valid_until(self.majority(), &self.config.timing)?;
            return until.checked_sub(now);
        }
        self.fresh_holder(site, now)?;
        let mut ages: Vec<Mono> = self.trusted().filter_map(|view| view.age(site, now)).collect();
        ages.sort_unstable();
        let oldest = ages.get(self.majority() - 1)?;
        Some(self.config.timing.grant_for().saturating_sub(*oldest))
    }

    /// For how long a site's record has not changed at any reachable register; none if it was never seen.
    pub fn silent_for(&self, site: &str, now: Mono) -> Option<Mono> {
        self.trusted().filter_map(|view| view.age(site, now)).min()
    }

    /// Whether a register answered lately.
    pub fn reachable(&self, register: usize, now: Mono) -> bool {
        let view = &self.views[register];
        view.excluded.is_none()
            && view.read_at.is_some_and(|at| now.saturating_sub(at) < self.config.timing.suspect_after())
    }

    /// Registers that are not trusted and why, by site.
    pub fn quarantined(&self) -> Vec<(&str, &str)> {
        self.config
            .registers
            .iter()
            .zip(&self.views)
            .filter_map(|(site, view)| view.excluded.as_ref().map(|excluded| (site.as_str(), excluded.why.as_str())))
            .collect()
    }

    /// Why a register did not answer its last request, by site.
    pub fn troubles(&self) -> Vec<(&str, &str)> {
        self.config
            .registers
            .iter()
            .zip(&self.views)
            .filter_map(|(site, view)| view.trouble.as_deref().map(|why| (site.as_str(), why)))
            .collect()
    }

    /// A record as this core last saw it, for tests and status.
    pub fn record(&self, register: usize, site: &str) -> Option<&SiteRecord> {
        self.views.get(register).and_then(|view| view.record(site)).map(|seen| &seen.record)
    }
}
