//! What is kept and for how long: roll-ups, age and size, judged at times that the test gives.
#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::Arc, time::Duration};

use common::*;
use evergreen_api::telemetry::metric;
use evergreen_plane::{
    args::Retention,
    energy::query::{By, EnergyReport, report},
    ingest::decode,
    stats::Stats,
    store::{Store, StoreError, points},
};

const HOUR: i64 = 3_600_000;
const NOW: i64 = 1_700_000_000_000 / HOUR * HOUR;

struct Kept {
    store: Store,
    stats: Arc<Stats>,
    _directory: tempfile::TempDir,
}

impl Kept {
    fn new(max_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stats = Arc::new(Stats::default());
        let retention =
            Retention { max_bytes, raw: Duration::from_secs(6 * 3_600), spans: Duration::from_secs(86_400) };
        let store = Store::open(directory.path(), retention, stats.clone()).unwrap();
        Self { store, stats, _directory: directory }
    }

    async fn energy(&self, from_ms: i64, to_ms: i64) -> EnergyReport {
        self.store.reader.ask(move |c| report(c, from_ms, to_ms, By::Node, None)).await.unwrap()
    }

    async fn count(&self, table: &'static str) -> i64 {
        self.store
            .reader
            .ask(move |c| c.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)))
            .await
            .unwrap()
    }

    async fn points(&self) -> i64 {
        self.store.reader.ask(points::total).await.unwrap()
    }

    async fn metrics(&self, request: opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest) {
        self.store.handle.write(decode::metrics(request.resource_metrics, NOW).batch, 1).await.unwrap();
    }
}

#[tokio::test]
async fn energy_is_the_same_before_and_after_it_is_rolled_up_and_expired() {
    let kept = Kept::new(1 << 30);
    // Twelve hours, every ten seconds.
    kept.metrics(host_energy("dc-a", "a1", NOW, 12 * 360)).await;
    let windows = [
        (NOW - 12 * HOUR, NOW),
        (NOW - 9 * HOUR, NOW - 2 * HOUR),
        (NOW - 11 * HOUR, NOW - 10 * HOUR),
        (NOW - 61_000, NOW),
    ];
    let mut before = Vec::new();
    for (from, to) in windows {
        before.push(kept.energy(from, to).await);
    }
    assert_eq!(before[1].total.microjoules, 7 * 360 * 1_000_000_000);
    kept.store.handle.maintain(NOW).await;
    assert!(kept.stats.expired_points.get() > 0);
    assert!(kept.points().await < 3 * (6 * 361 + 240), "raw points are gone beyond six hours");
    for ((from, to), before) in windows.into_iter().zip(before) {
        assert_eq!(kept.energy(from, to).await, before);
    }
    let halves = kept.energy(NOW - 7 * HOUR - 123_456, NOW - HOUR).await.total.microjoules
        + kept.energy(NOW - HOUR, NOW).await.total.microjoules;
    assert_eq!(halves, kept.energy(NOW - 7 * HOUR - 123_456, NOW).await.total.microjoules);
    // Forty days on only hours are left, and they still say it.
    kept.store.handle.maintain(NOW + 40 * 24 * HOUR).await;
    assert_eq!(kept.energy(NOW - 9 * HOUR, NOW - 2 * HOUR).await.total.microjoules, 7 * 360 * 1_000_000_000);
    kept.store.close();
}

#[tokio::test]
async fn what_is_sealed_between_two_deliveries_is_told_as_delivered_again() {
    let kept = Kept::new(1 << 30);
    kept.metrics(host_energy("dc-a", "a1", NOW, 5)).await;
    let taken = kept.stats.points.get();
    kept.store.handle.maintain(NOW).await;
    kept.metrics(host_energy("dc-a", "a1", NOW, 5)).await;
    assert_eq!((kept.stats.points.get(), kept.stats.duplicates.get()), (taken, taken));
    kept.store.close();
}

#[tokio::test]
async fn upkeep_may_run_at_any_time_without_counting_twice() {
    let kept = Kept::new(1 << 30);
    let part = |from: i64, to: i64| {
        let points = (from..to).map(|i| point(NOW - 12 * HOUR + i * 10_000, i as f64 * 1_000.0, &[])).collect();
        metrics("dc-a", "a1", vec![counter(metric::HOST_ENERGY, points)])
    };
    for i in 0..48 {
        kept.metrics(part(i * 90, (i + 1) * 90)).await;
        kept.store.handle.maintain(NOW - 12 * HOUR + (i + 1) * 900_000).await;
        // The same again: known where it is still raw, late where it is rolled up.
        kept.metrics(part(i * 90, (i + 1) * 90)).await;
    }
    assert_eq!(kept.energy(0, NOW + HOUR).await.total.microjoules, (48 * 90 - 1) * 1_000_000_000);
    kept.store.close();
}

#[tokio::test]
async fn a_silence_is_told_as_a_gap_also_after_the_roll_up() {
    let kept = Kept::new(1 << 30);
    let points = |range: std::ops::Range<i64>| {
        range.map(|i| point(NOW - 10 * HOUR + i * 10_000, i as f64, &[])).collect::<Vec<_>>()
    };
    let all = [points(0..60), points(96..160)].concat();
    kept.metrics(metrics("dc-a", "a1", vec![counter(metric::HOST_ENERGY, all)])).await;
    assert_eq!(kept.energy(0, NOW).await.rows[0].figures.gap_ms, 370_000);
    kept.store.handle.maintain(NOW).await;
    let after = kept.energy(0, NOW).await;
    assert_eq!((after.rows[0].figures.gap_ms, after.total.microjoules), (370_000, 159_000_000));
    kept.store.close();
}

#[tokio::test]
async fn old_spans_incidents_and_logs_expire() {
    let kept = Kept::new(1 << 30);
    let old = spans("evergreen-agent", "dc-a", "a1", vec![root_span(NOW - 30 * HOUR)]);
    kept.store.handle.write(decode::spans(old.resource_spans, NOW).batch, 1).await.unwrap();
    let logs = logs("dc-a", NOW - HOUR, "fresh", None);
    kept.store.handle.write(decode::logs(logs.resource_logs, NOW).batch, 1).await.unwrap();
    assert_eq!(kept.count("incidents").await, 1);
    kept.store.handle.maintain(NOW).await;
    assert_eq!((kept.count("spans").await, kept.count("incidents").await, kept.count("logs").await), (0, 0, 1));
    assert_eq!(kept.stats.expired_spans.get(), 1);
    kept.store.close();
}

#[tokio::test]
async fn too_much_lets_the_oldest_go_and_keeps_the_energy() {
    let limit = 1 << 20;
    let kept = Kept::new(limit);
    kept.metrics(host_energy("dc-a", "a1", NOW, 5 * 360)).await;
    for node in 0..90 {
        // Values that nothing can pack.
        let noise = |i: i64| {
            let mixed = ((i + node * 100_003) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 12) as f64
        };
        let points = (0..5 * 360).map(|i| point(NOW - 5 * HOUR + i * 10_000, noise(i), &[])).collect();
        kept.metrics(metrics("dc-a", &format!("n{node}"), vec![gauge(metric::HOST_POWER, points)])).await;
    }
    let energy = kept.energy(NOW - 5 * HOUR, NOW).await;
    for _ in 0..8 {
        kept.store.handle.maintain(NOW).await;
    }
    assert!(kept.stats.database_bytes.get() <= limit, "{}", kept.stats.database_bytes.get());
    assert!(kept.stats.evicted_points.get() > 0);
    assert_eq!(kept.energy(NOW - 5 * HOUR, NOW).await.total.microjoules, energy.total.microjoules);
    let newest: i64 =
        kept.store.reader.ask(|c| c.query_row("SELECT max(last_ms) FROM chunks", [], |r| r.get(0))).await.unwrap();
    assert!(newest >= NOW - 10_000, "the newest stay");
    kept.store.close();
}

#[tokio::test]
async fn points_are_the_same_in_the_journal_in_chunks_and_after_a_restart_in_whatever_order_they_came() {
    let directory = tempfile::tempdir().unwrap();
    let retention =
        Retention { max_bytes: 1 << 30, raw: Duration::from_secs(21_600), spans: Duration::from_secs(86_400) };
    let open = || Store::open(directory.path(), retention, Arc::default()).unwrap();
    let all: Vec<i64> = (0..1_000).map(|i| NOW - 3 * HOUR + i * 10_000).collect();
    let send = async |store: &Store, times: &[i64]| {
        let points = times.iter().map(|at| point(*at, *at as f64, &[])).collect();
        let request = metrics("dc-a", "a1", vec![gauge("m", points)]);
        store.handle.write(decode::metrics(request.resource_metrics, NOW).batch, 1).await.unwrap();
    };
    let read = async |store: &Store| {
        let points = store.reader.ask(|c| {
            let id = c.query_row("SELECT id FROM series WHERE name = 'm'", [], |row| row.get(0))?;
            points::all(c, id)
        });
        let points = points.await.unwrap();
        assert!(points.iter().all(|point| point.value == Some(point.time_ms as f64)));
        points.into_iter().map(|point| point.time_ms).collect::<Vec<_>>()
    };
    let mut store = open();
    // The middle comes last, some come twice, and everything is sealed in between.
    for (round, part) in [&all[..300], &all[700..], &all[250..500], &all[100..120], &all[480..]].into_iter().enumerate()
    {
        send(&store, part).await;
        let before = read(&store).await;
        store.handle.maintain(NOW + round as i64 * 600_000).await;
        assert_eq!(read(&store).await, before, "sealing changes nothing");
        if round % 2 == 0 {
            store.close();
            store = open();
            assert_eq!(read(&store).await, before, "a restart changes nothing");
        }
    }
    assert_eq!(read(&store).await, all);
    store.close();
}

#[tokio::test]
async fn what_was_live_is_live_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let retention =
        Retention { max_bytes: 1 << 30, raw: Duration::from_secs(21_600), spans: Duration::from_secs(86_400) };
    let open = || Store::open(directory.path(), retention, Arc::default()).unwrap();
    let store = open();
    let request = host_energy("dc-a", "a1", NOW, 3);
    store.handle.write(decode::metrics(request.resource_metrics, NOW).batch, 1).await.unwrap();
    let before = store.live.of(metric::HOST_POWER)[0].clone();
    store.close();
    let store = open();
    let after = store.live.of(metric::HOST_POWER)[0].clone();
    assert_eq!((after.time_ms, after.value, after.interval_ms()), (NOW, before.value, Some(10_000)));
    store.close();
}

#[tokio::test]
async fn what_finds_the_queue_full_is_refused_at_once_and_the_rest_is_kept() {
    let kept = Kept::new(1 << 30);
    let batch = |node: &str| decode::metrics(host_energy("dc-a", node, NOW, 3).resource_metrics, NOW).batch;
    let all_the_room = usize::MAX;
    let (first, second) =
        tokio::join!(kept.store.handle.write(batch("a1"), all_the_room), kept.store.handle.write(batch("a2"), 1));
    assert!(first.is_ok());
    assert!(matches!(second, Err(StoreError::Full)), "{second:?}");
    assert!(kept.store.handle.write(batch("a2"), 1).await.is_ok(), "there is room again");
    kept.store.close();
}
