//! A node's agent as far as grants go: it counts from the moment it asked and refuses answers older than its last drop.

use super::super::*;

/// What the agent answers for at the edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Held {
    epoch: u64,
    version: u64,
    ends: Mono,
}

/// How an agent may be wrong, to see that the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Careless {
    /// It counts a grant from the answer.
    CountsFromReceipt,
    /// It believes an answer to a question that is older than its last drop.
    BelievesOldAnswers,
}

/// An agent; its clock is kept by who runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    pub next_pull: Mono,
    pub careless: Option<Careless>,
    held: Option<Held>,
    dropped_at: Option<Mono>,
    /// Until when what asks this agent may still act; local time.
    edge_until: Mono,
    /// Versions whose drop is to be acknowledged, and when the site made the answer.
    pub drops: Vec<(u64, Mono)>,
}

impl Agent {
    pub fn new(first_pull: Mono) -> Self {
        Self { next_pull: first_pull, ..Self::default() }
    }

    /// The site answered, at `answered` on its own clock, the question that was sent at `sent`: with a grant and what
    /// remained of it, or without.
    pub fn told(&mut self, granted: Option<&(Grantable, Mono)>, answered: Mono, sent: Mono, now: Mono, stop: Mono) {
        match granted {
            Some((grantable, remaining)) => {
                let old = self.dropped_at.is_some_and(|dropped| sent <= dropped);
                if old && self.careless != Some(Careless::BelievesOldAnswers) {
                    return;
                }
                if self.held.as_ref().is_some_and(|held| grantable.epoch < held.epoch) {
                    return;
                }
                let from = if self.careless == Some(Careless::CountsFromReceipt) { now } else { sent };
                let ends = from + *remaining;
                if ends > now {
                    self.edge_until = self.edge_until.max(ends + stop);
                }
                let held = Held { epoch: grantable.epoch, version: grantable.version, ends };
                match &mut self.held {
                    Some(known) if known.version == held.version && known.ends >= held.ends => {}
                    known => *known = Some(held),
                }
            }
            None => {
                if let Some(held) = self.held.take() {
                    self.dropped_at = Some(now);
                    self.edge_until = self.edge_until.min(now + stop);
                    self.drops.push((held.version, answered));
                }
            }
        }
    }

    /// Version of the entry under which the agent holds the grant, if it does.
    pub fn holds(&self, now: Mono) -> Option<u64> {
        self.held.as_ref().filter(|held| now < held.ends).map(|held| held.version)
    }

    /// Whether what asks this agent may still act.
    pub fn effective(&self, now: Mono) -> bool {
        now < self.edge_until
    }
}
