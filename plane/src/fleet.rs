//! The fleet as it is now, out of the newest points: sites, nodes with their problems, and who holds which group.
//! Pure but for the [`Live`] table it reads.
//!
//! Freshness is judged by when points came here, never by comparing clocks of two machines.

use std::collections::BTreeMap;

use evergreen_api::telemetry::{attribute, metric, prediction};
use serde::Serialize;

use crate::{
    clock::rfc3339_ms,
    live::{Latest, Live},
    predictions::{self, Prediction},
};

/// Silence after which a sender that has shown no interval yet is gone, milliseconds.
const SILENCE_MS: i64 = 30_000;
/// Intervals of silence after which a sender is gone.
const SILENT_INTERVALS: i64 = 3;
/// Time after which a gone node leaves the page, milliseconds.
const FORGET_MS: i64 = 24 * 3_600_000;

/// The answer of the fleet page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fleet {
    /// RFC 3339.
    pub generated_at: String,
    /// Data centers by name.
    pub sites: Vec<Site>,
    /// Failover groups by name.
    pub groups: Vec<Group>,
}

/// A data center.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Site {
    /// Name.
    pub name: String,
    /// Whether its controller renews at a majority; none when no controller is heard.
    pub in_quorum: Option<bool>,
    /// Epoch of its lease.
    pub epoch: Option<i64>,
    /// How long it may go on granting, milliseconds.
    pub lease_remaining_ms: Option<i64>,
    /// When its controller was heard last, RFC 3339.
    pub controller_last_seen: Option<String>,
    /// Power of its nodes that are heard, watts; none when none says.
    pub power_w: Option<f64>,
    /// Energy of the last 24 hours.
    pub energy_kwh: Option<f64>,
    /// Nodes by name.
    pub nodes: Vec<Node>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// The worst of its problems, or gone.
    pub status: Status,
    /// When it was heard last, RFC 3339.
    pub last_seen: String,
    /// 0 to 1.
    pub cpu: Option<f64>,
    /// 0 to 1.
    pub memory: Option<f64>,
    /// Watts.
    pub power_w: Option<f64>,
    /// Which source its power comes from.
    pub energy_source: Option<String>,
    /// measured, calibrated or estimated.
    pub provenance: Option<String>,
    /// What is raised, the worst first.
    pub problems: Vec<Problem>,
    /// What is to be expected, the next first.
    pub predictions: Vec<Prediction>,
}

/// How a node stands, from well to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing is raised.
    Ok,
    /// Something worth knowing.
    Info,
    /// Something that may grow.
    Warning,
    /// It works, less well.
    Degraded,
    /// It does not work.
    Fatal,
    /// It is not heard.
    Gone,
}

impl Status {
    /// The status of a severity; an unknown one counts as a warning.
    fn of(severity: &str) -> Self {
        match severity {
            "info" => Self::Info,
            "degraded" => Self::Degraded,
            "fatal" => Self::Fatal,
            _ => Self::Warning,
        }
    }
}

/// A raised problem.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    /// Problem kind.
    pub kind: String,
    /// fatal, degraded, warning or info.
    pub severity: String,
    /// One line.
    pub summary: String,
}

/// A failover group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Name.
    pub group: String,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

/// A site that holds a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Holder {
    /// Site.
    pub site: String,
    /// Epoch, if said.
    pub epoch: Option<i64>,
}

/// A sender: the newest of what it said, and how often it speaks.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    time_ms: i64,
    received_ms: i64,
    interval_ms: Option<i64>,
}

impl Pulse {
    fn join(pulses: &mut BTreeMap<(String, String), Self>, key: (String, String), latest: &Latest) {
        let pulse =
            Self { time_ms: latest.time_ms, received_ms: latest.received_ms, interval_ms: latest.interval_ms() };
        pulses
            .entry(key)
            .and_modify(|p| {
                p.received_ms = p.received_ms.max(pulse.received_ms);
                p.interval_ms = [p.interval_ms, pulse.interval_ms].into_iter().flatten().min();
                p.time_ms = p.time_ms.max(pulse.time_ms);
            })
            .or_insert(pulse);
    }

    fn is_gone(&self, now_ms: i64) -> bool {
        let patience = self.interval_ms.map_or(SILENCE_MS, |i| (SILENT_INTERVALS * i).clamp(5_000, 10 * SILENCE_MS));
        now_ms - self.received_ms > patience
    }

    /// Whether a point belongs to the sender's newest export: an observation that is no longer made ends with the
    /// export that leaves it out, half an interval later at most.
    fn is_current(&self, latest: &Latest) -> bool {
        let slack = self.interval_ms.map_or(5_000, |i| (i / 2).clamp(200, 5_000));
        self.time_ms - latest.time_ms <= slack
    }
}

fn label<'a>(latest: &'a Latest, key: &str) -> &'a str {
    latest.labels.get(key).map(String::as_str).unwrap_or_default()
}

/// The fleet at `now_ms`; `energy_kwh` is what each site used in the last 24 hours.
pub fn fleet(live: &Live, now_ms: i64, energy_kwh: &BTreeMap<String, f64>) -> Fleet {
    let mut sites: BTreeMap<String, Site> = BTreeMap::new();
    nodes(live, now_ms, &mut sites);
    let controllers = controllers(live, now_ms, &mut sites);
    for site in sites.values_mut() {
        site.energy_kwh = energy_kwh.get(&site.name).copied();
        let watts: Vec<f64> =
            site.nodes.iter().filter(|n| n.status != Status::Gone).filter_map(|n| n.power_w).collect();
        site.power_w = (!watts.is_empty()).then(|| watts.iter().sum());
    }
    Fleet {
        generated_at: rfc3339_ms(now_ms),
        groups: groups(live, now_ms, &controllers, &sites),
        sites: sites.into_values().collect(),
    }
}

fn site<'a>(sites: &'a mut BTreeMap<String, Site>, name: &str) -> &'a mut Site {
    sites.entry(name.to_owned()).or_insert_with(|| Site {
        name: name.to_owned(),
        in_quorum: None,
        epoch: None,
        lease_remaining_ms: None,
        controller_last_seen: None,
        power_w: None,
        energy_kwh: None,
        nodes: Vec::new(),
    })
}

fn nodes(live: &Live, now_ms: i64, sites: &mut BTreeMap<String, Site>) {
    let key = |latest: &Latest| match (label(latest, attribute::SITE), label(latest, attribute::NODE)) {
        ("", _) | (_, "") => None,
        (site, node) => Some((site.to_owned(), node.to_owned())),
    };
    let mut pulses = BTreeMap::new();
    for name in
        [metric::CPU_UTILIZATION, metric::MEMORY_USAGE, metric::HOST_POWER, metric::HOST_ENERGY, metric::SOURCE_PRESENT]
    {
        for latest in live.of(name) {
            if let Some(key) = key(&latest) {
                Pulse::join(&mut pulses, key, &latest);
            }
        }
    }
    let newest = |name: &str| -> BTreeMap<(String, String), Latest> {
        let mut by_node: BTreeMap<(String, String), Latest> = BTreeMap::new();
        for latest in live.of(name).into_iter().filter(|l| l.value.is_some()) {
            if let Some(key) = key(&latest)
                && by_node.get(&key).is_none_or(|known| known.time_ms < latest.time_ms)
            {
                by_node.insert(key, latest);
            }
        }
        by_node
    };
    let cpu = newest(metric::CPU_UTILIZATION);
    let (usage, limit) = (newest(metric::MEMORY_USAGE), newest(metric::MEMORY_LIMIT));
    let (power, energy) = (newest(metric::HOST_POWER), newest(metric::HOST_ENERGY));
    let mut problems: BTreeMap<(String, String), Vec<Problem>> = BTreeMap::new();
    for latest in live.of(metric::NODE_PROBLEM) {
        let Some(key) = key(&latest) else { continue };
        let raised = latest.value.is_some_and(|v| v > 0.0) && pulses.get(&key).is_none_or(|p| p.is_current(&latest));
        if raised {
            problems.entry(key).or_default().push(Problem {
                kind: label(&latest, attribute::PROBLEM_KIND).to_owned(),
                severity: label(&latest, attribute::PROBLEM_SEVERITY).to_owned(),
                summary: label(&latest, attribute::PROBLEM_SUMMARY).to_owned(),
            });
        }
    }
    let mut foreseen: BTreeMap<(String, String), Vec<Prediction>> = BTreeMap::new();
    for latest in live.of(prediction::NODE_PREDICTION) {
        let Some(key) = key(&latest) else { continue };
        // A node that is gone foresees nothing.
        let holds = pulses.get(&key).is_some_and(|p| p.is_current(&latest) && !p.is_gone(now_ms));
        if holds && latest.value.is_some() {
            foreseen.entry(key).or_default().push(Prediction::of(&latest));
        }
    }
    foreseen.values_mut().for_each(|all| predictions::sort(all));
    for (key, pulse) in &pulses {
        if now_ms - pulse.received_ms > FORGET_MS {
            continue;
        }
        let mut raised = problems.remove(key).unwrap_or_default();
        raised.sort_by(|a, b| Status::of(&b.severity).cmp(&Status::of(&a.severity)).then_with(|| a.kind.cmp(&b.kind)));
        let status = if pulse.is_gone(now_ms) {
            Status::Gone
        } else {
            raised.first().map_or(Status::Ok, |p| Status::of(&p.severity))
        };
        let value = |table: &BTreeMap<(String, String), Latest>| table.get(key).and_then(|l| l.value);
        let said = |name: &str| {
            [power.get(key), energy.get(key)]
                .into_iter()
                .flatten()
                .map(|l| label(l, name))
                .find(|t| !t.is_empty())
                .map(str::to_owned)
        };
        site(sites, &key.0).nodes.push(Node {
            name: key.1.clone(),
            status,
            last_seen: rfc3339_ms(pulse.received_ms),
            cpu: value(&cpu),
            memory: value(&usage)
                .zip(value(&limit))
                .filter(|(_, limit)| *limit > 0.0)
                .map(|(usage, limit)| usage / limit),
            power_w: value(&power),
            energy_source: said(attribute::ENERGY_SOURCE),
            provenance: said(attribute::PROVENANCE),
            problems: raised,
            predictions: foreseen.remove(key).unwrap_or_default(),
        });
    }
}

/// Fills in what controllers say of their own sites; answers each one's pulse by site and instance.
fn controllers(live: &Live, now_ms: i64, sites: &mut BTreeMap<String, Site>) -> BTreeMap<(String, String), Pulse> {
    let key = |latest: &Latest| match label(latest, attribute::SITE) {
        "" => None,
        site => Some((site.to_owned(), label(latest, "service.instance.id").to_owned())),
    };
    let mut pulses = BTreeMap::new();
    for name in [metric::SITE_IN_QUORUM, metric::SITE_EPOCH, metric::SITE_LEASE_REMAINING] {
        for latest in live.of(name) {
            if let Some(key) = key(&latest) {
                Pulse::join(&mut pulses, key, &latest);
            }
        }
    }
    // Of several replicas the one heard last speaks; a standby that says less loses to the newer point.
    let said = |name: &str, site: &str| -> Option<f64> {
        live.of(name)
            .into_iter()
            .filter(|l| label(l, attribute::SITE) == site)
            .filter(|l| key(l).and_then(|k| pulses.get(&k)).is_some_and(|p| !p.is_gone(now_ms) && p.is_current(l)))
            .max_by_key(|l| l.received_ms)
            .and_then(|l| l.value)
    };
    let names: Vec<String> = pulses.keys().map(|(site, _)| site.clone()).collect();
    for name in names {
        let heard = pulses.iter().filter(|((s, _), _)| *s == name).map(|(_, p)| p.received_ms).max().unwrap_or(0);
        if now_ms - heard > FORGET_MS {
            continue;
        }
        let site = site(sites, &name);
        site.controller_last_seen = Some(rfc3339_ms(heard));
        site.in_quorum = said(metric::SITE_IN_QUORUM, &name).map(|v| v > 0.0);
        site.epoch = said(metric::SITE_EPOCH, &name).map(|v| v as i64);
        site.lease_remaining_ms = said(metric::SITE_LEASE_REMAINING, &name).map(|v| v as i64);
    }
    pulses
}

/// Who holds what. Sites may differ while one is cut off: those in quorum are believed before the others, and of them
/// the one that knows the highest epoch.
fn groups(
    live: &Live,
    now_ms: i64,
    controllers: &BTreeMap<(String, String), Pulse>,
    sites: &BTreeMap<String, Site>,
) -> Vec<Group> {
    type View = BTreeMap<String, Option<i64>>;
    let mut views: BTreeMap<String, BTreeMap<(String, String), View>> = BTreeMap::new();
    for latest in live.of(metric::GROUP_HOLDER) {
        let reporter = (label(&latest, attribute::SITE).to_owned(), label(&latest, "service.instance.id").to_owned());
        let (group, holder) = (label(&latest, attribute::FAILOVER_GROUP), label(&latest, attribute::HOLDER));
        let pulse = controllers.get(&reporter);
        let current = pulse.is_none_or(|p| !p.is_gone(now_ms) && p.is_current(&latest))
            && (pulse.is_some() || now_ms - latest.received_ms <= SILENCE_MS);
        if group.is_empty() || holder.is_empty() || !current || latest.value.is_none_or(|v| v <= 0.0) {
            continue;
        }
        let epoch: Option<i64> = label(&latest, attribute::EPOCH).parse().ok();
        let known = views
            .entry(group.to_owned())
            .or_default()
            .entry(reporter)
            .or_default()
            .entry(holder.to_owned())
            .or_insert(epoch);
        *known = epoch.max(*known);
    }
    views
        .into_iter()
        .filter_map(|(group, views)| {
            let (_, view) = views.into_iter().max_by_key(|((site, _), view)| {
                (sites.get(site).and_then(|s| s.in_quorum), view.values().copied().max().flatten(), view.len())
            })?;
            let holders = view.into_iter().map(|(site, epoch)| Holder { site, epoch }).collect();
            Some(Group { group, holders })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        live::Observation,
        model::{Labels, Series, SeriesKind},
    };

    const NOW: i64 = 1_700_000_000_000;

    struct Teller {
        live: Live,
        ids: BTreeMap<[u8; 16], i64>,
    }

    impl Teller {
        fn new() -> Self {
            Self { live: Live::default(), ids: BTreeMap::new() }
        }

        fn say(&mut self, time_ms: i64, name: &str, labels: &[(&str, &str)], value: f64) {
            let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let series = Series::new(name.into(), String::new(), SeriesKind::Gauge, labels);
            let next = self.ids.len() as i64;
            let id = *self.ids.entry(series.hash).or_insert(next);
            self.live.observe(
                vec![Observation { id, series: std::sync::Arc::new(series), time_ms, value: Some(value) }],
                time_ms,
            );
        }

        fn fleet(&self, now_ms: i64) -> Fleet {
            fleet(&self.live, now_ms, &BTreeMap::new())
        }
    }

    const A1: [(&str, &str); 2] = [(attribute::SITE, "dc-a"), (attribute::NODE, "a1")];

    fn with<'a>(base: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [base, more].concat()
    }

    #[test]
    fn a_node_wears_its_worst_problem_until_an_export_leaves_it_out() {
        let mut t = Teller::new();
        let problem =
            |severity| with(&A1, &[(attribute::PROBLEM_KIND, "HungTask"), (attribute::PROBLEM_SEVERITY, severity)]);
        for i in 0..2 {
            t.say(NOW + i * 10_000, metric::CPU_UTILIZATION, &A1, 0.5);
            t.say(NOW + i * 10_000, metric::NODE_PROBLEM, &problem("warning"), 1.0);
            t.say(NOW + i * 10_000, metric::NODE_PROBLEM, &problem("fatal"), 1.0);
        }
        let node = t.fleet(NOW + 11_000).sites[0].nodes[0].clone();
        assert_eq!((node.status, node.problems.len()), (Status::Fatal, 2));
        t.say(NOW + 20_000, metric::CPU_UTILIZATION, &A1, 0.5);
        assert_eq!(t.fleet(NOW + 21_000).sites[0].nodes[0].status, Status::Ok);
    }

    #[test]
    fn a_silent_node_is_gone_after_three_intervals_and_takes_its_power_along() {
        let mut t = Teller::new();
        for i in 0..3 {
            t.say(NOW + i * 10_000, metric::HOST_POWER, &A1, 200.0);
        }
        let at = |ms: i64| t.fleet(NOW + ms).sites[0].clone();
        assert_eq!((at(45_000).nodes[0].status, at(45_000).power_w), (Status::Ok, Some(200.0)));
        assert_eq!((at(51_000).nodes[0].status, at(51_000).power_w), (Status::Gone, None));
        assert!(t.fleet(NOW + FORGET_MS + 60_000).sites.is_empty());
    }

    #[test]
    fn a_site_in_quorum_is_believed_before_one_that_was_cut_off() {
        let mut t = Teller::new();
        for (site, quorum, epoch, holders) in [("dc-a", 0.0, "9", &["dc-a"][..]), ("dc-b", 1.0, "4", &["dc-b", "dc-c"])]
        {
            t.say(NOW, metric::SITE_IN_QUORUM, &[(attribute::SITE, site)], quorum);
            for holder in holders {
                let labels = [
                    (attribute::SITE, site),
                    (attribute::FAILOVER_GROUP, "shop.checkout"),
                    (attribute::HOLDER, holder),
                    (attribute::EPOCH, epoch),
                ];
                t.say(NOW, metric::GROUP_HOLDER, &labels, 1.0);
            }
        }
        let fleet = t.fleet(NOW + 1_000);
        let sites: Vec<_> = fleet.groups[0].holders.iter().map(|h| h.site.as_str()).collect();
        assert_eq!(sites, ["dc-b", "dc-c"]);
        assert_eq!(fleet.sites[0].in_quorum, Some(false));
        assert_eq!(t.fleet(NOW + 120_000).sites[0].in_quorum, None, "a silent controller says nothing");
    }

    #[test]
    fn a_prediction_is_shown_with_its_times_until_an_export_leaves_it_out() {
        let mut t = Teller::new();
        let told = with(
            &A1,
            &[
                (prediction::KIND, "DiskPressurePredicted"),
                (prediction::SUBJECT, "/var"),
                (prediction::LATEST, "2023-11-15T03:00:00Z"),
                (prediction::EVIDENCE, "a\nb"),
                (prediction::COUNT, "96"),
            ],
        );
        for i in 0..2 {
            t.say(NOW + i * 10_000, metric::CPU_UTILIZATION, &A1, 0.5);
            t.say(NOW + i * 10_000, prediction::NODE_PREDICTION, &told, 1_700_010_000.0);
        }
        let all = predictions::list(t.fleet(NOW + 11_000));
        assert_eq!((all.len(), all[0].node.as_str()), (1, "a1"));
        let shown = &all[0].prediction;
        assert_eq!(shown.expected.as_deref(), Some("2023-11-15T01:00:00.000Z"));
        assert_eq!((shown.evidence.len(), shown.samples.count), (2, Some(96)));
        assert!(predictions::list(t.fleet(NOW + 60_000)).is_empty(), "the node is gone");
        t.say(NOW + 20_000, metric::CPU_UTILIZATION, &A1, 0.5);
        assert!(predictions::list(t.fleet(NOW + 21_000)).is_empty(), "withdrawn");
    }

    #[test]
    fn memory_is_usage_over_limit() {
        let mut t = Teller::new();
        t.say(NOW, metric::MEMORY_USAGE, &A1, 3e9);
        t.say(NOW, metric::MEMORY_LIMIT, &A1, 4e9);
        assert_eq!(t.fleet(NOW).sites[0].nodes[0].memory, Some(0.75));
    }
}
