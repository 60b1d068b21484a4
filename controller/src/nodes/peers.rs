//! Which peers look at a silent node: few, alive, in different zones, and always the same ones for the same node.

use std::collections::BTreeSet;

use crate::mesh::place::{Place, hash};

/// Chooses up to `count` of the candidates for `target`, after those that were chosen already and stand in `kept`.
///
/// The first ones stand in zones and racks that nobody yet looks from, so that one broken link between two zones, or one
/// cut rack, is no death. Within that, the order is that of a hash of both names: it spreads the work over the site and
/// depends on nothing else.
pub fn choose<'a>(
    target: &str,
    own: &Place,
    candidates: impl Iterator<Item = (&'a str, &'a Place)>,
    kept: &[&Place],
    count: usize,
) -> Vec<&'a str> {
    let mut ordered: Vec<(u64, &str, &Place)> =
        candidates.map(|(name, place)| (hash(target, name), name, place)).collect();
    ordered.sort_unstable();
    let mut zones: BTreeSet<&str> = kept.iter().map(|place| place.zone.as_str()).collect();
    // A rack that is cut off takes all of its nodes along: one from there would prove nothing.
    let mut racks: BTreeSet<&Place> = kept.iter().copied().chain([own]).collect();
    let mut chosen: Vec<&str> = Vec::with_capacity(count);
    for wanted in [Spread::Zone, Spread::Rack, Spread::Any] {
        for (_, name, place) in &ordered {
            if chosen.len() >= count {
                return chosen;
            }
            let is_new = match wanted {
                Spread::Zone => {
                    !zones.contains(place.zone.as_str()) && (place.rack.is_empty() || !racks.contains(place))
                }
                Spread::Rack => !place.rack.is_empty() && !racks.contains(place),
                Spread::Any => true,
            };
            if is_new && !chosen.contains(name) {
                chosen.push(name);
                zones.insert(&place.zone);
                racks.insert(place);
            }
        }
    }
    chosen
}

#[derive(Clone, Copy)]
enum Spread {
    Zone,
    Rack,
    Any,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<(String, Place)> {
        let place = |i: usize| Place { zone: format!("z{}", i % 3), rack: format!("r{}", i % 6) };
        (0..30).map(|i| (format!("n{i}"), place(i))).collect()
    }

    #[test]
    fn three_peers_stand_in_three_zones_and_not_in_the_nodes_own_rack() {
        let nodes = nodes();
        for (target, own) in &nodes {
            let others = || nodes.iter().filter(|(name, _)| name != target).map(|(name, place)| (name.as_str(), place));
            let chosen = choose(target, own, others(), &[], 3);
            let places: Vec<&Place> =
                chosen.iter().map(|name| &nodes.iter().find(|(n, _)| n == name).unwrap().1).collect();
            assert_eq!(
                places.iter().map(|place| &place.zone).collect::<BTreeSet<_>>().len(),
                3,
                "{target}: {places:?}"
            );
            assert!(places.iter().all(|place| *place != own), "{target}: {places:?}");
            assert_eq!(chosen, choose(target, own, others(), &[], 3));
        }
    }

    #[test]
    fn where_nothing_is_labelled_any_three_do_and_the_work_is_spread() {
        let none = Place::default();
        let names: Vec<String> = (0..100).map(|i| format!("n{i}")).collect();
        let mut load = std::collections::BTreeMap::new();
        for target in &names {
            let others = names.iter().filter(|name| *name != target).map(|name| (name.as_str(), &none));
            let chosen = choose(target, &none, others, &[], 3);
            assert_eq!(chosen.len(), 3);
            for peer in chosen {
                *load.entry(peer).or_insert(0) += 1;
            }
        }
        assert!(load.values().all(|load| *load <= 15), "{load:?}");
    }
}
