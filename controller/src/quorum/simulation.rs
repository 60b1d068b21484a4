//! Deterministic simulation of several cores over registers that lose, delay and crash, with clocks at different rates.
//!
//! What is checked at every step, in real time that no core can see: at most one site is an effective writer of a
//! single-writer group, where a writer is effective from its first grant until the edge has surely stopped.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// Length of a step in real milliseconds.
const STEP_MS: u64 = 25;
const GROUP: &str = "g";

/// A register: objects with versions, compare-and-swap, nothing else.
#[derive(Clone)]
struct Register {
    revision: u64,
    state: (u64, RegisterState),
    records: BTreeMap<String, (u64, SiteRecord)>,
}

impl Register {
    fn new() -> Self {
        Self { revision: 1, state: (1, RegisterState::default()), records: BTreeMap::new() }
    }

    fn version(kind: &str, revision: u64) -> LeaseVersion {
        LeaseVersion { uid: kind.to_owned(), resource_version: revision.to_string() }
    }

    fn apply(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Read => Answer::Content(RegisterContent {
                version: Self::version("state", self.state.0),
                state: self.state.1.clone(),
                records: self
                    .records
                    .iter()
                    .map(|(site, (revision, record))| {
                        let observed = Observed { version: Self::version(site, *revision), record: record.clone() };
                        (site.clone(), observed)
                    })
                    .collect(),
            }),
            Operation::CreateBlank { site } if self.records.contains_key(site) => Answer::Conflict,
            Operation::CreateBlank { site } => {
                self.revision += 1;
                self.records.insert(site.clone(), (self.revision, SiteRecord::BLANK));
                Answer::Written(Self::version(site, self.revision))
            }
            Operation::WriteRecord { site, at, record } => match self.records.get_mut(site) {
                Some((revision, known)) if Self::version(site, *revision) == *at => {
                    self.revision += 1;
                    (*revision, *known) = (self.revision, record.clone());
                    Answer::Written(Self::version(site, self.revision))
                }
                _ => Answer::Conflict,
            },
            Operation::WriteState { at, state } if Self::version("state", self.state.0) == *at => {
                self.revision += 1;
                self.state = (self.revision, state.clone());
                Answer::Written(Self::version("state", self.revision))
            }
            Operation::WriteState { .. } => Answer::Conflict,
        }
    }
}

/// What is on its way: at a real time, to a register or back.
enum Message {
    Ask { site: usize, life: u64, request: Request },
    Tell { site: usize, life: u64, register: usize, id: RequestId, answer: Answer },
}

/// A site: a core with its own clock, and an edge that goes on by itself when the core does not.
struct Site {
    core: Core,
    life: u64,
    /// Local time = real time x rate.
    rate: f64,
    paused_until: u64,
    down_until: u64,
    /// Local time until which the edge serves what it was last granted.
    edge_until: Mono,
}

struct Faults {
    loss: f64,
    delay_ms: u64,
    crashes: bool,
    partitions: bool,
}

struct World {
    names: Vec<String>,
    registers: Vec<Register>,
    sites: Vec<Site>,
    mail: BTreeMap<(u64, u64), Message>,
    sequence: u64,
    random: StdRng,
    now_ms: u64,
    cut: BTreeMap<(usize, usize), u64>,
    faults: Faults,
    timing: Vec<Timing>,
    moves: u64,
    served_ms: u64,
}

impl World {
    fn new(seed: u64, members: usize, witnesses: usize, faults: Faults, timing: impl Fn(usize) -> Timing) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let names: Vec<String> = (0..members + witnesses).map(|i| format!("dc-{}", (b'a' + i as u8) as char)).collect();
        let timing: Vec<Timing> = (0..members).map(timing).collect();
        let sites = (0..members)
            .map(|site| Site {
                core: core(&names, site, 0, timing[site]),
                life: 0,
                rate: random.random_range(0.9..=1.1),
                paused_until: 0,
                down_until: 0,
                edge_until: Mono::ZERO,
            })
            .collect();
        Self {
            registers: vec![Register::new(); names.len()],
            names,
            sites,
            mail: BTreeMap::new(),
            sequence: 0,
            random,
            now_ms: 0,
            cut: BTreeMap::new(),
            faults,
            timing,
            moves: 0,
            served_ms: 0,
        }
    }

    fn local(&self, site: usize) -> Mono {
        Duration::from_micros((self.now_ms as f64 * 1_000.0 * self.sites[site].rate) as u64)
    }

    fn send(&mut self, site: usize, register: usize, message: Message) {
        let cut = self.cut.get(&(site, register)).is_some_and(|until| *until > self.now_ms);
        if site != register && (cut || self.random.random_bool(self.faults.loss)) {
            return;
        }
        let delay = self.random.random_range(1..=self.faults.delay_ms.max(2));
        self.sequence += 1;
        self.mail.insert((self.now_ms + delay, self.sequence), message);
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        self.disturb();
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= self.now_ms) {
            match entry.remove() {
                Message::Ask { site, life, request } => {
                    let answer = self.registers[request.register].apply(&request.operation);
                    let back = Message::Tell { site, life, register: request.register, id: request.id, answer };
                    self.send(site, request.register, back);
                }
                Message::Tell { site, life, register, id, answer } => {
                    let now = self.local(site);
                    let up = self.sites[site].down_until <= self.now_ms && self.sites[site].life == life;
                    if up {
                        // A paused process handles it when it wakes; that is later than its time-out, so it is lost.
                        if self.sites[site].paused_until <= self.now_ms {
                            self.sites[site].core.answer(register, id, answer, now);
                        }
                    }
                }
            }
        }
        for site in 0..self.sites.len() {
            if self.sites[site].paused_until > self.now_ms || self.sites[site].down_until > self.now_ms {
                continue;
            }
            let now = self.local(site);
            let goal = self.goal(site, now);
            let life = self.sites[site].life;
            self.sites[site].core.pursue(goal);
            for request in self.sites[site].core.tick(now) {
                self.send(site, request.register, Message::Ask { site, life, request });
            }
            if let Some(grant) = self.sites[site].core.grantable(now).first() {
                // The edge may use the grant to its end and needs the stop time on top.
                let end = grant.valid_until + Duration::from_secs(2);
                self.sites[site].edge_until = self.sites[site].edge_until.max(end);
            }
        }
    }

    /// A planner for one single-writer group: the holder stays while it is fresh; now and then a person moves it.
    fn goal(&mut self, site: usize, now: Mono) -> Option<Goal> {
        let (map, _) = self.sites[site].core.map()?;
        let old = map.entry(GROUP);
        let members: Vec<String> = self.names[..self.sites.len()].to_vec();
        let core = &self.sites[site].core;
        let fresh: Vec<Holder> = members.iter().filter_map(|name| core.fresh_holder(name, now)).collect();
        if fresh.first().map(|h| h.site.as_str()) != Some(self.names[site].as_str())
            && old.holders.first().map(|h| h.site.as_str()) != Some(self.names[site].as_str())
        {
            return None;
        }
        let holder = old.holders.first();
        let stays = holder.is_some_and(|h| fresh.contains(h));
        // A person wants it at another site every minute.
        let wanted = &members[(self.now_ms / 60_000) as usize % members.len()];
        let target = fresh.iter().find(|h| h.site == *wanted).or(if stays { None } else { fresh.first() })?;
        (Some(target) != holder).then(|| Goal {
            group: GROUP.into(),
            old: old.clone(),
            holders: vec![target.clone()],
            drained: false,
            traceparent: None,
        })
    }

    fn disturb(&mut self) {
        let sites = self.sites.len();
        if self.faults.crashes && self.random.random_bool(0.001) {
            let site = self.random.random_range(0..sites);
            if self.random.random_bool(0.5) {
                self.sites[site].paused_until = self.now_ms + self.random.random_range(100..31_000);
            } else {
                let life = self.sites[site].life + 1;
                self.sites[site].life = life;
                self.sites[site].core = core(&self.names, site, life, self.timing[site]);
                self.sites[site].down_until = self.now_ms + self.random.random_range(0..15_000);
            }
        }
        if self.faults.partitions && self.random.random_bool(0.002) {
            let site = self.random.random_range(0..sites);
            let until = self.now_ms + self.random.random_range(500..20_000);
            for register in 0..self.registers.len() {
                if register != site && self.random.random_bool(0.7) {
                    self.cut.insert((site, register), until);
                }
            }
        }
    }

    /// Sites whose edge may still write.
    fn effective(&self) -> Vec<usize> {
        (0..self.sites.len()).filter(|site| self.local(*site) < self.sites[*site].edge_until).collect()
    }

    /// Runs and answers whether there ever were two writers.
    fn two_writers_within(&mut self, seconds: u64) -> bool {
        let mut last = None;
        while self.now_ms < seconds * 1_000 {
            self.step();
            let effective = self.effective();
            if effective.len() > 1 {
                return true;
            }
            if let Some(site) = effective.first() {
                self.served_ms += STEP_MS;
                if last.is_some_and(|last| last != *site) {
                    self.moves += 1;
                }
                last = Some(*site);
            }
        }
        false
    }
}

fn core(names: &[String], site: usize, life: u64, timing: Timing) -> Core {
    Core::new(CoreConfig {
        site: names[site].clone(),
        registers: names.to_vec(),
        timing,
        seed: format!("simulated/{life}"),
    })
}

fn fast(_: usize) -> Timing {
    Timing::of_lease(Duration::from_secs(6))
}

/// Seeds per test; `EVERGREEN_SEEDS` asks for more.
fn seeds(default: u64) -> u64 {
    std::env::var("EVERGREEN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_healthy_fleet_serves_nearly_always_and_never_twice() {
    let calm = Faults { loss: 0.0, delay_ms: 20, crashes: false, partitions: false };
    let mut world = World::new(1, 3, 0, calm, fast);
    assert!(!world.two_writers_within(300));
    assert!(world.moves >= 4, "planned moves happen: {}", world.moves);
    assert!(world.served_ms > 240_000, "served {} of 300000 ms", world.served_ms);
}

#[test]
fn no_two_writers_under_loss_delay_partitions_pauses_and_crashes() {
    for seed in 0..seeds(60) {
        let faults = Faults { loss: 0.3, delay_ms: 400, crashes: true, partitions: true };
        let (members, witnesses) = if seed % 2 == 0 { (3, 0) } else { (2, 1) };
        let mut world = World::new(seed, members, witnesses, faults, fast);
        assert!(!world.two_writers_within(240), "two writers with seed {seed}, after {} ms", world.now_ms);
    }
}

#[test]
fn the_service_comes_back_after_faults() {
    let mut served = 0;
    for seed in 1_000..1_000 + seeds(20) {
        let faults = Faults { loss: 0.1, delay_ms: 100, crashes: true, partitions: true };
        let mut world = World::new(seed, 3, 0, faults, fast);
        assert!(!world.two_writers_within(240));
        world.faults = Faults { loss: 0.0, delay_ms: 20, crashes: false, partitions: false };
        world.served_ms = 0;
        assert!(!world.two_writers_within(400));
        assert!(world.served_ms > 60_000, "seed {seed}: served {} of 160000 ms after the faults", world.served_ms);
        served += world.served_ms;
    }
    assert!(served > 0);
}

#[test]
fn the_checker_catches_a_site_that_forgets_the_stop_time() {
    let caught = (0..40).any(|seed| {
        let faults = Faults { loss: 0.0, delay_ms: 10, crashes: true, partitions: true };
        let careless = |_| Timing { stop: Duration::ZERO, ..Timing::of_lease(Duration::from_secs(6)) };
        World::new(seed, 3, 0, faults, careless).two_writers_within(600)
    });
    assert!(caught);
}

#[test]
fn the_checker_catches_a_site_that_does_not_wait() {
    let caught = (0..40).any(|seed| {
        let faults = Faults { loss: 0.0, delay_ms: 10, crashes: true, partitions: true };
        // dc-a times others by a shorter lease than they use.
        let hasty = |site| Timing::of_lease(Duration::from_secs(if site == 0 { 3 } else { 6 }));
        World::new(seed, 3, 0, faults, hasty).two_writers_within(600)
    });
    assert!(caught);
}
