//! Peers that look at a silent node: whom to ask, and when what they found is enough.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use evergreen_api::heartbeat::MAX_PROBES;

use super::{Detector, Event, Evidence, Mono, Node, Standing, Witness};
use crate::{mesh::place::Place, nodes::peers};

/// What peers are asked about a silent node, and what they found since the last sign of life.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) round: u64,
    pub(super) began: Mono,
    pub(super) reached: bool,
    pub(super) asked: BTreeMap<String, Mono>,
    pub(super) failed: BTreeMap<String, Witness>,
}

impl Detector {
    /// Keeps peers looking at a silent node and draws the conclusion.
    pub(super) fn look_after(&mut self, name: &str, now: Mono, events: &mut Vec<Event>) {
        let settings = self.settings;
        let Some(node) = self.nodes.get(name) else { return };
        let watch = &node.watch;
        let overdue = |asked: &Mono| now.saturating_sub(*asked) >= settings.replace_after;
        if watch.round == 0 || watch.asked.len() < settings.fan_out || watch.asked.values().any(overdue) {
            self.choose_peers(name, now);
        }
        let Some(node) = self.nodes.get(name) else { return };
        let silent_for = now.saturating_sub(node.heard);
        if node.standing != Standing::Suspected || silent_for < settings.confirm_after {
            return;
        }
        let asked_reached = node.watch.reached && now.saturating_sub(node.watch.began) < settings.unreached_for;
        let echoed = node.echoed.is_some_and(|at| now.saturating_sub(at) < settings.unechoed_for);
        if asked_reached || echoed {
            // An echo from before its last heartbeat, or just after, says nothing that the heartbeat did not.
            let since = node.echoed.is_some_and(|at| at.saturating_sub(node.heard) >= settings.suspect_after);
            if let Some(node) = self.nodes.get_mut(name).filter(|node| !node.unheard && (asked_reached || since)) {
                node.unheard = true;
                events.push(Event::Unheard { node: name.to_owned(), silent_for });
            }
            return;
        }
        let witnesses: Vec<Witness> =
            node.watch.failed.values().filter(|witness| witness.tries >= settings.tries).cloned().collect();
        if witnesses.len() < settings.witnesses {
            let living = |(peer, node): (&String, &Node)| peer != name && self.can_look(node, now);
            let living = self.nodes.iter().filter(|entry| living(*entry)).take(settings.witnesses).count();
            if living == 0 || witnesses.len() < living {
                return;
            }
        }
        events.push(Event::Lost { node: name.to_owned(), evidence: Evidence { silent_for, witnesses } });
        if let Some(node) = self.nodes.get_mut(name) {
            node.standing = Standing::Lost;
            node.unheard = false;
            node.returning = None;
            node.rebooted = false;
            forget_watch(&mut self.asks, name, &mut node.watch);
        }
    }

    fn can_look(&self, node: &Node, now: Mono) -> bool {
        node.standing == Standing::Alive && now.saturating_sub(node.heard) < self.settings.probe_after
    }

    /// Asks peers that live: those that reported lately stay, the others make room for the next in the order that
    /// belongs to this node.
    fn choose_peers(&mut self, name: &str, now: Mono) {
        let settings = self.settings;
        let Some(node) = self.nodes.get(name) else { return };
        // Nobody can ask an agent that gave no address: it is suspected, and never declared lost.
        if node.address.is_empty() {
            return;
        }
        let current = |asked: &Mono| now.saturating_sub(*asked) < settings.replace_after;
        let mut asked = node.watch.asked.clone();
        asked.retain(|peer, since| current(since) && self.nodes.get(peer).is_some_and(|n| self.can_look(n, now)));
        if asked.len() < settings.fan_out {
            let candidates = self.nodes.iter().filter(|(peer, candidate)| {
                *peer != name
                    && !node.watch.asked.contains_key(*peer)
                    && self.can_look(candidate, now)
                    && self.asks.get(*peer).is_none_or(|asks| asks.len() < MAX_PROBES)
            });
            let candidates = candidates.map(|(peer, candidate)| (peer.as_str(), &candidate.place));
            let kept: Vec<&Place> = asked.keys().filter_map(|peer| Some(&self.nodes.get(peer)?.place)).collect();
            let chosen = peers::choose(name, &node.place, candidates, &kept, settings.fan_out - asked.len());
            let chosen: Vec<String> = chosen.into_iter().map(str::to_owned).collect();
            // Where there is nobody else, the slow ones go on.
            if chosen.is_empty() {
                let still =
                    node.watch.asked.keys().filter(|peer| self.nodes.get(*peer).is_some_and(|n| self.can_look(n, now)));
                let still: Vec<String> = still.cloned().collect();
                asked.extend(still.into_iter().take(settings.fan_out).map(|peer| (peer, now)));
            }
            asked.extend(chosen.into_iter().map(|peer| (peer, now)));
        }
        let Some(node) = self.nodes.get_mut(name) else { return };
        if node.watch.round == 0 {
            self.rounds += 1;
            node.watch.round = self.rounds;
            node.watch.began = now;
        }
        for peer in node.watch.asked.keys().filter(|peer| !asked.contains_key(*peer)) {
            withdraw(&mut self.asks, peer, name);
        }
        for peer in asked.keys() {
            self.asks.entry(peer.clone()).or_default().insert(name.to_owned());
        }
        node.watch.asked = asked;
    }
}

pub(super) fn forget_watch(asks: &mut HashMap<String, BTreeSet<String>>, name: &str, watch: &mut Watch) {
    if watch.round != 0 {
        for peer in watch.asked.keys() {
            withdraw(asks, peer, name);
        }
        *watch = Watch::default();
    }
}

fn withdraw(asks: &mut HashMap<String, BTreeSet<String>>, peer: &str, target: &str) {
    if let Some(targets) = asks.get_mut(peer) {
        targets.remove(target);
        if targets.is_empty() {
            asks.remove(peer);
        }
    }
}
