//! A bounded agenda: what happens at which instant.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::apiserver::clock::Moment;

/// What a timer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Kubelets renew their leases.
    Leases,
    /// The node life cycle controller looks.
    Nodes,
    /// Hosts count on.
    Hosts,
    /// Old Events are forgotten.
    Events,
    /// Pods on tainted nodes run out of patience.
    Evictions,
    /// Load and power of nodes without a host.
    Curves,
    /// A CronJob's next time.
    CronJob(Arc<str>),
    /// A finished Job has been kept long enough.
    Job(Arc<str>),
    /// A pod's next step.
    Pod(Arc<str>),
}

/// Timers in the order of their instants; those of one instant in the order they were set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers {
    agenda: BTreeMap<(Moment, u64), Timer>,
    count: u64,
}

impl Timers {
    /// Sets a timer.
    pub(crate) fn set(&mut self, at: Moment, timer: Timer) {
        self.count += 1;
        self.agenda.insert((at, self.count), timer);
    }

    /// The instant of the first timer.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due.
    pub(crate) fn due(&mut self, now: Moment) -> Option<Timer> {
        let key = *self.agenda.keys().next().filter(|(at, _)| *at <= now)?;
        self.agenda.remove(&key)
    }
}
