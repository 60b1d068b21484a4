//! Pursuing a goal: who has to be gone first, who has to be there, and then the map round.

use std::collections::BTreeMap;

use super::{
    super::{
        map::Holder,
        mutants::{Mutant, broken},
        record::Ballot,
        round::{Change, Round},
        timing::Mono,
    },
    Core, GoalState, digest,
};

impl Core {
    /// One step towards the goal. Order of R4: revoke, confirm at a majority, only then the map.
    pub(super) fn advance_goal(&mut self, now: Mono) {
        if self.round.is_some() || now < self.quiet_until || !self.in_quorum(now) {
            return;
        }
        let change = match self.goal_state(now) {
            GoalState::Committing => self.goal.as_ref().map(|goal| Change {
                group: goal.group.clone(),
                old: goal.old.clone(),
                holders: goal.holders.clone(),
                traceparent: goal.traceparent.clone(),
            }),
            GoalState::Draining => {
                if let Some(goal) = &self.goal {
                    self.released.entry((goal.group.clone(), goal.old.version)).or_insert(now);
                }
                return;
            }
            _ => match self.taken_back() {
                Some(change) => Some(change),
                None if self.map_is_split() => None,
                None => return,
            },
        };
        let counter = self
            .trusted()
            .filter_map(|view| view.state.as_ref())
            .map(|(_, state)| state.promised.counter.max(state.accepted.ballot.counter))
            .max()
            .unwrap_or(0);
        self.rounds += 1;
        let proposer =
            format!("{}/{}", self.config.site, hex::encode(&digest(&self.config, "ballot", self.rounds)[..8]));
        self.round = Some(Round::new(Ballot { counter: counter + 1, proposer }, change, now));
    }

    /// A release that nobody wants any more: the site never resumes on the entry that it released (R7), so the group
    /// gets a new entry with the same holders.
    fn taken_back(&self) -> Option<Change> {
        let (chosen, (epoch, incarnation)) = (self.chosen.as_ref()?, self.lease.held()?);
        self.released.keys().find_map(|(group, version)| {
            let entry = chosen.map.entry(group);
            let wanted = self.goal.as_ref().is_some_and(|goal| goal.group == *group && goal.old == entry);
            let ours = entry.version == *version && entry.names(&self.config.site, epoch, incarnation);
            (ours && !wanted).then(|| Change {
                group: group.clone(),
                holders: entry.holders.clone(),
                traceparent: entry.traceparent.clone(),
                old: entry,
            })
        })
    }

    /// Whether a majority was read but shows no common ballot, so that only an identity round tells what is chosen.
    fn map_is_split(&self) -> bool {
        let mut counts: BTreeMap<&Ballot, usize> = BTreeMap::new();
        for (_, state) in self.trusted().filter_map(|view| view.state.as_ref()) {
            *counts.entry(&state.accepted.ballot).or_default() += 1;
        }
        let majority = self.majority();
        counts.values().sum::<usize>() >= majority && counts.values().all(|count| *count < majority)
    }

    /// How far the goal is.
    pub fn goal_state(&self, now: Mono) -> GoalState {
        let Some(goal) = &self.goal else { return GoalState::Idle };
        let Some(chosen) = &self.chosen else { return GoalState::NoQuorum };
        if chosen.map.entry(&goal.group) != goal.old {
            return GoalState::Idle;
        }
        let Some((epoch, incarnation)) = self.lease.held().filter(|_| self.in_quorum(now)) else {
            return GoalState::NoQuorum;
        };
        for holder in goal.old.holders.iter().filter(|holder| !goal.holders.contains(holder)) {
            if holder.site == self.config.site && holder.epoch == epoch && &holder.incarnation == incarnation {
                let silent_since = self.released.get(&(goal.group.clone(), goal.old.version));
                // R7: every agent acknowledged, or the longest grant has ended whatever the clocks do.
                let silent = silent_since.is_some_and(|since| {
                    goal.drained || now.saturating_sub(*since) >= self.config.timing.release_wait()
                });
                if !silent && !broken(Mutant::ReleaseWithoutDrain) {
                    return GoalState::Draining;
                }
            } else if self.gone_at(holder) < self.majority() && !broken(Mutant::MapFirst) {
                let qualified = (0..self.views.len()).filter(|register| self.may_revoke(*register, holder)).count();
                if qualified >= self.majority() && broken(Mutant::SkipRevocation) {
                    continue;
                }
                return if qualified + self.gone_at(holder) >= self.majority() {
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

    /// Registers at which a holder's lease is surely over: the record moved on to a number at least as high.
    pub(super) fn gone_at(&self, holder: &Holder) -> usize {
        self.trusted()
            .filter_map(|view| view.record(&holder.site))
            .filter(|seen| seen.record.epoch >= holder.epoch && !seen.record.names(holder.epoch, &holder.incarnation))
            .count()
    }

    pub(super) fn may_revoke(&self, register: usize, holder: &Holder) -> bool {
        let view = &self.views[register];
        view.quarantined.is_none()
            && view.record(&holder.site).is_some_and(|seen| seen.record.names(holder.epoch, &holder.incarnation))
            && view.may_supersede(&holder.site, self.config.timing.supersede_after())
    }
}
