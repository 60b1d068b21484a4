//! How fast nodes that have gone silent lose their pods: zone by zone, slower the more of a zone is gone, and not at
//! all when every zone is, because then it is not the nodes that failed.
//!
//! The numbers are the defaults of kube-controller-manager.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::apiserver::clock::Moment;

/// Share of a zone's nodes from which on the zone counts as partially disrupted (`--unhealthy-zone-threshold`).
const UNHEALTHY_SHARE: f64 = 0.55;
/// Lost nodes that no zone is called disrupted for.
const FEW_NODES: usize = 2;
/// Zones of more nodes go on slowly when partially disrupted, smaller ones stop (`--large-cluster-size-threshold`).
const LARGE_ZONE: usize = 50;

/// How a zone stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZoneState {
    /// Few nodes are lost.
    Normal,
    /// Many are.
    PartialDisruption,
    /// All are.
    FullDisruption,
}

impl ZoneState {
    /// The state of a zone with so many ready and unready nodes.
    pub(crate) fn of(ready: usize, unready: usize) -> Self {
        match (ready, unready) {
            (0, 1..) => ZoneState::FullDisruption,
            (ready, unready) if unready > FEW_NODES && unready as f64 / (ready + unready) as f64 >= UNHEALTHY_SHARE => {
                ZoneState::PartialDisruption
            }
            _ => ZoneState::Normal,
        }
    }

    /// Time between two nodes that lose their pods; `None` for never.
    pub(crate) fn interval(self, zone_size: usize, normal: Duration) -> Option<Duration> {
        match self {
            // A zone that is gone as a whole is emptied at the normal rate, as long as another zone lives.
            ZoneState::Normal | ZoneState::FullDisruption => Some(normal),
            ZoneState::PartialDisruption if zone_size > LARGE_ZONE => Some(normal * 10),
            ZoneState::PartialDisruption => None,
        }
    }
}

/// Which nodes wait for their turn, and when each zone's next turn is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns {
    next: HashMap<String, Moment>,
    /// Waiting nodes by zone, in the order in which they fell silent.
    waiting: BTreeMap<String, Vec<String>>,
}

/// What is known of one node.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts<'a> {
    pub(crate) name: &'a str,
    pub(crate) zone: &'a str,
    pub(crate) ready: bool,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Nodes whose pods are now to be evicted.
    pub(crate) evict: Vec<String>,
    /// Every zone is gone: nobody is evicted any more, and marks set before are taken back.
    pub(crate) stand_still: bool,
}

impl Turns {
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
        self.next.clear();
    }

    /// Takes one look: `lost` tells whether a node has been silent for longer than its grace and is not yet evicted.
    pub(crate) fn look(
        &mut self,
        now: Moment,
        nodes: &[NodeFacts<'_>],
        lost: impl Fn(&str) -> bool,
        normal: Duration,
    ) -> Verdict {
        let mut zones: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for node in nodes {
            let counts = zones.entry(node.zone).or_default();
            if node.ready {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
        let stand_still = !zones.is_empty()
            && zones.values().all(|(ready, unready)| ZoneState::of(*ready, *unready) == ZoneState::FullDisruption);
        for queue in self.waiting.values_mut() {
            queue.retain(|name| lost(name));
        }
        for node in nodes.iter().filter(|n| lost(n.name)) {
            let queue = self.waiting.entry(node.zone.to_owned()).or_default();
            if !queue.iter().any(|n| n == node.name) {
                queue.push(node.name.to_owned());
            }
        }
        let mut verdict = Verdict { evict: Vec::new(), stand_still };
        if stand_still {
            return verdict;
        }
        for (zone, (ready, unready)) in zones {
            let Some(interval) = ZoneState::of(ready, unready).interval(ready + unready, normal) else { continue };
            let Some(queue) = self.waiting.get_mut(zone) else { continue };
            let turn = self.next.entry(zone.to_owned()).or_insert(now);
            // At most one turn is saved up while nobody waits.
            *turn = (*turn).max(now.before(interval));
            while *turn <= now && !queue.is_empty() {
                verdict.evict.push(queue.remove(0));
                *turn += interval;
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn fleet(zones: &[(&'static str, usize, usize)]) -> Vec<NodeFacts<'static>> {
        let node = |zone: &'static str, n: usize, ready: bool| NodeFacts {
            name: format!("{zone}-{}{n}", if ready { "up" } else { "down" }).leak(),
            zone,
            ready,
        };
        zones
            .iter()
            .flat_map(|(zone, up, down)| {
                (0..*up)
                    .map(|n| node(zone, n, true))
                    .chain((0..*down).map(|n| node(zone, n, false)))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Nodes that lose their pods within so many seconds, looked at every five.
    fn evicted_within(seconds: u64, nodes: &[NodeFacts<'_>]) -> usize {
        let begin = Moment::at(Duration::from_secs(1000));
        let (mut turns, mut gone) = (Turns::default(), Vec::<String>::new());
        for step in 0..=seconds / 5 {
            let now = begin + Duration::from_secs(step * 5);
            let verdict = turns.look(now, nodes, |name| name.contains("down") && !gone.iter().any(|g| g == name), TEN);
            gone.extend(verdict.evict);
        }
        gone.len()
    }

    #[test]
    fn a_healthy_zone_loses_one_node_in_ten_seconds() {
        assert_eq!(evicted_within(60, &fleet(&[("a", 20, 9)])), 7, "the first at once, then one in ten seconds");
    }

    #[test]
    fn a_small_zone_of_which_most_is_gone_stops_and_a_large_one_slows_down() {
        assert_eq!(evicted_within(600, &fleet(&[("a", 4, 6)])), 0);
        assert_eq!(evicted_within(600, &fleet(&[("a", 40, 60)])), 7, "one in a hundred seconds");
    }

    #[test]
    fn a_zone_that_is_gone_is_emptied_while_another_lives_and_none_is_when_all_are_gone() {
        assert_eq!(evicted_within(30, &fleet(&[("a", 0, 6), ("b", 6, 0)])), 4);
        let all = fleet(&[("a", 0, 6), ("b", 0, 6)]);
        assert_eq!(evicted_within(600, &all), 0);
        assert!(Turns::default().look(Moment::default(), &all, |_| true, TEN).stand_still);
    }
}
