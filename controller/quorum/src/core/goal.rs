//! Pursuing goals: who has to be gone first, who has to be there, and then the map round. All groups that are ready for it
//! move in one round, so that a thousand groups of a lost site take as long as one.

use std::collections::BTreeSet;

use super::{
    super::{
        map::{Change, Holder},
        mutants::{Mutant, broken},
        record::Ballot,
        round::Round,
        timing::Mono,
    },
    Core, Goal, GoalState, digest,
};

/// Somebody else's round is given so long.
const FOREIGN_ROUND: Mono = Mono::from_millis(1_500);

impl Core {
    /// One step towards the goals. Order of R4: revoke, confirm at a majority, only then the map.
    pub(super) fn advance_goal(&mut self, now: Mono) {
        if self.round.is_some() || now < self.quiet_until || !self.in_quorum(now) || !self.exclusions_are_known(now) {
            return;
        }
        // Somebody else's round is under way: it will be over soon, and two would only stop each other.
        let chosen = self.chosen.as_ref().map(|chosen| &chosen.ballot);
        let busy = self.foreign.as_ref().is_some_and(|(ballot, first_seen)| {
            chosen < Some(ballot) && now.saturating_sub(*first_seen) < FOREIGN_ROUND
        });
        if busy {
            return;
        }
        let (mut changes, mut draining) = (Vec::new(), false);
        for goal in self.goals.iter() {
            match self.state_of(goal, now) {
                GoalState::Committing => changes.push(Change {
                    group: goal.group.clone(),
                    old: goal.old.clone(),
                    holders: goal.holders.clone(),
                    traceparent: goal.traceparent.clone(),
                }),
                GoalState::Draining => {
                    draining = true;
                    self.released.entry((goal.group.clone(), goal.old.version)).or_insert(now);
                }
                _ => {}
            }
        }
        if changes.is_empty() {
            if draining {
                return;
            }
            match self.taken_back().or_else(|| self.reseed_change(now)) {
                Some(change) => changes.push(change),
                None if self.split_for_long(now) => {}
                None => return,
            }
        }
        let counter = self
            .trusted()
            .filter_map(|view| view.state.as_ref())
            .map(|(_, state)| state.promised.counter.max(state.accepted.ballot.counter))
            .max()
            .unwrap_or(0);
        self.rounds += 1;
        let proposer =
            format!("{}/{}", self.config.site, hex::encode(&digest(&self.config, "ballot", self.rounds)[..8]));
        self.round = Some(Round::new(self.sites.clone(), Ballot { counter: counter + 1, proposer }, changes, now));
    }

    /// A release that nobody wants any more: the site never resumes on the entry that it released (R7), so the group
    /// gets a new entry with the same holders.
    fn taken_back(&self) -> Option<Change> {
        let (chosen, (epoch, incarnation)) = (self.chosen.as_ref()?, self.lease.held()?);
        self.released.keys().find_map(|(group, version)| {
            let entry = chosen.map.entry(group);
            let wanted = self.goals.iter().any(|goal| goal.group == *group && goal.old == entry);
            let ours = entry.version == *version && entry.names(&self.config.site, epoch, incarnation);
            (ours && !wanted).then(|| Change {
                group: group.clone(),
                holders: entry.holders.clone(),
                traceparent: entry.traceparent.clone(),
                old: entry,
            })
        })
    }

    /// Whether a majority was read but has long shown no common ballot, so that only an identity round tells what is
    /// chosen. The first site that is alive does it; the others only if it does not.
    fn split_for_long(&self, now: Mono) -> bool {
        let rank = self.sites.iter().filter(|site| self.fresh_holder(site, now).is_some());
        let rank = rank.take_while(|site| **site != self.config.site).count() as u32;
        self.split_since.is_some_and(|since| now.saturating_sub(since) >= self.config.timing.renew * rank)
    }

    /// How far the goals are: committing if one of them is, else the state of the first that is not reached yet.
    pub fn goal_state(&self, now: Mono) -> GoalState {
        let mut first = GoalState::Idle;
        for goal in self.goals.iter() {
            match self.state_of(goal, now) {
                GoalState::Committing => return GoalState::Committing,
                state if first == GoalState::Idle => first = state,
                _ => {}
            }
        }
        first
    }

    /// How far one goal is.
    fn state_of(&self, goal: &Goal, now: Mono) -> GoalState {
        let Some(chosen) = &self.chosen else { return GoalState::NoQuorum };
        if !chosen.map.is(&goal.group, &goal.old) {
            return GoalState::Idle;
        }
        let Some((epoch, incarnation)) = self.lease.held().filter(|_| self.in_quorum(now)) else {
            return GoalState::NoQuorum;
        };
        for holder in goal.leaving() {
            if holder.site == self.config.site && holder.epoch == epoch && &holder.incarnation == incarnation {
                let silent_since = self.released.get(&(goal.group.clone(), goal.old.version));
                // R7: every agent acknowledged, or the longest grant has ended whatever the clocks do.
                let silent = silent_since.is_some_and(|since| {
                    goal.drained || now.saturating_sub(*since) >= self.config.timing.release_wait()
                });
                if !silent && !broken(Mutant::ReleaseWithoutDrain) {
                    return GoalState::Draining;
                }
            } else if self.gone_at(holder, now) < self.majority() && !broken(Mutant::MapFirst) {
                let qualified =
                    (0..self.views.len()).filter(|register| self.may_revoke(*register, holder, now)).count();
                if qualified >= self.majority() && broken(Mutant::SkipRevocation) {
                    continue;
                }
                return if qualified + self.gone_at(holder, now) >= self.majority() {
                    GoalState::Revoking(holder.clone())
                } else {
                    GoalState::Timing(holder.clone())
                };
            }
        }
        for holder in goal.holders.iter().filter(|holder| !goal.old.holders.contains(holder)) {
            if self.fresh_holder(&holder.site, now).as_ref() != Some(holder) {
                return GoalState::Unfresh(holder.clone());
            }
        }
        GoalState::Committing
    }

    /// The holder that is to be revoked at a register now, if any. Many groups leave the same few holders, so each of
    /// these is looked at once.
    pub(super) fn to_revoke(&self, register: usize, now: Mono) -> Option<Holder> {
        let mut looked_at: BTreeSet<&Holder> = BTreeSet::new();
        for goal in
            self.goals.iter().filter(|goal| self.chosen.as_ref().is_some_and(|c| c.map.is(&goal.group, &goal.old)))
        {
            if goal.leaving().all(|holder| looked_at.contains(holder)) {
                continue;
            }
            match self.state_of(goal, now) {
                GoalState::Revoking(holder) if self.may_revoke(register, &holder, now) => return Some(holder),
                _ => looked_at.extend(goal.leaving()),
            }
        }
        None
    }

    /// Registers at which a holder's lease is surely over: the record moved on to a number at least as high.
    pub(super) fn gone_at(&self, holder: &Holder, now: Mono) -> usize {
        self.settled(now)
            .filter_map(|view| view.record(&holder.site))
            .filter(|seen| seen.record.epoch >= holder.epoch && !seen.record.names(holder.epoch, &holder.incarnation))
            .count()
    }

    pub(super) fn may_revoke(&self, register: usize, holder: &Holder, now: Mono) -> bool {
        let view = &self.views[register];
        view.record(&holder.site).is_some_and(|seen| seen.record.names(holder.epoch, &holder.incarnation))
            && view.may_supersede(&holder.site, &self.config.timing, now)
    }
}
