//! Drives the actuators of many services without anybody waiting for any: one call in flight for each, the newest plan next.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use evergreen_api::resources::TrafficActuator;
use tokio::task::JoinHandle;

use super::{Outcome, TrafficContext, TrafficError, TrafficPlan, apply};

/// What is as wanted is compared again after this time, in case somebody else changed it.
const COMPARE_AGAIN: Duration = Duration::from_secs(30);
/// After a failure: the first pause, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Service and place in its `spec.traffic`.
type Key = (String, usize);

/// How far an actuator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActuatorState {
    /// It does what the plan says. Whether that was written just now.
    Done(bool),
    /// Not yet, and why.
    Pending(String),
    /// The last call failed.
    Failed(String),
}

#[derive(Default)]
struct Slot {
    done: Option<(TrafficPlan, TrafficActuator, Instant)>,
    flight: Option<Flight>,
    /// Newest epoch that it was driven to.
    epoch: u64,
    state: Option<ActuatorState>,
    not_before: Option<Instant>,
    failures: u32,
    said: String,
}

struct Flight {
    plan: TrafficPlan,
    actuator: TrafficActuator,
    task: JoinHandle<Result<Outcome, TrafficError>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The actuators of all services.
pub struct TrafficWriters {
    context: TrafficContext,
    slots: BTreeMap<Key, Slot>,
}

impl TrafficWriters {
    /// Writers with nothing to do.
    pub fn new(context: TrafficContext) -> Self {
        Self { context, slots: BTreeMap::new() }
    }

    /// Wants the actuator at `place` of a service's `spec.traffic` to do what the plan says; never waits. Call it again and
    /// again: it says how far it is. `epoch_for` is how long the plan's epoch has been seen without a break.
    pub fn drive(
        &mut self,
        namespace: &str,
        place: usize,
        actuator: &TrafficActuator,
        plan: &TrafficPlan,
        epoch_for: Duration,
    ) -> ActuatorState {
        let now = Instant::now();
        let slot = self.slots.entry((plan.service.clone(), place)).or_default();
        slot.land(now);
        let wanted = |known: &TrafficPlan, of: &TrafficActuator| known == plan && of == actuator;
        let fresh =
            slot.done.as_ref().filter(|(known, of, _)| wanted(known, of)).map(|(_, _, at)| now.duration_since(*at));
        if slot.flight.is_none()
            && fresh.is_none_or(|age| age >= COMPARE_AGAIN)
            && slot.not_before.is_none_or(|t| now >= t)
        {
            let (context, namespace) = (self.context.clone(), namespace.to_owned());
            let (of, with, remembered) = (actuator.clone(), plan.clone(), slot.epoch);
            let task =
                tokio::spawn(async move { apply(&context, &namespace, &of, &with, epoch_for, remembered).await });
            slot.flight = Some(Flight { plan: plan.clone(), actuator: actuator.clone(), task });
        }
        if fresh.is_some() {
            return slot
                .state
                .take()
                .filter(|state| matches!(state, ActuatorState::Done(_)))
                .unwrap_or(ActuatorState::Done(false));
        }
        slot.state
            .clone()
            .filter(|state| !matches!(state, ActuatorState::Done(_)))
            .unwrap_or_else(|| ActuatorState::Pending("being written".into()))
    }

    /// Forgets services that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.slots.retain(|(service, _), _| is_there(service));
    }
}

impl Slot {
    /// Takes in the end of the call in flight, if it has ended.
    fn land(&mut self, now: Instant) {
        use futures::FutureExt as _;
        let Some(mut flight) = self.flight.take() else { return };
        if !flight.task.is_finished() {
            self.flight = Some(flight);
            return;
        }
        let Some(ended) = (&mut flight.task).now_or_never() else { return };
        let what = flight.actuator.describe();
        match ended {
            Ok(Ok(Outcome::Waiting { remaining, why })) => {
                self.not_before = Some(now + remaining.min(PAUSE));
                self.state = Some(ActuatorState::Pending(format!("{what}: {why}")));
            }
            Ok(Ok(outcome)) => {
                let written = outcome == Outcome::Written;
                if written {
                    tracing::info!(service = flight.plan.service, actuator = what, epoch = flight.plan.epoch, shares = ?flight.plan.shares, "traffic written");
                }
                self.epoch = self.epoch.max(flight.plan.epoch);
                self.done = Some((flight.plan.clone(), flight.actuator.clone(), now));
                self.state = Some(ActuatorState::Done(written));
                (self.failures, self.not_before) = (0, None);
                self.said.clear();
            }
            Ok(Err(error)) => self.fail(now, &flight, &what, &error),
            Err(error) => {
                tracing::error!(actuator = what, %error, "an actuator ended before its time");
                self.not_before = Some(now + LONGEST_PAUSE);
                self.state = Some(ActuatorState::Failed(format!("{what}: ended before its time")));
            }
        }
    }

    fn fail(&mut self, now: Instant, flight: &Flight, what: &str, error: &TrafficError) {
        self.failures = self.failures.saturating_add(1);
        let pause = if error.is_stale() { LONGEST_PAUSE } else { (PAUSE * self.failures).min(LONGEST_PAUSE) };
        self.not_before = Some(now + pause);
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        let why = format!("{error}{source}");
        if self.said != why {
            let service = &flight.plan.service;
            tracing::warn!(
                service,
                actuator = what,
                epoch = flight.plan.epoch,
                why,
                "traffic not written; it is tried again"
            );
            self.said.clone_from(&why);
        }
        self.done = None;
        self.state = Some(ActuatorState::Failed(format!("{what}: {why}")));
    }
}
