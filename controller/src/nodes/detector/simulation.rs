//! A site in virtual time: agents that beat and probe over a network that loses, delays and reorders, nodes that die,
//! links that are cut. Deterministic: the seed is the whole input.

use std::time::Duration;

use evergreen_api::{
    heartbeat::{Heartbeat, ProbeOutcome, ProbeRequest, ProbeResult},
    mesh::PathReport,
};

use super::{Detector, Event, Settings};
use crate::mesh::place::Place;

/// Heartbeats of an agent that is answered.
const INTERVAL_MS: u64 = 500;
/// Heartbeats of an agent that is not.
const RETRY_MS: u64 = 250;
/// A heartbeat in flight occupies a connection for at most so long.
const BEAT_TIMEOUT_MS: u64 = 900;
/// Connections of an agent.
const IN_FLIGHT: usize = 4;
/// Tries of a probe: when they begin, and when the probe is over.
const TRIES_AT_MS: [u64; 6] = [0, 200, 400, 600, 800, 1_000];
const PROBE_MS: u64 = 1_200;
/// A result is told for so long.
const RETELL_MS: u64 = 2_000;
const TICK_MS: u64 = 100;
/// Probes of the network mesh: how often, of how many others, how long an echo is waited for, how often they are told.
const MESH_MS: u64 = 1_000;
const MESH_PEERS: usize = 6;
const MESH_PATIENCE_MS: u64 = 1_000;
const MESH_TELL_MS: u64 = 1_900;
/// The longest that anything is scheduled ahead.
const WHEEL: usize = 2_048;

/// xorshift64*: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// The network.
#[derive(Clone, Copy)]
pub struct Network {
    pub loss_percent: u64,
    pub delay_ms: u64,
}

#[derive(Default)]
struct Agent {
    up: bool,
    boot: u64,
    sequence: u64,
    sent_at: u64,
    answered: bool,
    in_flight: Vec<(u64, u64)>,
    results: Vec<(u64, ProbeResult)>,
    probing: Vec<usize>,
    number: u64,
    urgent: bool,
    /// Last echo of each peer of the mesh.
    echoed: [Option<u64>; MESH_PEERS],
    paths_told: u64,
}

enum Happens {
    Due(usize),
    Beat(usize, Box<Heartbeat>),
    Answer(usize, u64, Vec<ProbeRequest>),
    Probed(usize, usize, u64, u64, bool),
    Mesh(usize, u64),
    Echo(usize, usize, u64),
}

/// The site.
pub struct Site {
    pub now: u64,
    pub detector: Detector,
    pub told: Vec<(u64, Event)>,
    /// Whether the controller is cut off from a node.
    pub cut_from_controller: Vec<bool>,
    /// Nodes of different numbers do not reach each other.
    pub island: Vec<u32>,
    pub beats: u64,
    pub probes: u64,
    agents: Vec<Agent>,
    names: Vec<String>,
    network: Network,
    random: Random,
    wheel: Vec<Vec<Happens>>,
    events: Vec<Event>,
}

impl Site {
    pub fn new(nodes: usize, network: Network, seed: u64) -> Self {
        let names: Vec<String> = (0..nodes).map(|i| format!("n{i:03}")).collect();
        let mut detector = Detector::new(Settings::default());
        let place = |i: usize| Place { zone: format!("z{}", i % 3), rack: format!("r{}", i % 6) };
        detector.place(names.iter().enumerate().map(|(i, name)| (name.clone(), place(i))).collect());
        let mut site = Self {
            now: 0,
            detector,
            told: Vec::new(),
            cut_from_controller: vec![false; nodes],
            island: vec![0; nodes],
            beats: 0,
            probes: 0,
            agents: Vec::new(),
            names,
            network,
            random: Random::new(seed),
            wheel: (0..WHEEL).map(|_| Vec::new()).collect(),
            events: Vec::new(),
        };
        for node in 0..nodes {
            site.agents.push(Agent::default());
            site.boot(node);
        }
        site
    }

    pub fn name(&self, node: usize) -> &str {
        &self.names[node]
    }

    /// Power off, no farewell.
    pub fn kill(&mut self, node: usize) {
        self.agents[node].up = false;
    }

    /// Power on: a new boot.
    pub fn boot(&mut self, node: usize) {
        let boot = self.agents[node].boot + 1;
        self.agents[node] = Agent { up: true, boot, answered: true, ..Agent::default() };
        let soon = self.random.below(INTERVAL_MS);
        self.schedule(soon, Happens::Due(node));
        self.schedule(soon, Happens::Mesh(node, boot));
    }

    /// The agent goes on within the same boot, after a silence.
    pub fn resume(&mut self, node: usize) {
        self.agents[node].up = true;
        self.schedule(1, Happens::Due(node));
    }

    pub fn run(&mut self, duration: Duration) {
        let end = self.now + u64::try_from(duration.as_millis()).unwrap();
        while self.now < end {
            self.now += 1;
            let slot = self.now as usize % WHEEL;
            for happens in std::mem::take(&mut self.wheel[slot]) {
                self.step(happens);
            }
            if self.now.is_multiple_of(TICK_MS) {
                self.detector.tick(Duration::from_millis(self.now), &mut self.events);
                self.tell();
            }
        }
    }

    fn tell(&mut self) {
        let now = self.now;
        self.told.extend(self.events.drain(..).map(|event| (now, event)));
    }

    fn schedule(&mut self, after: u64, what: Happens) {
        assert!((after as usize) < WHEEL);
        let slot = (self.now + after.max(1)) as usize % WHEEL;
        self.wheel[slot].push(what);
    }

    /// When a message arrives, if it does.
    fn carry(&mut self) -> Option<u64> {
        let lost = self.random.below(100) < self.network.loss_percent;
        let delay = self.random.below(self.network.delay_ms + 1);
        (!lost).then_some(delay)
    }

    fn step(&mut self, happens: Happens) {
        match happens {
            Happens::Due(node) => self.due(node),
            Happens::Mesh(node, boot) => self.mesh(node, boot),
            Happens::Echo(node, peer, boot) => {
                let (now, agent) = (self.now, &mut self.agents[node]);
                if agent.up && agent.boot == boot {
                    agent.echoed[peer] = Some(now);
                }
            }
            Happens::Beat(node, beat) => {
                self.beats += 1;
                let now = Duration::from_millis(self.now);
                let asks = self.detector.heartbeat(&beat, now, &mut self.events);
                self.tell();
                if let Some(delay) = self.carry() {
                    self.schedule(delay, Happens::Answer(node, beat.sequence, asks));
                }
            }
            Happens::Answer(node, sequence, asks) => {
                let agent = &mut self.agents[node];
                let known = agent.in_flight.iter().position(|(s, _)| *s == sequence);
                let Some(known) = known.filter(|_| agent.up) else { return };
                agent.in_flight.swap_remove(known);
                agent.answered |= sequence == agent.sequence;
                for ask in asks {
                    self.probe(node, &ask);
                }
            }
            Happens::Probed(node, target, round, tries, answered) => {
                let (now, agent) = (self.now, &mut self.agents[node]);
                agent.probing.retain(|other| *other != target);
                agent.number += 1;
                let outcome = if answered { ProbeOutcome::Answered } else { ProbeOutcome::Silent };
                let tries = u32::try_from(tries).unwrap();
                let result =
                    ProbeResult { node: self.names[target].clone(), number: agent.number, round, outcome, tries };
                agent.results.push((now, result));
                agent.urgent = true;
                self.schedule(1, Happens::Due(node));
            }
        }
    }

    /// As the agent's loop does: at once with a new result, else after a pause that depends on whether it was answered.
    fn due(&mut self, node: usize) {
        let (now, agent) = (self.now, &mut self.agents[node]);
        if !agent.up {
            return;
        }
        agent.in_flight.retain(|(_, sent)| now - sent < BEAT_TIMEOUT_MS);
        let pause = if agent.answered { INTERVAL_MS } else { RETRY_MS };
        let wait = (agent.sent_at + pause).saturating_sub(now);
        let urgent = std::mem::take(&mut agent.urgent);
        if (wait > 0 && !urgent) || agent.in_flight.len() >= IN_FLIGHT {
            // A loop that was woken for nothing goes on where it was.
            return self.schedule(wait.clamp(1, RETRY_MS), Happens::Due(node));
        }
        agent.sequence += 1;
        agent.sent_at = now;
        agent.answered = false;
        agent.in_flight.push((agent.sequence, now));
        agent.results.retain(|(at, _)| now - at < RETELL_MS);
        let mut paths = Vec::new();
        if now - agent.paths_told >= MESH_TELL_MS {
            agent.paths_told = now;
            let known = agent.echoed.iter().enumerate().filter_map(|(peer, at)| Some((peer, (*at)?)));
            paths.extend(known.map(|(peer, at)| PathReport {
                node: self.names[(node + 1 + peer) % self.names.len()].clone(),
                answered_ms: u32::try_from(now - at).ok(),
                ..PathReport::default()
            }));
        }
        let beat = Heartbeat {
            node: self.names[node].clone(),
            boot_id: format!("b{}", agent.boot),
            sequence: agent.sequence,
            sent_ms: now,
            address: "10.0.0.1:9464".into(),
            leaving: false,
            probes: agent.results.iter().map(|(_, result)| result.clone()).collect(),
            paths,
        };
        if !urgent {
            self.schedule(RETRY_MS, Happens::Due(node));
        }
        if !self.cut_from_controller[node]
            && let Some(delay) = self.carry()
        {
            self.schedule(delay, Happens::Beat(node, Box::new(beat)));
        }
    }

    /// One probe of each peer of the mesh.
    fn mesh(&mut self, node: usize, boot: u64) {
        if !self.agents[node].up || self.agents[node].boot != boot {
            return;
        }
        for peer in 0..MESH_PEERS.min(self.names.len() - 1) {
            let target = (node + 1 + peer) % self.names.len();
            let reached = self.island[node] == self.island[target] && self.agents[target].up;
            if let (true, Some(there), Some(here)) = (reached, self.carry(), self.carry())
                && there + here < MESH_PATIENCE_MS
            {
                self.schedule(there + here, Happens::Echo(node, peer, boot));
            }
        }
        self.schedule(MESH_MS, Happens::Mesh(node, boot));
    }

    fn probe(&mut self, node: usize, ask: &ProbeRequest) {
        let target: usize = ask.node[1..].parse().unwrap();
        if self.agents[node].probing.contains(&target) {
            return;
        }
        self.agents[node].probing.push(target);
        self.probes += 1;
        let mut back: Option<u64> = None;
        for begins in TRIES_AT_MS {
            let reached = self.island[node] == self.island[target] && self.agents[target].up;
            let (there, here) = (self.carry(), self.carry());
            if let (true, Some(there), Some(here)) = (reached, there, here) {
                let at = begins + there + here;
                if at < PROBE_MS {
                    back = Some(back.map_or(at, |earlier| earlier.min(at)));
                }
            }
        }
        let tries = TRIES_AT_MS.len() as u64;
        self.schedule(back.unwrap_or(PROBE_MS), Happens::Probed(node, target, ask.round, tries, back.is_some()));
    }

    /// Nodes that were declared lost, with the time.
    pub fn lost(&self) -> Vec<(u64, &str)> {
        let lost = self.told.iter().filter_map(|(at, event)| match event {
            Event::Lost { node, .. } => Some((*at, node.as_str())),
            _ => None,
        });
        lost.collect()
    }
}
