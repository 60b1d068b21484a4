//! Self-healing: watches what is wrong with nodes, asks the planner of `evergreen-playbooks` what to start, and drives
//! the runs that it started.
//!
//! It makes no choices of its own: [`evergreen_playbooks::planner`] decides which runs start and
//! [`evergreen_playbooks::runner`] decides what comes next in each. This module turns Kubernetes objects into the facts
//! that those two see, persists what they decide before it does it, and says what happened in conditions, events, spans
//! and metrics. It runs only while this replica leads; when it is cancelled it stops at once, as in a crash, and the next
//! leader resumes from the logs of the runs.

mod accepted;
mod alerts;
mod announce;
mod calls;
mod clock;
mod drive;
mod evict;
mod extra;
mod fence;
mod find;
mod node;
mod objects;
mod outbound;
mod people;
mod run_object;
mod state;
mod tidy;
mod trim;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use evergreen_bmc::AllowList;
use evergreen_playbooks::{
    board::AlertView,
    planner::{self, Blocked, BlockedBy, Incident, Quarantine, Start},
};
use evergreen_telemetry::{IncidentTracer, Meter};
use jiff::Timestamp;
use kube::Client;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub use alerts::AlertInbox;
use announce::Announcer;
use clock::SteadyClock;
pub use outbound::Endpoints;
pub use people::People;
use state::{Shared, Touched};
pub use tidy::Keep;
use watch::Observed;

/// Observations that wait for the loop; the watches pause when it is full.
const QUEUE: usize = 1_024;
/// Observations that are taken in before the planner is asked again.
const BATCH: usize = 256;
/// While everything is paused, how often it is asked whether it still is.
const PAUSE_INTERVAL: Duration = Duration::from_secs(2);
/// A run that could not be created holds its place in the budget for so long, so that it is not tried in a tight loop.
const CREATION_HOLD_OFF: Duration = Duration::from_secs(15);

/// What healing needs.
#[derive(Clone)]
pub struct HealingContext {
    /// Client of this data center's API server: retries off, connect and read time-outs set.
    pub client: Client,
    /// Name of this data center.
    pub site: String,
    /// Spans of incidents.
    pub incidents: IncidentTracer,
    /// Meter for the counters.
    pub meter: Meter,
    /// The wall time now; from here on the monotonic clock counts. A rehearsal heals in the time of its snapshot.
    pub began: Timestamp,
    /// What the site allows and keeps.
    pub options: HealingOptions,
}

/// What a site allows and keeps.
#[derive(Clone, Default)]
pub struct HealingOptions {
    /// Endpoints that steps may reach, and images that Jobs may run.
    pub endpoints: Endpoints,
    /// Alerts that were sent here.
    pub alerts: AlertInbox,
    /// Which finished runs are kept.
    pub keep: Keep,
    /// Approvals and the kill switch.
    pub people: People,
    /// BMCs that the step `fence` may speak to; absent: none.
    pub bmcs: Option<AllowList>,
}

/// Healing cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum HealingError {
    /// A watch ended, which it never does by itself.
    #[error("all watches ended")]
    WatchesEnded,
}

/// Heals until it is cancelled. Everything that it leaves unfinished can be resumed, by this replica or another.
///
/// # Errors
/// Only when it cannot go on at all; an API server that does not answer is waited for.
pub async fn run(ctx: HealingContext, cancel: CancellationToken) -> Result<(), HealingError> {
    let healing = Healing::new(ctx);
    match cancel.run_until_cancelled(healing.run()).await {
        Some(result) => result,
        None => Ok(()),
    }
}

/// What every part of healing shares.
#[derive(Clone)]
pub(crate) struct Parts {
    client: Client,
    clock: Arc<SteadyClock>,
    shared: Arc<Shared>,
    announcer: Arc<Announcer>,
    evictions: Arc<evict::EvictionApi>,
    paths: Arc<objects::Paths>,
    endpoints: Endpoints,
    people: People,
    bmcs: Option<AllowList>,
}

struct Healing {
    parts: Parts,
    /// Drivers by the id of their task; dropping the set stops them all.
    drivers: JoinSet<drive::Ended>,
    writers: JoinSet<()>,
    accepted: accepted::Written,
    told_blocked: HashMap<(String, String), BlockedBy>,
    /// Incidents that were told, by rack and symptom, with the run that did not end well.
    told_incidents: HashMap<(String, String), Option<String>>,
    extra: extra::Extra,
    queue: Option<mpsc::Sender<Observed>>,
    options: HealingOptions,
    /// Nodes that are being put into quarantine, by UID.
    quarantined: HashSet<String>,
    told_dropped: u64,
}

impl Healing {
    fn new(ctx: HealingContext) -> Self {
        let (announcer, events) = Announcer::new(&ctx);
        let mut writers = JoinSet::new();
        writers.spawn(announce::write_events(ctx.client.clone(), events));
        let parts = Parts {
            announcer: Arc::new(announcer),
            client: ctx.client,
            clock: Arc::new(SteadyClock::starting_at(ctx.began)),
            shared: Arc::default(),
            evictions: Arc::default(),
            paths: Arc::default(),
            endpoints: ctx.options.endpoints.clone(),
            people: ctx.options.people.clone(),
            bmcs: ctx.options.bmcs.clone(),
        };
        Self {
            parts,
            drivers: JoinSet::new(),
            writers,
            accepted: accepted::Written::default(),
            told_blocked: HashMap::new(),
            told_incidents: HashMap::new(),
            extra: extra::Extra::default(),
            queue: None,
            options: ctx.options,
            quarantined: HashSet::new(),
            told_dropped: 0,
        }
    }

    async fn run(mut self) -> Result<(), HealingError> {
        let (sender, mut observed) = mpsc::channel(QUEUE);
        let _watches = watch::start(&self.parts.client, &sender);
        self.queue = Some(sender);
        let inbox = self.options.alerts.clone();
        inbox.open(true);
        let _closed = Closing(inbox.clone());
        let mut tidy = tokio::time::interval(tidy::INTERVAL);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut recheck_at: Option<Instant> = None;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let recheck = async {
                match recheck_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let touched = tokio::select! {
                count = observed.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Err(HealingError::WatchesEnded);
                    }
                    self.take_in(batch.drain(..))
                }
                Some(ended) = self.drivers.join_next() => {
                    self.driver_ended(ended);
                    Touched::Plan
                }
                Some(_) = self.writers.join_next() => Touched::Nothing,
                alerts = inbox.next() => self.take_alerts(&alerts),
                _ = tidy.tick() => self.tidy(),
                () = recheck => Touched::Plan,
            };
            if touched == Touched::Plan && self.parts.shared.lock().is_synced() {
                recheck_at = self.plan().map(|at| self.parts.clock.instant_of(at));
            }
        }
    }

    /// Takes observations in; says whether the plan may have changed.
    fn take_in(&mut self, observed: impl Iterator<Item = Observed>) -> Touched {
        let now = self.parts.clock.now();
        let mut touched = Touched::Nothing;
        for observation in observed {
            if let Observed::Playbook(event) = &observation {
                self.accepted.note(&self.parts, event, &mut self.writers);
            }
            touched = touched.max(self.parts.shared.apply(observation, now));
        }
        touched
    }

    fn take_alerts(&mut self, alerts: &[AlertView]) -> Touched {
        let now = self.parts.clock.now();
        let mut state = self.parts.shared.lock();
        alerts.iter().map(|alert| state.alert(alert, now)).max().unwrap_or(Touched::Nothing)
    }

    /// Deletes finished runs that nobody needs any more.
    fn tidy(&mut self) -> Touched {
        let state = self.parts.shared.lock();
        if state.is_synced() {
            let names = tidy::expired(&state.facts(), &self.options.keep, self.parts.clock.now());
            if !names.is_empty() {
                self.writers.spawn(tidy::delete(self.parts.client.clone(), names));
            }
        }
        Touched::Nothing
    }

    /// Starts what the planner says and resumes what nobody drives; returns when to ask again.
    fn plan(&mut self) -> Option<Timestamp> {
        for name in self.parts.shared.lock().take_undriven() {
            tracing::info!(run = %name, "resuming");
            self.drivers.spawn(drive::resume(self.parts.clone(), name));
        }
        let now = self.parts.clock.now();
        let playbooks = self.parts.shared.lock().playbooks();
        if let Some(queue) = &self.queue {
            self.extra.follow(&self.parts, &playbooks, queue);
        }
        let (due, mut facts) = {
            let mut state = self.parts.shared.lock();
            (state.tick(now), state.facts())
        };
        let paused = self.parts.people.paused();
        let unpaused_at = paused.as_ref().and_then(|_| now.checked_add(PAUSE_INTERVAL).ok());
        facts.paused = paused.or(facts.paused);
        let plan = planner::plan(&facts, now);
        self.parts.shared.lock().set_storms(plan.storms);
        self.tell_incidents(&plan.incidents);
        self.tell_blocked(&plan.blocked);
        for quarantine in plan.quarantines {
            self.quarantine(quarantine);
        }
        for start in plan.starts {
            self.start(start, now);
        }
        let dropped = self.parts.shared.lock().dropped_signals();
        if dropped > self.told_dropped {
            tracing::warn!(dropped, "too many triggers are raised at once; some were dropped");
            self.told_dropped = dropped;
        }
        due.into_iter().chain(plan.recheck_at).chain(unpaused_at).min()
    }

    /// Marks a node whose attempts are used up, once.
    fn quarantine(&mut self, quarantine: Quarantine) {
        if self.quarantined.insert(quarantine.node.uid.clone()) {
            tracing::warn!(node = %quarantine.node.name, reason = %quarantine.reason, "into quarantine");
            self.writers.spawn(tidy::quarantine(self.parts.clone(), quarantine));
        }
    }

    fn start(&mut self, start: Start, now: Timestamp) {
        tracing::info!(
            run = %start.run, playbook = %start.playbook.name, subject = %start.subject.display(), trigger = %start.trigger,
            reasons = %start.reasons.join("; "), "starting"
        );
        // Reserved before anything else happens: the next plan counts it whether the API server answers or not.
        self.parts.shared.lock().reserve(start.view(now));
        self.drivers.spawn(drive::start(self.parts.clone(), start));
    }

    fn driver_ended(&mut self, ended: Result<drive::Ended, tokio::task::JoinError>) {
        match ended {
            Ok(drive::Ended::Final(view)) => self.parts.shared.lock().release(&view.name.clone(), Some(view)),
            Ok(drive::Ended::Deleted(name)) => self.parts.shared.lock().release(&name, None),
            Ok(drive::Ended::NotCreated(name)) => {
                let parts = self.parts.clone();
                self.drivers.spawn(async move {
                    tokio::time::sleep(CREATION_HOLD_OFF).await;
                    drop(parts);
                    drive::Ended::Deleted(name)
                });
            }
            // A panic in a driver is a bug; its run stays reserved and is resumed by the next leader.
            Err(error) => tracing::error!(%error, "a driver ended unexpectedly"),
        }
    }

    /// Says once that nodes of a rack are dealt with as one, and again when their run did not end well.
    fn tell_incidents(&mut self, incidents: &[Incident]) {
        let mut told = HashMap::with_capacity(incidents.len());
        for incident in incidents {
            let key = (incident.rack.clone(), incident.symptom.clone());
            let failed = incident.failed.as_ref().map(|(run, _)| run.clone());
            if self.told_incidents.get(&key) != Some(&failed) {
                self.parts.announcer.incident(incident);
            }
            told.insert(key, failed);
        }
        self.told_incidents = told;
    }

    /// Says once why a match starts nothing, and again when something else keeps it.
    fn tell_blocked(&mut self, blocked: &[Blocked]) {
        let mut told = HashMap::with_capacity(blocked.len());
        for block in blocked {
            let key = (block.playbook.clone(), format!("{}/{}", block.subject.display(), block.subject.uid));
            if self.told_blocked.get(&key) != Some(&block.by) {
                tracing::info!(playbook = %block.playbook, node = %block.subject.name, reason = %block.reason, "not started");
                if block.by.needs_attention() {
                    self.parts.announcer.blocked(block);
                }
            }
            told.insert(key, block.by);
        }
        self.told_blocked = told;
    }
}

/// Closes the inbox when healing ends, however it ends.
struct Closing(AlertInbox);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.open(false);
    }
}

#[cfg(test)]
mod tests;
