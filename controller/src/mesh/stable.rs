//! Faults that stand: raised when they were found several times in a row, cleared when they were not. Pure.
//!
//! While a window of probes fills, a rack that fails looks like a few failing links first; what is narrow waits longer.

use std::collections::BTreeMap;

use super::blame::{Culprit, Fault};

/// Looks in a row after which a fault is raised.
const RAISE: u32 = 2;
/// The same for a link, and for the network as a whole: the ones that anything else looks like at first.
const RAISE_LINK: u32 = 4;
/// Looks without it after which it is cleared.
const CLEAR: u32 = 4;
/// Links that are raised at most; more of them are no links.
const MAX_LINKS: usize = 16;

/// What changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is certain enough to be told.
    Raised(Fault),
    /// It is over.
    Cleared(Culprit),
}

#[derive(Clone, Debug)]
struct Track {
    fault: Fault,
    seen: u32,
    unseen: u32,
    raised: bool,
}

/// All faults that are looked after.
#[derive(Clone, Debug, Default)]
pub struct Stable {
    tracks: BTreeMap<Culprit, Track>,
}

impl Stable {
    /// Takes in what one look found.
    pub fn look(&mut self, faults: Vec<Fault>) -> Vec<Change> {
        let mut changes = Vec::new();
        self.tracks.values_mut().for_each(|track| track.unseen += 1);
        let links = faults.iter().filter(|fault| matches!(fault.culprit, Culprit::Link { .. })).count();
        for fault in faults {
            if links > MAX_LINKS && matches!(fault.culprit, Culprit::Link { .. }) {
                continue;
            }
            let track = self.tracks.entry(fault.culprit.clone()).or_insert_with(|| Track {
                fault: fault.clone(),
                seen: 0,
                unseen: 0,
                raised: false,
            });
            // One look without it begins the count of a fault anew that is not raised.
            track.seen = if track.unseen > 1 && !track.raised { 1 } else { track.seen.saturating_add(1) };
            track.unseen = 0;
            track.fault = fault;
            let needed = match track.fault.culprit {
                Culprit::Link { .. } | Culprit::Everywhere => RAISE_LINK,
                _ => RAISE,
            };
            if !track.raised && track.seen >= needed {
                track.raised = true;
                changes.push(Change::Raised(track.fault.clone()));
            }
        }
        self.tracks.retain(|culprit, track| {
            if track.raised && track.unseen >= CLEAR {
                changes.push(Change::Cleared(culprit.clone()));
            }
            track.unseen < CLEAR
        });
        changes
    }

    /// Faults that are raised, with their newest figures.
    pub fn raised(&self) -> impl Iterator<Item = &Fault> {
        self.tracks.values().filter(|track| track.raised).map(|track| &track.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(culprit: Culprit) -> Fault {
        Fault { culprit, paths: 6, loss: 1.0, late: 0.0, background: 0.0, evidence: Vec::new() }
    }

    fn node() -> Culprit {
        Culprit::Node { site: "dc-a".into(), node: "n1".into() }
    }

    fn link(n: usize) -> Culprit {
        Culprit::Link { a: ("dc-a".into(), "n1".into()), b: ("dc-a".into(), format!("n{n}")) }
    }

    #[test]
    fn a_fault_is_raised_at_the_second_look_and_cleared_at_the_fourth_without_it() {
        let mut stable = Stable::default();
        assert_eq!(stable.look(vec![fault(node())]), []);
        assert_eq!(stable.look(vec![fault(node())]), [Change::Raised(fault(node()))]);
        for _ in 0..3 {
            assert_eq!(stable.look(Vec::new()), []);
        }
        assert_eq!(stable.raised().count(), 1);
        assert_eq!(stable.look(vec![fault(node())]), []);
        for _ in 0..3 {
            assert_eq!(stable.look(Vec::new()), []);
        }
        assert_eq!(stable.look(Vec::new()), [Change::Cleared(node())]);
        assert_eq!(stable.raised().count(), 0);
    }

    #[test]
    fn one_that_comes_and_goes_is_never_raised_and_a_link_waits_longer() {
        let mut stable = Stable::default();
        for _ in 0..10 {
            assert_eq!(stable.look(vec![fault(node())]), []);
            assert_eq!(stable.look(Vec::new()), []);
        }
        let raised = (0..4).map(|_| stable.look(vec![fault(link(2))]).len()).collect::<Vec<_>>();
        assert_eq!(raised, [0, 0, 0, 1]);
    }

    #[test]
    fn what_looks_like_many_failing_links_is_something_else() {
        let mut stable = Stable::default();
        for _ in 0..10 {
            assert_eq!(stable.look((2..40).map(|n| fault(link(n))).collect()), []);
        }
    }
}
