//! A small fleet in steps of one unit of time, for the model and for the named hazards: everything happens at whole
//! ticks, in a fixed order, and what goes wrong is chosen from outside, one fault at a time.
//!
//! Time is scaled so that the inequalities of the protocol are tight at whole ticks: D is three ticks, a holder's edge on
//! the slowest clock stops D(1-rho)/0.9 = 3 ticks after its renewal was sent, and a superseder on the fastest clock starts
//! D(1+rho)/1.1 = 3 ticks after it first saw it. Nothing but the rules keeps the two apart.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::*,
    agent::{Agent, Careless},
    register::Register,
};

pub(super) const GROUP: &str = "g";
/// A second group that is wanted wherever the first one is, if the fleet has it.
const COMPANION: &str = "h";
/// One tick on a clock that runs right.
const TICK_MS: u64 = 1_000;
/// Exchanges with the registers within one tick, at most.
const EXCHANGES: usize = 10;

/// Timing of the model.
pub(super) fn timing() -> Timing {
    Timing {
        lease: Duration::from_secs(3),
        stop: Duration::from_secs(1),
        renew: Duration::from_millis(900),
        retry: Duration::from_millis(450),
        request: Duration::from_millis(1_700),
        quick: Duration::from_millis(1_700),
    }
}

/// Something that goes wrong, or that somebody wants, at one tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// A data center, its register included, and the others do not reach each other for some ticks.
    Isolate { site: usize, ticks: u64 },
    /// Requests from a site to a register are lost for some ticks.
    LoseRequests { site: usize, register: usize, ticks: u64 },
    /// Answers from a register to a site are lost for some ticks: what was asked still happens.
    LoseAnswers { site: usize, register: usize, ticks: u64 },
    /// What a site asks of a register at this tick arrives later.
    DelayRequests { site: usize, register: usize, ticks: u64 },
    /// What a site asks of a register at this tick arrives now and once more later.
    RepeatRequests { site: usize, register: usize, ticks: u64 },
    /// Answers to a site arrive a tick late, for some ticks.
    LateAnswers { site: usize, ticks: u64 },
    /// Answers to the agent of a site arrive a tick late, for some ticks.
    LateGrants { site: usize, ticks: u64 },
    /// A process stands still for some ticks.
    Pause { site: usize, ticks: u64 },
    /// A process dies and is started again at the next tick.
    Crash { site: usize },
    /// A writer that has just looked at its grant stands still before it writes.
    StallWriter { site: usize, ticks: u64 },
    /// A register goes back to what it held when the model began, after an interruption.
    Restore { register: usize },
    /// A record is deleted by hand.
    LoseRecord { register: usize, site: usize },
    /// A register is deleted and installed anew.
    Wipe { register: usize },
    /// People want the group at a site.
    Want { site: usize },
}

/// How the protected resource may be wrong, to see that the checks notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Fence {
    /// It compares, and a new holder raises the number before its first access.
    #[default]
    Sound,
    /// It accepts whatever comes.
    None,
    /// The new holder raises the number only after its first access.
    RaisedLate,
}

/// A message that is under way for longer than a tick.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Late {
    Ask { site: usize, life: u64, request: Request },
    Tell { site: usize, life: u64, register: usize, id: RequestId, answer: Answer },
    Grants { site: usize, granted: [Option<(Grantable, Mono)>; 2], answered: Mono, sent: Mono },
    Write { version: u64 },
}

/// A site: one process, one agent, one writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Site {
    pub core: Core,
    edges: Edges,
    life: u64,
    agent: Agent,
    /// What the agent holds of the second group.
    companion: Agent,
    /// Until which tick it stands still.
    paused: u64,
    late_answers: u64,
    late_grants: u64,
    stalled: u64,
}

/// The fleet at one tick.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fleet {
    pub tick: u64,
    pub names: Vec<String>,
    pub sites: Vec<Site>,
    pub registers: Vec<Register>,
    /// What the registers held when faults began.
    origin: Vec<Register>,
    /// Until which tick requests (false) or answers (true) between a site and a register are lost.
    cut: BTreeMap<(usize, usize, bool), u64>,
    /// Until which tick a register is being restored.
    down: Vec<u64>,
    late: Vec<(u64, Late)>,
    /// Requests of this tick that arrive later, and whether they arrive now as well.
    postponed: BTreeMap<(usize, usize), (u64, bool)>,
    wanted: Option<usize>,
    /// Number that the protected resource knows, and the newest holder that accessed it.
    fence: (Fence, u64, u64),
    /// An older holder's write was accepted after a newer one had accessed the resource.
    pub stale_write: bool,
    /// Sites whose edge may act.
    pub effective: Vec<usize>,
    /// Whether there is a second group, and the sites whose edge may act for it.
    pub paired: Option<Vec<usize>>,
    /// How often the writer was another one.
    pub moves: u64,
    last_writer: Option<usize>,
}

impl Fleet {
    /// A fleet in which the first site holds the group, at the worst clock rates for it.
    pub fn new(members: usize, witnesses: usize) -> Self {
        let names: Vec<String> = (0..members + witnesses).map(|i| format!("dc-{}", (b'a' + i as u8) as char)).collect();
        let site = |site: usize| Site {
            core: core(&names, site, 0),
            edges: Edges::default(),
            life: 0,
            agent: Agent::default(),
            companion: Agent::default(),
            paused: 0,
            late_answers: 0,
            late_grants: 0,
            stalled: 0,
        };
        Self {
            tick: 0,
            sites: (0..members).map(site).collect(),
            registers: vec![Register::default(); names.len()],
            origin: Vec::new(),
            cut: BTreeMap::new(),
            down: vec![0; names.len()],
            late: Vec::new(),
            postponed: BTreeMap::new(),
            wanted: Some(0),
            fence: (Fence::Sound, 0, 0),
            stale_write: false,
            effective: Vec::new(),
            paired: None,
            moves: 0,
            last_writer: None,
            names,
        }
    }

    /// Runs without faults until the first site serves, and remembers what the registers hold then.
    pub fn warmed(mut self) -> Self {
        for _ in 0..40 {
            self.step(None);
            if self.effective == [0] && self.sites.iter().all(|site| site.core.map().is_some()) {
                break;
            }
        }
        assert_eq!(self.effective, [0], "the first site serves");
        self.step(None);
        self.wanted = None;
        (self.origin, self.moves) = (self.registers.clone(), 0);
        self
    }

    /// With a second group, which moves in the same rounds.
    pub fn paired(mut self) -> Self {
        self.paired = Some(Vec::new());
        self
    }

    pub fn careless(mut self, careless: Option<Careless>) -> Self {
        self.sites.iter_mut().for_each(|site| site.agent.careless = careless);
        self
    }

    pub fn fenced(mut self, fence: Fence) -> Self {
        self.fence.0 = fence;
        self
    }

    /// The first site's clocks are as slow as may be, the others' as fast.
    pub fn local(&self, site: usize) -> Mono {
        let percent = if site == 0 { 90 } else { 110 };
        Duration::from_millis(3_600_000 + self.tick * TICK_MS * percent / 100)
    }

    fn begin(&mut self, fault: Fault) {
        let now = self.tick;
        match fault {
            Fault::Isolate { site, ticks } => {
                for register in (0..self.registers.len()).filter(|register| *register != site) {
                    self.cut.insert((site, register, false), now + ticks);
                    self.cut.insert((site, register, true), now + ticks);
                }
                for other in (0..self.sites.len()).filter(|other| *other != site) {
                    self.cut.insert((other, site, false), now + ticks);
                    self.cut.insert((other, site, true), now + ticks);
                }
            }
            Fault::LoseRequests { site, register, ticks } => {
                self.cut.insert((site, register, false), now + ticks);
            }
            Fault::LoseAnswers { site, register, ticks } => {
                self.cut.insert((site, register, true), now + ticks);
            }
            Fault::DelayRequests { site, register, ticks } => {
                self.postponed.insert((site, register), (now + ticks, false));
            }
            Fault::RepeatRequests { site, register, ticks } => {
                self.postponed.insert((site, register), (now + ticks, true));
            }
            Fault::LateAnswers { site, ticks } => self.sites[site].late_answers = now + ticks,
            Fault::LateGrants { site, ticks } => self.sites[site].late_grants = now + ticks,
            Fault::Pause { site, ticks } => self.sites[site].paused = now + ticks,
            Fault::Crash { site } => {
                let life = self.sites[site].life + 1;
                let crashed = &mut self.sites[site];
                (crashed.core, crashed.edges, crashed.life) = (core(&self.names, site, life), Edges::default(), life);
                crashed.paused = now + 1;
            }
            Fault::StallWriter { site, ticks } => self.sites[site].stalled = ticks,
            Fault::Restore { register } => {
                self.registers[register].restore(&self.origin[register]);
                self.down[register] = now + 4;
            }
            Fault::LoseRecord { register, site } => self.registers[register].lose_record(&self.names[site]),
            Fault::Wipe { register } => self.registers[register].forget_everything(),
            Fault::Want { site } => self.wanted = Some(site),
        }
    }

    /// One tick, with something going wrong at its beginning.
    pub fn step(&mut self, fault: Option<Fault>) {
        self.tick += 1;
        if let Some(fault) = fault {
            self.begin(fault);
        }
        let tick = self.tick;
        self.cut.retain(|_, until| *until > tick);
        let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= tick);
        self.late = later;
        let due: Vec<(u64, Late)> = due;
        for (_, message) in due {
            self.arrive(message);
        }
        for site in 0..self.sites.len() {
            if self.sites[site].paused <= tick {
                self.exchange(site);
            }
            self.pull(site);
        }
        self.postponed.clear();
        let effective = |site: &usize| self.sites[*site].agent.effective(self.local(*site));
        self.effective = (0..self.sites.len()).filter(effective).collect();
        if self.paired.is_some() {
            let effective = |site: &usize| self.sites[*site].companion.effective(self.local(*site));
            self.paired = Some((0..self.sites.len()).filter(effective).collect());
        }
        for site in self.effective.clone() {
            self.write(site);
        }
        if let Some(writer) = self.effective.first() {
            self.moves += u64::from(self.last_writer.is_some_and(|last| last != *writer));
            self.last_writer = Some(*writer);
        }
    }

    fn arrive(&mut self, message: Late) {
        match message {
            Late::Ask { site, life, request } => {
                let answer = self.ask(&request);
                self.tell(site, life, &request, answer);
            }
            Late::Tell { site, life, register, id, answer } => {
                if self.sites[site].life == life && self.sites[site].paused <= self.tick {
                    let now = self.local(site);
                    self.sites[site].core.answer(register, id, answer, now);
                }
            }
            Late::Grants { site, granted, answered, sent } => self.told(site, &granted, answered, sent),
            Late::Write { version } => self.lands(version),
        }
    }

    fn ask(&mut self, request: &Request) -> Option<Answer> {
        let register = request.register;
        (self.down[register] <= self.tick).then(|| self.registers[register].apply(&request.operation))
    }

    fn tell(&mut self, site: usize, life: u64, request: &Request, answer: Option<Answer>) {
        let (register, id) = (request.register, request.id);
        let Some(answer) = answer.filter(|_| !self.cut.contains_key(&(site, register, true))) else { return };
        if self.sites[site].late_answers > self.tick && site != register {
            self.late.push((self.tick + 1, Late::Tell { site, life, register, id, answer }));
        } else if self.sites[site].life == life {
            let now = self.local(site);
            self.sites[site].core.answer(register, id, answer, now);
        }
    }

    fn exchange(&mut self, site: usize) {
        let now = self.local(site);
        let life = self.sites[site].life;
        for _ in 0..EXCHANGES {
            let groups: &[&str] = if self.paired.is_some() { &[GROUP, COMPANION] } else { &[GROUP] };
            let goals = groups.iter().filter_map(|group| self.goal(site, group, now)).collect();
            self.sites[site].core.pursue(goals);
            let requests = self.sites[site].core.tick(now);
            if requests.is_empty() {
                return;
            }
            for request in requests {
                if self.cut.contains_key(&(site, request.register, false)) {
                    continue;
                }
                if let Some((at, now_too)) = self.postponed.get(&(site, request.register)).copied() {
                    self.late.push((at, Late::Ask { site, life, request: request.clone() }));
                    if !now_too {
                        continue;
                    }
                }
                let answer = self.ask(&request);
                self.tell(site, life, &request, answer);
            }
        }
    }

    /// Whoever holds the group plans for it, or shall have it, else the first site that is alive.
    fn goal(&self, site: usize, group: &str, now: Mono) -> Option<Goal> {
        let here = &self.sites[site];
        let old = here.core.map()?.0.entry(group);
        let members = self.names[..self.sites.len()].iter();
        let fresh: Vec<Holder> = members.filter_map(|name| here.core.fresh_holder(name, now)).collect();
        let own = self.names[site].as_str();
        let holder = old.holders.first();
        let asked = self.wanted == Some(site);
        let first = fresh.first().is_some_and(|first| first.site == own);
        if !asked && !first && holder.is_none_or(|holder| holder.site != own) {
            return None;
        }
        let wanted = self.wanted.and_then(|wanted| fresh.iter().find(|holder| holder.site == self.names[wanted]));
        let stays = holder.is_some_and(|holder| fresh.contains(holder));
        let target = wanted.or(if stays { None } else { fresh.first() })?;
        if Some(target) == holder {
            return None;
        }
        let released = here.core.released_since(group, old.version);
        let drained = released.is_some_and(|released| here.edges.drained(group, old.version, released, &timing(), now));
        Some(Goal { group: group.into(), holders: vec![target.clone()], old, drained, traceparent: None })
    }

    fn pull(&mut self, site: usize) {
        let now = self.local(site);
        let here = &mut self.sites[site];
        if here.paused > self.tick || !matches!(here.core.standing(now), Standing::InQuorum { .. }) {
            return;
        }
        here.edges.ask("node", now);
        let all = here.core.grantable(now);
        let granted = [GROUP, COMPANION].map(|group| {
            let found = all.iter().find(|grantable| grantable.group == group && now < grantable.valid_until)?;
            Some((found.clone(), found.valid_until - now))
        });
        if here.late_grants > self.tick {
            self.late.push((self.tick + 1, Late::Grants { site, granted, answered: now, sent: now }));
        } else {
            self.told(site, &granted, now, now);
        }
    }

    fn told(&mut self, site: usize, granted: &[Option<(Grantable, Mono)>; 2], answered: Mono, sent: Mono) {
        let now = self.local(site);
        let here = &mut self.sites[site];
        let both = [(GROUP, &mut here.agent), (COMPANION, &mut here.companion)];
        for ((group, agent), granted) in both.into_iter().zip(granted) {
            agent.told(granted.as_ref(), answered, sent, now, timing().stop);
            for (version, answered) in std::mem::take(&mut agent.drops) {
                here.edges.acknowledge("node", group, version, answered, now);
            }
        }
    }

    /// The writer of a site looks at its grant and writes, now or when it wakes.
    fn write(&mut self, site: usize) {
        let Some(version) = self.sites[site].agent.holds(self.local(site)) else { return };
        let (fence, known, newest) = &mut self.fence;
        if *fence == Fence::Sound || *newest >= version {
            *known = (*known).max(version);
        }
        *newest = (*newest).max(version);
        match std::mem::take(&mut self.sites[site].stalled) {
            0 => self.lands(version),
            ticks => self.late.push((self.tick + ticks, Late::Write { version })),
        }
    }

    fn lands(&mut self, version: u64) {
        let (fence, known, newest) = self.fence;
        self.stale_write |= (fence == Fence::None || version >= known) && version < newest;
    }
}

/// A process in one of its lives.
fn core(names: &[String], site: usize, life: u64) -> Core {
    Core::new(CoreConfig {
        site: names[site].clone(),
        registers: names.to_vec(),
        timing: timing(),
        seed: format!("{life}"),
    })
}
