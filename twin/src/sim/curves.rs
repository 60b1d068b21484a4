//! Load and power of nodes that have no host of their own: curves over the day, computed, not measured.
//!
//! What the pods of a node ask for is used to a share that swings over the day, each node a little out of step with
//! the others. Once a minute the use is noted (`kubectl top` shows it) and the energy summed up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Simulation;
use crate::apiserver::metrics::Usage;
use crate::host::power::PowerCurve;

/// Between two steps.
pub(crate) const STEP: Duration = Duration::from_secs(60);
/// Cores that a node uses for itself.
const SYSTEM_CORES: f64 = 0.2;
/// Bytes that a node uses for itself.
const SYSTEM_BYTES: u64 = 1 << 30;
/// Mean share of the requested CPU that is used, its swing over the day, and its noise.
const MEAN: f64 = 0.4;
const SWING: f64 = 0.25;
const NOISE: f64 = 0.05;
/// The hour (UTC) of most load.
const PEAK_HOUR: f64 = 12.0;

/// Energy at the wall by node, in joules.
pub(crate) type Energy = Arc<BTreeMap<Arc<str>, f64>>;

/// FNV-1a.
fn hash(text: &str, round: i64) -> u64 {
    text.bytes()
        .chain(round.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The share of the requested CPU that is used on a node at a time: between 0.1 and 0.7, most at noon UTC, each node
/// up to an hour before or after the others, with noise that changes by the minute.
pub fn share(node: &str, at: Timestamp) -> f64 {
    let unit = |hash: u64| (hash >> 11) as f64 / (1u64 << 53) as f64;
    let seconds = at.as_second();
    let hour = seconds.rem_euclid(86_400) as f64 / 3600.0 - PEAK_HOUR + (2.0 * unit(hash(node, -1)) - 1.0);
    let noise = NOISE * (2.0 * unit(hash(node, seconds.div_euclid(60))) - 1.0);
    MEAN + SWING * (hour * std::f64::consts::TAU / 24.0).cos() + noise
}

impl Simulation {
    /// Notes what nodes without a host use now, and the energy of the step that has passed.
    pub(crate) fn follow_curves(&mut self) {
        let now = self.api().clock().now();
        let up = self.world.up.lock().clone();
        let curve = PowerCurve::server();
        let world = self.world.clone();
        let nodes = world.nodes.lock();
        let energy = Arc::make_mut(&mut self.energy);
        for (name, node) in self.cache.nodes.iter().filter(|(name, _)| up.contains(&***name)) {
            if nodes.get(&**name).is_none_or(|n| n.host.is_some()) {
                continue;
            }
            let asked = self.cache.used(name);
            let cores = asked.map_or(0, |u| u.requests.cpu_millis) as f64 / 1000.0 * share(name, now) + SYSTEM_CORES;
            let memory = asked.map_or(0, |u| u.requests.memory_bytes) / 2 + SYSTEM_BYTES;
            world.api.shared.usage.note(name, Usage { cores, memory_bytes: memory }, []);
            let all = node.room.as_ref().map_or(1, |r| r.cpu_millis.max(1)) as f64 / 1000.0;
            let joules = curve.watts((cores / all).min(1.0)) * STEP.as_secs_f64();
            match energy.get_mut(name) {
                Some(sum) => *sum += joules,
                None => {
                    energy.insert(name.clone(), joules);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_high_at_noon_low_at_midnight_and_the_same_every_time() {
        let at = |hour: i64| Timestamp::from_second(1_767_225_600 + hour * 3600).unwrap();
        for node in ["n1", "n2", "n3"] {
            assert!((0.55..0.71).contains(&share(node, at(12))), "{}", share(node, at(12)));
            assert!((0.09..0.25).contains(&share(node, at(24))), "{}", share(node, at(24)));
            assert!((share(node, at(12)) - share(node, at(36))).abs() < 2.0 * NOISE);
            assert_eq!(share(node, at(7)).to_bits(), share(node, at(7)).to_bits());
        }
        assert_ne!(share("n1", at(5)).to_bits(), share("n2", at(5)).to_bits());
    }
}
