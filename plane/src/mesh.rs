//! The network between nodes as it is now, out of the newest points: how data centers see each other, how their nodes do,
//! and what the controllers blame. Pure but for the [`Live`] table it reads.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::telemetry::{attribute, mesh as names};
use serde::Serialize;

use crate::{
    clock::rfc3339_ms,
    live::{Latest, Live},
};

/// Silence after which a sender that has shown no interval yet is gone, milliseconds.
const SILENCE_MS: i64 = 30_000;
/// Intervals of silence after which a path is not shown any more.
const SILENT_INTERVALS: i64 = 3;
/// Paths of one answer; beyond it the answer says that it is cut.
const MAX_PATHS: usize = 2_000;

/// The answer of the network page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mesh {
    /// RFC 3339.
    pub generated_at: String,
    /// Data centers that probe or are probed, by name.
    pub sites: Vec<String>,
    /// How one data center sees another, or itself; absent where nothing is probed.
    pub between: Vec<Between>,
    /// What controllers blame for paths that fail.
    pub faults: Vec<Fault>,
    /// Paths of the pair that was asked for, the worst first.
    pub paths: Vec<Path>,
    /// Whether there are more paths than these.
    pub truncated: bool,
}

/// All paths from one data center to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Between {
    /// Data center that probes.
    pub from: String,
    /// Data center that is probed.
    pub to: String,
    /// How many paths.
    pub paths: usize,
    /// Share of the probes that were lost, 0 to 1.
    pub loss: f64,
    /// Share that came far too late, 0 to 1.
    pub late: f64,
    /// The worst path's share that was lost or late, 0 to 1.
    pub worst: f64,
    /// Median of the paths' median times, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Longest of the times that 99 % stay within, milliseconds.
    pub rtt_p99_ms: Option<f64>,
}

/// One path.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Path {
    /// Node that probes.
    pub from: String,
    /// Node that is probed.
    pub to: String,
    /// rack, zone, site or remote.
    pub scope: String,
    /// Share of the newest probes that was lost, 0 to 1.
    pub loss: f64,
    /// Share that came far too late, 0 to 1.
    pub late: f64,
    /// Median time there and back, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Time that 99 % stay within, milliseconds.
    pub rtt_p99_ms: Option<f64>,
    /// Largest packet that arrives in one piece, bytes.
    pub mtu: Option<f64>,
}

/// Something that a controller blames.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// Data center whose controller says it.
    pub site: String,
    /// node, link, rack, zone, site, between_racks, between_zones, between_sites or everywhere.
    pub kind: String,
    /// Which one.
    pub subject: String,
}

type Key = (String, String, String, String);

/// The network at `now_ms`, with the paths of one pair of data centers where one is asked for.
pub fn mesh(live: &Live, now_ms: i64, pair: Option<(&str, &str)>) -> Mesh {
    let mut paths: BTreeMap<Key, Path> = BTreeMap::new();
    for (latest, key, loss) in points(live, now_ms, names::LOSS) {
        let path = Path {
            from: key.1.clone(),
            to: key.3.clone(),
            scope: label(&latest, names::SCOPE).to_owned(),
            loss: loss.clamp(0.0, 1.0),
            ..Path::default()
        };
        paths.insert(key, path);
    }
    let fields: [(&str, fn(&mut Path, f64)); 4] = [
        (names::LATE, |path, value| path.late = value.clamp(0.0, 1.0)),
        (names::RTT, |path, value| path.rtt_ms = Some(value * 1e3)),
        (names::RTT_P99, |path, value| path.rtt_p99_ms = Some(value * 1e3)),
        (names::MTU, |path, value| path.mtu = Some(value)),
    ];
    for (name, set) in fields {
        for (_, key, value) in points(live, now_ms, name) {
            if let Some(path) = paths.get_mut(&key) {
                set(path, value);
            }
        }
    }
    let mut groups: BTreeMap<(&str, &str), Vec<&Path>> = BTreeMap::new();
    let mut sites: BTreeSet<&str> = BTreeSet::new();
    for ((from, _, to, _), path) in &paths {
        groups.entry((from, to)).or_default().push(path);
        sites.extend([from.as_str(), to.as_str()]);
    }
    let between = groups.iter().map(|((from, to), paths)| summary(from, to, paths)).collect();
    let mut shown: Vec<Path> =
        pair.and_then(|pair| groups.get(&pair)).into_iter().flatten().map(|p| (*p).clone()).collect();
    shown.sort_by(|a, b| {
        let bad = |path: &Path| path.loss + path.late;
        bad(b).total_cmp(&bad(a)).then_with(|| (&a.from, &a.to).cmp(&(&b.from, &b.to)))
    });
    let truncated = shown.len() > MAX_PATHS;
    shown.truncate(MAX_PATHS);
    Mesh {
        generated_at: rfc3339_ms(now_ms),
        sites: sites.into_iter().map(str::to_owned).collect(),
        between,
        faults: faults(live, now_ms),
        paths: shown,
        truncated,
    }
}

fn summary(from: &str, to: &str, paths: &[&Path]) -> Between {
    let mean =
        |figure: fn(&Path) -> f64| paths.iter().map(|path| figure(path)).sum::<f64>() / paths.len().max(1) as f64;
    let mut times: Vec<f64> = paths.iter().filter_map(|path| path.rtt_ms).collect();
    times.sort_unstable_by(f64::total_cmp);
    Between {
        from: from.to_owned(),
        to: to.to_owned(),
        paths: paths.len(),
        loss: mean(|path| path.loss),
        late: mean(|path| path.late),
        worst: paths.iter().map(|path| path.loss + path.late).fold(0.0, f64::max),
        rtt_ms: times.get(times.len() / 2).copied(),
        rtt_p99_ms: paths.iter().filter_map(|path| path.rtt_p99_ms).reduce(f64::max),
    }
}

fn faults(live: &Live, now_ms: i64) -> Vec<Fault> {
    let standing =
        live.of(names::FAULT).into_iter().filter(|latest| is_fresh(latest, now_ms) && latest.value == Some(1.0));
    let faults: BTreeSet<Fault> = standing
        .map(|latest| Fault {
            site: label(&latest, attribute::SITE).to_owned(),
            kind: label(&latest, names::FAULT_KIND).to_owned(),
            subject: label(&latest, names::FAULT_SUBJECT).to_owned(),
        })
        .collect();
    faults.into_iter().collect()
}

fn points(live: &Live, now_ms: i64, name: &str) -> impl Iterator<Item = (Latest, Key, f64)> {
    live.of(name).into_iter().filter(move |latest| is_fresh(latest, now_ms)).filter_map(|latest| {
        let of = |name: &str| label(&latest, name).to_owned();
        let key = (of(attribute::SITE), of(attribute::NODE), of(names::PEER_SITE), of(names::PEER));
        let value = latest.value.filter(|value| value.is_finite())?;
        Some((latest, key, value))
    })
}

fn is_fresh(latest: &Latest, now_ms: i64) -> bool {
    let patience =
        latest.interval_ms().map_or(SILENCE_MS, |interval| (SILENT_INTERVALS * interval).clamp(5_000, 10 * SILENCE_MS));
    now_ms - latest.received_ms <= patience
}

fn label<'a>(latest: &'a Latest, key: &str) -> &'a str {
    latest.labels.get(key).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        live::Observation,
        model::{Labels, Series, SeriesKind},
    };

    struct Feed {
        live: Live,
        id: i64,
    }

    impl Feed {
        fn point(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at_ms: i64) {
            let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let series = Series::new(name.into(), "1".into(), SeriesKind::Gauge, labels);
            self.id += 1;
            self.live.observe(
                vec![Observation {
                    id: self.id,
                    series: std::sync::Arc::new(series),
                    time_ms: at_ms,
                    value: Some(value),
                }],
                at_ms,
            );
        }

        fn path(&mut self, from: (&str, &str), to: (&str, &str), loss: f64, seconds: f64, at_ms: i64) {
            let labels = [
                (attribute::SITE, from.0),
                (attribute::NODE, from.1),
                (names::PEER_SITE, to.0),
                (names::PEER, to.1),
                (names::SCOPE, if from.0 == to.0 { "site" } else { "remote" }),
            ];
            self.point(names::LOSS, &labels, loss, at_ms);
            self.point(names::RTT, &labels, seconds, at_ms);
        }
    }

    #[test]
    fn sites_are_told_with_the_mean_and_the_worst_of_their_paths_and_a_pair_with_all_of_them() {
        let mut feed = Feed { live: Live::default(), id: 0 };
        feed.path(("dc-a", "n1"), ("dc-a", "n2"), 0.0, 0.000_2, 100_000);
        feed.path(("dc-a", "n1"), ("dc-b", "m1"), 0.5, 0.030, 100_000);
        feed.path(("dc-a", "n2"), ("dc-b", "m1"), 0.1, 0.010, 100_000);
        feed.path(("dc-a", "n3"), ("dc-b", "m1"), 1.0, 0.010, 10_000);
        let fault = [(attribute::SITE, "dc-a"), (names::FAULT_KIND, "link"), (names::FAULT_SUBJECT, "n1 - m1")];
        feed.point(names::FAULT, &fault, 1.0, 100_000);
        let mesh = mesh(&feed.live, 101_000, Some(("dc-a", "dc-b")));
        assert_eq!(mesh.sites, ["dc-a", "dc-b"]);
        assert_eq!(mesh.between.len(), 2, "nothing is probed from dc-b");
        let wide = &mesh.between[1];
        assert_eq!((wide.paths, wide.worst, wide.rtt_ms), (2, 0.5, Some(30.0)), "what is silent is left out");
        assert!((wide.loss - 0.3).abs() < 1e-9);
        assert_eq!(mesh.paths.iter().map(|p| p.from.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
        assert_eq!(mesh.faults[0].subject, "n1 - m1");
        assert!(!mesh.truncated);
    }

    #[test]
    fn nothing_heard_is_an_empty_answer() {
        let mesh = mesh(&Live::default(), 0, Some(("a", "b")));
        assert_eq!((mesh.sites.len(), mesh.between.len(), mesh.paths.len()), (0, 0, 0));
    }
}
