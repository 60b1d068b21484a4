//! The ledger: one account for each origin of figures, each of which adds up exactly.
//!
//! Invariant: in every account, at every moment, pods + system + idle = node, to the microjoule. Rounding never loses or
//! makes energy: parts are given out by largest remainder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::source::{Part, PartKind};

/// Pods that ended and are still shown by name; older ones stay in the sum only.
const MAX_ENDED_PODS: usize = 512;
/// Samples after which a pod whose cgroup is gone is folded into the sum: 15 min at one sample a second, so that every
/// scraper saw its last figure.
const FOLD_AFTER_SAMPLES: u64 = 900;

/// Parts of a machine that have a counter of their own.
const MAX_PARTS: usize = 256;
/// Accounts of a node: sources that come and go must not add series without end.
const MAX_ACCOUNTS: usize = 12;
/// Name of the source when there were more.
const OTHER: &str = "other";

/// Where figures come from and how good they are. Figures of different origins are never added into one counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// measured, calibrated or estimated.
    pub provenance: String,
    /// Name of the source.
    pub source: String,
}

/// Energy of one interval, cut into slices that are each divided by what speaks for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interval {
    /// UIDs of the pods whose cgroup is there.
    pub pods: Vec<String>,
    /// Slices that together are the node.
    pub slices: Vec<Slice>,
}

/// Energy that is divided by one kind of use: CPU time, memory traffic, work of an accelerator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slice {
    /// All of it, microjoules.
    pub microjoules: u64,
    /// Part of it that an idle node would have taken, microjoules.
    pub idle_microjoules: u64,
    /// Use by each pod, in the order of the interval's pods; what is missing is none.
    pub pods: Vec<u64>,
    /// Use outside of pods, in the same unit.
    pub system: u64,
}

/// Counter of a part of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartAccount {
    /// What it is.
    pub kind: PartKind,
    /// Its energy.
    pub microjoules: u64,
    /// Which source meters it.
    pub source: String,
    /// It is a part of the part whose name its own begins with.
    #[serde(default)]
    pub inside: bool,
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
        let whole = interval.slices.iter().map(|slice| u128::from(slice.microjoules)).sum::<u128>();
        // A counter that would overflow (18 TJ) stays as it is: an account that no longer adds up would be worse.
        let Some(node) = u64::try_from(whole).ok().and_then(|whole| self.node_microjoules.checked_add(whole)) else {
            return;
        };
        self.node_microjoules = node;
        self.samples += 1;
        let mut shares = vec![0_u64; interval.pods.len()];
        for slice in &interval.slices {
            let idle = slice.idle_microjoules.min(slice.microjoules);
            self.idle_microjoules += idle;
            let mut weights = slice.pods.clone();
            weights.resize(interval.pods.len(), 0);
            weights.push(slice.system);
            let mut parts = divide(slice.microjoules - idle, &weights);
            // With no use at all nobody but the system can have used it.
            self.system_microjoules += parts.pop().unwrap_or(0);
            shares.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        }
        for (uid, share) in interval.pods.iter().zip(shares) {
            // Most pods are known: their name is copied once.
            let pod = match self.pods.get_mut(uid) {
                Some(pod) => pod,
                None => self.pods.entry(uid.clone()).or_default(),
            };
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
    #[serde(default)]
    parts: BTreeMap<String, PartAccount>,
    /// Intervals for which nothing is known.
    pub gaps: u64,
    /// Their length together, milliseconds.
    pub gap_ms: u64,
    /// Energy that wraps nobody saw may hide at most, microjoules; in no account.
    #[serde(default)]
    pub unsure_microjoules: u64,
}

impl Ledger {
    /// Enters one interval.
    pub fn record(&mut self, origin: &Origin, interval: &Interval) {
        self.account(origin).record(interval);
    }

    /// Enters what parts of the machine took by their own meters: shown beside the accounts and never added to them.
    /// `inside` are parts of other parts.
    pub fn record_parts(&mut self, source: &str, parts: &[Part], inside: bool) {
        for part in parts.iter().filter(|part| part.kind != PartKind::Rest) {
            if let Some(known) = self.parts.get_mut(&part.id) {
                known.microjoules = known.microjoules.saturating_add(part.microjoules);
            } else if self.parts.len() < MAX_PARTS {
                let fresh =
                    PartAccount { kind: part.kind, microjoules: part.microjoules, source: source.to_owned(), inside };
                self.parts.insert(part.id.clone(), fresh);
            }
        }
    }

    /// Parts of the machine that have a meter, by name.
    pub fn parts(&self) -> &BTreeMap<String, PartAccount> {
        &self.parts
    }

    fn account(&mut self, origin: &Origin) -> &mut Account {
        let crowded = self.accounts.len() + 3 >= MAX_ACCOUNTS && !self.accounts.contains_key(origin);
        let source = if crowded { OTHER } else { &origin.source };
        let key = Origin { provenance: origin.provenance.clone(), source: source.to_owned() };
        self.accounts.entry(key).or_default()
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

    fn interval(microjoules: u64, idle_microjoules: u64, pods: &[(&str, u64)], system: u64) -> Interval {
        let (pods, weights) = pods.iter().map(|(uid, weight)| ((*uid).to_owned(), *weight)).unzip();
        let slice = Slice { microjoules, idle_microjoules, pods: weights, system };
        Interval { pods, slices: vec![slice] }
    }

    #[test]
    fn pods_get_energy_by_what_they_used() {
        let mut ledger = Ledger::default();
        ledger.record(&origin(), &interval(1000, 200, &[("a", 300), ("b", 100)], 400));
        let account = &ledger.accounts()[&origin()];
        assert_eq!(account.pods["a"].microjoules, 300);
        assert_eq!(account.pods["b"].microjoules, 100);
        assert_eq!((account.system_microjoules, account.idle_microjoules), (400, 200));
    }

    #[test]
    fn each_slice_is_divided_by_its_own_use() {
        let mut ledger = Ledger::default();
        let pods = vec!["cpu-bound".to_owned(), "gpu-bound".to_owned()];
        let cpu = Slice { microjoules: 1_000, idle_microjoules: 100, pods: vec![9, 0], system: 0 };
        let gpu = Slice { microjoules: 5_000, idle_microjoules: 1_000, pods: vec![0, 70], system: 0 };
        ledger.record(&origin(), &Interval { pods, slices: vec![cpu, gpu] });
        let account = &ledger.accounts()[&origin()];
        assert_eq!(account.pods["cpu-bound"].microjoules, 900);
        assert_eq!(account.pods["gpu-bound"].microjoules, 4_000);
        assert_eq!((account.idle_microjoules, account.residual()), (1_100, 0));
    }

    #[test]
    fn a_pod_that_ended_stays_in_the_sum() {
        let mut ledger = Ledger::default();
        ledger.record(&origin(), &interval(10, 0, &[("a", 1)], 0));
        for _ in 0..=FOLD_AFTER_SAMPLES {
            ledger.record(&origin(), &interval(1, 0, &[], 0));
        }
        let account = &ledger.accounts()[&origin()];
        assert!(account.pods.is_empty());
        assert_eq!((account.ended_pods, account.pods_microjoules(), account.residual()), (1, 10, 0));
    }

    #[test]
    fn pods_that_ended_need_bounded_memory_and_lose_nothing() {
        let mut ledger = Ledger::default();
        for round in 0..300_u64 {
            let uids: Vec<String> = (0..20).map(|n| format!("{round}-{n}")).collect();
            let pods: Vec<(&str, u64)> = uids.iter().map(|uid| (uid.as_str(), 1)).collect();
            ledger.record(&origin(), &interval(20_000, 0, &pods, 0));
            let account = &ledger.accounts()[&origin()];
            assert!(account.pods.len() <= 20 + MAX_ENDED_PODS);
            assert_eq!(account.pods_microjoules(), (round + 1) * 20_000);
        }
    }

    #[test]
    fn figures_of_different_origin_are_kept_apart() {
        let mut ledger = Ledger::default();
        let estimated = Origin { provenance: "estimated".into(), source: "model".into() };
        ledger.record(&origin(), &interval(5, 0, &[], 0));
        ledger.record(&estimated, &interval(7, 0, &[], 0));
        assert_eq!(ledger.accounts().len(), 2);
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    }

    #[test]
    fn sources_that_come_and_go_add_a_bounded_number_of_accounts() {
        let mut ledger = Ledger::default();
        for n in 0..100 {
            for provenance in ["measured", "calibrated", "estimated"] {
                let origin = Origin { provenance: provenance.into(), source: format!("source-{n}") };
                ledger.record(&origin, &interval(1, 0, &[("a", 1)], 0));
            }
        }
        assert!(ledger.accounts().len() <= MAX_ACCOUNTS);
        let sum: u64 = ledger.accounts().values().map(|account| account.node_microjoules).sum();
        assert_eq!(sum, 300);
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
                (
                    proptest::collection::vec((0_u64..1 << 40, 0_u64..1 << 40, 0_u64..1 << 32), 1..5),
                    proptest::collection::btree_map(0_u32..40, 0_u64..1 << 32, 0..20),
                    any::<bool>(),
                ),
                1..80,
            )
        ) {
            let mut ledger = Ledger::default();
            let mut total = 0_u128;
            for (slices, pods, restart) in steps {
                let (uids, weights): (Vec<String>, Vec<u64>) = pods.into_iter().map(|(uid, cpu)| (uid.to_string(), cpu)).unzip();
                let slices: Vec<Slice> = slices
                    .into_iter()
                    // Fewer uses than pods: the rest used nothing.
                    .map(|(microjoules, idle_microjoules, system)| Slice { microjoules, idle_microjoules, pods: weights[..weights.len() / 2].to_vec(), system })
                    .collect();
                total += slices.iter().map(|slice| u128::from(slice.microjoules)).sum::<u128>();
                ledger.record(&origin(), &Interval { pods: uids, slices });
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
