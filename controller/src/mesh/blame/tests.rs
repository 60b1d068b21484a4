//! Random sites with faults of every kind. The seed is the whole input: EVERGREEN_MESH_SEED gives another one,
//! EVERGREEN_MESH_ROUNDS more rounds.

use std::collections::BTreeMap;

use super::*;
use crate::mesh::{
    place::Place,
    plan::{Candidate, gateways, plan},
};

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn happens(&mut self, share: f64) -> bool {
        (self.below(1 << 20) as f64) < share * f64::from(1 << 20)
    }
}

/// A fleet, seen from its first site.
struct Fleet {
    ends: Vec<End>,
    /// Directed paths that are probed.
    probed: Vec<(usize, usize)>,
    own: usize,
}

const SITES: [&str; 3] = ["dc-a", "dc-b", "dc-c"];

fn nodes(site: &str, zones: usize, racks: usize, in_a_rack: usize) -> Vec<Candidate> {
    let mut nodes = Vec::new();
    for (zone, rack, number) in
        (0..zones).flat_map(|z| (0..racks).flat_map(move |r| (0..in_a_rack).map(move |n| (z, r, n))))
    {
        nodes.push(Candidate {
            node: format!("{site}-z{zone}-r{rack}-n{number}"),
            place: Place { zone: format!("z{zone}"), rack: format!("r{rack}") },
            address: "10.0.0.1:9464".into(),
        });
    }
    nodes
}

impl Fleet {
    fn random(random: &mut Random) -> Self {
        let zones = 1 + random.below(3);
        let (racks, in_a_rack) = (2 + random.below(4), 3 + random.below(6));
        let own = nodes(SITES[0], zones, racks.max(3), in_a_rack);
        let remotes: BTreeMap<String, Vec<Candidate>> = SITES[1..]
            .iter()
            .map(|site| ((*site).to_owned(), gateways(&nodes(site, 2, 2, 2 + random.below(4)))))
            .collect();
        let lists = plan(SITES[0], &own, &remotes);
        let mut ends = Vec::new();
        let mut index = BTreeMap::new();
        let all = own.iter().map(|node| (SITES[0], node));
        for (site, node) in
            all.chain(remotes.iter().flat_map(|(site, all)| all.iter().map(move |n| (site.as_str(), n))))
        {
            index.insert((site.to_owned(), node.node.clone()), ends.len());
            ends.push(End { site: site.to_owned(), place: node.place.clone(), node: node.node.clone() });
        }
        let probed = lists
            .iter()
            .flat_map(|(node, peers)| peers.iter().map(move |peer| (node, peer)))
            .map(|(node, peer)| {
                (index[&(SITES[0].to_owned(), node.clone())], index[&(peer.site.clone(), peer.node.clone())])
            })
            .collect();
        Self { ends, probed, own: own.len() }
    }

    /// A window of every path: each probe and each echo passes everything on its way.
    fn probe(&self, random: &mut Random, background: f64, fault: Option<&Injected>) -> (Vec<End>, Vec<Path>) {
        let mut ends = self.ends.clone();
        let mut paths: Vec<Path> = Vec::new();
        for (from, to) in self.probed.iter().copied() {
            let hit = fault.filter(|fault| fault.concerns(&self.ends[from], &self.ends[to]));
            let mut path = Path { from, to, sent: 30, lost: 0, late: 0 };
            for _ in 0..30 {
                // There and back.
                let lost =
                    (0..2).any(|_| random.happens(background) || hit.is_some_and(|fault| random.happens(fault.loss)));
                let late = hit.is_some_and(|fault| fault.delays);
                path.lost += u32::from(lost);
                path.late += u32::from(!lost && late);
            }
            paths.push(path);
        }
        // The other sites say how they see each other.
        let whole = |site: &str| End { site: site.to_owned(), ..End::default() };
        for (from, to) in [(SITES[1], SITES[2]), (SITES[2], SITES[1])] {
            let (a, b) = (whole(from), whole(to));
            let hit = fault.filter(|fault| fault.concerns(&a, &b));
            let loss = 1.0 - (1.0 - background).powi(2) * hit.map_or(1.0, |fault| (1.0 - fault.loss).powi(2));
            let lost = (30.0 * loss).round() as u32;
            let late = if hit.is_some_and(|fault| fault.delays) { 30 - lost } else { 0 };
            paths.push(Path { from: ends.len(), to: ends.len() + 1, sent: 30, lost, late });
            ends.extend([a, b]);
        }
        (ends, paths)
    }
}

struct Injected {
    culprit: Culprit,
    loss: f64,
    delays: bool,
}

impl Injected {
    fn concerns(&self, a: &End, b: &End) -> bool {
        match &self.culprit {
            Culprit::Link { a: x, b: y } => {
                let name = |end: &End| (end.site.clone(), end.node.clone());
                (name(a) == *x && name(b) == *y) || (name(a) == *y && name(b) == *x)
            }
            // The way out of a rack or zone: what stays within is well.
            Culprit::Rack { .. } | Culprit::Zone { .. } => {
                let inside = |end: &End| self.culprit.concerns(end, end);
                inside(a) != inside(b)
            }
            culprit => culprit.concerns(a, b),
        }
    }

    fn random(fleet: &Fleet, kind: &str, random: &mut Random) -> Self {
        let own = |random: &mut Random| fleet.ends[random.below(fleet.own)].clone();
        let site = |site: &str| Culprit::Site { site: site.to_owned() };
        let culprit = match kind {
            "link" => {
                let local: Vec<_> = fleet.probed.iter().filter(|(_, to)| *to < fleet.own).collect();
                let (a, b) = *local[random.below(local.len())];
                let (a, b) = (a.min(b), a.max(b));
                let name = |end: &End| (end.site.clone(), end.node.clone());
                Culprit::Link { a: name(&fleet.ends[a]), b: name(&fleet.ends[b]) }
            }
            "node" => {
                let end = own(random);
                Culprit::Node { site: end.site, node: end.node }
            }
            "rack" => {
                let end = own(random);
                Culprit::Rack { site: end.site, place: end.place }
            }
            "zone" => {
                let end = own(random);
                let zones: BTreeSet<&str> = fleet.ends[..fleet.own].iter().map(|end| end.place.zone.as_str()).collect();
                // Of two zones nobody can say which one fails.
                if zones.len() > 2 {
                    Culprit::Zone { site: end.site, zone: end.place.zone }
                } else {
                    Culprit::Rack { site: end.site, place: end.place }
                }
            }
            "site" => site(SITES[1 + random.below(2)]),
            "own site" => site(SITES[0]),
            _ => Culprit::Between { a: Box::new(site(SITES[0])), b: Box::new(site(SITES[1 + random.below(2)])) },
        };
        let delays = random.below(4) == 0;
        let loss = if delays { 0.0 } else { [0.5, 0.8, 1.0][random.below(3)] };
        Self { culprit, loss, delays }
    }
}

fn given(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[derive(Default, Debug)]
struct Outcome {
    right: usize,
    nothing: usize,
    wrong: usize,
}

fn rounds(background: f64) -> BTreeMap<&'static str, Outcome> {
    let (seed, rounds) = (given("EVERGREEN_MESH_SEED", 20_261_123), given("EVERGREEN_MESH_ROUNDS", 40));
    let mut outcomes: BTreeMap<&'static str, Outcome> = BTreeMap::new();
    for round in 0..rounds {
        for kind in ["none", "link", "node", "rack", "zone", "site", "own site", "between"] {
            let mut random = Random::new(seed ^ (round << 8) ^ crate::mesh::place::hash("kind", kind));
            let fleet = Fleet::random(&mut random);
            let fault = (kind != "none").then(|| Injected::random(&fleet, kind, &mut random));
            let (ends, paths) = fleet.probe(&mut random, background, fault.as_ref());
            let mut blamed: Vec<Culprit> = blame(&ends, &paths).into_iter().map(|fault| fault.culprit).collect();
            blamed.retain(|culprit| *culprit != Culprit::Everywhere);
            let wanted: Vec<Culprit> = fault.iter().map(|fault| fault.culprit.clone()).collect();
            let outcome = outcomes.entry(kind).or_default();
            if blamed == wanted {
                outcome.right += 1;
            } else if blamed.is_empty() {
                outcome.nothing += 1;
            } else {
                outcome.wrong += 1;
                let fault = fault.map(|fault| (fault.loss, fault.delays));
                println!("round {round}, {kind} {wanted:?} {fault:?}: blamed {blamed:?}");
            }
        }
    }
    println!("seed {seed}, {rounds} rounds, {:.0} % of packets lost anyway: {outcomes:?}", background * 100.0);
    outcomes
}

#[test]
fn in_plain_cases_the_right_one_is_blamed_and_nobody_else() {
    for background in [0.0, 0.02] {
        for (kind, outcome) in rounds(background) {
            assert_eq!(outcome.wrong, 0, "{kind}");
            assert_eq!(outcome.nothing, 0, "{kind}");
        }
    }
}

#[test]
fn at_thirty_percent_loss_everywhere_nobody_is_blamed_wrongly() {
    let outcomes = rounds(0.3);
    for (kind, outcome) in &outcomes {
        assert_eq!(outcome.wrong, 0, "{kind}");
    }
    let found: usize = outcomes.values().map(|outcome| outcome.right).sum();
    let all: usize = outcomes.values().map(|outcome| outcome.right + outcome.nothing).sum();
    assert!(found * 10 >= all * 7, "{found} of {all} found");
}

/// Three nodes without labels in each of two sites: the smallest that can be told apart.
fn small(bad: &[(usize, usize)]) -> Vec<Culprit> {
    let end = |n: usize| End { site: SITES[n / 3].into(), place: Place::default(), node: format!("n{n}") };
    let ends: Vec<End> = (0..6).map(end).collect();
    let mut paths = Vec::new();
    for (from, to) in (0..3).flat_map(|from| (0..6).map(move |to| (from, to))).filter(|(a, b)| a != b) {
        let lost = if bad.contains(&(from, to)) || bad.contains(&(to, from)) { 30 } else { 0 };
        paths.push(Path { from, to, sent: 30, lost, late: 0 });
    }
    blame(&ends, &paths).into_iter().map(|fault| fault.culprit).collect()
}

#[test]
fn two_sites_of_three_nodes_are_enough_to_tell_link_node_and_site_apart() {
    assert_eq!(small(&[]), []);
    let name = |n: usize| (SITES[n / 3].to_owned(), format!("n{n}"));
    assert_eq!(small(&[(0, 1)]), [Culprit::Link { a: name(0), b: name(1) }]);
    let node = |n: usize| Culprit::Node { site: SITES[n / 3].into(), node: format!("n{n}") };
    assert_eq!(small(&[(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]), [node(0)]);
    let across: Vec<(usize, usize)> = (0..3).flat_map(|a| (3..6).map(move |b| (a, b))).collect();
    let site = |site: &str| Box::new(Culprit::Site { site: site.into() });
    assert_eq!(small(&across), [Culprit::Between { a: site("dc-a"), b: site("dc-b") }]);
    assert_eq!(small(&[(0, 4), (1, 4), (2, 4)]), [node(4)]);
}

#[test]
fn a_node_behind_a_bad_rack_is_not_blamed_and_a_bad_node_elsewhere_still_is() {
    let mut random = Random::new(7);
    let own = nodes(SITES[0], 1, 4, 4);
    let lists = plan(SITES[0], &own, &BTreeMap::new());
    let ends: Vec<End> = own
        .iter()
        .map(|node| End { site: SITES[0].into(), place: node.place.clone(), node: node.node.clone() })
        .collect();
    let index = |name: &str| ends.iter().position(|end| end.node == name).unwrap();
    let rack = Culprit::Rack { site: SITES[0].into(), place: own[0].place.clone() };
    let node = Culprit::Node { site: SITES[0].into(), node: own[15].node.clone() };
    let both = [
        Injected { culprit: rack.clone(), loss: 1.0, delays: false },
        Injected { culprit: node.clone(), loss: 0.7, delays: false },
    ];
    let mut paths = Vec::new();
    for (from, peer) in lists.iter().flat_map(|(from, peers)| peers.iter().map(move |peer| (from, peer))) {
        let (from, to) = (index(from), index(&peer.node));
        let loss = both.iter().filter(|f| f.concerns(&ends[from], &ends[to])).map(|f| f.loss).fold(0.0, f64::max);
        let lost = (0..30).filter(|_| random.happens(loss)).count() as u32;
        paths.push(Path { from, to, sent: 30, lost, late: 0 });
    }
    let blamed: Vec<Culprit> = blame(&ends, &paths).into_iter().map(|fault| fault.culprit).collect();
    assert_eq!(blamed, [rack, node]);
}

#[test]
fn where_almost_everything_is_lost_nobody_in_particular_is_blamed() {
    let fleet = Fleet::random(&mut Random::new(3));
    let (ends, paths) = fleet.probe(&mut Random::new(4), 0.8, None);
    let faults = blame(&ends, &paths);
    assert_eq!(faults.iter().map(|fault| &fault.culprit).collect::<Vec<_>>(), [&Culprit::Everywhere]);
    assert!(faults[0].summary().contains("the network as a whole"), "{}", faults[0].summary());
}

#[test]
fn a_fault_says_how_bad_it_is_and_shows_its_worst_paths() {
    let end = |n: usize| End { site: "dc-a".into(), place: Place::default(), node: format!("n{n}") };
    let ends: Vec<End> = (0..5).map(end).collect();
    let paths: Vec<Path> = (0..5)
        .flat_map(|from| (0..5).map(move |to| (from, to)))
        .filter(|(a, b)| a != b)
        .map(|(from, to)| {
            let (lost, late) = if from == 2 || to == 2 { (12, 6) } else { (0, 0) };
            Path { from, to, sent: 30, lost, late }
        })
        .collect();
    let faults = blame(&ends, &paths);
    assert_eq!(faults.len(), 1);
    assert_eq!(
        faults[0].summary(),
        "the network fails at node n2: 40 % lost, 20 % far too late on 8 paths, against 0 % on the better paths"
    );
    assert_eq!(faults[0].evidence[0], "dc-a/n0 -> dc-a/n2: 12 of 30 lost, 6 far too late");
    assert_eq!(faults[0].evidence.len(), 5);
}
