//! The plane's own counters, told at /metrics in the Prometheus text form.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or is set.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything the plane counts about itself.
#[derive(Debug, Default)]
pub struct Stats {
    /// Points stored.
    pub points: Number,
    /// Spans stored.
    pub spans: Number,
    /// Log records stored.
    pub logs: Number,
    /// Things that came again and were already there.
    pub duplicates: Number,
    /// Energy points that came after their five minutes were rolled up.
    pub late: Number,
    /// Things that could not be taken, told to their senders.
    pub rejected: Number,
    /// Requests of senders without a valid token.
    pub unknown_senders: Number,
    /// Requests refused because the queue was full or the store failed.
    pub refused: Number,
    /// Transactions committed.
    pub commits: Number,
    /// Transactions that failed.
    pub commit_failures: Number,
    /// Points removed by age.
    pub expired_points: Number,
    /// Spans and logs removed by age.
    pub expired_spans: Number,
    /// Points removed for size.
    pub evicted_points: Number,
    /// Spans and logs removed for size.
    pub evicted_spans: Number,
    /// Live bytes of the database.
    pub database_bytes: Number,
    /// Series known.
    pub series: Number,
    /// Open event streams.
    pub streams: Number,
}

impl Stats {
    /// The Prometheus text form.
    pub fn prometheus(&self) -> String {
        use std::fmt::Write;
        let rows: [(&str, &str, &str, &Number); 17] = [
            ("evergreen_plane_points_total", "counter", "Metric points stored.", &self.points),
            ("evergreen_plane_spans_total", "counter", "Spans stored.", &self.spans),
            ("evergreen_plane_logs_total", "counter", "Log records stored.", &self.logs),
            ("evergreen_plane_duplicates_total", "counter", "Things delivered again and ignored.", &self.duplicates),
            ("evergreen_plane_late_points_total", "counter", "Energy points later than their roll-up.", &self.late),
            ("evergreen_plane_rejected_total", "counter", "Things that could not be taken.", &self.rejected),
            (
                "evergreen_plane_unknown_senders_total",
                "counter",
                "Requests without a valid token.",
                &self.unknown_senders,
            ),
            (
                "evergreen_plane_refused_requests_total",
                "counter",
                "Requests refused: queue full or store failing.",
                &self.refused,
            ),
            ("evergreen_plane_commits_total", "counter", "Transactions committed.", &self.commits),
            ("evergreen_plane_commit_failures_total", "counter", "Transactions that failed.", &self.commit_failures),
            ("evergreen_plane_expired_points_total", "counter", "Points removed by age.", &self.expired_points),
            ("evergreen_plane_expired_spans_total", "counter", "Spans and logs removed by age.", &self.expired_spans),
            ("evergreen_plane_evicted_points_total", "counter", "Points removed for size.", &self.evicted_points),
            ("evergreen_plane_evicted_spans_total", "counter", "Spans and logs removed for size.", &self.evicted_spans),
            ("evergreen_plane_database_bytes", "gauge", "Live bytes of the database.", &self.database_bytes),
            ("evergreen_plane_series", "gauge", "Series known.", &self.series),
            ("evergreen_plane_streams", "gauge", "Open event streams.", &self.streams),
        ];
        let mut text = String::new();
        for (name, kind, help, number) in rows {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}", number.get());
        }
        text
    }
}
