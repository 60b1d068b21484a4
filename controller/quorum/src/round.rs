//! One guarded round over the map register (R5): CASPaxos whose both phases are compare-and-swap writes.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    map::{AssignmentMap, Change},
    mutants::{Mutant, broken},
    record::{Accepted, Ballot, Operation, RegisterState, StateVersion},
    timing::Mono,
    view::View,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Promises so far: version that the promise left the register at, and what it had accepted.
    Preparing(BTreeMap<usize, (StateVersion, RegisterState)>),
    /// Accepts so far.
    Accepting { value: AssignmentMap, targets: BTreeMap<usize, (StateVersion, RegisterState)>, accepted: Vec<usize> },
}

/// How a round stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RoundState {
    /// Go on.
    Open,
    /// A majority accepted this value.
    Chosen(Accepted),
    /// Somebody else is ahead, or the change does not fit any more; try a new round later.
    Over,
}

/// A round in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Round {
    pub ballot: Ballot,
    changes: Vec<Change>,
    phase: Phase,
    pub begun: Mono,
    dead: bool,
    /// Sites of the registers, for their generations.
    sites: Arc<[String]>,
}

impl Round {
    /// A round that makes changes, or without any the identity round that only finds out what is chosen.
    pub fn new(sites: Arc<[String]>, ballot: Ballot, changes: Vec<Change>, begun: Mono) -> Self {
        Self { ballot, changes, phase: Phase::Preparing(BTreeMap::new()), begun, dead: false, sites }
    }

    /// The next write at a register, if it has one to do.
    pub fn next_write(&mut self, register: usize, view: &View) -> Option<Operation> {
        if self.dead {
            return None;
        }
        match &self.phase {
            Phase::Preparing(promises) => {
                if promises.contains_key(&register) {
                    return None;
                }
                let (version, state) = view.state.as_ref()?;
                if state.promised >= self.ballot {
                    self.dead = state.promised > self.ballot;
                    return None;
                }
                let mut state = RegisterState { promised: self.ballot.clone(), ..state.clone() };
                if broken(Mutant::NoPrepare) {
                    let map = self.value(std::mem::take(&mut state.accepted.map));
                    state.accepted = Accepted { ballot: self.ballot.clone(), map };
                }
                Some(Operation::WriteState { at: version.clone(), state })
            }
            Phase::Accepting { value, targets, accepted } => {
                if accepted.contains(&register) {
                    return None;
                }
                let (version, state) = targets.get(&register)?;
                let accepted = Accepted { ballot: self.ballot.clone(), map: value.clone() };
                Some(Operation::WriteState { at: version.clone(), state: RegisterState { accepted, ..state.clone() } })
            }
        }
    }

    /// What the round proposes where `map` was accepted last. A change that does not fit any more leaves the value as
    /// it is: the round still settles it.
    fn value(&self, map: AssignmentMap) -> AssignmentMap {
        map.changed(&self.changes).unwrap_or(map)
    }

    /// The register's state is known to be this now, by a read or by an own write that succeeded.
    pub fn saw(
        &mut self,
        register: usize,
        version: &StateVersion,
        state: &RegisterState,
        majority: usize,
    ) -> RoundState {
        if self.dead || state.promised > self.ballot || state.accepted.ballot > self.ballot {
            self.dead = true;
            return RoundState::Over;
        }
        match &mut self.phase {
            Phase::Preparing(promises) => {
                if state.promised == self.ballot {
                    promises.insert(register, (version.clone(), state.clone()));
                }
                if promises.len() < majority {
                    return RoundState::Open;
                }
                let newest = promises
                    .values()
                    .map(|(_, state)| &state.accepted)
                    .max_by(|a, b| a.ballot.cmp(&b.ballot))
                    .cloned()
                    .unwrap_or_default();
                if broken(Mutant::NoPrepare) {
                    return RoundState::Chosen(newest);
                }
                let mut targets = std::mem::take(promises);
                // R9: a promise of a register that was made anew since, or has to be, is none.
                let counts = |register: &usize, state: &RegisterState| {
                    newest.map.generation(&self.sites[*register]) == state.generation || broken(Mutant::AnyGeneration)
                };
                targets.retain(|register, (_, state)| counts(register, state));
                if targets.len() < majority {
                    self.dead = true;
                    return RoundState::Over;
                }
                let value = self.value(newest.map);
                self.phase = Phase::Accepting { value, targets, accepted: Vec::new() };
                RoundState::Open
            }
            Phase::Accepting { value, targets, accepted } => {
                if state.accepted.ballot == self.ballot {
                    if !accepted.contains(&register) {
                        accepted.push(register);
                    }
                } else if let Some((known, _)) = targets.get(&register)
                    && known != version
                {
                    // The register moved on from what it promised (an enrolment, say): it is no target any more.
                    targets.remove(&register);
                }
                if accepted.len() >= majority {
                    return RoundState::Chosen(Accepted { ballot: self.ballot.clone(), map: value.clone() });
                }
                if targets.len() < majority {
                    self.dead = true;
                    return RoundState::Over;
                }
                RoundState::Open
            }
        }
    }
}
