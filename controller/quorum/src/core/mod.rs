//! The core of a site's controller: feeds on the registers' answers, keeps the lease, settles the map, pursues goals.

mod goal;
mod queries;
mod reseed;

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    incarnation::Incarnation,
    lease::{OwnLease, revocation},
    map::{Entry, Holder},
    mutants::{Mutant, broken},
    record::{
        Accepted, Answer, Ballot, LeaseVersion, Mark, Marks, Operation, RegisterContent, RegisterState, Request,
        RequestId, SiteRecord,
    },
    round::{Round, RoundState},
    timing::{Mono, Timing},
    view::{Shown, View},
};

/// Who this is and where the registers are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CoreConfig {
    /// Own site.
    pub site: String,
    /// Sites that hold a register, members and witnesses, in one order that is the same at every site.
    pub registers: Vec<String>,
    /// Timing profile, the same at every site.
    pub timing: Timing,
    /// Something unique to this run of this process; incarnations and ballots derive from it.
    pub seed: String,
}

/// A wanted change of one group: exactly this entry shall get exactly these holders.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Goal {
    /// Failover group.
    pub group: String,
    /// The entry that the decision was made on.
    pub old: Entry,
    /// Holders that it shall have.
    pub holders: Vec<Holder>,
    /// Every agent of this site acknowledged that it dropped the group (only read when this site leaves).
    pub drained: bool,
    /// Trace context of the incident that the change belongs to.
    pub traceparent: Option<String>,
}

impl Goal {
    /// Holders that leave.
    fn leaving(&self) -> impl Iterator<Item = &Holder> {
        self.old.holders.iter().filter(|holder| !self.holders.contains(holder))
    }
}

/// How far the pursuit of a goal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoalState {
    /// No goal, or the map already says so.
    Idle,
    /// The leaving holder's lease is being timed at a majority.
    Timing(Holder),
    /// The leaving holder is being revoked.
    Revoking(Holder),
    /// This site stopped granting and waits for the edge to fall silent.
    Draining,
    /// An entering holder is not fresh at a majority.
    Unfresh(Holder),
    /// The map round is under way.
    Committing,
    /// This site is not in quorum: a minority changes nothing.
    NoQuorum,
}

/// How the own site stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In quorum: may grant until `valid_until`.
    InQuorum {
        /// Epoch.
        epoch: u64,
        /// Incarnation.
        incarnation: Incarnation,
        /// When granting ends unless renewed.
        valid_until: Mono,
    },
    /// Not in quorum, and why.
    Out(String),
}

/// A group that may be granted now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grantable {
    /// Failover group.
    pub group: String,
    /// Epoch.
    pub epoch: u64,
    /// Incarnation.
    pub incarnation: Incarnation,
    /// Version of the map entry that names it.
    pub version: u64,
    /// When granting ends unless renewed.
    pub valid_until: Mono,
}

/// A round that has not come to an end by then is given up; a later one finishes its work.
const ROUND_PATIENCE: Mono = Mono::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    id: RequestId,
    operation: Operation,
    sent: Mono,
}

/// How quickly a register answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Pace {
    /// Smoothed time from request to answer.
    usual: Mono,
    /// The last requests that were given up: an answer that comes after all shows that the patience was too short.
    given_up: Vec<(RequestId, Mono)>,
}

impl Pace {
    /// How long the next answer is waited for: a few times the usual. A lost one is no reason to wait longer.
    fn patience(&self, timing: &Timing) -> Mono {
        (self.usual * 2).max(timing.quick).min(timing.request)
    }

    fn answered(&mut self, after: Mono) {
        self.usual = (self.usual * 7 + after) / 8;
    }

    fn give_up(&mut self, id: RequestId, sent: Mono) {
        if self.given_up.len() >= 4 {
            self.given_up.remove(0);
        }
        self.given_up.push((id, sent));
    }

    /// An answer came that nobody waits for any more. Its content counts for nothing.
    fn late(&mut self, id: RequestId, now: Mono) {
        if let Some((_, sent)) = self.given_up.iter().find(|(given_up, _)| *given_up == id) {
            self.usual = self.usual.max(now.saturating_sub(*sent));
        }
    }
}

/// The state machine of one controller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    config: CoreConfig,
    views: Vec<View>,
    lease: OwnLease,
    pending: Vec<Option<Pending>>,
    /// How quickly registers answer.
    pace: Vec<Pace>,
    /// When a register may be asked again for a read and for a renewal.
    next_read: Vec<Mono>,
    next_renewal: Vec<Mono>,
    next_id: u64,
    incarnations: u64,
    rounds: u64,
    round: Option<Round>,
    sites: Arc<[String]>,
    /// Rounds that failed one after the other.
    failures: u32,
    /// The newest ballot of somebody else that is not accepted yet, and when it was first seen.
    foreign: Option<(Ballot, Mono)>,
    /// Since when no ballot has a majority.
    split_since: Option<Mono>,
    /// When a majority had acknowledged what this site knows of the registers that are excluded now (R9).
    published: Option<Mono>,
    /// Records that this process made anew, by register and site: their UIDs.
    planted: BTreeMap<(usize, String), String>,
    /// No new round before this time: back-off after a duel.
    quiet_until: Mono,
    chosen: Option<Accepted>,
    goals: Arc<[Goal]>,
    /// Entries that this site released, and when it fell silent (R7): never granted again.
    released: BTreeMap<(String, u64), Mono>,
    may_claim: bool,
}

impl Core {
    /// A core that has seen nothing yet.
    ///
    /// # Panics
    /// When the own site holds no register in `config.registers` and there is none at all.
    pub fn new(config: CoreConfig) -> Self {
        assert!(!config.registers.is_empty(), "a core needs registers");
        let registers = config.registers.len();
        Self {
            lease: OwnLease::new(&config.site),
            views: vec![View::default(); registers],
            pending: vec![None; registers],
            pace: vec![Pace::default(); registers],
            next_read: vec![Mono::ZERO; registers],
            next_renewal: vec![Mono::ZERO; registers],
            next_id: 0,
            incarnations: 0,
            rounds: 0,
            round: None,
            sites: config.registers.clone().into(),
            failures: 0,
            foreign: None,
            split_since: None,
            published: None,
            planted: BTreeMap::new(),
            quiet_until: Mono::ZERO,
            chosen: None,
            goals: Arc::default(),
            released: BTreeMap::new(),
            may_claim: true,
            config,
        }
    }

    /// Number of registers that make a majority.
    pub fn majority(&self) -> usize {
        self.config.registers.len() / 2 + 1
    }

    /// Of several replicas of a controller only the elected one may claim a new incarnation.
    pub fn allow_claim(&mut self, allowed: bool) {
        self.may_claim = allowed;
    }

    /// Gives up the own lease: another replica of this site leads and shall hold it. Nothing is granted any more.
    pub fn resign(&mut self) {
        self.lease.resign();
    }

    /// What is wanted of the map, at most one goal for a group; none to leave it alone. Giving the same goals again changes
    /// nothing.
    pub fn pursue(&mut self, goals: Arc<[Goal]>) {
        self.goals = goals;
    }

    /// Time passes: requests to send now. Call at least every 100 ms.
    pub fn tick(&mut self, now: Mono) -> Vec<Request> {
        for register in 0..self.views.len() {
            let patience = self.pace[register].patience(&self.config.timing);
            let overdue = |pending: &Pending| now.saturating_sub(pending.sent) >= patience;
            if self.pending[register].as_ref().is_some_and(overdue)
                && let Some(pending) = self.pending[register].take()
            {
                self.pace[register].give_up(pending.id, pending.sent);
                self.unknown(register, &pending, "no answer in time".into(), now);
            }
        }
        self.settle(now);
        (0..self.views.len()).filter_map(|register| self.next_request(register, now)).collect()
    }

    /// An answer came in. Answers that come after their time-out are ignored: their fate was called unknown.
    pub fn answer(&mut self, register: usize, id: RequestId, answer: Answer, now: Mono) {
        let Some(pending) = self.pending.get_mut(register).and_then(|slot| slot.take_if(|p| p.id == id)) else {
            if !matches!(answer, Answer::Unknown(_))
                && let Some(pace) = self.pace.get_mut(register)
            {
                pace.late(id, now);
            }
            return;
        };
        if !matches!(answer, Answer::Unknown(_)) {
            self.pace[register].answered(now.saturating_sub(pending.sent));
        }
        if !matches!(answer, Answer::Unknown(_) | Answer::Content(_)) && self.views[register].excluded.is_none() {
            self.views[register].heard(&self.config.timing, now);
        }
        match answer {
            Answer::Content(content) => self.read(register, &content, pending.sent, now),
            Answer::Written(version) => self.written(register, pending, version, now),
            // Somebody else wrote: read before anything else.
            Answer::Conflict | Answer::Deleted => self.read_first(register, now),
            Answer::NoState(records) => {
                let view = &mut self.views[register];
                if view.excluded.is_none()
                    && let Some(generation) = view.lost_state(pending.sent)
                {
                    view.exclude("its state object is gone".into(), Some(generation), now);
                    self.lost(register);
                }
                let view = &mut self.views[register];
                view.shown = view.excluded.is_some().then_some(Shown { state: None, records });
                view.state = None;
                view.trouble = Some("not initialised: it holds no assignments object".into());
                self.next_read[register] = now + self.config.timing.renew;
            }
            Answer::Unknown(why) => self.unknown(register, &pending, why, now),
        }
        self.settle(now);
    }

    fn read(&mut self, register: usize, content: &RegisterContent, sent: Mono, now: Mono) {
        self.next_read[register] = now + self.read_interval();
        if self.made_anew(register, content.state.generation) {
            self.views[register] = View::default();
        }
        let counted = self.views[register].excluded.is_none();
        self.views[register].observe(content, &self.config.timing, sent, now);
        if self.views[register].excluded.is_none() {
            self.heed_marks(register, content, now);
            if let Some(own) = content.records.get(&self.config.site) {
                self.lease.read(register, &own.record);
            }
            let promised = &content.state.promised;
            let newer = self.foreign.as_ref().is_none_or(|(known, _)| known < promised);
            if newer && *promised > content.state.accepted.ballot {
                self.foreign = Some((promised.clone(), now));
            }
            self.saw_state(register, &content.version, &content.state, now);
            self.heed_generations(now);
        } else if counted {
            self.lost(register);
        }
    }

    /// What other sites say that they saw elsewhere is expected there from now on (R9).
    fn heed_marks(&mut self, register: usize, content: &RegisterContent, now: Mono) {
        for (site, observed) in &content.records {
            for (index, at) in self.sites.iter().enumerate() {
                if index != register
                    && self.views[index].excluded.is_none()
                    && let Some(mark) = observed.record.seen.get(at)
                {
                    self.views[index].expect(site, mark, now);
                }
            }
        }
    }

    fn written(&mut self, register: usize, pending: Pending, version: LeaseVersion, now: Mono) {
        if self.views[register].excluded.is_some() {
            if let Operation::CreateRecord { site, .. } = pending.operation {
                self.planted.insert((register, site), version.uid);
            }
            return self.read_first(register, now);
        }
        match pending.operation {
            Operation::WriteRecord { site, record, .. } => {
                if site == self.config.site && record.incarnation.is_some() {
                    let counted_from = if broken(Mutant::CountFromReceipt) { now } else { pending.sent };
                    self.lease.written(register, &record, counted_from);
                    self.next_renewal[register] = pending.sent + self.config.timing.renew;
                }
                self.views[register].wrote_record(&site, version, record, now);
            }
            Operation::WriteState { state, .. } => {
                self.views[register].saw_state(&version, &state);
                self.saw_state(register, &version, &state, now);
            }
            _ => self.read_first(register, now),
        }
    }

    fn unknown(&mut self, register: usize, pending: &Pending, why: String, now: Mono) {
        if let Operation::WriteRecord { site, record, .. } = &pending.operation
            && site == &self.config.site
        {
            self.lease.unknown(register, record, pending.sent);
        }
        self.views[register].trouble = Some(why);
        // What was written may have landed.
        let retry = self.config.timing.retry;
        self.read_first(register, pending.sent.max(now.saturating_sub(retry)) + retry);
    }

    /// The next thing asked of a register is what it holds, at the given time.
    fn read_first(&mut self, register: usize, at: Mono) {
        self.next_read[register] = at;
        self.views[register].state = None;
    }

    fn read_interval(&self) -> Mono {
        self.config.timing.renew / 2
    }

    /// A register's state object is known to be this: the round in flight goes on.
    fn saw_state(&mut self, register: usize, version: &LeaseVersion, state: &RegisterState, now: Mono) {
        let majority = self.majority();
        let Some(round) = &mut self.round else { return };
        match round.saw(register, version, state, majority) {
            RoundState::Open => {}
            RoundState::Chosen(accepted) => {
                self.round = None;
                self.learn(accepted);
            }
            RoundState::Over => {
                self.round = None;
                self.back_off(now);
            }
        }
    }

    fn learn(&mut self, accepted: Accepted) {
        if self.chosen.as_ref().is_none_or(|known| known.ballot < accepted.ballot) {
            self.released.retain(|(group, version), _| accepted.map.entry(group).version <= *version);
            self.failures = 0;
            self.chosen = Some(accepted);
        }
    }

    /// Waits before the next round: longer for sites further down the list, longer after every failure, and never the
    /// same twice, so that proposers who met do not meet again.
    fn back_off(&mut self, now: Mono) {
        self.failures = (self.failures + 1).min(5);
        let rank = self.config.registers.iter().position(|site| *site == self.config.site).unwrap_or(0);
        let jitter = u64::from(digest(&self.config, "back-off", self.rounds)[0]);
        let room = 150 << self.failures;
        self.quiet_until = now + Mono::from_millis(100 + 200 * rank as u64 + room * jitter / 256);
    }

    fn settle(&mut self, now: Mono) {
        let majority = self.majority();
        let next = self.incarnations + 1;
        let config = &self.config;
        let before = self.lease.held().map(|(epoch, _)| epoch);
        let mut used = false;
        self.lease.settle(&self.views, majority, &config.timing, self.may_claim, now, || {
            used = true;
            Incarnation(hex::encode(&digest(config, "incarnation", next)[..16]))
        });
        self.incarnations += u64::from(used);
        if before != self.lease.held().map(|(epoch, _)| epoch) {
            self.released.clear();
        }
        self.read_map(now);
        self.note_published(now);
        if self.round.as_ref().is_some_and(|round| now.saturating_sub(round.begun) > ROUND_PATIENCE) {
            self.round = None;
            self.back_off(now);
        }
        self.advance_goal(now);
    }

    /// R6: a majority that shows the same ballot shows what was chosen there.
    fn read_map(&mut self, now: Mono) {
        let mut counts: BTreeMap<&Ballot, (usize, &Accepted)> = BTreeMap::new();
        for view in self.settled(now) {
            if let Some((_, state)) = &view.state {
                counts.entry(&state.accepted.ballot).or_insert((0, &state.accepted)).0 += 1;
            }
        }
        let majority = if broken(Mutant::OneRegistersMap) { 1 } else { self.majority() };
        let read = counts.values().map(|(count, _)| *count).sum::<usize>() >= majority;
        let chosen = counts.into_values().find(|(count, _)| *count >= majority).map(|(_, accepted)| accepted.clone());
        let split = read && chosen.is_none();
        self.split_since = if split { self.split_since.or(Some(now)) } else { None };
        if let Some(accepted) = chosen
            && self.chosen.as_ref().is_none_or(|known| known.ballot < accepted.ballot)
        {
            self.learn(accepted);
        }
    }

    /// Registers that count where the promises of others matter (R9).
    fn settled(&self, now: Mono) -> impl Iterator<Item = &View> {
        self.views.iter().filter(move |view| view.settled(&self.config.timing, now))
    }

    fn trusted(&self) -> impl Iterator<Item = &View> {
        self.views.iter().filter(|view| view.excluded.is_none())
    }

    /// The next request to a register; at most one is under way at a time, so that answers come in order.
    fn next_request(&mut self, register: usize, now: Mono) -> Option<Request> {
        if self.pending[register].is_some() {
            return None;
        }
        let operation = self.next_operation(register, now)?;
        self.next_id += 1;
        let id = RequestId(self.next_id);
        self.pending[register] = Some(Pending { id, operation: operation.clone(), sent: now });
        Some(Request { id, register, operation })
    }

    fn next_operation(&mut self, register: usize, now: Mono) -> Option<Operation> {
        let read_due = now >= self.next_read[register];
        if self.views[register].excluded.is_some() {
            return self.reseed_operation(register, now).or(read_due.then_some(Operation::Read));
        }
        let view = &self.views[register];
        let Some((version, state)) = &view.state else { return read_due.then_some(Operation::Read) };
        if !state.enrolled.contains(&self.config.site)
            || broken(Mutant::TrustForgetful) && view.record(&self.config.site).is_none()
        {
            if read_due && view.record(&self.config.site).is_none() {
                // The creation fails if the record exists; enrolment follows once a read shows it.
                return Some(Operation::CreateRecord { site: self.config.site.clone(), record: SiteRecord::blank() });
            }
            if view.record(&self.config.site).is_some() {
                let mut state = state.clone();
                state.enrolled.insert(self.config.site.clone());
                return Some(Operation::WriteState { at: version.clone(), state });
            }
            return None;
        }
        if now >= self.next_renewal[register]
            && let Some(operation) = {
                let (views, sites, own) = (&self.views, &self.sites, &self.config.site);
                self.lease.next_write(view, &self.config.timing, now, || marks(views, sites, own))
            }
        {
            self.next_renewal[register] = now + self.config.timing.retry;
            return Some(operation);
        }
        if let Some(holder) = self.to_revoke(register, now)
            && let Some(seen) = self.views[register].record(&holder.site)
        {
            let highest = self.trusted().filter_map(|v| v.record(&holder.site)).map(|s| s.record.epoch).max();
            return Some(revocation(&holder.site, seen, highest.unwrap_or(holder.epoch)));
        }
        let view = &self.views[register];
        if view.settled(&self.config.timing, now)
            && let Some(operation) = self.round.as_mut().and_then(|round| round.next_write(register, view))
        {
            return Some(operation);
        }
        read_due.then_some(Operation::Read)
    }
}

/// What this process knows of the registers.
fn marks(views: &[View], sites: &[String], own: &str) -> Marks {
    let mark = |(site, view): (&String, &View)| Some((site.clone(), view.mark(own)?)) as Option<(String, Mark)>;
    sites.iter().zip(views).filter_map(mark).collect()
}

/// Bytes that differ between sites, runs, purposes and counters.
fn digest(config: &CoreConfig, what: &str, counter: u64) -> [u8; 32] {
    Sha256::digest(format!("{}/{}/{what}/{counter}", config.seed, config.site)).into()
}
