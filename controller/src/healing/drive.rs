//! Drives one run: asks the runner what comes next, persists it or does it, and asks again.
//!
//! The order is the whole point: what the runner records is persisted before it is asked again, so an act never happens
//! without its intent in the log. A write that may or may not have landed is settled by reading the run again.

use std::{sync::Arc, time::SystemTime};

use evergreen_api::{
    TraceParent,
    resources::{PlaybookRun, PlaybookRunStatus, RunPhase, StepOutcome},
};
use evergreen_playbooks::{
    planner::{RunView, Start},
    runner::{self, Act, Action, Change, Look, Memory, RunProgram, Seen, World},
    view::PodView,
};
use tokio::sync::watch;

use super::{
    Parts,
    announce::{Happened, RunSpans},
    calls::{CallError, Pause},
    evict::{self, Answer},
    node, run_object, trim, workload,
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
    let trace = incident_of(&parts, &start).await;
    let object = run_object::object(&start, trace);
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
    let known = || parts.shared.lock().trace(&start.node.name, &start.condition);
    if let Some(trace) = known() {
        return trace;
    }
    let now = parts.clock.now();
    if let Ok(Some(node)) = node::get(&parts.client, &start.node.name, now).await {
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
    looked_deployment: Option<Option<workload::Looked>>,
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
            looked_deployment: None,
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
                    self.looked_deployment = None;
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
        let state = self.parts.shared.lock();
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
        self.memory.keep_evictions(|uid| pods.iter().any(|pod| pod.uid == uid));
        let deployment = match &self.looked_deployment {
            None => Seen::Unknown,
            Some(None) => Seen::Absent,
            Some(Some(looked)) => Seen::There(looked.view.clone()),
        };
        World { node, pods, pods_confirmed: confirmed, deployment }
    }

    /// Persists a change. `Ok(false)`: the run was deleted. After an error, or when someone else wrote, the run is read
    /// again and the runner asked about what is really there.
    async fn record(&mut self, status: &PlaybookRunStatus, change: &Change) -> Result<bool, CallError> {
        let next = runner::apply(status, &self.run.spec, change, self.parts.clock.now());
        let mut object = self.run.clone();
        object.status = Some(next);
        self.looked_deployment = None;
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
                tracing::info!(run = %self.name, step = %record.action, undo = record.undo, "intended");
                self.spans.step(&self.run.spec, record, false);
            }
            Change::Settle { outcome, message } => {
                tracing::info!(run = %self.name, ?outcome, %message, "step ended");
                self.memory = Memory::default();
                self.spans.step_ended(matches!(outcome, StepOutcome::Done | StepOutcome::Skipped), message);
            }
            Change::Finish { phase, message } => {
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
            Change::Finish { phase, message } => Some(Happened {
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
            Look::Deployment { namespace, name } => {
                self.looked_deployment = Some(workload::get(&self.parts.client, namespace, name).await?);
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
            Act::Restart { namespace, deployment, key, .. } => {
                // Whatever comes of it, the Deployment is looked at again.
                let version = self.looked_deployment.take().flatten().map(|looked| looked.version).unwrap_or_default();
                workload::restart(&self.parts.client, namespace, deployment, &version, key).await
            }
        };
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

    async fn evict(&mut self, pods: &[PodView]) {
        // All at once: the runner asks for no more than MAX_EVICTIONS_AT_ONCE.
        let asked = pods.iter().cloned().map(|pod| {
            let (client, api) = (self.parts.client.clone(), Arc::clone(&self.parts.evictions));
            async move { api.evict(&client, &pod).await }
        });
        let answers = futures::future::join_all(asked).await;
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
    let change = Change::Finish { phase: RunPhase::Failed, message: why.to_owned() };
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
