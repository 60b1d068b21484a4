//! Who at the edge may still hold a grant of this site, and since when they surely do not (R7).
//!
//! A node acknowledges a drop when it has taken the grant back; what asks it (a load balancer, a hook) needs the stop
//! time on top. An acknowledgement echoes when the answer was made that took the grant back, on this site's own clock:
//! only answers made after the release began count, however late or often acknowledgements come.

use std::collections::BTreeMap;

use super::timing::{Mono, Timing};

/// A node that has not asked for so long holds no grant any more.
const MEMORY: Mono = Mono::from_secs(60);
/// Nodes remembered at most; more than any site has, so that garbage cannot grow memory.
const MAX_NODES: usize = 20_000;
/// Releases remembered at most.
const MAX_RELEASES: usize = 10_000;

/// A node's word that it dropped a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Drop {
    answered: Mono,
    heard: Mono,
}

/// Nodes that asked for grants, and what they acknowledged to have dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Edges {
    asked: BTreeMap<String, Mono>,
    /// By group and version of its entry, and node: the newest answer that it dropped the group on, and when it said so.
    dropped: BTreeMap<(String, u64), BTreeMap<String, Drop>>,
}

impl Edges {
    /// A node asked: from now on it may hold what this site grants.
    ///
    /// Answers whether it may be given grants. A node too many gets none, because nobody would wait for it.
    pub fn ask(&mut self, node: &str, now: Mono) -> bool {
        self.asked.retain(|_, asked| now.saturating_sub(*asked) < MEMORY);
        if self.asked.len() >= MAX_NODES && !self.asked.contains_key(node) {
            return false;
        }
        self.asked.insert(node.to_owned(), now);
        true
    }

    /// A node says that it dropped the group, which it held under this version of the map entry, on an answer that this
    /// site made at `answered`.
    pub fn acknowledge(&mut self, node: &str, group: &str, version: u64, answered: Mono, now: Mono) {
        if self.dropped.len() >= MAX_RELEASES {
            self.dropped.clear();
        }
        let nodes = self.dropped.entry((group.to_owned(), version)).or_default();
        // The first word for an answer counts; an older answer says nothing new.
        if self.asked.contains_key(node) && nodes.get(node).is_none_or(|known| known.answered < answered) {
            nodes.insert(node.to_owned(), Drop { answered, heard: now });
        }
    }

    /// Whether every node that may hold the grant dropped it after the release began at `released`, long enough ago
    /// for the edge to have stopped. Without any node: no.
    pub fn drained(&self, group: &str, version: u64, released: Mono, timing: &Timing, now: Mono) -> bool {
        let Some(nodes) = self.dropped.get(&(group.to_owned(), version)) else { return false };
        let silent = |node: &String| {
            nodes.get(node).is_some_and(|drop| {
                drop.answered > released && now.saturating_sub(drop.heard) >= timing.edge_stops_within()
            })
        };
        let mut holders =
            self.asked.iter().filter(|(_, asked)| now.saturating_sub(**asked) < MEMORY).map(|(node, _)| node);
        !nodes.is_empty() && holders.all(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Mono {
        Mono::from_millis(ms)
    }

    fn timing() -> Timing {
        Timing::of_lease(Mono::from_secs(6))
    }

    #[test]
    fn a_release_waits_until_every_node_that_asked_has_acknowledged_and_the_edge_had_time_to_stop() {
        let mut edges = Edges::default();
        assert!(edges.ask("n1", at(0)) && edges.ask("n2", at(0)));
        edges.acknowledge("n1", "g", 1, at(80), at(100));
        assert!(!edges.drained("g", 1, at(50), &timing(), at(20_000)));
        edges.acknowledge("n2", "g", 1, at(900), at(1_000));
        assert!(!edges.drained("g", 1, at(50), &timing(), at(3_400)), "2 s on a slow clock are 2.45 s on a fast one");
        assert!(edges.drained("g", 1, at(50), &timing(), at(3_500)));
        assert!(
            !edges.drained("g", 2, at(50), &timing(), at(20_000)),
            "another version of the entry is another release"
        );
    }

    #[test]
    fn a_drop_on_an_answer_from_before_the_release_says_nothing() {
        let mut edges = Edges::default();
        edges.ask("n", at(0));
        edges.acknowledge("n", "g", 1, at(1_000), at(9_000));
        assert!(!edges.drained("g", 1, at(1_000), &timing(), at(20_000)));
        edges.acknowledge("n", "g", 1, at(1_001), at(9_100));
        assert!(edges.drained("g", 1, at(1_000), &timing(), at(20_000)));
    }

    #[test]
    fn an_acknowledgement_that_is_repeated_does_not_begin_the_wait_anew() {
        let mut edges = Edges::default();
        edges.ask("n", at(0));
        edges.acknowledge("n", "g", 1, at(10), at(20));
        edges.acknowledge("n", "g", 1, at(10), at(2_000));
        assert!(edges.drained("g", 1, at(0), &timing(), at(2_500)));
    }

    #[test]
    fn without_any_node_nothing_is_drained() {
        let mut edges = Edges::default();
        assert!(!edges.drained("g", 1, at(0), &timing(), at(100_000)));
        edges.acknowledge("never asked", "g", 1, at(10), at(20));
        assert!(!edges.drained("g", 1, at(0), &timing(), at(100_000)));
    }

    #[test]
    fn a_node_too_many_gets_nothing() {
        let mut edges = Edges::default();
        for node in 0..MAX_NODES {
            assert!(edges.ask(&node.to_string(), at(0)));
        }
        assert!(!edges.ask("one more", at(1)));
        assert!(edges.ask("one more", MEMORY + at(1)));
    }
}
