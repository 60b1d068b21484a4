//! What the clients of the demo service saw: every request, and the figures that are drawn from them.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

/// Requests that are kept: half an hour at the demo's rate. Older ones stay, newer ones are only counted.
const MAX_REQUESTS: usize = 200_000;

/// One request, as its client saw it.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was sent, since the start of the demo.
    pub sent: Duration,
    /// How long until the answer or the error.
    pub took: Duration,
    /// Site whose entry was asked, as an index.
    pub site: usize,
    /// Why it failed.
    pub error: Option<String>,
}

/// The record of all requests.
#[derive(Debug)]
pub struct Traffic {
    origin: Instant,
    sites: Vec<String>,
    requests: Mutex<Vec<Request>>,
}

/// Figures of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Requests answered or failed.
    pub requests: u64,
    /// Of these failed.
    pub errors: u64,
    /// When the first failed request was sent, since the start of the demo.
    pub first_error: Option<Duration>,
    /// When the last failed request failed, since the start of the demo.
    pub last_error: Option<Duration>,
}

/// One second of the chart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Answered requests, by site.
    pub ok: Vec<u32>,
    /// Failed requests.
    pub errors: u32,
}

impl Window {
    /// From the sending of the first failed request to the failure of the last: what clients call the outage.
    pub fn error_window(&self) -> Duration {
        match (self.first_error, self.last_error) {
            (Some(first), Some(last)) => last.saturating_sub(first),
            _ => Duration::ZERO,
        }
    }
}

impl Traffic {
    /// An empty record; times count from `origin`.
    pub fn new(origin: Instant, sites: Vec<String>) -> Self {
        Self { origin, sites, requests: Mutex::default() }
    }

    /// Names of the sites, in the order of their indices.
    pub fn sites(&self) -> &[String] {
        &self.sites
    }

    /// Adds one request.
    pub fn record(&self, sent: Instant, took: Duration, site: usize, error: Option<String>) {
        let mut requests = self.requests.lock();
        if requests.len() < MAX_REQUESTS {
            requests.push(Request { sent: sent.saturating_duration_since(self.origin), took, site, error });
        }
    }

    /// Figures of the requests that ended between two moments since the start of the demo: what was under way when
    /// something broke counts as hit by it.
    pub fn between(&self, from: Duration, to: Duration) -> Window {
        let mut window = Window::default();
        let ended = |request: &Request| request.sent.saturating_add(request.took);
        for request in self.requests.lock().iter().filter(|r| ended(r) >= from && ended(r) <= to) {
            window.requests += 1;
            if request.error.is_some() {
                let failed = request.sent + request.took;
                window.errors += 1;
                window.first_error = Some(window.first_error.map_or(request.sent, |first| first.min(request.sent)));
                window.last_error = Some(window.last_error.map_or(failed, |last| last.max(failed)));
            }
        }
        window
    }

    /// Figures of everything so far.
    pub fn total(&self) -> Window {
        self.between(Duration::ZERO, Duration::MAX)
    }

    /// Sites that answered a request in the last `span` before `now`.
    pub fn answering(&self, now: Instant, span: Duration) -> Vec<&str> {
        let since = now.saturating_duration_since(self.origin).saturating_sub(span);
        let requests = self.requests.lock();
        let recent = requests.iter().rev().take_while(|r| r.sent + Duration::from_secs(2) >= since);
        let mut seen = vec![false; self.sites.len()];
        for request in recent.filter(|r| r.error.is_none() && r.sent >= since) {
            seen[request.site] = true;
        }
        self.sites.iter().zip(seen).filter_map(|(site, seen)| seen.then_some(site.as_str())).collect()
    }

    /// When a site first answered a request that was sent after `since`, both since the start of the demo.
    pub fn first_answer(&self, site: &str, since: Duration) -> Option<Duration> {
        let index = self.sites.iter().position(|name| name == site)?;
        let requests = self.requests.lock();
        let answers = requests.iter().filter(|r| r.site == index && r.error.is_none() && r.sent >= since);
        answers.map(|r| r.sent + r.took).min()
    }

    /// Slowest answer that 99 of 100 requests did not exceed.
    pub fn p99(&self) -> Option<Duration> {
        let mut took: Vec<Duration> =
            self.requests.lock().iter().filter(|r| r.error.is_none()).map(|r| r.took).collect();
        took.sort_unstable();
        let rank = (took.len() * 99).div_ceil(100);
        took.get(rank.checked_sub(1)?).copied()
    }

    /// The chart: one entry a second from the start of the demo; errors count when clients saw them.
    pub fn per_second(&self) -> Vec<Second> {
        let mut seconds: Vec<Second> = Vec::new();
        for request in self.requests.lock().iter() {
            let moment = if request.error.is_some() { request.sent + request.took } else { request.sent };
            let index = usize::try_from(moment.as_secs()).unwrap_or(usize::MAX).min(24 * 3600);
            if seconds.len() <= index {
                seconds.resize_with(index + 1, || Second { ok: vec![0; self.sites.len()], errors: 0 });
            }
            match request.error {
                Some(_) => seconds[index].errors += 1,
                None => seconds[index].ok[request.site] += 1,
            }
        }
        seconds
    }

    /// Reasons of failed requests and how often each was seen, most frequent first.
    pub fn reasons(&self) -> Vec<(String, u64)> {
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for request in self.requests.lock().iter() {
            if let Some(error) = &request.error {
                *counts.entry(format!("{}: {error}", self.sites[request.site])).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts
    }

    /// Writes the record as JSON lines.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = BufWriter::new(file);
        for request in self.requests.lock().iter() {
            let mut line = json!({
                "sent_ms": millis(request.sent),
                "took_us": u64::try_from(request.took.as_micros()).unwrap_or(u64::MAX),
                "site": self.sites[request.site],
                "ok": request.error.is_none(),
            });
            if let Some(error) = &request.error {
                line["error"] = json!(error);
            }
            writeln!(out, "{line}")?;
        }
        out.flush().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(requests: &[(u64, u64, usize, bool)]) -> Traffic {
        let origin = Instant::now();
        let traffic = Traffic::new(origin, vec!["dc-a".into(), "dc-b".into()]);
        for (sent, took, site, ok) in requests {
            let error = (!ok).then(|| "refused".to_owned());
            traffic.record(origin + Duration::from_millis(*sent), Duration::from_millis(*took), *site, error);
        }
        traffic
    }

    #[test]
    fn the_error_window_runs_from_the_first_failed_request_to_the_last_failure() {
        let traffic = record(&[(0, 2, 0, true), (100, 900, 1, false), (300, 1, 0, true), (400, 900, 1, false)]);
        let window = traffic.total();
        assert_eq!((window.requests, window.errors), (4, 2));
        assert_eq!(window.error_window(), Duration::from_millis(1200));
        assert_eq!(traffic.between(Duration::ZERO, Duration::from_millis(50)).error_window(), Duration::ZERO);
        assert_eq!(traffic.reasons(), vec![("dc-b: refused".to_owned(), 2)]);
    }

    #[test]
    fn the_chart_counts_answers_when_sent_and_errors_when_seen() {
        let seconds = record(&[(100, 2, 0, true), (900, 500, 1, false), (1100, 2, 1, true)]).per_second();
        assert_eq!(seconds.len(), 2);
        assert_eq!(seconds[0], Second { ok: vec![1, 0], errors: 0 });
        assert_eq!(seconds[1], Second { ok: vec![0, 1], errors: 1 });
    }

    #[test]
    fn the_record_is_written_as_one_json_object_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        record(&[(0, 2, 0, true), (5, 1, 1, false)]).write(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((lines[0]["site"].as_str(), lines[1]["error"].as_str()), (Some("dc-a"), Some("refused")));
    }

    #[test]
    fn the_99th_percentile_looks_at_answers_only() {
        assert_eq!(record(&[(0, 5, 0, true), (1, 9000, 0, false)]).p99(), Some(Duration::from_millis(5)));
        assert_eq!(record(&[]).p99(), None);
    }
}
