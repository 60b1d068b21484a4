//! The newest figures of all paths, and how they become the ends and paths that blame is laid on. Pure; bounded by the
//! number of nodes and the paths that each may tell.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use evergreen_api::mesh::PathReport;

use super::{
    blame::{End, Path},
    exchange::View,
    place::Place,
    plan::Candidate,
};

/// Figures that were not told anew for so long say nothing about now.
const FRESH: Duration = Duration::from_secs(10);
/// Nodes whose figures are kept at most.
const MAX_NODES: usize = 20_000;

/// Figures by the node that told them.
#[derive(Debug, Default)]
pub struct Matrix {
    told: HashMap<String, (Duration, Vec<PathReport>)>,
}

/// What another site says of itself and of the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remote {
    /// Nodes that meet ours.
    pub gateways: Vec<Candidate>,
    /// How it sees other sites; empty when it was not heard lately.
    pub views: BTreeMap<String, View>,
}

impl Matrix {
    /// Takes in what a node tells; an empty list tells nothing.
    pub fn tell(&mut self, node: &str, paths: &[PathReport], now: Duration) {
        if paths.is_empty() || (self.told.len() >= MAX_NODES && !self.told.contains_key(node)) {
            return;
        }
        self.told.insert(node.to_owned(), (now, paths.to_vec()));
    }

    /// Forgets what is old.
    pub fn forget(&mut self, now: Duration) {
        self.told.retain(|_, (at, _)| now.saturating_sub(*at) < FRESH);
    }

    /// Ends and paths between nodes that live. Paths that never carried an echo are left out: nobody can tell one that
    /// fails from one that was never there. So is what the other end of a path being dead explains.
    pub fn paths(
        &self,
        site: &str,
        living: &BTreeMap<String, Place>,
        remotes: &BTreeMap<String, Remote>,
    ) -> (Vec<End>, Vec<Path>) {
        let mut ends = Ends::default();
        let mut paths = Vec::new();
        let mut told: Vec<_> = self.told.iter().filter(|(node, _)| living.contains_key(*node)).collect();
        told.sort_unstable_by_key(|(node, _)| *node);
        for (node, (_, reports)) in told {
            let from = ends.index(site, node, living.get(node));
            for report in reports.iter().filter(|report| report.answered_ms.is_some() && report.node != *node) {
                let to = if report.site.is_empty() || report.site == site {
                    let Some(place) = living.get(&report.node) else { continue };
                    ends.index(site, &report.node, Some(place))
                } else {
                    let Some(remote) = remotes.get(&report.site) else { continue };
                    let place = remote.gateways.iter().find(|gateway| gateway.node == report.node);
                    ends.index(&report.site, &report.node, place.map(|gateway| &gateway.place))
                };
                paths.push(Path { from, to, sent: report.sent, lost: report.lost, late: report.late });
            }
        }
        for (other, remote) in remotes {
            // How they see us is what we see ourselves, from more paths.
            for (to, view) in remote.views.iter().filter(|(to, _)| *to != site && *to != other) {
                let (from, to) = (ends.index(other, "", None), ends.index(to, "", None));
                paths.push(Path { from, to, sent: view.sent, lost: view.lost, late: view.late });
            }
        }
        (ends.all, paths)
    }

    /// How this site sees others: the figures of its paths there, as those of one path of a window's probes.
    pub fn views(&self, site: &str) -> BTreeMap<String, View> {
        let mut sums: BTreeMap<String, [u64; 3]> = BTreeMap::new();
        for report in self.told.values().flat_map(|(_, reports)| reports) {
            if report.site.is_empty() || report.site == site || report.answered_ms.is_none() {
                continue;
            }
            let sum = sums.entry(report.site.clone()).or_default();
            for (sum, figure) in sum.iter_mut().zip([report.sent, report.lost, report.late]) {
                *sum += u64::from(figure);
            }
        }
        sums.into_iter().map(|(to, [sent, lost, late])| (to, View::of(sent, lost, late))).collect()
    }
}

#[derive(Default)]
struct Ends {
    all: Vec<End>,
    index: HashMap<(String, String), usize>,
}

impl Ends {
    fn index(&mut self, site: &str, node: &str, place: Option<&Place>) -> usize {
        *self.index.entry((site.to_owned(), node.to_owned())).or_insert_with(|| {
            let place = place.cloned().unwrap_or_default();
            self.all.push(End { site: site.to_owned(), place, node: node.to_owned() });
            self.all.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str, site: &str, lost: u32) -> PathReport {
        PathReport {
            node: node.into(),
            site: site.into(),
            sent: 30,
            lost,
            answered_ms: Some(100),
            ..PathReport::default()
        }
    }

    #[test]
    fn dead_nodes_old_figures_and_paths_that_never_worked_are_left_out() {
        let mut matrix = Matrix::default();
        let living: BTreeMap<String, Place> =
            ["a", "b", "c"].into_iter().map(|node| (node.to_owned(), Place::default())).collect();
        let unknown = PathReport { answered_ms: None, ..report("b", "", 30) };
        matrix.tell("a", &[unknown, report("c", "", 1), report("dead", "", 30)], Duration::from_secs(100));
        matrix.tell("dead", &[report("a", "", 30)], Duration::from_secs(100));
        matrix.tell("c", &[report("a", "", 2)], Duration::from_secs(91));
        matrix.forget(Duration::from_secs(101));
        let (ends, paths) = matrix.paths("dc-a", &living, &BTreeMap::new());
        let found: Vec<_> =
            paths.iter().map(|p| (ends[p.from].node.as_str(), ends[p.to].node.as_str(), p.lost)).collect();
        assert_eq!(found, [("a", "c", 1)]);
    }

    #[test]
    fn other_sites_are_seen_over_their_gateways_and_their_views_of_third_ones_count() {
        let mut matrix = Matrix::default();
        let living = BTreeMap::from([("a".to_owned(), Place::default())]);
        let gateway = Candidate {
            node: "g".into(),
            place: Place { zone: "z9".into(), rack: String::new() },
            address: "10.0.0.1:1".into(),
        };
        let views = BTreeMap::from([("dc-a".to_owned(), View::of(30, 3, 0)), ("dc-c".to_owned(), View::of(60, 60, 0))]);
        let remotes = BTreeMap::from([("dc-b".to_owned(), Remote { gateways: vec![gateway], views })]);
        let now = Duration::from_secs(1);
        matrix.tell("a", &[report("g", "dc-b", 10), report("h", "dc-b", 20), report("x", "dc-unknown", 30)], now);
        let (ends, paths) = matrix.paths("dc-a", &living, &remotes);
        assert_eq!(ends.iter().map(|end| end.place.zone.as_str()).collect::<Vec<_>>(), ["", "z9", "", "", ""]);
        let third = paths.last().unwrap();
        assert_eq!((ends[third.from].site.as_str(), ends[third.to].site.as_str(), third.lost), ("dc-b", "dc-c", 30));
        assert_eq!(paths.len(), 3);
        assert_eq!(matrix.views("dc-a")["dc-b"], View { sent: 30, lost: 15, late: 0 });
    }
}
