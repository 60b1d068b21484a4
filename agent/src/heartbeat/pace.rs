//! When the next heartbeat is due. Knows no clock and no network.

/// Pause after a heartbeat that was answered, milliseconds.
pub const INTERVAL_MS: u64 = 500;
/// Pause after one that was not answered yet. At 30 % loss it makes a healthy node's silences of four seconds hundreds
/// of times rarer than the interval alone does.
pub const RETRY_MS: u64 = 250;
/// After so long without any answer nobody is there to be hurried, and the interval does.
const CALM_AFTER_MS: u64 = 10_000;

/// The pace of one agent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    sequence: u64,
    sent_ms: Option<u64>,
    answered_ms: Option<u64>,
    answered: bool,
    began_ms: Option<u64>,
    urgent: bool,
}

impl Pace {
    /// When the next one should go, on the clock of the other calls.
    pub fn due_ms(&self) -> u64 {
        let Some(sent) = self.sent_ms else { return 0 };
        if self.urgent {
            return sent;
        }
        let last_answer = self.answered_ms.or(self.began_ms).unwrap_or(0);
        let calm = sent.saturating_sub(last_answer) >= CALM_AFTER_MS;
        sent + if self.answered || calm { INTERVAL_MS } else { RETRY_MS }
    }

    /// Something is to be told at once.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// One is sent now; its number. It grows across restarts of the agent within a boot, because it never falls behind
    /// the milliseconds since boot.
    pub fn send(&mut self, now_ms: u64) -> u64 {
        self.sequence = now_ms.max(self.sequence + 1);
        self.sent_ms = Some(now_ms);
        self.began_ms.get_or_insert(now_ms);
        self.answered = false;
        self.urgent = false;
        self.sequence
    }

    /// One was answered.
    pub fn answered(&mut self, sequence: u64, now_ms: u64) {
        self.answered_ms = Some(now_ms);
        self.answered |= sequence == self.sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_agent_beats_twice_a_second_and_an_unanswered_one_four_times() {
        let mut pace = Pace::default();
        assert_eq!(pace.due_ms(), 0);
        let first = pace.send(1_000);
        assert_eq!(pace.due_ms(), 1_250);
        pace.answered(first, 1_010);
        assert_eq!(pace.due_ms(), 1_500);
        let second = pace.send(1_500);
        // An answer to an earlier one says nothing about this one.
        pace.answered(first, 1_510);
        assert_eq!(pace.due_ms(), 1_750);
        assert!(second > first);
        pace.hurry();
        assert_eq!(pace.due_ms(), 1_500);
    }

    #[test]
    fn an_agent_that_nobody_answers_does_not_hurry_for_ever() {
        let mut pace = Pace::default();
        let mut now = 5_000;
        for _ in 0..40 {
            pace.send(now);
            now = pace.due_ms();
        }
        assert_eq!(now, 15_000);
        pace.send(now);
        assert_eq!(pace.due_ms(), 15_500);
    }

    #[test]
    fn numbers_grow_within_a_boot_even_when_the_agent_restarts() {
        let mut pace = Pace::default();
        let last = (0..10).map(|_| pace.send(7_000)).last().unwrap();
        assert_eq!(last, 7_009);
        assert!(Pace::default().send(7_500) > last);
    }
}
