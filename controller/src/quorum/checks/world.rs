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

pub(super) const GROUP: &str = "g";
const REPLICAS: usize = 2;
const AGENTS: usize = 2;

enum Message {
    Ask { from: (usize, usize), life: u64, request: Request },
    Tell { to: (usize, usize), life: u64, register: usize, id: RequestId, answer: Answer },
    Pull { site: usize, agent: usize, replica: usize, sent: Mono },
    Grants { site: usize, agent: usize, granted: Option<(Grantable, Mono)>, answered: Mono, sent: Mono },
    Drop { site: usize, agent: usize, replica: usize, version: u64, answered: Mono },
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
    agents: Vec<Vec<Agent>>,
    mail: BTreeMap<(u64, u64), Message>,
    sequence: u64,
    random: StdRng,
    pub now_ms: u64,
    /// Until when requests from a site to a register are lost, and answers back.
    cut: BTreeMap<(usize, usize, bool), u64>,
    pub moves: u64,
    pub served_ms: u64,
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
                        Agent::new(rate, first)
                    })
                    .collect()
            })
            .collect();
        Self {
            registers: vec![Register::new(); names.len()],
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

    /// Makes every agent wrong in one way.
    pub fn be_careless(&mut self, careless: Careless) {
        self.agents.iter_mut().flatten().for_each(|agent| agent.careless = Some(careless));
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
        self.clock(self.agents[site][agent].rate, 0)
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
            Message::Ask { from, life, request } => {
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
                let granted = asked.core.grantable(now).into_iter().find(|grantable| grantable.group == GROUP);
                let granted = granted.filter(|grantable| now < grantable.valid_until).map(|grantable| {
                    let remaining = grantable.valid_until - now;
                    (grantable, remaining)
                });
                self.send_inside(site, Message::Grants { site, agent, granted, answered: now, sent });
            }
            Message::Grants { site, agent, granted, answered, sent } => {
                let now = self.agent_local(site, agent);
                let stop = self.shape.timing.stop;
                self.agents[site][agent].told(granted.as_ref(), answered, sent, now, stop);
                for (version, answered) in std::mem::take(&mut self.agents[site][agent].drops) {
                    for replica in 0..REPLICAS {
                        self.send_inside(site, Message::Drop { site, agent, replica, version, answered });
                    }
                }
            }
            Message::Drop { site, agent, replica, version, answered } => {
                if self.awake(site, replica) {
                    let now = self.local(site, replica);
                    self.sites[site][replica].edges.acknowledge(&agent.to_string(), GROUP, version, answered, now);
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
                if now >= self.agents[site][agent].next_pull {
                    self.agents[site][agent].next_pull = now + self.shape.pull;
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
        let goal = self.goal(site, replica, now);
        let running = &mut self.sites[site][replica];
        running.core.pursue(goal);
        let life = running.life;
        for request in running.core.tick(now) {
            let register = request.register;
            self.send(site, register, false, || Message::Ask { from: (site, replica), life, request: request.clone() });
        }
    }

    fn goal(&mut self, site: usize, replica: usize, now: Mono) -> Option<Goal> {
        let members = self.sites.len();
        if self.faults.arbitrary && self.sites[site][replica].whim.1 <= self.now_ms {
            let whim = (self.random.random_range(0..members), self.now_ms + self.random.random_range(1_000..20_000));
            self.sites[site][replica].whim = whim;
        }
        let running = &self.sites[site][replica];
        let old = running.core.map()?.0.entry(GROUP);
        let holder = old.holders.first();
        let fresh: Vec<Holder> =
            self.names[..members].iter().filter_map(|name| running.core.fresh_holder(name, now)).collect();
        let own = Some(self.names[site].as_str());
        let wanted = if self.faults.arbitrary {
            &self.names[running.whim.0]
        } else {
            // Who holds the group plans for it, else the first fresh site; a person moves it every minute.
            let site_of = |holder: Option<&Holder>| holder.map(|holder| holder.site.clone());
            if site_of(fresh.first()).as_deref() != own && site_of(holder).as_deref() != own {
                return None;
            }
            let wanted = if self.faults.hunted { 0 } else { (self.now_ms / 60_000) as usize % members };
            &self.names[wanted]
        };
        let stays = holder.is_some_and(|holder| fresh.contains(holder));
        let target = fresh.iter().find(|h| h.site == *wanted).or(if stays { None } else { fresh.first() })?;
        if Some(target) == holder {
            return None;
        }
        let drained = running
            .core
            .released_since(GROUP, old.version)
            .is_some_and(|released| running.edges.drained(GROUP, old.version, released, &self.shape.timing, now));
        Some(Goal { group: GROUP.into(), holders: vec![target.clone()], old, drained, traceparent: None })
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
        if self.faults.wall_clocks && chance(&mut self.random, 0.05, step) {
            self.sites[site][replica].set_by_ms += self.random.random_range(-8_000..8_000);
        }
    }

    /// Sites whose edge may still write.
    pub fn effective(&self) -> Vec<usize> {
        (0..self.sites.len())
            .filter(|site| (0..AGENTS).any(|agent| self.agents[*site][agent].effective(self.agent_local(*site, agent))))
            .collect()
    }

    /// Runs until a time and answers whether there ever were two writers.
    pub fn two_writers_within(&mut self, seconds: u64) -> bool {
        let mut last = None;
        while self.now_ms < seconds * 1_000 {
            self.step();
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
