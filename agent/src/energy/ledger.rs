//! The ledger: one account for each origin of figures, each of which adds up exactly.
//!
//! Invariant: in every account, at every moment, pods + system + idle = node, to the microjoule. Rounding never loses or
//! makes energy: parts are given out by largest remainder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Pods that ended and are still shown by name; older ones stay in the sum only.
const MAX_ENDED_PODS: usize = 512;
/// Samples after which a pod whose cgroup is gone is folded into the sum: 15 min at one sample a second, so that every
/// scraper saw its last figure.
const FOLD_AFTER_SAMPLES: u64 = 900;

/// Where figures come from and how good they are. Figures of different origins are never added into one counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// measured, calibrated or estimated.
    pub provenance: String,
    /// Name of the source.
    pub source: String,
}

/// What the energy of one interval is divided by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interval {
    /// Energy of the node, microjoules.
    pub energy_microjoules: u64,
    /// Part of it that an idle node would have taken, microjoules.
    pub idle_microjoules: u64,
    /// CPU time of each pod in the interval, microseconds, by pod UID.
    pub pods: Vec<(String, u64)>,
    /// CPU time outside of pods, microseconds.
    pub system_us: u64,
}

/// Counters of one origin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// All energy.
    pub node_microjoules: u64,
    /// What an idle node would have taken.
    pub idle_microjoules: u64,
    /// What ran outside of pods.
    pub system_microjoules: u64,
    /// Pods by UID.
    pub pods: BTreeMap<String, PodAccount>,
    /// Pods that ended long ago.
    pub ended_microjoules: u64,
    /// How many those were.
    pub ended_pods: u64,
    /// Samples so far.
    pub samples: u64,
}

/// Counter of one pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodAccount {
    /// Its energy.
    pub microjoules: u64,
    /// Sample in which its cgroup was last there.
    pub last_sample: u64,
}

impl Account {
    /// Energy of all pods, ended ones included, microjoules.
    pub fn pods_microjoules(&self) -> u64 {
        self.pods.values().fold(self.ended_microjoules, |sum, pod| sum.saturating_add(pod.microjoules))
    }

    /// What is missing or too much; always 0.
    pub fn residual(&self) -> i128 {
        let parts = [self.pods_microjoules(), self.system_microjoules, self.idle_microjoules];
        i128::from(self.node_microjoules) - parts.into_iter().map(i128::from).sum::<i128>()
    }

    fn record(&mut self, interval: &Interval) {
        // A counter that would overflow (18 TJ) stays as it is: an account that no longer adds up would be worse.
        let Some(node) = self.node_microjoules.checked_add(interval.energy_microjoules) else { return };
        self.node_microjoules = node;
        self.samples += 1;
        let idle = interval.idle_microjoules.min(interval.energy_microjoules);
        self.idle_microjoules += idle;
        let mut weights: Vec<u64> = interval.pods.iter().map(|(_, cpu_us)| *cpu_us).collect();
        weights.push(interval.system_us);
        let mut shares = divide(interval.energy_microjoules - idle, &weights);
        // With no CPU time at all nobody but the system can have used it.
        self.system_microjoules += shares.pop().unwrap_or(0);
        for ((uid, _), share) in interval.pods.iter().zip(shares) {
            let pod = self.pods.entry(uid.clone()).or_default();
            pod.microjoules += share;
            pod.last_sample = self.samples;
        }
        self.fold();
    }

    fn fold(&mut self) {
        let now = self.samples;
        let alive = self.pods.values().filter(|pod| pod.last_sample == now).count();
        let mut surplus = self.pods.len().saturating_sub(alive + MAX_ENDED_PODS);
        let (mut ended, mut count) = (0_u64, 0);
        self.pods.retain(|_, pod| {
            let age = now - pod.last_sample;
            let fold = age > FOLD_AFTER_SAMPLES || (age > 0 && surplus > 0);
            if fold {
                surplus = surplus.saturating_sub(1);
                ended += pod.microjoules;
                count += 1;
            }
            !fold
        });
        self.ended_microjoules += ended;
        self.ended_pods += count;
    }
}

/// Divides a whole by weights so that the parts are integers and their sum is the whole: each gets its floor, and the
/// rest goes to the largest remainders, the first among equals. With no weight at all the last part takes everything.
pub fn divide(whole: u64, weights: &[u64]) -> Vec<u64> {
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut parts = vec![0_u64; weights.len()];
    if total == 0 {
        if let Some(last) = parts.last_mut() {
            *last = whole;
        }
        return parts;
    }
    let mut remainders = Vec::with_capacity(weights.len());
    let mut given = 0_u64;
    for (index, weight) in weights.iter().enumerate() {
        let product = u128::from(whole) * u128::from(*weight);
        let floor = u64::try_from(product / total).unwrap_or(whole);
        parts[index] = floor;
        given += floor;
        remainders.push((product % total, index));
    }
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    // Fewer units are left than there are parts, each of which had a remainder.
    let left = usize::try_from(whole - given).unwrap_or(usize::MAX);
    for (_, index) in remainders.into_iter().take(left) {
        parts[index] += 1;
    }
    parts
}

/// All accounts of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    #[serde(with = "as_list")]
    accounts: BTreeMap<Origin, Account>,
    /// Intervals for which nothing is known.
    pub gaps: u64,
    /// Their length together, milliseconds.
    pub gap_ms: u64,
}

impl Ledger {
    /// Enters one interval.
    pub fn record(&mut self, origin: &Origin, interval: &Interval) {
        if let Some(account) = self.accounts.get_mut(origin) {
            account.record(interval);
        } else {
            self.accounts.entry(origin.clone()).or_default().record(interval);
        }
    }

    /// Notes a time of which nothing is known; nothing is filled in.
    pub fn record_gap(&mut self, milliseconds: u64) {
        self.gaps += 1;
        self.gap_ms = self.gap_ms.saturating_add(milliseconds);
    }

    /// The accounts.
    pub fn accounts(&self) -> &BTreeMap<Origin, Account> {
        &self.accounts
    }
}

/// JSON has no map with structured keys.
mod as_list {
    use serde::{Deserializer, Serializer};

    use super::{Account, BTreeMap, Deserialize, Origin, Serialize};

    pub(super) fn serialize<S: Serializer>(
        accounts: &BTreeMap<Origin, Account>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        accounts.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Origin, Account>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin() -> Origin {
        Origin { provenance: "measured".into(), source: "powercap".into() }
    }

    #[test]
    fn pods_get_energy_by_their_cpu_time() {
        let mut ledger = Ledger::default();
        let pods = vec![("a".to_owned(), 300), ("b".to_owned(), 100)];
        ledger.record(&origin(), &Interval { energy_microjoules: 1000, idle_microjoules: 200, pods, system_us: 400 });
        let account = &ledger.accounts()[&origin()];
        assert_eq!(account.pods["a"].microjoules, 300);
        assert_eq!(account.pods["b"].microjoules, 100);
        assert_eq!((account.system_microjoules, account.idle_microjoules), (400, 200));
    }

    #[test]
    fn a_pod_that_ended_stays_in_the_sum() {
        let mut ledger = Ledger::default();
        let pods = vec![("a".to_owned(), 1)];
        ledger.record(&origin(), &Interval { energy_microjoules: 10, pods, ..Interval::default() });
        for _ in 0..=FOLD_AFTER_SAMPLES {
            ledger.record(&origin(), &Interval { energy_microjoules: 1, ..Interval::default() });
        }
        let account = &ledger.accounts()[&origin()];
        assert!(account.pods.is_empty());
        assert_eq!((account.ended_pods, account.pods_microjoules(), account.residual()), (1, 10, 0));
    }

    #[test]
    fn figures_of_different_origin_are_kept_apart() {
        let mut ledger = Ledger::default();
        let estimated = Origin { provenance: "estimated".into(), source: "model".into() };
        ledger.record(&origin(), &Interval { energy_microjoules: 5, ..Interval::default() });
        ledger.record(&estimated, &Interval { energy_microjoules: 7, ..Interval::default() });
        assert_eq!(ledger.accounts().len(), 2);
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    }

    proptest! {
        #[test]
        fn parts_sum_to_the_whole(whole in any::<u64>(), weights in proptest::collection::vec(any::<u64>(), 1..60)) {
            let parts = divide(whole, &weights);
            prop_assert_eq!(parts.iter().map(|p| u128::from(*p)).sum::<u128>(), u128::from(whole));
        }

        #[test]
        fn the_ledger_adds_up_at_every_sample_under_churn_and_restart(
            steps in proptest::collection::vec(
                (0_u64..1 << 40, 0_u64..1 << 40, proptest::collection::vec((0_u32..40, 0_u64..1 << 32), 0..20), 0_u64..1 << 32, any::<bool>()),
                1..80,
            )
        ) {
            let mut ledger = Ledger::default();
            let mut total = 0_u128;
            for (energy_microjoules, idle_microjoules, pods, system_us, restart) in steps {
                let mut pods: Vec<(String, u64)> = pods.into_iter().map(|(uid, cpu)| (uid.to_string(), cpu)).collect();
                pods.dedup_by(|a, b| a.0 == b.0);
                ledger.record(&origin(), &Interval { energy_microjoules, idle_microjoules, pods, system_us });
                total += u128::from(energy_microjoules);
                let account = &ledger.accounts()[&origin()];
                prop_assert_eq!(account.residual(), 0);
                prop_assert_eq!(u128::from(account.node_microjoules), total);
                if restart {
                    let text = serde_json::to_string(&ledger).unwrap();
                    ledger = serde_json::from_str(&text).unwrap();
                }
            }
        }
    }
}
