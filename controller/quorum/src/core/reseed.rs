//! R9: what to do about a register that forgot. It is excluded at once; once whoever did not know has surely stopped, a
//! round at a majority of the others raises its generation; then who won that round makes its objects anew, the state
//! with the new generation last.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        map::{Change, Holder, register_key},
        mutants::{Mutant, broken},
        record::{Operation, RegisterState, SiteRecord},
        timing::Mono,
    },
    Core,
};

impl Core {
    /// A register was excluded just now: what was learned with its help is learned again without it.
    pub(super) fn lost(&mut self, register: usize) {
        self.lease.discount(register);
        self.round = None;
        self.chosen = None;
        self.published = None;
    }

    /// Notes when a majority holds what this site knows of the excluded registers.
    pub(super) fn note_published(&mut self, now: Mono) {
        let newest = self.views.iter().filter_map(|view| view.excluded.as_ref()).map(|excluded| excluded.since).max();
        match newest {
            None => self.published = None,
            Some(since) if self.published.is_none() && self.lease.acknowledged_since(since) >= self.majority() => {
                self.published = Some(now);
            }
            Some(_) => {}
        }
    }

    /// Whether the map may be settled: whoever still trusts an excluded register has heard of it or has stopped.
    pub(super) fn exclusions_are_known(&self, now: Mono) -> bool {
        let wait = self.config.timing.supersede_after() + self.config.timing.renew * 2;
        self.views.iter().all(|view| view.excluded.is_none())
            || self.published.is_some_and(|published| now >= published + wait)
            || broken(Mutant::NoExclusionWait)
    }

    /// The generation of a register that counts, as far as any register shows.
    fn wanted_generation(&self, register: usize) -> u64 {
        let site = &self.sites[register];
        let accepted = self.trusted().filter_map(|view| view.state.as_ref()).map(|(_, state)| &state.accepted);
        accepted.chain(&self.chosen).map(|accepted| accepted.map.generation(site)).max().unwrap_or(0)
    }

    /// Whether an excluded register shows that it was made anew.
    pub(super) fn made_anew(&self, register: usize, generation: u64) -> bool {
        self.views[register].excluded.as_ref().is_some_and(|excluded| {
            excluded.forgot != Some(generation) && self.wanted_generation(register) == generation
        })
    }

    /// Excludes registers whose generation is not the one that counts.
    pub(super) fn heed_generations(&mut self, now: Mono) {
        if broken(Mutant::AnyGeneration) || broken(Mutant::TrustForgetful) {
            return;
        }
        for register in 0..self.views.len() {
            let view = &self.views[register];
            let Some(generation) = view.state.as_ref().map(|(_, state)| state.generation) else { continue };
            let wanted = self.wanted_generation(register);
            if view.excluded.is_none() && generation != wanted {
                let why = format!("it is of generation {generation}, but {wanted} counts");
                self.views[register].exclude(why, None, now);
                self.lost(register);
            }
        }
    }

    /// The change that gives an excluded register a new generation, by this site.
    pub(super) fn reseed_change(&self, now: Mono) -> Option<Change> {
        let (chosen, (epoch, incarnation)) = (self.chosen.as_ref()?, self.lease.held()?);
        let me = Holder { site: self.config.site.clone(), epoch, incarnation: incarnation.clone() };
        // One is enough; the others wait for it.
        let first = self.sites.iter().find(|site| self.fresh_holder(site, now).is_some())?;
        if *first != self.config.site {
            return None;
        }
        let mut excluded = self.sites.iter().zip(&self.views).filter(|(_, view)| view.shown.is_some());
        excluded.find_map(|(site, view)| {
            let entry = chosen.map.register(site);
            let spent = view.excluded.as_ref()?.forgot == Some(entry.version);
            let in_work = entry
                .holders
                .first()
                .is_some_and(|holder| *holder == me || self.fresh_holder(&holder.site, now).as_ref() == Some(holder));
            (spent || !in_work).then(|| Change {
                group: register_key(site),
                old: entry,
                holders: vec![me.clone()],
                traceparent: None,
            })
        })
    }

    /// The next step in making a register anew, if that is this site's to do.
    pub(super) fn reseed_operation(&mut self, register: usize, now: Mono) -> Option<Operation> {
        let chosen = self.chosen.clone()?;
        let entry = chosen.map.register(&self.sites[register]);
        let (epoch, incarnation) = self.lease.held()?;
        let mine = entry.names(&self.config.site, epoch, incarnation) && self.in_quorum(now);
        let spent = self.views[register].excluded.as_ref()?.forgot == Some(entry.version);
        if !mine || spent || !self.exclusions_are_known(now) {
            return None;
        }
        let seeds = self.seeds(register, now)?;
        let shown = self.views[register].shown.take()?;
        if let Some((at, generation)) = shown.state {
            return (generation != entry.version).then(|| {
                self.planted.clear();
                Operation::DeleteState { at }
            });
        }
        for (site, observed) in &shown.records {
            if self.planted.get(&(register, site.clone())) != Some(&observed.version.uid) {
                return Some(Operation::DeleteRecord { site: site.clone(), at: observed.version.clone() });
            }
        }
        let enrolled: BTreeSet<String> = seeds.keys().cloned().collect();
        if let Some((site, record)) = seeds.into_iter().find(|(site, _)| !shown.records.contains_key(site)) {
            return Some(Operation::CreateRecord { site, record });
        }
        let (generation, promised) = (entry.version, chosen.ballot.clone());
        Some(Operation::CreateState { state: RegisterState { enrolled, generation, promised, accepted: chosen } })
    }

    /// The newest record of every site at a majority of registers, not counting this one.
    fn seeds(&self, register: usize, now: Mono) -> Option<BTreeMap<String, SiteRecord>> {
        let timing = &self.config.timing;
        let others =
            self.views.iter().enumerate().filter(|(index, view)| *index != register && view.settled(timing, now));
        let others: Vec<_> = others.map(|(_, view)| view).collect();
        if others.len() < self.majority() {
            return None;
        }
        let mut seeds: BTreeMap<String, SiteRecord> = BTreeMap::new();
        for view in others {
            for site in view.sites() {
                let Some(seen) = view.record(site) else { continue };
                let seed = seeds.entry(site.clone()).or_default();
                if (seen.record.epoch, seen.record.serial) >= (seed.epoch, seed.serial) {
                    *seed = seen.record.clone();
                }
            }
        }
        Some(seeds)
    }
}
