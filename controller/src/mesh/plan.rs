//! Who probes whom. Pure: nodes and the gateways of other sites come in, one list for each node goes out.
//!
//! Nodes stand on rings, ordered by a hash of their names, and probe those that follow them. That alone gives what the
//! mesh needs: everybody probes and is probed by as many, all are connected, and a node that comes or goes changes only
//! the lists of the few before it. Further rings look for a peer in the own rack, in another rack of the zone, and in
//! another zone, so that a rack and a zone are seen from outside. Other sites are probed by a bounded number of gateways
//! on either side, however many nodes there are.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::mesh::{MAX_PEERS, Peer, Scope};

use super::place::{Place, hash};

/// Followers on the ring of the whole site: each node is probed by as many others wherever it stands.
const ANYWHERE: usize = 3;
/// Followers in the own rack, in other racks of the zone, and in other zones.
const NEAR: usize = 2;
/// Where fewer than these were found, because nothing is labelled, more followers on the ring of the site are taken.
const ENOUGH: usize = 6;
/// Nodes that are passed over at most in search of one that stands elsewhere.
const SEARCH: usize = 64;
/// One node is chosen so often at most as the one that stands elsewhere.
const CHOSEN: usize = 4;
/// Nodes of a site that probe other sites and are probed from there.
pub const GATEWAYS: usize = 32;
/// Nodes that a gateway probes in one other site, and in all of them.
const REMOTE: usize = 2;
const REMOTE_ALL: usize = 6;

/// A node that can be probed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Name.
    pub node: String,
    /// Where it stands.
    pub place: Place,
    /// `IP:PORT` of its agent.
    pub address: String,
}

/// Lists by node.
pub type Plan = BTreeMap<String, Vec<Peer>>;

/// Makes the lists of all nodes of `site`. `remotes` are the gateways of other sites.
pub fn plan(site: &str, nodes: &[Candidate], remotes: &BTreeMap<String, Vec<Candidate>>) -> Plan {
    let unique: BTreeMap<&str, &Candidate> = nodes.iter().map(|node| (node.node.as_str(), node)).collect();
    let nodes: Vec<&Candidate> = unique.into_values().collect();
    let mut chosen: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); nodes.len()];
    let all: Vec<usize> = (0..nodes.len()).collect();
    let whole = ring(&nodes, &all, "site");
    follow(&whole, ANYWHERE, &mut chosen);

    let mut racks: BTreeMap<&Place, Vec<usize>> = BTreeMap::new();
    let mut zones: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        racks.entry(&node.place).or_default().push(index);
        zones.entry(&node.place.zone).or_default().push(index);
    }
    for (place, members) in &racks {
        if !place.rack.is_empty() {
            follow(&ring(&nodes, members, "rack"), NEAR, &mut chosen);
        }
    }
    for members in zones.values() {
        follow_elsewhere(&ring(&nodes, members, "zone"), &mut chosen, |a, b| {
            nodes[a].place.rack != nodes[b].place.rack
        });
    }
    let other_zone = |a: usize, b: usize| nodes[a].place.zone != nodes[b].place.zone;
    follow_elsewhere(&ring(&nodes, &all, "zones"), &mut chosen, other_zone);
    for (at, index) in whole.iter().enumerate() {
        let followers = (1..whole.len()).map(|step| whole[(at + step) % whole.len()]);
        for follower in followers {
            if chosen[*index].len() >= ENOUGH {
                break;
            }
            chosen[*index].insert(follower);
        }
    }

    let mut lists: Plan = nodes
        .iter()
        .zip(&chosen)
        .map(|(node, peers)| {
            let peers = peers.iter().map(|peer| Peer {
                node: nodes[*peer].node.clone(),
                site: site.to_owned(),
                address: nodes[*peer].address.clone(),
                scope: scope(&node.place, &nodes[*peer].place),
            });
            (node.node.clone(), peers.collect())
        })
        .collect();
    let own: Vec<Candidate> = nodes.into_iter().cloned().collect();
    remote(site, &gateways(&own), remotes, &mut lists);
    lists.values_mut().for_each(|list| list.truncate(MAX_PEERS));
    lists
}

/// The nodes of a site that meet those of other sites: the first ones by hash, from all zones in turn.
pub fn gateways(nodes: &[Candidate]) -> Vec<Candidate> {
    let mut zones: BTreeMap<&str, Vec<(u64, &Candidate)>> = BTreeMap::new();
    for node in nodes {
        zones.entry(&node.place.zone).or_default().push((hash("gateway", &node.node), node));
    }
    let mut in_turn: Vec<(usize, u64, &Candidate)> = Vec::with_capacity(nodes.len());
    for members in zones.values_mut() {
        members.sort_unstable();
        in_turn.extend(members.iter().enumerate().map(|(turn, (hash, node))| (turn, *hash, *node)));
    }
    in_turn.sort_unstable();
    in_turn.into_iter().take(GATEWAYS).map(|(_, _, node)| node.clone()).collect()
}

fn ring(nodes: &[&Candidate], members: &[usize], salt: &str) -> Vec<usize> {
    let mut ring: Vec<usize> = members.to_vec();
    ring.sort_by_cached_key(|index| (hash(salt, &nodes[*index].node), *index));
    ring
}

fn follow(ring: &[usize], count: usize, chosen: &mut [BTreeSet<usize>]) {
    for (at, index) in ring.iter().enumerate() {
        for step in 1..=count.min(ring.len() - 1) {
            chosen[*index].insert(ring[(at + step) % ring.len()]);
        }
    }
}

fn follow_elsewhere(ring: &[usize], chosen: &mut [BTreeSet<usize>], elsewhere: impl Fn(usize, usize) -> bool) {
    let mut times: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, index) in ring.iter().enumerate() {
        let followers = (1..ring.len().min(SEARCH)).map(|step| ring[(at + step) % ring.len()]);
        let mut found = 0;
        for follower in followers.filter(|follower| elsewhere(*index, *follower)) {
            let so_often = times.entry(follower).or_default();
            if *so_often < CHOSEN {
                *so_often += 1;
                chosen[*index].insert(follower);
                found += 1;
            }
            if found == NEAR {
                break;
            }
        }
    }
}

fn scope(a: &Place, b: &Place) -> Scope {
    match () {
        () if a.zone != b.zone => Scope::Site,
        () if a.rack != b.rack => Scope::Zone,
        () if a.rack.is_empty() => Scope::Site,
        () => Scope::Rack,
    }
}

/// Adds peers in other sites to the lists of the own gateways.
fn remote(site: &str, own: &[Candidate], remotes: &BTreeMap<String, Vec<Candidate>>, lists: &mut Plan) {
    let others = remotes.iter().filter(|(other, nodes)| *other != site && !nodes.is_empty());
    for (other, nodes) in others.take(REMOTE_ALL) {
        let mut ring: Vec<(u64, &Candidate)> =
            nodes.iter().take(GATEWAYS).map(|node| (hash("remote", &node.node), node)).collect();
        ring.sort_unstable();
        let mut times = vec![0; ring.len()];
        for gateway in own {
            let Some(list) = lists.get_mut(&gateway.node) else { continue };
            let at = ring.partition_point(|(place, _)| *place < hash("remote", &gateway.node));
            let mut found = 0;
            for step in 0..ring.len() {
                let remote = list.iter().filter(|peer| peer.scope == Scope::Remote).count();
                if found == REMOTE || remote == REMOTE_ALL {
                    break;
                }
                let index = (at + step) % ring.len();
                // A site of few gateways is probed by each of many: its share of them grows, and no more than that.
                if times[index] < CHOSEN.max(own.len() * REMOTE / ring.len() + 1) {
                    times[index] += 1;
                    found += 1;
                    let node = ring[index].1;
                    list.push(Peer {
                        node: node.node.clone(),
                        site: other.clone(),
                        address: node.address.clone(),
                        scope: Scope::Remote,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(number: usize, zone: usize, rack: usize) -> Candidate {
        let label = |letter: &str, number: usize| if number == 0 { String::new() } else { format!("{letter}{number}") };
        Candidate {
            node: format!("node-{number}"),
            place: Place { zone: label("z", zone), rack: label("r", rack) },
            address: format!("10.{}.{}.{}:9464", number >> 16, (number >> 8) & 255, number & 255),
        }
    }

    fn site(nodes: usize, zones: usize, racks: usize) -> Vec<Candidate> {
        (1..=nodes).map(|n| candidate(n, n % zones + 1, n / zones % racks + 1)).collect()
    }

    fn probers(plan: &Plan) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut probers: BTreeMap<&str, BTreeSet<&str>> =
            plan.keys().map(|node| (node.as_str(), BTreeSet::new())).collect();
        for (node, peer) in plan.iter().flat_map(|(node, peers)| peers.iter().map(move |peer| (node, peer))) {
            if let Some(probers) = probers.get_mut(peer.node.as_str()) {
                probers.insert(node);
            }
        }
        probers
    }

    fn is_connected(plan: &Plan) -> bool {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = plan.keys().take(1).map(String::as_str).collect();
        while let Some(node) = open.pop() {
            if reached.insert(node) {
                open.extend(plan[node].iter().map(|peer| peer.node.as_str()));
            }
        }
        reached.len() == plan.len()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_node_probes_and_is_probed_by_a_bounded_number_and_all_are_connected(
            places in proptest::collection::vec((0_usize..4, 0_usize..6), 1..150),
            shuffle in any::<u64>(),
        ) {
            let mut nodes: Vec<Candidate> =
                places.iter().enumerate().map(|(n, (zone, rack))| candidate(n, *zone, *rack)).collect();
            let lists = plan("dc-a", &nodes, &BTreeMap::new());
            let by = probers(&lists);
            for (node, peers) in &lists {
                let names: BTreeSet<&str> = peers.iter().map(|peer| peer.node.as_str()).collect();
                prop_assert_eq!(names.len(), peers.len());
                prop_assert!(!names.contains(node.as_str()));
                prop_assert!(peers.len() >= ENOUGH.min(nodes.len() - 1) && peers.len() <= ANYWHERE + 3 * NEAR);
                let probers = by[node.as_str()].len();
                prop_assert!(probers >= ANYWHERE.min(nodes.len() - 1), "{} is probed by {}", node, probers);
                prop_assert!(probers <= ENOUGH + NEAR + 2 * CHOSEN, "{} is probed by {}", node, probers);
            }
            prop_assert!(is_connected(&lists));
            nodes.sort_by_key(|node| hash(&shuffle.to_string(), &node.node));
            prop_assert_eq!(plan("dc-a", &nodes, &BTreeMap::new()), lists);
        }
    }

    #[test]
    fn a_node_that_goes_changes_only_few_lists() {
        for (zones, racks) in [(1, 1), (3, 8)] {
            let nodes = site(600, zones, racks);
            let before = plan("dc-a", &nodes, &BTreeMap::new());
            let mut changed = Vec::new();
            for gone in (0..600).step_by(60) {
                let mut left = nodes.clone();
                let gone = left.remove(gone).node;
                let after = plan("dc-a", &left, &BTreeMap::new());
                let lists = after.iter().filter(|(node, list)| before[*node] != **list).count();
                assert!(before[&gone].len() <= ANYWHERE + 3 * NEAR);
                changed.push(lists);
            }
            println!("lists of 599 that change when one node goes, {zones} zones of {racks} racks: {changed:?}");
            assert!(changed.iter().all(|lists| *lists <= 60), "{changed:?}");
        }
    }

    #[test]
    fn racks_and_zones_are_seen_from_within_and_from_outside() {
        let nodes = site(90, 3, 5);
        let lists = plan("dc-a", &nodes, &BTreeMap::new());
        for (node, peers) in &lists {
            let of = |scope| peers.iter().filter(|peer| peer.scope == scope).count();
            assert!(of(Scope::Rack) >= 2 && of(Scope::Zone) >= 2 && of(Scope::Site) >= 2, "{node}: {peers:?}");
        }
    }

    #[test]
    fn other_sites_are_probed_by_a_bounded_number_of_gateways_on_either_side() {
        let nodes = site(2_000, 3, 20);
        let there: Vec<Candidate> = gateways(&site(1_000, 2, 10));
        assert_eq!(there.len(), GATEWAYS);
        assert_eq!(there.iter().filter(|node| node.place.zone == "z1").count(), GATEWAYS / 2);
        let few: Vec<Candidate> = site(2, 1, 1);
        let remotes =
            BTreeMap::from([("dc-b".to_owned(), there), ("dc-c".to_owned(), few), ("dc-a".to_owned(), nodes.clone())]);
        let lists = plan("dc-a", &nodes, &remotes);
        let mut times: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let mut gates = 0;
        for peers in lists.values() {
            assert!(peers.len() <= MAX_PEERS);
            let remote: Vec<&Peer> = peers.iter().filter(|peer| peer.scope == Scope::Remote).collect();
            gates += usize::from(!remote.is_empty());
            for peer in remote {
                assert_ne!(peer.site, "dc-a");
                *times.entry((&peer.site, &peer.node)).or_default() += 1;
            }
        }
        assert_eq!(gates, GATEWAYS);
        let most = |site: &str| times.iter().filter(|((s, _), _)| *s == site).map(|(_, n)| *n).max();
        assert!(most("dc-b") <= Some(CHOSEN), "{times:?}");
        assert_eq!(most("dc-c"), Some(GATEWAYS));
    }

    #[test]
    fn one_node_alone_probes_nobody_and_two_probe_each_other() {
        assert_eq!(plan("dc-a", &site(1, 1, 1), &BTreeMap::new())["node-1"], []);
        let two = plan("dc-a", &site(2, 1, 1), &BTreeMap::new());
        assert_eq!((two["node-1"][0].node.as_str(), two["node-2"][0].node.as_str()), ("node-2", "node-1"));
    }
}
