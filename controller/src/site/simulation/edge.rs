//! The edge of one site for one group: an agent that counts a grant from the moment it asked, and what asks the agent.

use std::time::Duration;

use crate::quorum::Mono;

/// What an agent holds, on its own clock.
#[derive(Debug, Default)]
pub struct Edge {
    /// Version of the entry, and until when it is held.
    held: Option<(u64, Mono)>,
    dropped_at: Option<Mono>,
    /// Until when what asks this agent may still act.
    until: Mono,
    /// How much longer it acts than it may.
    late: Duration,
}

impl Edge {
    pub fn new(late: Duration) -> Self {
        Self { late, ..Self::default() }
    }

    /// The site answered what was asked at `sent`; answers the version of a grant that was dropped.
    pub fn told(&mut self, grant: Option<(u64, Duration)>, sent: Mono, now: Mono, stop: Duration) -> Option<u64> {
        let Some((version, remaining)) = grant else {
            let (version, _) = self.held.take()?;
            self.dropped_at = Some(now);
            self.until = self.until.min(now + stop + self.late);
            return Some(version);
        };
        let ends = sent + remaining;
        if ends > now && self.dropped_at.is_none_or(|dropped| sent > dropped) {
            self.held = Some((version, ends));
            self.until = self.until.max(ends + stop + self.late);
        }
        None
    }

    /// Whether what asks this agent may still act.
    pub fn acts(&self, now: Mono) -> bool {
        now < self.until
    }
}
