//! Which nodes live: a state machine over heartbeats, what peers saw, and time.
//!
//! It does no I/O and reads no clock; whoever feeds it gives the time with each input, on one monotonic clock. It tells,
//! it never acts.
//!
//! A node is declared lost only when two independent things agree: the controller has heard nothing from it for
//! [`Settings::confirm_after`], and peers that were asked to look reached it no more. Silence alone proves little: with
//! 30 % loss, four heartbeats in a row are missing many times an hour. Every sign of life, from whichever side, begins
//! the evidence anew.

mod event;
mod settings;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use evergreen_api::heartbeat::{Heartbeat, MAX_PROBES, ProbeOutcome, ProbeRequest, ProbeResult};

use self::watch::{Watch, forget_watch};
pub use self::{
    event::{Event, Evidence, Standing, Witness},
    settings::Settings,
};
use crate::mesh::place::Place;

/// A reading of the feeder's monotonic clock.
pub type Mono = Duration;

#[derive(Debug)]
struct Node {
    standing: Standing,
    boot_id: String,
    former_boot_id: Option<String>,
    sequence: u64,
    /// Last heartbeat.
    heard: Mono,
    /// Last echo to a peer's probe of the network mesh, as far as peers told.
    echoed: Option<Mono>,
    /// Whether it was told that peers reach it though it is silent.
    unheard: bool,
    /// First heartbeat of the series that may end a loss.
    returning: Option<Mono>,
    rebooted: bool,
    address: String,
    place: Place,
    /// Newest result that was taken from it as a peer.
    result: u64,
    watch: Watch,
}

/// The state machine.
#[derive(Debug)]
pub struct Detector {
    settings: Settings,
    nodes: BTreeMap<String, Node>,
    /// What each peer is asked, by peer.
    asks: HashMap<String, BTreeSet<String>>,
    places: BTreeMap<String, Place>,
    rounds: u64,
    ticked: Option<Mono>,
    guarded: bool,
    refused: u64,
}

impl Detector {
    /// Knows nobody yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            nodes: BTreeMap::new(),
            asks: HashMap::new(),
            places: BTreeMap::new(),
            rounds: 0,
            ticked: None,
            guarded: false,
            refused: 0,
        }
    }

    /// Takes a checked heartbeat in; answers whom its sender should probe now.
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: Mono, events: &mut Vec<Event>) -> Vec<ProbeRequest> {
        let Some(node) = self.nodes.get_mut(&beat.node) else {
            if self.nodes.len() >= self.settings.max_nodes {
                self.refused += 1;
                return Vec::new();
            }
            self.greet(beat, now);
            return self.asked_of(&beat.node);
        };
        let new_boot = node.boot_id != beat.boot_id;
        let stale = if new_boot {
            // What the former boot had sent may still be under way.
            node.former_boot_id.as_ref() == Some(&beat.boot_id)
        } else {
            beat.sequence <= node.sequence
        };
        if stale {
            return Vec::new();
        }
        let silent_for = now.saturating_sub(node.heard);
        node.sequence = beat.sequence;
        node.heard = now;
        node.unheard = false;
        node.address.clone_from(&beat.address);
        if new_boot {
            // A node that was adopted as lost has no boot that would be known.
            let former = std::mem::replace(&mut node.boot_id, beat.boot_id.clone());
            node.rebooted = !former.is_empty();
            // It counts anew, too.
            node.result = 0;
            node.former_boot_id = Some(former).filter(|former| !former.is_empty());
            if node.rebooted {
                events.push(Event::Rebooted { node: beat.node.clone() });
            }
        }
        match node.standing {
            Standing::Suspected => {
                node.standing = Standing::Alive;
                events.push(Event::Cleared { node: beat.node.clone(), silent_for });
            }
            Standing::Lost if new_boot && node.rebooted => {
                node.standing = Standing::Alive;
                node.returning = None;
                events.push(Event::Returned { node: beat.node.clone(), rebooted: true });
            }
            Standing::Lost => {
                // A gap as long as a suspicion begins the count anew.
                if node.returning.is_none() || silent_for >= self.settings.suspect_after {
                    node.returning = Some(now);
                }
            }
            Standing::Left => node.standing = Standing::Alive,
            Standing::Alive => {}
        }
        if beat.leaving && node.standing == Standing::Alive {
            node.standing = Standing::Left;
        }
        forget_watch(&mut self.asks, &beat.node, &mut node.watch);
        for result in &beat.probes {
            self.probed(&beat.node, result, now);
        }
        for path in beat.paths.iter().filter(|path| path.site.is_empty() && path.node != beat.node) {
            self.echoed(&path.node, path.answered_ms, now);
        }
        self.asked_of(&beat.node)
    }

    fn greet(&mut self, beat: &Heartbeat, now: Mono) {
        let node = Node {
            standing: if beat.leaving { Standing::Left } else { Standing::Alive },
            boot_id: beat.boot_id.clone(),
            former_boot_id: None,
            sequence: beat.sequence,
            heard: now,
            echoed: None,
            unheard: false,
            returning: None,
            rebooted: false,
            address: beat.address.clone(),
            place: self.places.get(&beat.node).cloned().unwrap_or_default(),
            result: beat.probes.iter().map(|probe| probe.number).max().unwrap_or(0),
            watch: Watch::default(),
        };
        self.nodes.insert(beat.node.clone(), node);
    }

    /// One result of one peer. A result is told several times; only the first telling counts.
    fn probed(&mut self, peer: &str, result: &ProbeResult, now: Mono) {
        let Some(sender) = self.nodes.get_mut(peer) else { return };
        if result.number <= sender.result || result.node == peer {
            return;
        }
        sender.result = result.number;
        let Some(node) = self.nodes.get_mut(&result.node) else { return };
        let watch = &mut node.watch;
        // Of another silence, or of a time before a sign of life.
        if watch.round == 0 || watch.round != result.round {
            return;
        }
        match result.outcome {
            ProbeOutcome::Answered => {
                self.rounds += 1;
                watch.round = self.rounds;
                watch.began = now;
                watch.reached = true;
                watch.failed.clear();
                watch.asked.values_mut().for_each(|asked| *asked = now);
            }
            ProbeOutcome::Refused | ProbeOutcome::Silent => {
                if let Some(asked) = watch.asked.get_mut(peer) {
                    *asked = now;
                } else if watch.failed.len() >= MAX_PROBES {
                    return;
                }
                let found = watch.failed.entry(peer.to_owned()).or_insert_with(|| Witness {
                    peer: peer.to_owned(),
                    tries: 0,
                    refused: false,
                });
                found.tries = found.tries.saturating_add(result.tries);
                found.refused = result.outcome == ProbeOutcome::Refused;
            }
        }
    }

    /// A node's agent echoed a peer's probe so long before that peer told.
    fn echoed(&mut self, name: &str, answered_ms: Option<u32>, now: Mono) {
        let (Some(node), Some(ago)) = (self.nodes.get_mut(name), answered_ms) else { return };
        let at = now.saturating_sub(Duration::from_millis(u64::from(ago)));
        node.echoed = node.echoed.max(Some(at));
    }

    fn asked_of(&self, peer: &str) -> Vec<ProbeRequest> {
        let targets = self.asks.get(peer).into_iter().flatten().take(MAX_PROBES);
        targets
            .filter_map(|target| {
                let node = self.nodes.get(target)?;
                Some(ProbeRequest { node: target.clone(), address: node.address.clone(), round: node.watch.round })
            })
            .collect()
    }

    /// Time passed; to be called several times a second.
    pub fn tick(&mut self, now: Mono, events: &mut Vec<Event>) {
        let slept = self.ticked.is_some_and(|last| now.saturating_sub(last) >= self.settings.stall);
        self.ticked = Some(now);
        if slept {
            // Heartbeats that came meanwhile wait in queues; what was not heard was not listened to.
            for (name, node) in &mut self.nodes {
                if matches!(node.standing, Standing::Alive | Standing::Suspected) {
                    node.heard = now;
                    forget_watch(&mut self.asks, name, &mut node.watch);
                }
            }
        }
        self.guard(now, events);
        let mut unheard = Vec::new();
        let mut forgotten = Vec::new();
        for (name, node) in &mut self.nodes {
            let silence = now.saturating_sub(node.heard);
            match node.standing {
                Standing::Alive | Standing::Suspected if silence < self.settings.probe_after => {}
                Standing::Alive | Standing::Suspected => {
                    if node.standing == Standing::Alive && silence >= self.settings.suspect_after {
                        node.standing = Standing::Suspected;
                        events.push(Event::Suspected { node: name.clone(), silent_for: silence });
                    }
                    unheard.push(name.clone());
                }
                Standing::Lost => {
                    let since = node.returning.filter(|_| silence < self.settings.suspect_after);
                    if since.is_some_and(|since| now.saturating_sub(since) >= self.settings.return_after) {
                        node.standing = Standing::Alive;
                        node.returning = None;
                        events.push(Event::Returned { node: name.clone(), rebooted: false });
                    } else if silence >= self.settings.forget_after {
                        forgotten.push(name.clone());
                    }
                }
                Standing::Left if silence >= self.settings.forget_after => forgotten.push(name.clone()),
                Standing::Left => {}
            }
        }
        for name in forgotten {
            self.forget(&name);
        }
        // While the guard holds nobody can be declared lost, so nobody has to look either.
        for name in unheard {
            if self.guarded {
                if let Some(node) = self.nodes.get_mut(&name) {
                    forget_watch(&mut self.asks, &name, &mut node.watch);
                }
            } else {
                self.look_after(&name, now, events);
            }
        }
    }

    /// When most nodes fall silent at once, it is likelier that nobody can be heard from here.
    fn guard(&mut self, now: Mono, events: &mut Vec<Event>) {
        let (mut silent, mut known) = (0, 0);
        for node in self.nodes.values() {
            if matches!(node.standing, Standing::Alive | Standing::Suspected) {
                known += 1;
                silent += usize::from(now.saturating_sub(node.heard) >= self.settings.suspect_after);
            }
        }
        let guarded = silent * 2 > known;
        if guarded != self.guarded {
            self.guarded = guarded;
            events.push(if guarded { Event::Guarded { silent, known } } else { Event::Unguarded });
        }
    }

    /// Where nodes stand, by name; also for those that will be heard later.
    pub fn place(&mut self, places: BTreeMap<String, Place>) {
        for (name, node) in &mut self.nodes {
            node.place = places.get(name).cloned().unwrap_or_default();
        }
        self.places = places;
    }

    /// An earlier detector declared this node lost; it stays so until it is heard.
    pub fn adopt_lost(&mut self, name: &str, now: Mono) {
        if self.nodes.contains_key(name) || self.nodes.len() >= self.settings.max_nodes {
            return;
        }
        let node = Node {
            standing: Standing::Lost,
            boot_id: String::new(),
            former_boot_id: None,
            sequence: 0,
            heard: now,
            echoed: None,
            unheard: false,
            returning: None,
            rebooted: false,
            address: String::new(),
            place: self.places.get(name).cloned().unwrap_or_default(),
            result: 0,
            watch: Watch::default(),
        };
        self.nodes.insert(name.to_owned(), node);
    }

    /// A node that is no more.
    pub fn forget(&mut self, name: &str) {
        if let Some(mut node) = self.nodes.remove(name) {
            forget_watch(&mut self.asks, name, &mut node.watch);
        }
        self.asks.remove(name);
    }

    /// How a node stands; `None` for one that was never heard.
    pub fn standing(&self, name: &str) -> Option<Standing> {
        self.nodes.get(name).map(|node| node.standing)
    }

    /// Names and standings of all nodes that were heard.
    pub fn standings(&self) -> impl Iterator<Item = (&str, Standing)> {
        self.nodes.iter().map(|(name, node)| (name.as_str(), node.standing))
    }

    /// Nodes that live or are merely suspected, with where they stand and where they can be asked.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Place, &str)> {
        let living =
            self.nodes.iter().filter(|(_, node)| matches!(node.standing, Standing::Alive | Standing::Suspected));
        living.map(|(name, node)| (name.as_str(), &node.place, node.address.as_str()))
    }

    /// Silent nodes that peers reach.
    pub fn unheard(&self) -> usize {
        self.nodes.values().filter(|node| node.unheard).count()
    }

    /// Nodes that were not taken in because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
