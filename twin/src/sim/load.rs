//! Load: what requests and standing work cost, and how it is shared out over hosts.

use std::collections::HashMap;
use std::time::Duration;

use crate::apiserver::clock::Moment;
use parking_lot::Mutex;

use super::Simulation;
use super::cache::{PodFacts, Stage};
use super::kubelet::container_id;
use crate::apiserver::metrics::Usage;
use crate::host::PodUsage;

/// Work that a pod may have queued, in seconds of one core; more is dropped, as a full accept queue would.
const MAX_BACKLOG: f64 = 30.0;
/// What a running pod uses without any request, in cores.
const STANDING_CORES: f64 = 0.004;
/// Memory that a pod uses beside its request, in bytes.
const STANDING_MEMORY: u64 = 48 << 20;

/// CPU work that waits to be done, by pod UID. Clones are not made: it is shared by reference.
#[derive(Debug, Default)]
pub struct LoadBook {
    waiting: Mutex<HashMap<String, f64>>,
}

impl LoadBook {
    /// Adds CPU work, in seconds of one core, to a pod.
    pub fn add(&self, pod_uid: &str, cpu_seconds: f64) {
        let mut waiting = self.waiting.lock();
        let slot = waiting.entry(pod_uid.to_owned()).or_default();
        *slot = (*slot + cpu_seconds.max(0.0)).min(MAX_BACKLOG);
    }

    pub(crate) fn forget(&self, pod_uid: &str) {
        self.waiting.lock().remove(pod_uid);
    }

    /// Takes at most `most` seconds of a pod's work.
    fn take(&self, pod_uid: &str, most: f64) -> f64 {
        let mut waiting = self.waiting.lock();
        let Some(slot) = waiting.get_mut(pod_uid) else { return 0.0 };
        let done = slot.min(most).max(0.0);
        *slot -= done;
        done
    }
}

impl Simulation {
    pub(crate) fn tick_hosts(&mut self, now: Moment) {
        let passed = self.last_tick.map_or(Duration::ZERO, |last| now.duration_since(last)).as_secs_f64();
        self.last_tick = Some(now);
        let clock = self.world.api.clock().clone();
        let hosts: Vec<_> = self
            .world
            .nodes
            .lock()
            .iter()
            .filter(|(_, n)| n.up)
            .filter_map(|(name, n)| Some((name.clone(), n.host.clone()?)))
            .collect();
        let site_down = *self.world.site_down.borrow();
        for (name, host) in hosts {
            if site_down {
                host.skip_to(clock.instant(now));
                continue;
            }
            let threads = f64::from(host.threads());
            let system = host.background_cores().min(threads);
            // Pods never get more than the node has left.
            let mut left = (threads - system) * passed;
            let mut usage = Vec::new();
            for pod in self.cache.on_node(&name).filter(|p| self.runs(p)) {
                let limit = pod.cpu_limit_millis.map_or(threads, |millis| millis as f64 / 1000.0) * passed;
                let standing = (STANDING_CORES * passed).min(limit).min(left);
                let worked = self.world.load.take(&pod.uid, (limit - standing).min(left - standing));
                left -= standing + worked;
                let cores = if passed > 0.0 { (standing + worked) / passed } else { 0.0 };
                usage.push(PodUsage {
                    uid: pod.uid.to_string(),
                    qos: pod.qos.to_owned(),
                    container_id: container_id(&pod.uid, &pod.container),
                    cpu_cores: cores,
                    memory_bytes: STANDING_MEMORY + pod.requests.memory_bytes / 2,
                });
            }
            let used = |u: &PodUsage| (u.uid.clone(), Usage { cores: u.cpu_cores, memory_bytes: u.memory_bytes });
            let total = usage.iter().fold(Usage { cores: system, memory_bytes: STANDING_MEMORY }, |sum, u| Usage {
                cores: sum.cores + u.cpu_cores,
                memory_bytes: sum.memory_bytes + u.memory_bytes,
            });
            self.world.api.shared.usage.note(&name, total, usage.iter().map(used));
            if let Err(error) = host.tick(clock.instant(now), system, &usage) {
                tracing::warn!(node = name, %error, "the simulated host's files could not be written");
            }
        }
        self.world.api.shared.usage.keep_pods(|uid| self.cache.stage(uid).is_some());
    }

    fn runs(&self, pod: &PodFacts) -> bool {
        matches!(self.cache.stage(&pod.uid), Some((Stage::Running | Stage::Ready | Stage::Stopping, _)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_and_its_backlog_is_bounded() {
        let book = LoadBook::default();
        book.add("a", 2.0);
        assert_eq!(book.take("a", 0.5), 0.5);
        assert_eq!(book.take("a", 9.0), 1.5);
        assert_eq!(book.take("a", 9.0), 0.0);
        book.add("a", 1e9);
        assert_eq!(book.take("a", 1e9), MAX_BACKLOG);
    }
}
