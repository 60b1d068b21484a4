//! The core of a site's controller: feeds on the registers' answers, keeps the lease, settles the map, pursues goals.

mod goal;
mod queries;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{
    incarnation::Incarnation,
    lease::{OwnLease, revocation},
    map::{Entry, Holder},
    mutants::{Mutant, broken},
    record::{Accepted, Answer, Ballot, LeaseVersion, Operation, RegisterState, Request, RequestId},
    round::{Round, RoundState},
    timing::{Mono, Timing},
    view::View,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The state machine of one controller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    config: CoreConfig,
    views: Vec<View>,
    lease: OwnLease,
    pending: Vec<Option<Pending>>,
    /// When a register may be asked again for a read and for a renewal.
    next_read: Vec<Mono>,
    next_renewal: Vec<Mono>,
    next_id: u64,
    incarnations: u64,
    rounds: u64,
    round: Option<Round>,
    /// No new round before this time: back-off after a duel.
    quiet_until: Mono,
    chosen: Option<Accepted>,
    goal: Option<Goal>,
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
            next_read: vec![Mono::ZERO; registers],
            next_renewal: vec![Mono::ZERO; registers],
            next_id: 0,
            incarnations: 0,
            rounds: 0,
            round: None,
            quiet_until: Mono::ZERO,
            chosen: None,
            goal: None,
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

    /// What is wanted of the map; none to leave it alone. Giving the same goal again changes nothing.
    pub fn pursue(&mut self, goal: Option<Goal>) {
        self.goal = goal;
    }

    /// Time passes: requests to send now. Call at least every 100 ms.
    pub fn tick(&mut self, now: Mono) -> Vec<Request> {
        for register in 0..self.views.len() {
            let overdue = |pending: &Pending| now.saturating_sub(pending.sent) >= self.config.timing.request;
            if self.pending[register].as_ref().is_some_and(overdue)
                && let Some(pending) = self.pending[register].take()
            {
                self.unknown(register, &pending, "no answer in time".into(), now);
            }
        }
        self.settle(now);
        (0..self.views.len()).filter_map(|register| self.next_request(register, now)).collect()
    }

    /// An answer came in. Answers that come after their time-out are ignored: their fate was called unknown.
    pub fn answer(&mut self, register: usize, id: RequestId, answer: Answer, now: Mono) {
        let Some(pending) = self.pending.get_mut(register).and_then(|slot| slot.take_if(|p| p.id == id)) else {
            return;
        };
        match answer {
            Answer::Content(content) => {
                self.views[register].observe(&content, pending.sent, now);
                self.next_read[register] = now + self.read_interval();
                if self.views[register].quarantined.is_some() {
                    self.lease.discount(register);
                } else if let Some(own) = content.records.get(&self.config.site) {
                    self.lease.read(register, &own.record);
                }
                if self.views[register].quarantined.is_none() {
                    self.saw_state(register, &content.version, &content.state, now);
                }
            }
            Answer::Written(version) => self.written(register, pending, version, now),
            // Somebody else wrote: read before anything else.
            Answer::Conflict => self.read_first(register, now),
            Answer::NoState => {
                let view = &mut self.views[register];
                if view.read_at.is_some() {
                    view.quarantined = Some("its state object is gone".into());
                    view.state = None;
                    self.lease.discount(register);
                }
                view.trouble = Some("not initialised: it holds no assignments object".into());
                self.next_read[register] = now + self.config.timing.renew;
            }
            Answer::Unknown(why) => self.unknown(register, &pending, why, now),
        }
        self.settle(now);
    }

    fn written(&mut self, register: usize, pending: Pending, version: LeaseVersion, now: Mono) {
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
            Operation::CreateBlank { .. } | Operation::Read => self.read_first(register, now),
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
            self.chosen = Some(accepted);
        }
    }

    /// Waits before the next round: longer for sites further down the list, and never the same twice.
    fn back_off(&mut self, now: Mono) {
        let rank = self.config.registers.iter().position(|site| *site == self.config.site).unwrap_or(0);
        let jitter = u64::from(digest(&self.config, "back-off", self.rounds)[0]);
        self.quiet_until = now + Mono::from_millis(200 + 400 * rank as u64 + 2 * jitter);
    }

    fn settle(&mut self, now: Mono) {
        let majority = self.majority();
        let next = self.incarnations + 1;
        let config = &self.config;
        let before = self.lease.held().map(|(epoch, _)| epoch);
        let mut used = false;
        let lapsed = before.is_some() && !self.in_quorum(now);
        self.lease.settle(&self.views, majority, &config.timing, self.may_claim, lapsed, || {
            used = true;
            Incarnation(hex::encode(&digest(config, "incarnation", next)[..16]))
        });
        self.incarnations += u64::from(used);
        if before != self.lease.held().map(|(epoch, _)| epoch) {
            self.released.clear();
        }
        self.read_map();
        if self.round.as_ref().is_some_and(|round| now.saturating_sub(round.begun) > ROUND_PATIENCE) {
            self.round = None;
            self.back_off(now);
        }
        self.advance_goal(now);
    }

    /// R6: a majority that shows the same ballot shows what was chosen there.
    fn read_map(&mut self) {
        let mut counts: BTreeMap<&Ballot, (usize, &Accepted)> = BTreeMap::new();
        for view in self.trusted() {
            if let Some((_, state)) = &view.state {
                counts.entry(&state.accepted.ballot).or_insert((0, &state.accepted)).0 += 1;
            }
        }
        let majority = if broken(Mutant::OneRegistersMap) { 1 } else { self.majority() };
        let chosen = counts.into_values().find(|(count, _)| *count >= majority).map(|(_, accepted)| accepted.clone());
        if let Some(accepted) = chosen {
            self.learn(accepted);
        }
    }

    fn trusted(&self) -> impl Iterator<Item = &View> {
        self.views.iter().filter(|view| view.quarantined.is_none())
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
        let view = &self.views[register];
        if view.quarantined.is_some() {
            return None;
        }
        let read_due = now >= self.next_read[register];
        let Some((version, state)) = &view.state else { return read_due.then_some(Operation::Read) };
        if !state.enrolled.contains(&self.config.site)
            || broken(Mutant::TrustForgetful) && view.record(&self.config.site).is_none()
        {
            if read_due && view.record(&self.config.site).is_none() {
                // The creation fails if the record exists; enrolment follows once a read shows it.
                return Some(Operation::CreateBlank { site: self.config.site.clone() });
            }
            if view.record(&self.config.site).is_some() {
                let mut state = state.clone();
                state.enrolled.insert(self.config.site.clone());
                return Some(Operation::WriteState { at: version.clone(), state });
            }
            return None;
        }
        if now >= self.next_renewal[register]
            && let Some(operation) = self.lease.next_write(view, &self.config.timing)
        {
            self.next_renewal[register] = now + self.config.timing.retry;
            return Some(operation);
        }
        if let GoalState::Revoking(holder) = self.goal_state(now)
            && self.may_revoke(register, &holder)
            && let Some(seen) = self.views[register].record(&holder.site)
        {
            let at = seen.version.clone();
            let highest = self.trusted().filter_map(|v| v.record(&holder.site)).map(|s| s.record.epoch).max();
            return Some(revocation(&holder.site, at, highest.unwrap_or(holder.epoch)));
        }
        let view = &self.views[register];
        if let Some(operation) = self.round.as_mut().and_then(|round| round.next_write(register, view)) {
            return Some(operation);
        }
        read_due.then_some(Operation::Read)
    }
}

/// Bytes that differ between sites, runs, purposes and counters.
fn digest(config: &CoreConfig, what: &str, counter: u64) -> [u8; 32] {
    Sha256::digest(format!("{}/{}/{what}/{counter}", config.seed, config.site)).into()
}
