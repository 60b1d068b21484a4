//! The ledger of a period, as a source gives it: rows in any order in, sums by node, namespace and workload out.
//! The order of rows changes nothing; memory grows with nodes x days and with workloads, not with samples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::days::Days;

/// What a row speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All energy of a node.
    Host,
    /// Energy that a node idled away; part of `Host`.
    Idle,
    /// Energy of pods beyond the idle node; part of `Host`.
    Pod,
    /// Energy of a data center's facility feed.
    Facility,
    /// Water of a data center, microlitres.
    Water,
}

/// Energy of one thing over the days of a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What it is.
    pub kind: Kind,
    /// Data center.
    pub site: String,
    /// Node, of hosts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Namespace, of pods.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Workload, of pods; empty for a whole namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// `measured`, `calibrated` or `estimated`; anything else counts as estimated, the weakest claim.
    #[serde(default)]
    pub provenance: String,
    /// Whole microjoules (microlitres) of the period.
    pub total: u128,
    /// `[day, microjoules]`; empty where days are not told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<(u32, u64)>,
    /// Time for which the moment of use is not known, milliseconds.
    #[serde(default)]
    pub gap_ms: u64,
    /// First sample, Unix milliseconds.
    #[serde(default)]
    pub first_ms: Option<i64>,
    /// Last sample, Unix milliseconds.
    #[serde(default)]
    pub last_ms: Option<i64>,
}

/// A part of a ledger, as the plane answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// Rows.
    pub rows: Vec<Row>,
    /// Where the next page begins; none when this is the last.
    pub next: Option<i64>,
}

/// Microjoules by provenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// By a sensor.
    pub measured: u128,
    /// By a model that a sensor calibrated.
    pub calibrated: u128,
    /// By a model alone.
    pub estimated: u128,
}

impl Parts {
    /// All of it.
    pub fn all(&self) -> u128 {
        self.measured + self.calibrated + self.estimated
    }

    /// Adds other parts.
    pub fn add(&mut self, other: &Self) {
        self.measured += other.measured;
        self.calibrated += other.calibrated;
        self.estimated += other.estimated;
    }

    fn of(&mut self, provenance: &str) -> &mut u128 {
        match provenance {
            "measured" => &mut self.measured,
            "calibrated" => &mut self.calibrated,
            _ => &mut self.estimated,
        }
    }
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLedger {
    /// Energy.
    pub parts: Parts,
    /// What idling took of it; none when the node does not tell.
    pub idle: Option<u128>,
    /// Energy by day.
    pub days: BTreeMap<u32, Parts>,
    /// Idle energy by day.
    pub idle_days: BTreeMap<u32, u128>,
    /// First and last sample, Unix milliseconds.
    pub seen: Option<(i64, i64)>,
    gaps: BTreeMap<String, u64>,
}

impl NodeLedger {
    /// Time for which the moment of use is not known: the least over provenances, for one may stand in for another.
    pub fn gap_ms(&self) -> u64 {
        self.gaps.values().copied().min().unwrap_or(0)
    }
}

/// Pods of a namespace at a data center.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodLedger {
    /// Energy.
    pub parts: Parts,
    /// Energy by day.
    pub days: BTreeMap<u32, Parts>,
    /// First and last sample, Unix milliseconds.
    pub seen: Option<(i64, i64)>,
}

/// Meters of a data center.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeterLedger {
    /// Facility energy by day, microjoules; none without a meter.
    pub energy: Option<BTreeMap<u32, u128>>,
    /// Water, microlitres; none without a meter.
    pub water: Option<u128>,
    /// Time for which the facility meter was silent, milliseconds.
    pub gap_ms: u64,
    /// First and last reading, Unix milliseconds.
    pub seen: Option<(i64, i64)>,
}

/// The ledger of a period.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Its days.
    pub days: Days,
    /// Nodes by data center and name.
    pub nodes: BTreeMap<(String, String), NodeLedger>,
    /// Pods by data center and namespace.
    pub namespaces: BTreeMap<(String, String), PodLedger>,
    /// Pods by data center, namespace and workload.
    pub workloads: BTreeMap<(String, String, String), Parts>,
    /// Meters by data center.
    pub meters: BTreeMap<String, MeterLedger>,
}

fn widen(seen: &mut Option<(i64, i64)>, row: &Row) {
    if let Some((first, last)) = row.first_ms.zip(row.last_ms) {
        *seen = Some(seen.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
    }
}

impl Ledger {
    /// An empty ledger of a period.
    pub fn new(days: Days) -> Self {
        Self {
            days,
            nodes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            workloads: BTreeMap::new(),
            meters: BTreeMap::new(),
        }
    }

    /// Adds a row. Days outside of the period are counted into its last day.
    pub fn add(&mut self, row: Row) {
        let last_day = u32::try_from(self.days.len() - 1).unwrap_or(u32::MAX);
        let day = |day: u32| day.min(last_day);
        match row.kind {
            Kind::Host => {
                let node = self.nodes.entry((row.site.clone(), row.node.clone())).or_default();
                *node.parts.of(&row.provenance) += row.total;
                for (index, microjoules) in &row.days {
                    *node.days.entry(day(*index)).or_default().of(&row.provenance) += u128::from(*microjoules);
                }
                let gap = node.gaps.entry(row.provenance.clone()).or_insert(u64::MAX);
                *gap = row.gap_ms.min(*gap);
                widen(&mut node.seen, &row);
            }
            Kind::Idle => {
                let node = self.nodes.entry((row.site, row.node)).or_default();
                *node.idle.get_or_insert(0) += row.total;
                for (index, microjoules) in &row.days {
                    *node.idle_days.entry(day(*index)).or_default() += u128::from(*microjoules);
                }
            }
            Kind::Pod if row.workload.is_empty() => {
                let space = self.namespaces.entry((row.site.clone(), row.namespace.clone())).or_default();
                *space.parts.of(&row.provenance) += row.total;
                for (index, microjoules) in &row.days {
                    *space.days.entry(day(*index)).or_default().of(&row.provenance) += u128::from(*microjoules);
                }
                widen(&mut space.seen, &row);
            }
            Kind::Pod => {
                let parts = self.workloads.entry((row.site, row.namespace, row.workload)).or_default();
                *parts.of(&row.provenance) += row.total;
            }
            Kind::Facility => {
                let meter = self.meters.entry(row.site.clone()).or_default();
                let energy = meter.energy.get_or_insert_default();
                for (index, microjoules) in &row.days {
                    *energy.entry(day(*index)).or_default() += u128::from(*microjoules);
                }
                meter.gap_ms = meter.gap_ms.max(row.gap_ms);
                widen(&mut meter.seen, &row);
            }
            Kind::Water => *self.meters.entry(row.site).or_default().water.get_or_insert(0) += row.total,
        }
    }
}

/// The workload of a pod: its name without what controllers append (a ReplicaSet's hash, a random suffix, an ordinal, a
/// job's time). Derived from the name alone, so a name that looks like that is shortened too; the report says so.
pub fn workload(pod: &str) -> &str {
    let generated = |part: &str, least: usize| {
        // Kubernetes draws suffixes from an alphabet without vowels, so that no words come out.
        part.len() >= least && part.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b))
    };
    let ordinal = |part: &str| !part.is_empty() && part.len() <= 10 && part.bytes().all(|b| b.is_ascii_digit());
    let Some((rest, last)) = pod.rsplit_once('-') else { return pod };
    if ordinal(last) && !rest.is_empty() {
        return rest;
    }
    if last.len() != 5 || !generated(last, 5) || rest.is_empty() {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((name, hash)) if !name.is_empty() && (6..=10).contains(&hash.len()) && generated(hash, 6) => name,
        Some((name, time)) if !name.is_empty() && time.len() >= 8 && ordinal(time) => name,
        _ => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_one_workload_are_one_name() {
        for (pod, name) in [
            ("checkout-7d9c6bdf5-x2v4k", "checkout"),
            ("ledger-0", "ledger"),
            ("agent-x2v4k", "agent"),
            ("report-28712345-zx8bk", "report"),
            ("cart-web", "cart-web"),
            ("solo", "solo"),
            ("-0", "-0"),
            ("", ""),
        ] {
            assert_eq!(workload(pod), name, "{pod}");
        }
    }

    #[test]
    fn rows_add_up_whatever_their_order_and_the_least_gap_of_a_node_counts() {
        let days =
            Days::new("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-03T00:00:00Z".parse().unwrap(), "UTC").unwrap();
        let row = |provenance: &str, days: &[(u32, u64)], gap_ms| Row {
            kind: Kind::Host,
            site: "a".into(),
            node: "n".into(),
            namespace: String::new(),
            workload: String::new(),
            provenance: provenance.into(),
            total: days.iter().map(|day| u128::from(day.1)).sum(),
            days: days.to_vec(),
            gap_ms,
            first_ms: None,
            last_ms: None,
        };
        let rows = [row("measured", &[(0, 5), (1, 7)], 60), row("estimated", &[(1, 3), (9, 1)], 20)];
        let mut forth = Ledger::new(days.clone());
        rows.iter().cloned().for_each(|row| forth.add(row));
        let mut back = Ledger::new(days);
        rows.into_iter().rev().for_each(|row| back.add(row));
        assert_eq!(forth.nodes, back.nodes);
        let node = &forth.nodes[&("a".into(), "n".into())];
        assert_eq!((node.parts.all(), node.gap_ms(), node.days[&1].all()), (16, 20, 11));
    }
}
