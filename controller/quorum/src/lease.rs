//! The own site's lease: claim a new incarnation, renew it at a majority, know until when it may be used.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    incarnation::Incarnation,
    mutants::{Mutant, broken},
    record::{Marks, Observed, Operation, SiteRecord},
    timing::{Mono, Timing},
    view::View,
};

/// Where the own lease stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Life {
    /// No incarnation yet: old records are timed until a majority may be superseded (R3, R8).
    Waiting,
    /// A new incarnation is being written.
    Claiming { epoch: u64, incarnation: Incarnation },
    /// A majority holds the incarnation.
    Held { epoch: u64, incarnation: Incarnation },
}

/// The own site's lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OwnLease {
    site: String,
    life: Life,
    /// Send time of the newest acknowledged write of the current incarnation, by register.
    acknowledged: BTreeMap<usize, Mono>,
    /// Writes of the current incarnation whose fate is unknown, by register: serial and send time.
    unknown: BTreeMap<usize, (u64, Mono)>,
    serial: u64,
}

impl OwnLease {
    pub fn new(site: &str) -> Self {
        Self {
            site: site.to_owned(),
            life: Life::Waiting,
            acknowledged: BTreeMap::new(),
            unknown: BTreeMap::new(),
            serial: 0,
        }
    }

    /// The incarnation that a majority holds.
    pub fn held(&self) -> Option<(u64, &Incarnation)> {
        match &self.life {
            Life::Held { epoch, incarnation } => Some((*epoch, incarnation)),
            _ => None,
        }
    }

    fn current(&self) -> Option<(u64, &Incarnation)> {
        match &self.life {
            Life::Held { epoch, incarnation } | Life::Claiming { epoch, incarnation } => Some((*epoch, incarnation)),
            Life::Waiting => None,
        }
    }

    /// The oldest send time of the best majority.
    fn counted_from(&self, majority: usize) -> Option<Mono> {
        self.held()?;
        let mut sent: Vec<Mono> = self.acknowledged.values().copied().collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(majority - 1).copied()
    }

    /// How many registers acknowledged a write that was sent at or after a time.
    pub fn acknowledged_since(&self, since: Mono) -> usize {
        self.acknowledged.values().filter(|sent| **sent >= since).count()
    }

    /// Until when the lease may be used: the oldest send time of the best majority, plus what a grant lasts.
    pub fn valid_until(&self, majority: usize, timing: &Timing) -> Option<Mono> {
        self.counted_from(majority).map(|oldest| oldest + timing.grant_for())
    }

    /// Moves between lives by what the registers show. `fresh` names a new incarnation if one is to be claimed.
    pub fn settle(
        &mut self,
        views: &[View],
        majority: usize,
        timing: &Timing,
        may_claim: bool,
        now: Mono,
        fresh: impl FnOnce() -> Incarnation,
    ) {
        let lapsed = self.held().is_some() && self.valid_until(majority, timing).is_none_or(|until| now >= until);
        // Longer out of quorum than it takes to be superseded anywhere: whatever the records show, this life is over.
        let over = self.held().is_some() && self.counted_from(majority).is_none_or(|from| now >= from + timing.life());
        if over && !broken(Mutant::LapsedGoesOn) {
            self.forget();
        }
        if let Some((epoch, incarnation)) = self.current() {
            let lost = views
                .iter()
                .filter_map(|view| view.record(&self.site))
                .filter(|seen| seen.record.epoch >= epoch && !seen.record.names(epoch, incarnation))
                .count();
            let held = self.acknowledged.len();
            // A claim that any register already outran cannot be completed under this epoch everywhere; begin anew.
            let claiming = matches!(self.life, Life::Claiming { .. });
            // Outrun at some registers and out of quorum: the epoch can never count there again, a new one can.
            if lost >= majority || (lost > 0 && ((claiming && held < majority) || lapsed)) {
                self.forget();
            } else if claiming && held >= majority {
                self.life = Life::Held { epoch, incarnation: incarnation.clone() };
            }
        }
        if self.life == Life::Waiting && may_claim && broken(Mutant::SharedEpoch) {
            let newest = views.iter().filter_map(|view| view.record(&self.site)).max_by_key(|seen| seen.record.epoch);
            if let Some((epoch, Some(incarnation))) = newest.map(|s| (s.record.epoch, s.record.incarnation.clone())) {
                self.life = Life::Claiming { epoch, incarnation };
            }
        }
        if self.life == Life::Waiting && may_claim {
            let read = views.iter().filter(|view| view.record(&self.site).is_some()).count();
            let free = views.iter().filter(|view| view.may_supersede(&self.site, timing, now)).count();
            if read >= majority && free >= majority {
                let highest =
                    views.iter().filter_map(|view| view.record(&self.site)).map(|seen| seen.record.epoch).max();
                self.life = Life::Claiming { epoch: highest.unwrap_or(0) + 1, incarnation: fresh() };
            }
        }
    }

    /// Ends the current life here; its records run out where they are.
    pub fn resign(&mut self) {
        if self.life != Life::Waiting {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.life = Life::Waiting;
        self.acknowledged.clear();
        self.unknown.clear();
        self.serial = 0;
    }

    /// The next write at a register: a renewal, or the claim where the old record may be superseded.
    pub fn next_write(
        &mut self,
        view: &View,
        timing: &Timing,
        now: Mono,
        marks: impl FnOnce() -> Marks,
    ) -> Option<Operation> {
        let (epoch, incarnation) = self.current()?;
        let (epoch, incarnation) = (epoch, incarnation.clone());
        let seen = view.record(&self.site)?;
        let own = seen.record.names(epoch, &incarnation);
        // R2: a foreign record is never overwritten; R3: an old one only once it was timed, or nobody holds it.
        let claimable = seen.record.epoch < epoch && view.may_supersede(&self.site, timing, now);
        if !own && !claimable {
            return None;
        }
        self.serial = self.serial.max(seen.record.serial * u64::from(own)) + 1;
        Some(Operation::WriteRecord {
            site: self.site.clone(),
            at: seen.version.clone(),
            record: SiteRecord { epoch, incarnation: Some(incarnation), serial: self.serial, seen: Arc::new(marks()) },
        })
    }

    /// A write of the own record succeeded; it counts from the moment it was sent.
    pub fn written(&mut self, register: usize, record: &SiteRecord, sent: Mono) {
        if self.is_current(record) {
            self.unknown.remove(&register);
            self.count(register, sent);
        }
    }

    /// The fate of a write is unknown: it may still land.
    pub fn unknown(&mut self, register: usize, record: &SiteRecord, sent: Mono) {
        if self.is_current(record) {
            self.unknown.insert(register, (record.serial, sent));
        }
    }

    /// A read showed what became of a write whose fate was unknown.
    pub fn read(&mut self, register: usize, record: &SiteRecord) {
        if let Some((serial, sent)) = self.unknown.get(&register).copied() {
            if self.is_current(record) && record.serial == serial {
                self.count(register, sent);
            }
            self.unknown.remove(&register);
        }
    }

    /// A register that is not trusted any more does not count.
    pub fn discount(&mut self, register: usize) {
        self.acknowledged.remove(&register);
        self.unknown.remove(&register);
    }

    fn count(&mut self, register: usize, sent: Mono) {
        let newest = self.acknowledged.entry(register).or_insert(sent);
        *newest = (*newest).max(sent);
    }

    fn is_current(&self, record: &SiteRecord) -> bool {
        self.current().is_some_and(|(epoch, incarnation)| record.names(epoch, incarnation))
    }
}

/// What a superseder writes over a record that it timed: nobody holds the epoch `highest + 1`.
pub(super) fn revocation(site: &str, over: &Observed, highest: u64) -> Operation {
    Operation::WriteRecord {
        site: site.to_owned(),
        at: over.version.clone(),
        record: SiteRecord { epoch: highest + 1, incarnation: None, serial: 0, seen: over.record.seen.clone() },
    }
}
