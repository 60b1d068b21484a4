//! Drives one run: asks the runner what comes next, persists it or does it, and asks again.
//!
//! The order is the whole point: what the runner records is persisted before it is asked again, so an act never happens
//! without its intent in the log. A write that may or may not have landed is settled by reading the run again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evergreen_api::{
    TraceParent,
    resources::{ObjectName, PlaybookRun, PlaybookRunStatus, RunPhase, StepOutcome},
};
use evergreen_playbooks::{
    planner::{RunView, Start},
    runner::{self, Act, Action, Change, ChildRun, Look, Memory, Outbound, RunProgram, World},
    view::{ObjectView, PodView},
};
use tokio::sync::watch;

use super::{
    Parts,
    announce::{Happened, RunSpans},
    calls::{CallError, Pause},
    evict::{self, Answer},
    fence::{self, Fenced},
    find::{self, NotFound},
    node,
    outbound::Sent,
    run_object, trim,
};

/// Conflicts on a node that are answered by looking and trying again at once; after that with a pause.
const QUICK_CONFLICTS: u32 = 3;

/// How a driver ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The run is over; this is how it stands.
    Final(RunView),
    /// The run is not there any more.
    Deleted(String),
    /// The run could not be created.
    NotCreated(String),
}

/// Creates a run and drives it to its end.
pub(crate) async fn start(parts: Parts, start: Start) -> Ended {
    let since = SystemTime::now();
    let found = match start.found() {
        Some(found) => found,
        None => match find::find(&parts, &start.subject).await {
            Ok(found) => found,
            Err(NotFound::Refused(why)) => {
                tracing::info!(run = %start.run, %why, "not started");
                return Ended::NotCreated(start.run);
            }
            Err(NotFound::Failed(error)) => {
                tracing::warn!(run = %start.run, error = %error.describe(), "its object cannot be looked at");
                return Ended::NotCreated(start.run);
            }
        },
    };
    let trace = incident_of(&parts, &start).await;
    let object = run_object::object(&start, found, trace);
    let mut pause = Pause::default();
    let run = loop {
        match run_object::create(&parts.client, &object).await {
            Ok(run) => break run,
            Err(error) if error.is_already_there() => return resume(parts, start.run).await,
            Err(error) if error.is_permanent() => {
                tracing::error!(run = %start.run, error = %error.describe(), "the run cannot be created");
                return Ended::NotCreated(start.run);
            }
            Err(error) => {
                tracing::warn!(run = %start.run, error = %error.describe(), "creating the run again");
                pause.wait().await;
            }
        }
    };
    parts.announcer.matched(&start, trace, since);
    Driver::drive(parts, run, false).await
}

/// Drives a run that is there already, from wherever it stands.
pub(crate) async fn resume(parts: Parts, name: String) -> Ended {
    match read(&parts, &name).await {
        Some(run) => Driver::drive(parts, run, true).await,
        None => Ended::Deleted(name),
    }
}

/// Reads a run until the API server answers; `None` when it is not there.
async fn read(parts: &Parts, name: &str) -> Option<PlaybookRun> {
    let mut pause = Pause::default();
    loop {
        match run_object::get(&parts.client, name).await {
            Ok(run) => return run,
            Err(error) => {
                tracing::warn!(run = %name, error = %error.describe(), "reading the run again");
                pause.wait().await;
            }
        }
    }
}

/// The trace that the agent began; when the watch has not brought it yet, the node is asked itself.
async fn incident_of(parts: &Parts, start: &Start) -> TraceParent {
    let Some(name) = start.node.as_ref().filter(|_| start.subject.kind == "Node").map(|node| node.name.clone()) else {
        return parts.announcer.detected(start);
    };
    let known = || parts.shared.lock().trace(&name, &start.condition);
    if let Some(trace) = known() {
        return trace;
    }
    let now = parts.clock.now();
    if let Ok(Some(node)) = node::get(&parts.client, &name, now).await {
        parts.shared.node_answered(node, now);
    }
    known().unwrap_or_else(|| parts.announcer.detected(start))
}

struct Driver {
    parts: Parts,
    run: PlaybookRun,
    name: String,
    program: RunProgram,
    memory: Memory,
    spans: RunSpans,
    changes: watch::Receiver<u64>,
    /// Version of the node that the last question was asked about.
    node_version: String,
    /// Conflicts in a row on the node.
    conflicts: u32,
    /// What was looked at for the next question only.
    looked_pods: Option<Vec<PodView>>,
    looked: BTreeMap<ObjectName, Option<ObjectView>>,
    looked_runs: BTreeMap<String, Option<ChildRun>>,
    looked_volumes: Option<usize>,
}

impl Driver {
    async fn drive(parts: Parts, run: PlaybookRun, resumed: bool) -> Ended {
        let name = run.metadata.name.clone().unwrap_or_default();
        let status = run.status.clone().unwrap_or_default();
        if status.phase.is_final() {
            return Ended::Final(trim::run(&run));
        }
        let mut spans = parts.announcer.run(&name, &run.spec, resumed);
        let program = match RunProgram::new(&name, run.spec.clone()) {
            Ok(program) => program,
            Err(error) => return refuse(&parts, run, spans, &error.to_string()).await,
        };
        if let Some(open) = status.log.last().filter(|record| record.outcome.is_none()) {
            spans.step(&run.spec, open, resumed);
        }
        let changes = parts.shared.changes_of(&run.spec.subject.name);
        let driver = Self {
            parts,
            run,
            name,
            program,
            memory: Memory::default(),
            spans,
            changes,
            node_version: String::new(),
            conflicts: 0,
            looked_pods: None,
            looked: BTreeMap::new(),
            looked_runs: BTreeMap::new(),
            looked_volumes: None,
        };
        driver.go().await
    }

    async fn go(mut self) -> Ended {
        let mut pause = Pause::default();
        loop {
            // Before the world is looked at: a change after this wakes the wait below.
            self.changes.borrow_and_update();
            let world = self.world();
            let now = self.parts.clock.now();
            let status = self.run.status.clone().unwrap_or_default();
            match runner::next(&self.program, &status, &world, &self.memory, now) {
                Action::Rest => return Ended::Final(trim::run(&self.run)),
                Action::Record(change) => match self.record(&status, &change).await {
                    Ok(true) => pause = Pause::default(),
                    Ok(false) => return Ended::Deleted(self.name),
                    Err(error) => {
                        tracing::warn!(run = %self.name, error = %error.describe(), "writing the log again");
                        pause.wait().await;
                    }
                },
                Action::Look(look) => match self.look(&look).await {
                    Ok(()) => pause = Pause::default(),
                    Err(error) => {
                        tracing::warn!(run = %self.name, error = %error.describe(), "looking again");
                        pause.wait().await;
                    }
                },
                Action::Perform(act) => self.perform(&act).await,
                Action::Wait { until, holds, why } => {
                    self.memory.note_hold(holds, now);
                    self.forget_looks();
                    tracing::debug!(run = %self.name, %until, %why, "waiting");
                    tokio::select! {
                        _ = self.changes.changed() => {}
                        () = tokio::time::sleep_until(self.parts.clock.instant_of(until)) => {}
                    }
                }
            }
        }
    }

    fn world(&mut self) -> World {
        let subject = &self.run.spec.subject;
        let now = self.parts.clock.now();
        let state = self.parts.shared.lock();
        let paused = self.parts.people.paused().map(|why| format!("paused: {why}"));
        let stopped = paused.or_else(|| state.stopped(&self.run.spec, now));
        let node = state.node(&subject.name, &subject.uid).map(|(view, version)| {
            self.node_version = version;
            view
        });
        let confirmed = self.looked_pods.is_some();
        let pods = match self.looked_pods.take() {
            Some(pods) => pods,
            None => {
                let mut pods: Vec<_> = state.pods_on(&subject.name).cloned().collect();
                pods.sort();
                pods
            }
        };
        // A run for a pod has no node whose pods are known: what is remembered of its own eviction stays.
        self.memory.keep_evictions(|uid| uid == subject.uid || pods.iter().any(|pod| pod.uid == uid));
        World {
            node,
            pods,
            pods_confirmed: confirmed,
            objects: self.looked.clone(),
            runs: self.looked_runs.clone(),
            stopped,
            volumes: self.looked_volumes,
            approved_by: Some(self.parts.people.approvals(&self.name, &self.run.spec)),
        }
    }

    /// What was looked at counts for one question only.
    fn forget_looks(&mut self) {
        self.looked.clear();
        self.looked_runs.clear();
        self.looked_volumes = None;
    }

    /// Persists a change. `Ok(false)`: the run was deleted. After an error, or when someone else wrote, the run is read
    /// again and the runner asked about what is really there.
    async fn record(&mut self, status: &PlaybookRunStatus, change: &Change) -> Result<bool, CallError> {
        let next = runner::apply(status, &self.run.spec, change, self.parts.clock.now());
        let mut object = self.run.clone();
        object.status = Some(next);
        self.forget_looks();
        match run_object::put_status(&self.parts.client, &object).await {
            Ok(written) => {
                self.run = written;
                self.recorded(change);
                self.tell(change);
                Ok(true)
            }
            Err(error) => {
                if error.is_permanent() && !error.is_not_found() {
                    tracing::error!(run = %self.name, error = %error.describe(), "the log of the run is not taken");
                }
                let conflict = error.is_conflict();
                let Some(current) = read(&self.parts, &self.name).await else { return Ok(false) };
                let landed = current.status == object.status;
                self.run = current;
                if landed {
                    self.recorded(change);
                    self.tell(change);
                } else if conflict {
                    self.memory = Memory::default();
                }
                if landed || conflict { Ok(true) } else { Err(error) }
            }
        }
    }

    fn recorded(&mut self, change: &Change) {
        match change {
            Change::Intend { record, .. } => {
                self.memory.note_intended();
                tracing::info!(run = %self.name, step = %record.action, undo = record.undo, "intended");
                self.spans.step(&self.run.spec, record, false);
            }
            Change::Settle { outcome, message } => {
                tracing::info!(run = %self.name, ?outcome, %message, "step ended");
                self.memory = Memory::default();
                self.spans.step_ended(matches!(outcome, StepOutcome::Done | StepOutcome::Skipped), message);
            }
            Change::Park { message } => tracing::info!(run = %self.name, %message, "parked"),
            Change::Stop { message } => tracing::warn!(run = %self.name, %message, "stopped; it is rolled back"),
            Change::Finish { phase, message, .. } => {
                self.parts.announcer.ended(&self.name, &self.run.spec, &mut self.spans, *phase, message);
            }
        }
    }

    fn tell(&self, change: &Change) {
        let first = self.run.status.as_ref().is_some_and(|status| status.log.len() == 1);
        let what = match change {
            Change::Intend { .. } if first => {
                Some(Happened { reason: "PlaybookStarted", action: "Start", note: &self.run.spec.trigger, bad: false })
            }
            Change::Park { message } => {
                Some(Happened { reason: "PlaybookParked", action: "Park", note: message, bad: true })
            }
            Change::Stop { message } => {
                Some(Happened { reason: "PlaybookStopped", action: "Stop", note: message, bad: true })
            }
            Change::Finish { phase, message, .. } => Some(Happened {
                reason: match phase {
                    RunPhase::Succeeded => "PlaybookSucceeded",
                    RunPhase::RolledBack => "PlaybookRolledBack",
                    RunPhase::Observed => "PlaybookObserved",
                    _ => "PlaybookFailed",
                },
                action: "Finish",
                note: message,
                bad: !matches!(phase, RunPhase::Succeeded | RunPhase::Observed),
            }),
            _ => None,
        };
        if let Some(what) = what {
            self.parts.announcer.event(&self.run.spec, what);
        }
    }

    async fn look(&mut self, look: &Look) -> Result<(), CallError> {
        match look {
            Look::Pods => {
                self.looked_pods = Some(evict::pods_on(&self.parts.client, &self.run.spec.subject.name).await?);
            }
            Look::Object(name) => {
                let found = self.parts.paths.get(&self.parts.client, name).await?;
                self.looked.insert(name.clone(), found);
            }
            Look::Run(name) => {
                let found = run_object::get(&self.parts.client, name).await?.map(|run| {
                    let status = run.status.unwrap_or_default();
                    ChildRun { phase: status.phase, message: status.message }
                });
                self.looked_runs.insert(name.clone(), found);
            }
            // Always known, see `world`.
            Look::Approvals => {}
            Look::Volumes => {
                let node = &self.run.spec.subject.name;
                self.looked_volumes = Some(node::volumes_on(&self.parts.client, node).await?);
            }
        }
        Ok(())
    }

    async fn perform(&mut self, act: &Act) {
        let result = match act {
            Act::SetSchedulable { unschedulable, cordoned_by } => {
                self.set_schedulable(*unschedulable, cordoned_by.as_deref()).await
            }
            Act::Evict { pods } => return self.evict(pods).await,
            Act::Send(message) => return self.send(message).await,
            Act::Fence { node, timeout_ms } => return self.fence(node, *timeout_ms).await,
            Act::Merge { object, patch } => self.parts.paths.merge(&self.parts.client, object, patch).await,
            Act::Apply { object, body } => self.parts.paths.apply(&self.parts.client, object, body).await,
            Act::Create { object, body, image } => {
                let refused = image.as_ref().and_then(|image| self.parts.endpoints.refuses(image));
                if let Some(why) = refused {
                    return self.memory.note_failure(true, why, self.parts.clock.now());
                }
                self.parts.paths.create(&self.parts.client, object, body).await
            }
            Act::Delete { object, uid } => self.parts.paths.delete(&self.parts.client, object, uid).await,
        };
        // Whatever came of it, what was looked at is old now.
        self.forget_looks();
        match result {
            Ok(()) => self.memory.note_success(),
            Err(error) => {
                tracing::info!(run = %self.name, error = %error.describe(), "an act did not succeed");
                self.spans.note("act.failed", &error.describe());
                self.memory.note_failure(error.is_permanent(), error.describe(), self.parts.clock.now());
            }
        }
    }

    async fn set_schedulable(&mut self, unschedulable: bool, cordoned_by: Option<&str>) -> Result<(), CallError> {
        let name = self.run.spec.subject.name.clone();
        let client = &self.parts.client;
        let now = self.parts.clock.now();
        let result = node::set_schedulable(client, &name, &self.node_version, unschedulable, cordoned_by, now).await;
        match result {
            Ok(node) => {
                self.conflicts = 0;
                self.parts.shared.node_answered(node, now);
                Ok(())
            }
            Err(error) if error.is_conflict() && self.conflicts < QUICK_CONFLICTS => {
                self.conflicts += 1;
                // Nodes change often. The next question is asked about the version that is there now, without a pause.
                if let Some(node) = node::get(client, &name, now).await? {
                    self.parts.shared.node_answered(node, now);
                }
                Ok(())
            }
            Err(error) => {
                if let (true, Ok(Some(node))) = (error.is_conflict(), node::get(client, &name, now).await) {
                    self.parts.shared.node_answered(node, now);
                }
                Err(error)
            }
        }
    }

    async fn send(&mut self, message: &Outbound) {
        let now = self.parts.clock.now();
        match self.parts.endpoints.send(message).await {
            Sent::Known(outcome, what) => self.memory.note_answer(outcome, what),
            Sent::Unsent(why) => self.memory.note_failure(false, why, now),
            Sent::Impossible(why) => self.memory.note_failure(true, why, now),
        }
    }

    async fn fence(&mut self, node: &str, timeout_ms: u64) {
        let within = Duration::from_millis(timeout_ms);
        let fenced = fence::fence(&self.parts.client, self.parts.bmcs.as_ref(), node, within).await;
        let now = self.parts.clock.now();
        match fenced {
            Fenced::Known(outcome, what) => self.memory.note_answer(outcome, what),
            Fenced::NotTried(why) => self.memory.note_failure(false, why, now),
            Fenced::Impossible(why) => self.memory.note_failure(true, why, now),
        }
    }

    async fn evict(&mut self, pods: &[PodView]) {
        // All at once: the runner asks for no more than MAX_EVICTIONS_AT_ONCE.
        let asked = pods.iter().cloned().map(|pod| {
            let (client, api) = (self.parts.client.clone(), Arc::clone(&self.parts.evictions));
            async move { api.evict(&client, &pod).await }
        });
        let answers = futures::future::join_all(asked).await;
        self.forget_looks();
        let now = self.parts.clock.now();
        for (pod, answer) in pods.iter().zip(answers) {
            let name = format!("{}/{}", pod.namespace, pod.name);
            match answer {
                Answer::Accepted | Answer::Gone => {
                    tracing::info!(run = %self.name, pod = %name, "evicted");
                    self.memory.note_evicted(&pod.uid);
                }
                Answer::Refused { message, retry_after } => {
                    tracing::info!(run = %self.name, pod = %name, %message, "eviction refused for now");
                    self.spans.note("eviction.refused", &format!("{name}: {message}"));
                    self.memory.note_refused(&pod.uid, message, retry_after, now);
                }
                Answer::Forbidden { message } => {
                    self.memory.note_failure(true, format!("evict {name}: {message}"), now);
                }
            }
        }
    }
}

/// Ends a run whose plan does not pass the checks.
async fn refuse(parts: &Parts, mut run: PlaybookRun, mut spans: RunSpans, why: &str) -> Ended {
    let name = run.metadata.name.clone().unwrap_or_default();
    let change = Change::Finish { phase: RunPhase::Failed, message: why.to_owned(), follow_up: None };
    let mut pause = Pause::default();
    loop {
        let status = run.status.clone().unwrap_or_default();
        run.status = Some(runner::apply(&status, &run.spec, &change, parts.clock.now()));
        match run_object::put_status(&parts.client, &run).await {
            Ok(written) => {
                parts.announcer.ended(&name, &written.spec, &mut spans, RunPhase::Failed, why);
                return Ended::Final(trim::run(&written));
            }
            Err(error) => {
                tracing::warn!(run = %name, error = %error.describe(), "ending a wrong run again");
                pause.wait().await;
                match read(parts, &name).await {
                    Some(current) if current.status.as_ref().is_some_and(|s| s.phase.is_final()) => {
                        return Ended::Final(trim::run(&current));
                    }
                    Some(current) => run = current,
                    None => return Ended::Deleted(name),
                }
            }
        }
    }
}
