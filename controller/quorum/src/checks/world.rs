//! A fleet over a network that loses, delays, repeats and cuts, with clocks at different rates, replicas that change
//! places, processes that pause and crash. Everything follows from the seed.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    super::*,
    agent::{Agent, Careless},
    faults::{Faults, Shape},
    register::Register,
};

/// Groups; most fleets have one of them.
const GROUPS: [&str; 2] = ["g", "h"];
pub(super) const GROUP: &str = GROUPS[0];
const REPLICAS: usize = 2;
const AGENTS: usize = 2;
/// Registers are restored one at a time, so far apart.
const CALM_AFTER_RESTORE_MS: u64 = 40_000;

enum Message {
    Ask { from: (usize, usize), life: u64, request: Request, sent_ms: u64 },
    Tell { to: (usize, usize), life: u64, register: usize, id: RequestId, answer: Answer },
    Pull { site: usize, agent: usize, replica: usize, sent: Mono },
    Grants { site: usize, agent: usize, granted: Vec<Option<(Grantable, Mono)>>, answered: Mono, sent: Mono },
    Drop { site: usize, agent: usize, replica: usize, group: usize, version: u64, answered: Mono },
}

struct Replica {
    core: Core,
    edges: Edges,
    life: u64,
    rate: f64,
    /// What people added to its clock, milliseconds; only wall clocks have it.
    set_by_ms: i64,
    leads: bool,
    paused_until: u64,
    down_until: u64,
    /// Answers that came while it was paused: it reads them when it wakes.
    inbox: Vec<(usize, RequestId, Answer)>,
    /// What its planner wants next, and from when on.
    whim: (usize, u64),
}

/// The fleet.
pub(super) struct World {
    pub names: Vec<String>,
    pub faults: Faults,
    shape: Shape,
    registers: Vec<Register>,
    sites: Vec<Vec<Replica>>,
    /// Agents, for each group what they hold, and the rates of their clocks.
    agents: Vec<Vec<(Vec<Agent>, f64)>>,
    mail: BTreeMap<(u64, u64), Message>,
    sequence: u64,
    random: StdRng,
    pub now_ms: u64,
    /// Until when requests from a site to a register are lost, and answers back.
    cut: BTreeMap<(usize, usize, bool), u64>,
    pub moves: u64,
    pub served_ms: u64,
    /// Until when a register does not answer because it is being restored.
    restoring: Vec<u64>,
    /// What registers held at some time, for restores.
    snapshots: Vec<Vec<Register>>,
    /// Restores that lost something: register, and the generation that it forgot.
    pub restores: Vec<(usize, u64)>,
}

impl World {
    pub fn new(seed: u64, shape: Shape, faults: Faults) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let names: Vec<String> =
            (0..shape.members + shape.witnesses).map(|i| format!("dc-{}", (b'a' + i as u8) as char)).collect();
        let rate = |site: usize, random: &mut StdRng| match (faults.worst_clocks, site) {
            (true, 0) => 0.9,
            (true, _) => 1.1,
            (false, _) => random.random_range(0.9..=1.1),
        };
        let sites = (0..shape.members)
            .map(|site| {
                (0..REPLICAS)
                    .map(|replica| Replica {
                        core: core(&names, site, replica, 0, shape.timing),
                        edges: Edges::default(),
                        life: 0,
                        rate: rate(site, &mut random),
                        set_by_ms: 0,
                        leads: replica == 0,
                        paused_until: 0,
                        down_until: 0,
                        inbox: Vec::new(),
                        whim: (0, 0),
                    })
                    .collect()
            })
            .collect();
        let agents = (0..shape.members)
            .map(|site| {
                (0..AGENTS)
                    .map(|_| {
                        let rate = rate(site, &mut random);
                        let first = Duration::from_millis(3_600_000 + random.random_range(0..1_000));
                        (vec![Agent::new(first)], rate)
                    })
                    .collect()
            })
            .collect();
        Self {
            restoring: vec![0; names.len()],
            snapshots: vec![Vec::new(); names.len()],
            restores: Vec::new(),
            registers: vec![Register::default(); names.len()],
            names,
            faults,
            shape,
            sites,
            agents,
            mail: BTreeMap::new(),
            sequence: 0,
            random,
            now_ms: 0,
            cut: BTreeMap::new(),
            moves: 0,
            served_ms: 0,
        }
    }

    /// A second group, which moves in the same rounds as the first where both are wanted elsewhere.
    pub fn with_two_groups(mut self) -> Self {
        self.agents.iter_mut().flatten().for_each(|(held, _)| held.push(Agent::default()));
        self
    }

    fn groups(&self) -> usize {
        self.agents[0][0].0.len()
    }

    /// Makes every agent wrong in one way.
    pub fn be_careless(&mut self, careless: Careless) {
        let all = self.agents.iter_mut().flatten().flat_map(|(held, _)| held);
        all.for_each(|agent| agent.careless = Some(careless));
    }

    fn clock(&self, rate: f64, set_by_ms: i64) -> Mono {
        // An hour on every clock, so that one can be set back.
        let micros = self.now_ms as f64 * 1_000.0 * rate;
        Duration::from_micros((3_600_000_000_i64 + micros as i64 + set_by_ms * 1_000).max(0) as u64)
    }

    fn local(&self, site: usize, replica: usize) -> Mono {
        let replica = &self.sites[site][replica];
        self.clock(replica.rate, replica.set_by_ms)
    }

    fn agent_local(&self, site: usize, agent: usize) -> Mono {
        self.clock(self.agents[site][agent].1, 0)
    }

    fn delay(&mut self, site: usize, answer: bool) -> u64 {
        let most = self.faults.late_answers_ms.filter(|_| site == 0 && answer).unwrap_or(self.faults.delay_ms);
        self.random.random_range(1..=most.max(2))
    }

    fn put(&mut self, at: u64, message: Message) {
        self.sequence += 1;
        self.mail.insert((at, self.sequence), message);
    }

    /// Sends between a site and a register; `back` says in which direction.
    fn send(&mut self, site: usize, register: usize, back: bool, message: impl Fn() -> Message) {
        let cut = self.cut.get(&(site, register, back)).is_some_and(|until| *until > self.now_ms);
        if site != register && (cut || self.random.random_bool(self.faults.loss)) {
            return;
        }
        let at = self.now_ms + self.delay(site, back);
        self.put(at, message());
        if self.faults.repeats > 0.0 && self.random.random_bool(self.faults.repeats) {
            let later = at + 5 * self.delay(site, back);
            self.put(later, message());
        }
    }

    /// Sends within a site, between an agent and a replica.
    fn send_inside(&mut self, site: usize, message: Message) {
        if self.random.random_bool(self.faults.loss / 3.0) {
            return;
        }
        let delay = match self.faults.inside_delay_ms {
            // Most are quick, some are overtaken.
            Some(_) if self.random.random_bool(0.8) => self.random.random_range(1..=20),
            Some(most) => self.random.random_range(1..=most),
            None => self.delay(site, matches!(message, Message::Grants { .. })),
        };
        self.put(self.now_ms + delay, message);
    }

    fn up(&self, site: usize, replica: usize) -> bool {
        self.sites[site][replica].down_until <= self.now_ms
    }

    fn awake(&self, site: usize, replica: usize) -> bool {
        self.up(site, replica) && self.sites[site][replica].paused_until <= self.now_ms
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Ask { from, life, request, sent_ms } => {
                // Connections end with the API server: what was under way then does not arrive afterwards.
                if sent_ms < self.restoring[request.register] {
                    return;
                }
                let answer = self.registers[request.register].apply(&request.operation);
                let (register, id) = (request.register, request.id);
                self.send(from.0, register, true, || Message::Tell {
                    to: from,
                    life,
                    register,
                    id,
                    answer: answer.clone(),
                });
            }
            Message::Tell { to: (site, replica), life, register, id, answer } => {
                if !self.up(site, replica) || self.sites[site][replica].life != life {
                    return;
                }
                if self.awake(site, replica) {
                    let now = self.local(site, replica);
                    self.sites[site][replica].core.answer(register, id, answer, now);
                } else {
                    self.sites[site][replica].inbox.push((register, id, answer));
                }
            }
            Message::Pull { site, agent, replica, sent } => {
                if !self.awake(site, replica) {
                    return;
                }
                let now = self.local(site, replica);
                let asked = &mut self.sites[site][replica];
                if !matches!(asked.core.standing(now), Standing::InQuorum { .. }) {
                    return;
                }
                asked.edges.ask(&agent.to_string(), now);
                let all = asked.core.grantable(now);
                let granted = |group: &&str| {
                    let found =
                        all.iter().find(|grantable| grantable.group == **group && now < grantable.valid_until)?;
                    Some((found.clone(), found.valid_until - now))
                };
                let granted = GROUPS[..self.groups()].iter().map(granted).collect();
                self.send_inside(site, Message::Grants { site, agent, granted, answered: now, sent });
            }
            Message::Grants { site, agent, granted, answered, sent } => {
                let now = self.agent_local(site, agent);
                let stop = self.shape.timing.stop;
                for (group, granted) in granted.into_iter().enumerate() {
                    let held = &mut self.agents[site][agent].0[group];
                    held.told(granted.as_ref(), answered, sent, now, stop);
                    for (version, answered) in std::mem::take(&mut held.drops) {
                        for replica in 0..REPLICAS {
                            self.send_inside(site, Message::Drop { site, agent, replica, group, version, answered });
                        }
                    }
                }
            }
            Message::Drop { site, agent, replica, group, version, answered } => {
                if self.awake(site, replica) {
                    let now = self.local(site, replica);
                    let edges = &mut self.sites[site][replica].edges;
                    edges.acknowledge(&agent.to_string(), GROUPS[group], version, answered, now);
                }
            }
        }
    }

    pub fn step(&mut self) {
        self.now_ms += self.shape.step_ms;
        self.disturb();
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= self.now_ms) {
            let message = entry.remove();
            self.deliver(message);
        }
        for site in 0..self.sites.len() {
            for replica in 0..REPLICAS {
                if self.awake(site, replica) {
                    self.run_replica(site, replica);
                }
            }
            for agent in 0..AGENTS {
                let now = self.agent_local(site, agent);
                if now >= self.agents[site][agent].0[0].next_pull {
                    self.agents[site][agent].0[0].next_pull = now + self.shape.pull;
                    let replica = self.random.random_range(0..REPLICAS);
                    self.send_inside(site, Message::Pull { site, agent, replica, sent: now });
                }
            }
        }
    }

    fn run_replica(&mut self, site: usize, replica: usize) {
        let now = self.local(site, replica);
        let running = &mut self.sites[site][replica];
        for (register, id, answer) in std::mem::take(&mut running.inbox) {
            running.core.answer(register, id, answer, now);
        }
        running.core.allow_claim(running.leads);
        if !running.leads {
            running.core.resign();
        }
        if self.faults.arbitrary && self.sites[site][replica].whim.1 <= self.now_ms {
            let members = self.sites.len();
            let whim = (self.random.random_range(0..members), self.now_ms + self.random.random_range(1_000..20_000));
            self.sites[site][replica].whim = whim;
        }
        let goals = (0..self.groups()).filter_map(|group| self.goal(site, replica, group, now)).collect();
        let running = &mut self.sites[site][replica];
        running.core.pursue(goals);
        let life = running.life;
        for request in running.core.tick(now) {
            let register = request.register;
            let sent_ms = self.now_ms;
            self.send(site, register, false, || Message::Ask {
                from: (site, replica),
                life,
                request: request.clone(),
                sent_ms,
            });
        }
    }

    fn goal(&self, site: usize, replica: usize, group: usize, now: Mono) -> Option<Goal> {
        let (members, name) = (self.sites.len(), GROUPS[group]);
        let running = &self.sites[site][replica];
        let old = running.core.map()?.0.entry(name);
        let holder = old.holders.first();
        let fresh: Vec<Holder> =
            self.names[..members].iter().filter_map(|name| running.core.fresh_holder(name, now)).collect();
        let own = Some(self.names[site].as_str());
        let wanted = if self.faults.arbitrary {
            // The second group goes along at times, and at times somewhere else.
            &self.names[(running.whim.0 + group * (running.whim.1 % 2) as usize) % members]
        } else {
            // Who holds the group plans for it, else the first fresh site; a person moves it every minute.
            let site_of = |holder: Option<&Holder>| holder.map(|holder| holder.site.clone());
            if site_of(fresh.first()).as_deref() != own && site_of(holder).as_deref() != own {
                return None;
            }
            let people = if self.faults.hunted { 0 } else { (self.now_ms / 60_000) as usize % members };
            // Left alone, the group stays where it is, whoever that is.
            let stays = holder.filter(|_| self.faults.settled).and_then(|h| self.names.iter().find(|n| **n == h.site));
            stays.unwrap_or(&self.names[if self.faults.settled { 0 } else { people }])
        };
        let stays = holder.is_some_and(|holder| fresh.contains(holder));
        let target = fresh.iter().find(|h| h.site == *wanted).or(if stays { None } else { fresh.first() })?;
        if Some(target) == holder {
            return None;
        }
        let drained = running
            .core
            .released_since(name, old.version)
            .is_some_and(|released| running.edges.drained(name, old.version, released, &self.shape.timing, now));
        Some(Goal { group: name.into(), holders: vec![target.clone()], old, drained, traceparent: None })
    }

    fn disturb(&mut self) {
        let chance = |random: &mut StdRng, per_second: f64, step_ms: u64| {
            random.random_bool(per_second * step_ms as f64 / 1_000.0)
        };
        let step = self.shape.step_ms;
        let site = self.random.random_range(0..self.sites.len());
        let replica = self.random.random_range(0..REPLICAS);
        if (self.faults.crashes || self.faults.pauses) && chance(&mut self.random, 0.06, step) {
            let now = self.now_ms;
            let until = now + self.random.random_range(100..31_000);
            let crash = self.faults.crashes && (!self.faults.pauses || self.random.random_bool(0.5));
            let restarted = core(&self.names, site, replica, self.sites[site][replica].life + 1, self.shape.timing);
            let victim = &mut self.sites[site][replica];
            if crash {
                victim.life += 1;
                victim.core = restarted;
                victim.edges = Edges::default();
                victim.inbox.clear();
                victim.down_until = now + (until - now) / 2;
            } else {
                victim.paused_until = until;
            }
        }
        if self.faults.elections && chance(&mut self.random, 0.04, step) {
            let leads = self.random.random_range(0..3);
            for (index, replica) in self.sites[site].iter_mut().enumerate() {
                // Two means that both believe it.
                replica.leads = leads == index || leads == 2;
            }
        }
        if self.faults.cuts && chance(&mut self.random, 0.08, step) {
            let until = self.now_ms + self.random.random_range(500..20_000);
            let (there, back) = match self.random.random_range(0..4) {
                0 => (true, false),
                1 => (false, true),
                _ => (true, true),
            };
            for register in 0..self.registers.len() {
                if register != site && self.random.random_bool(0.8) {
                    if there {
                        self.cut.insert((site, register, false), until);
                    }
                    if back {
                        self.cut.insert((site, register, true), until);
                    }
                }
            }
        }
        if self.faults.hunted && chance(&mut self.random, 0.1, step) {
            let until = self.now_ms + self.random.random_range(7_000..12_000);
            for register in 1..self.registers.len() {
                self.cut.insert((0, register, false), until);
                self.cut.insert((0, register, true), until);
            }
        }
        if self.faults.deletions && chance(&mut self.random, 0.05, step) {
            let register = self.random.random_range(0..self.registers.len());
            if self.random.random_bool(0.5) {
                self.registers[register].lose_record(&self.names[site]);
            } else {
                self.registers[register].forget_everything();
            }
        }
        if self.faults.restores {
            let register = self.random.random_range(0..self.registers.len());
            if chance(&mut self.random, 0.3, step) && self.restoring[register] < self.now_ms {
                self.snapshots[register].push(self.registers[register].clone());
                if self.snapshots[register].len() > 4 {
                    self.snapshots[register].remove(0);
                }
            }
            // One at a time: a second register that forgets takes the majority that remembers.
            let calm = self.restoring.iter().all(|until| until + CALM_AFTER_RESTORE_MS < self.now_ms);
            if calm && !self.snapshots[register].is_empty() && chance(&mut self.random, 0.2, step) {
                let which = self.random.random_range(0..self.snapshots[register].len());
                let snapshot = self.snapshots[register][which].clone();
                let generation = snapshot.generation();
                if self.registers[register].restore(&snapshot) {
                    self.restores.push((register, generation));
                }
                self.restoring[register] = self.now_ms + self.random.random_range(self.shape.interruption_ms..30_000);
            }
        }
        if self.faults.wall_clocks && chance(&mut self.random, 0.05, step) {
            self.sites[site][replica].set_by_ms += self.random.random_range(-8_000..8_000);
        }
    }

    /// Restores that somebody has not noticed, and those that are noticed by all but that no majority can mend.
    pub fn unmended_restores(&self) -> (usize, usize) {
        let (mut unnoticed, mut blocked) = (0, 0);
        for (register, generation) in &self.restores {
            if self.registers[*register].generation() <= *generation {
                let name = self.names[*register].as_str();
                let all = self.sites.iter().flatten();
                let knows = |replica: &Replica| replica.core.quarantined().iter().any(|(site, _)| *site == name);
                *(if all.into_iter().all(knows) { &mut blocked } else { &mut unnoticed }) += 1;
            }
        }
        (unnoticed, blocked)
    }

    /// Who holds the group, and under which version, as the newest core knows.
    pub fn holder(&self) -> Option<(u64, Option<String>)> {
        let entries = self.sites.iter().flatten().filter_map(|replica| Some(replica.core.map()?.0.entry(GROUP)));
        entries.map(|entry| (entry.version, entry.holders.first().map(|holder| holder.site.clone()))).max()
    }

    /// Cuts a data center off from all others, in both directions, its register included.
    pub fn isolate(&mut self, site: usize, for_ms: u64) {
        let until = self.now_ms + for_ms;
        for other in 0..self.registers.len() {
            for (from, to) in [(site, other), (other, site)] {
                if from != to && from < self.sites.len() {
                    self.cut.insert((from, to, false), until);
                    self.cut.insert((from, to, true), until);
                }
            }
        }
    }

    /// A data center is gone for good.
    pub fn die(&mut self, site: usize) {
        self.isolate(site, u64::MAX / 2);
        for replica in &mut self.sites[site] {
            replica.down_until = u64::MAX;
        }
    }

    /// Whether an agent of another site holds the grant.
    pub fn grants_elsewhere(&self, than: usize) -> bool {
        let others = (0..self.sites.len()).filter(|site| *site != than);
        others
            .flat_map(|site| (0..AGENTS).map(move |agent| (site, agent)))
            .any(|(site, agent)| self.agents[site][agent].0[0].holds(self.agent_local(site, agent)).is_some())
    }

    /// How every core stands, for a person who looks at a seed.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for site in 0..self.sites.len() {
            for replica in 0..REPLICAS {
                let (core, now) = (&self.sites[site][replica].core, self.local(site, replica));
                let standing = match core.standing(now) {
                    Standing::InQuorum { epoch, .. } => format!("epoch {epoch}"),
                    Standing::Out(why) => why,
                };
                let (excluded, map) = (core.quarantined(), core.map());
                text += &format!("\n{site}/{replica}: {standing}; excluded {excluded:?}; map {map:?}");
            }
        }
        text
    }

    /// Sites whose edge may still write to the first group.
    pub fn effective(&self) -> Vec<usize> {
        self.effective_in(0)
    }

    fn effective_in(&self, group: usize) -> Vec<usize> {
        (0..self.sites.len())
            .filter(|site| {
                (0..AGENTS).any(|agent| self.agents[*site][agent].0[group].effective(self.agent_local(*site, agent)))
            })
            .collect()
    }

    /// Runs until a time and answers whether there ever were two writers.
    pub fn two_writers_within(&mut self, seconds: u64) -> bool {
        let mut last = None;
        while self.now_ms < seconds * 1_000 {
            self.step();
            if (1..self.groups()).any(|group| self.effective_in(group).len() > 1) {
                return true;
            }
            let effective = self.effective();
            if effective.len() > 1 {
                return true;
            }
            if let Some(site) = effective.first() {
                self.served_ms += self.shape.step_ms;
                self.moves += u64::from(last.is_some_and(|last| last != *site));
                last = Some(*site);
            }
        }
        false
    }
}

/// A core in one of its lives.
pub(super) fn core(names: &[String], site: usize, replica: usize, life: u64, timing: Timing) -> Core {
    Core::new(CoreConfig {
        site: names[site].clone(),
        registers: names.to_vec(),
        timing,
        seed: format!("{replica}/{life}"),
    })
}
