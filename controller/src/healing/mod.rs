//! Self-healing: watches what is wrong with nodes, asks the planner of `evergreen-playbooks` what to start, and drives
//! the runs that it started.
//!
//! It makes no choices of its own: [`evergreen_playbooks::planner`] decides which runs start and
//! [`evergreen_playbooks::runner`] decides what comes next in each. This module turns Kubernetes objects into the facts
//! that those two see, persists what they decide before it does it, and says what happened in conditions, events, spans
//! and metrics. It runs only while this replica leads; when it is cancelled it stops at once, as in a crash, and the next
//! leader resumes from the logs of the runs.

mod accepted;
mod announce;
mod calls;
mod clock;
mod drive;
mod evict;
mod node;
mod run_object;
mod state;
mod trim;
mod watch;
mod workload;

use std::{collections::HashMap, sync::Arc, time::Duration};

use evergreen_playbooks::planner::{self, Blocked, BlockedBy, Start};
use evergreen_telemetry::{IncidentTracer, Meter};
use jiff::Timestamp;
use kube::Client;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use announce::Announcer;
use clock::SteadyClock;
use state::{Shared, Touched};
use watch::Observed;

/// Observations that wait for the loop; the watches pause when it is full.
const QUEUE: usize = 1_024;
/// Observations that are taken in before the planner is asked again.
const BATCH: usize = 256;
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
}

struct Healing {
    parts: Parts,
    /// Drivers by the id of their task; dropping the set stops them all.
    drivers: JoinSet<drive::Ended>,
    writers: JoinSet<()>,
    accepted: accepted::Written,
    told_blocked: HashMap<(String, String), BlockedBy>,
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
        };
        Self {
            parts,
            drivers: JoinSet::new(),
            writers,
            accepted: accepted::Written::default(),
            told_blocked: HashMap::new(),
        }
    }

    async fn run(mut self) -> Result<(), HealingError> {
        let (sender, mut observed) = mpsc::channel(QUEUE);
        let _watches = watch::start(&self.parts.client, &sender);
        drop(sender);
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

    /// Starts what the planner says and resumes what nobody drives; returns when to ask again.
    fn plan(&mut self) -> Option<Timestamp> {
        for name in self.parts.shared.lock().take_undriven() {
            tracing::info!(run = %name, "resuming");
            self.drivers.spawn(drive::resume(self.parts.clone(), name));
        }
        let now = self.parts.clock.now();
        let facts = self.parts.shared.lock().facts();
        let plan = planner::plan(&facts, now);
        self.tell_blocked(&plan.blocked);
        for start in plan.starts {
            self.start(start, now);
        }
        plan.recheck_at
    }

    fn start(&mut self, start: Start, now: Timestamp) {
        tracing::info!(
            run = %start.run, playbook = %start.playbook.name, node = %start.node.name, trigger = %start.trigger,
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

    /// Says once why a match starts nothing, and again when something else keeps it.
    fn tell_blocked(&mut self, blocked: &[Blocked]) {
        let mut told = HashMap::with_capacity(blocked.len());
        for block in blocked {
            let key = (block.playbook.clone(), block.subject.uid.clone());
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

#[cfg(test)]
mod tests;
