//! Asks the service's address as its clients do, five times a second, and keeps how that went.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use http::Uri;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::facts::ProbeFacts;
use crate::{
    quorum::Mono,
    site::BootClock,
    traffic::{self, Target, TrafficAllow},
};

/// Between two probes.
const INTERVAL: Duration = Duration::from_millis(200);
/// A probe that is not answered by then failed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Errors are counted over this time.
const WINDOW: Duration = Duration::from_secs(5);
/// Failures further apart than this are two outages.
const QUIET: Duration = Duration::from_secs(10);

/// What probes showed. Pure.
#[derive(Debug, Default)]
pub(super) struct ProbeBook {
    recent: VecDeque<(Mono, bool)>,
    /// First failed probe of the outage, the last one, and the first good one after that.
    outage: Option<(Mono, Mono, Option<Mono>)>,
    worst: Duration,
    pub sent: u64,
    pub failed: u64,
}

impl ProbeBook {
    /// Takes in a probe that was sent at `sent`.
    pub fn take(&mut self, sent: Mono, good: bool) {
        self.sent += 1;
        self.failed += u64::from(!good);
        self.recent.push_back((sent, good));
        while self.recent.front().is_some_and(|(at, _)| sent.saturating_sub(*at) > WINDOW) {
            self.recent.pop_front();
        }
        let over = |(first, last, good): (Mono, Mono, Option<Mono>)| good.unwrap_or(last).saturating_sub(first);
        match (&mut self.outage, good) {
            (Some((_, last, back)), false) if sent.saturating_sub(*last) <= QUIET => {
                *last = (*last).max(sent);
                *back = back.filter(|back| *back > *last);
            }
            (known, false) => {
                self.worst = self.worst.max(known.map(over).unwrap_or_default());
                *known = Some((sent, sent, None));
            }
            (Some((_, last, back @ None)), true) if sent > *last => *back = Some(sent),
            _ => {}
        }
    }

    /// What the planner may know.
    pub fn facts(&self, now: Mono) -> ProbeFacts {
        let young = self.recent.iter().filter(|(at, _)| now.saturating_sub(*at) <= WINDOW + PATIENCE);
        let (all, bad) = young.fold((0_u32, 0_u32), |(all, bad), (_, good)| (all + 1, bad + u32::from(!good)));
        let open = self.outage.map(|(first, _, back)| back.unwrap_or(now).saturating_sub(first)).unwrap_or_default();
        ProbeFacts {
            error_ratio: (all > 0).then(|| f64::from(bad) / f64::from(all)),
            without_service: self.worst.max(open),
        }
    }

    /// When the first of the failures that count now was sent.
    pub fn failing_since(&self) -> Option<Mono> {
        self.recent.iter().find(|(_, good)| !good).map(|(at, _)| *at)
    }
}

/// Probes until dropped.
pub(super) struct Prober {
    pub book: Arc<Mutex<ProbeBook>>,
    _guard: DropGuard,
}

impl Prober {
    /// Starts. `news` is told of every failure.
    pub fn start(url: Uri, authority: Option<Vec<u8>>, allow: TrafficAllow, news: Arc<Notify>) -> Self {
        let cancel = CancellationToken::new();
        let book = Arc::new(Mutex::new(ProbeBook::default()));
        let prober = Self { book: book.clone(), _guard: cancel.clone().drop_guard() };
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                // Each ends after a second, so there are never more than a handful.
                let (url, authority, allow) = (url.clone(), authority.clone(), allow.clone());
                let (book, news, cancel) = (book.clone(), news.clone(), cancel.clone());
                tokio::spawn(async move {
                    let sent = BootClock.now();
                    let request = http::Request::get(url.clone());
                    let what = "the drill's probe";
                    let target = Target { allow: &allow, what, url: &url, authority: authority.as_deref() };
                    let call = traffic::http(&target, request, Vec::new());
                    let answer = tokio::select! {
                        () = cancel.cancelled() => return,
                        answer = tokio::time::timeout(PATIENCE, call) => answer,
                    };
                    let good = matches!(answer, Ok(Ok(answer)) if answer.status.is_success());
                    book.lock().take(sent, good);
                    if !good {
                        news.notify_one();
                    }
                });
            }
        });
        prober
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_millis(ms)
    }

    #[test]
    fn an_outage_lasts_from_the_first_failure_to_the_first_good_answer_after_the_last() {
        let mut book = ProbeBook::default();
        for (ms, good) in [(0, true), (200, false), (400, true), (600, false), (800, true), (1_000, true)] {
            book.take(at(ms), good);
        }
        assert_eq!(book.facts(at(1_000)).without_service, at(600));
        assert_eq!((book.sent, book.failed, book.failing_since()), (6, 2, Some(at(200))));
        assert_eq!(book.facts(at(1_000)).error_ratio, Some(2.0 / 6.0));
        for ms in (1_200..20_000).step_by(200) {
            book.take(at(ms), true);
        }
        assert_eq!(book.facts(at(20_000)).error_ratio, Some(0.0));
        book.take(at(20_000), false);
        assert_eq!(book.facts(at(20_100)).without_service, at(600), "another outage, shorter so far");
        assert_eq!(book.facts(at(21_000)).without_service, at(1_000), "it goes on");
    }
}
