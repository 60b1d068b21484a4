//! Which nodes live: a state machine over heartbeats, what peers saw, and time.
//!
//! It does no I/O and reads no clock; whoever feeds it gives the time with each input, on one monotonic clock. It tells,
//! it never acts.
//!
//! A node is declared lost only when two independent things agree: the controller has heard nothing from it for
//! [`Settings::confirm_after`], and peers that were asked to look reached it no more. Silence alone proves little: with
//! 30 % loss, four heartbeats in a row are missing many times an hour. Every sign of life, from whichever side, begins
//! the evidence anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use evergreen_api::heartbeat::{Heartbeat, MAX_PROBES, ProbeOutcome, ProbeRequest, ProbeResult};

use super::peers::{self, Place};

/// A reading of the feeder's monotonic clock.
pub type Mono = Duration;

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

/// What a peer found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The peer.
    pub peer: String,
    /// Tries in vain since the last sign of life.
    pub tries: u32,
    /// Whether the host itself refused: then it is up, and only its agent is gone.
    pub refused: bool,
}

/// Why a node is declared lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Since its last heartbeat.
    pub silent_for: Duration,
    /// Peers that tried, in the order of their names.
    pub witnesses: Vec<Witness>,
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Silent too long; peers are looking.
    Suspected {
        /// Node.
        node: String,
        /// Since its last heartbeat.
        silent_for: Duration,
    },
    /// A suspicion was wrong.
    Cleared {
        /// Node.
        node: String,
        /// How long it had been silent.
        silent_for: Duration,
    },
    /// Nobody hears or reaches it.
    Lost {
        /// Node.
        node: String,
        /// Why.
        evidence: Evidence,
    },
    /// A lost node lives.
    Returned {
        /// Node.
        node: String,
        /// Whether it was started anew meanwhile.
        rebooted: bool,
    },
    /// A node was started anew.
    Rebooted {
        /// Node.
        node: String,
    },
    /// So many nodes fell silent together that nobody is declared lost.
    Guarded {
        /// Silent ones.
        silent: usize,
        /// Of so many.
        known: usize,
    },
    /// That is over.
    Unguarded,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Heard.
    Alive,
    /// Silent; peers look.
    Suspected,
    /// Declared lost.
    Lost,
    /// Its agent said that it stops.
    Left,
}

#[derive(Debug)]
struct Node {
    standing: Standing,
    boot_id: String,
    former_boot_id: Option<String>,
    sequence: u64,
    /// Last heartbeat.
    heard: Mono,
    /// First heartbeat of the series that may end a loss.
    returning: Option<Mono>,
    rebooted: bool,
    address: String,
    place: Place,
    /// Newest result that was taken from it as a peer.
    result: u64,
    watch: Watch,
}

/// What peers are asked about a silent node, and what they found since the last sign of life.
#[derive(Debug, Default)]
struct Watch {
    round: u64,
    began: Mono,
    reached: bool,
    asked: BTreeMap<String, Mono>,
    failed: BTreeMap<String, Witness>,
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
        self.asked_of(&beat.node)
    }

    fn greet(&mut self, beat: &Heartbeat, now: Mono) {
        let node = Node {
            standing: if beat.leaving { Standing::Left } else { Standing::Alive },
            boot_id: beat.boot_id.clone(),
            former_boot_id: None,
            sequence: beat.sequence,
            heard: now,
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

    /// Keeps peers looking at a silent node and draws the conclusion.
    fn look_after(&mut self, name: &str, now: Mono, events: &mut Vec<Event>) {
        let settings = self.settings;
        let Some(node) = self.nodes.get(name) else { return };
        let watch = &node.watch;
        let overdue = |asked: &Mono| now.saturating_sub(*asked) >= settings.replace_after;
        if watch.round == 0 || watch.asked.len() < settings.fan_out || watch.asked.values().any(overdue) {
            self.choose_peers(name, now);
        }
        let Some(node) = self.nodes.get(name) else { return };
        let silent_for = now.saturating_sub(node.heard);
        if node.standing != Standing::Suspected
            || silent_for < settings.confirm_after
            || (node.watch.reached && now.saturating_sub(node.watch.began) < settings.unreached_for)
        {
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

    /// Nodes that were not taken in because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

fn forget_watch(asks: &mut HashMap<String, BTreeSet<String>>, name: &str, watch: &mut Watch) {
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

#[cfg(test)]
#[path = "simulation.rs"]
mod simulation;

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
