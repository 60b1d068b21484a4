//! The loop that feeds the protocol core: sends its requests, times them, brings the answers, publishes a snapshot.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{BootClock, Register};
use crate::{
    leader::Leadership,
    quorum::{
        Answer, AssignmentMap, Core, CoreConfig, Goal, GoalState, Grantable, Holder, Mono, Request, RequestId,
        Standing, Timing,
    },
};

/// A request that was given up goes on for this long, for the sake of its connection.
const LINGER: Duration = Duration::from_secs(5);
/// The core is ticked at least this often.
const TICK: Duration = Duration::from_millis(50);

/// What the core knows at one moment, for everyone who only reads.
#[derive(Clone, Debug)]
pub struct SiteSnapshot {
    /// How the own site stands.
    pub standing: Standing,
    /// What may be granted, each until its own end.
    pub grantable: Vec<Grantable>,
    /// What this site released and the map still names, by group and version of its entry, and since when.
    pub released: BTreeMap<(String, u64), Mono>,
    /// The map as a majority showed it, if it was read.
    pub map: Option<AssignmentMap>,
    /// Ballot counter of the map: grows with every change.
    pub map_ballot: u64,
    /// Current incarnations of the sites whose lease is fresh at a majority.
    pub fresh: BTreeMap<String, Holder>,
    /// For how long a site's record has not changed anywhere; absent if never seen.
    pub silent_for: BTreeMap<String, Mono>,
    /// What is left of the leases of fresh sites.
    pub lease_left: BTreeMap<String, Mono>,
    /// Registers that answer.
    pub reachable: Vec<String>,
    /// Registers that are not trusted, and why.
    pub quarantined: Vec<(String, String)>,
    /// Why registers do not answer.
    pub troubles: Vec<(String, String)>,
    /// How far the pursued goals are.
    pub goal: GoalState,
    /// Number of registers and how many make a majority.
    pub registers: usize,
    /// How many make a majority.
    pub majority: usize,
}

/// What the rest of the controller holds of the running core.
#[derive(Clone, Debug)]
pub struct SiteHandle {
    /// The newest snapshot.
    pub snapshot: watch::Receiver<Arc<SiteSnapshot>>,
    /// Timing profile that the core runs with.
    pub timing: Timing,
    goals: watch::Sender<Arc<[Goal]>>,
    leadership: watch::Sender<Leadership>,
}

impl SiteHandle {
    /// What is wanted of the map.
    pub fn pursue(&self, goals: Vec<Goal>) {
        self.goals.send_if_modified(|known| {
            let changed = **known != *goals;
            if changed {
                *known = goals.into();
            }
            changed
        });
    }

    /// Where this replica stands: only a leader claims the site's lease, and one that follows another gives it up.
    /// A replica that cannot tell, because its API server is silent, goes on with the lease that it has.
    pub fn lead(&self, leadership: Leadership) {
        self.leadership.send_replace(leadership);
    }

    /// Whether this replica speaks for the site.
    pub fn speaks(&self) -> bool {
        match *self.leadership.borrow() {
            Leadership::Leading => true,
            Leadership::Following => false,
            Leadership::Unknown => matches!(self.now().standing, Standing::InQuorum { .. }),
        }
    }

    /// The newest snapshot.
    pub fn now(&self) -> Arc<SiteSnapshot> {
        self.snapshot.borrow().clone()
    }
}

/// Starts the loop; it ends when `cancel` is cancelled.
pub fn start(config: CoreConfig, registers: Vec<Arc<Register>>, cancel: CancellationToken) -> SiteHandle {
    start_with(config, registers, || BootClock.now(), cancel)
}

/// As [`start`], on a clock that is given.
pub(super) fn start_with(
    config: CoreConfig,
    registers: Vec<Arc<Register>>,
    clock: impl Fn() -> Mono + Send + Sync + 'static,
    cancel: CancellationToken,
) -> SiteHandle {
    let names = config.registers.clone();
    let timing = config.timing;
    let mut core = Core::new(config);
    let (goal_sender, mut goals) = watch::channel::<Arc<[Goal]>>(Arc::default());
    let (leadership_sender, mut leadership) = watch::channel(Leadership::Unknown);
    let (snapshot_sender, snapshot) = watch::channel(Arc::new(take_snapshot(&core, &names, clock())));
    // The core asks a register one thing at a time, so answers never wait for room.
    let (answers, mut inbox) = mpsc::channel::<(usize, RequestId, Answer)>(names.len().max(1) * 2);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // In this order, so that the same happenings always give the same run. At most one answer per register waits.
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some((register, id, answer)) = inbox.recv() => core.answer(register, id, answer, clock()),
                Ok(()) = goals.changed() => {}
                Ok(()) = leadership.changed() => {}
                _ = ticks.tick() => {}
            }
            core.pursue(goals.borrow_and_update().clone());
            let standing = *leadership.borrow_and_update();
            core.allow_claim(standing == Leadership::Leading);
            if standing == Leadership::Following {
                core.resign();
            }
            for request in core.tick(clock()) {
                send(&registers, request, timing.request, answers.clone());
            }
            snapshot_sender.send_replace(Arc::new(take_snapshot(&core, &names, clock())));
        }
    });
    SiteHandle { snapshot, timing, goals: goal_sender, leadership: leadership_sender }
}

fn send(
    registers: &[Arc<Register>],
    request: Request,
    timeout: Duration,
    answers: mpsc::Sender<(usize, RequestId, Answer)>,
) {
    let register = registers[request.register].clone();
    // Dropping a request closes its connection, and over a network that loses segments a new one, with its handshakes,
    // takes longer than any request may: a site would lose its lease to 30 % loss. So the request goes on where nobody
    // waits for it, and the next one finds the connection. That it may still land is what its fate being unknown means.
    let operation = request.operation;
    let going = tokio::spawn(async move { tokio::time::timeout(LINGER, register.perform(operation)).await });
    tokio::spawn(async move {
        let answer = match tokio::time::timeout(timeout, going).await {
            Ok(Ok(Ok(answer))) => answer,
            _ => Answer::Unknown(format!("no answer within {timeout:?}")),
        };
        // The loop has ended when nobody listens; then the answer means nothing any more.
        let _ = answers.send((request.register, request.id, answer)).await;
    });
}

fn take_snapshot(core: &Core, names: &[String], now: Mono) -> SiteSnapshot {
    let pairs = |pairs: Vec<(&str, &str)>| pairs.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    SiteSnapshot {
        standing: core.standing(now),
        grantable: core.grantable(now),
        released: core.released().clone(),
        map: core.map().map(|(map, _)| map.clone()),
        map_ballot: core.map().map_or(0, |(_, ballot)| ballot),
        fresh: names.iter().filter_map(|site| core.fresh_holder(site, now)).map(|h| (h.site.clone(), h)).collect(),
        silent_for: names.iter().filter_map(|site| Some((site.clone(), core.silent_for(site, now)?))).collect(),
        lease_left: names.iter().filter_map(|site| Some((site.clone(), core.lease_left(site, now)?))).collect(),
        reachable: (0..names.len()).filter(|i| core.reachable(*i, now)).map(|i| names[i].clone()).collect(),
        quarantined: pairs(core.quarantined()),
        troubles: pairs(core.troubles()),
        goal: core.goal_state(now),
        registers: names.len(),
        majority: core.majority(),
    }
}
