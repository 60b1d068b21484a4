//! The numbers of the detector, each with its reason.

use std::time::Duration;

/// The numbers of the detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence after which peers are asked to look. Two heartbeats are missing then; a probe costs little, and asking
    /// before there is a suspicion is what leaves time for several looks within the five seconds of the target.
    pub probe_after: Duration,
    /// Silence after which a node is suspected.
    pub suspect_after: Duration,
    /// Silence before which no node is declared lost, whatever peers say.
    pub confirm_after: Duration,
    /// A silent node that a peer reached must have been out of every peer's reach for this long after that. It is as
    /// long as the silence: when only the controller is cut off from a node, this is all that speaks for it.
    pub unreached_for: Duration,
    /// A silent node whose agent echoed a peer's probe of the network mesh must have been silent there for this long, too.
    /// A node is probed by several peers once a second each, and they tell of it every two seconds.
    pub unechoed_for: Duration,
    /// A lost node counts as returned when its heartbeats came this long without a gap.
    pub return_after: Duration,
    /// Peers that look at a node at a time.
    pub fan_out: usize,
    /// Distinct peers that must have failed to reach it; all of them where fewer live.
    pub witnesses: usize,
    /// Tries in vain that make a peer a witness.
    pub tries: u32,
    /// A peer that has reported nothing for this long is replaced by the next one.
    pub replace_after: Duration,
    /// If the detector was not ticked for so long, it was itself asleep, and silence proves nothing.
    pub stall: Duration,
    /// Nodes kept in mind at most; more than any site has, so that garbage cannot grow memory.
    pub max_nodes: usize,
    /// A node that left or was lost this long ago is forgotten.
    pub forget_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe_after: Duration::from_millis(1_000),
            suspect_after: Duration::from_secs(2),
            confirm_after: Duration::from_secs(4),
            unreached_for: Duration::from_secs(4),
            unechoed_for: Duration::from_secs(3),
            return_after: Duration::from_secs(3),
            fan_out: 3,
            witnesses: 2,
            tries: 6,
            replace_after: Duration::from_millis(1_500),
            stall: Duration::from_secs(1),
            max_nodes: 20_000,
            forget_after: Duration::from_secs(7 * 24 * 3600),
        }
    }
}
