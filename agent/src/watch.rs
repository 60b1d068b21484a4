//! The thread that follows the kernel log: reads, detects, and tells. It never ends by itself and never waits for the
//! rest of the agent: what cannot be told yet is merged and told later.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use evergreen_api::{Detection, Severity};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    conditions::{ConditionType, Sighting},
    host::Root,
    kernel::{
        Detector, Report,
        detector::{News, next_report},
        kmsg::{KernelLog, Origin, TICK},
        position::{Losses, Position},
    },
    npd::{
        config::LogPlugin,
        files::{Hits, source_name},
        monitor::Monitor,
    },
    rules::Rulebook,
    shared::Shared,
    signal::Signal,
};

/// A report is told when the log pauses, or after this long at the latest: its lines then are evidence.
const TELL_WITHIN: Duration = Duration::from_millis(150);
/// Pause before a log that cannot be opened is tried again.
const REOPEN: Duration = Duration::from_secs(5);

/// Name of the rule by which lost messages are told.
pub const LOSSES_RULE: &str = "agent/kernel-log-overrun";
/// Type under which they are told; it is no condition of the Node.
const LOSSES: &str = "KernelLogOverrun";
/// Lost messages are news for this long.
const LOSSES_TOLD: Duration = Duration::from_secs(600);

/// Starts the thread.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    root: &Root,
    rules: watch::Receiver<Arc<Rulebook>>,
    kept: Option<Position>,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    start_on(KernelLog::of_node(&root.join(""), &root.boot_id(), kept), rules, shared, signals, cancel)
}

/// As [`start`], on a log that somebody else opened.
///
/// # Errors
/// When the thread cannot be started.
pub fn start_on(
    mut log: KernelLog,
    mut rules: watch::Receiver<Arc<Rulebook>>,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("kernel-log".into()).stack_size(512 << 10).spawn(move || {
        loop {
            // A fault in here must not leave a node unwatched that looks well. The log is past the line that did it.
            let work = || follow(&mut log, &mut rules, &shared, &signals, &cancel);
            if std::panic::catch_unwind(AssertUnwindSafe(work)).is_ok() {
                return;
            }
            tracing::error!("the kernel log's reader met a fault of its own and goes on behind the line that did it");
            shared.kernel_log.faults.fetch_add(1, Ordering::Relaxed);
            thread::sleep(TICK);
        }
    })
}

fn follow(
    log: &mut KernelLog,
    rules: &mut watch::Receiver<Arc<Rulebook>>,
    shared: &Shared,
    signals: &mpsc::Sender<Signal>,
    cancel: &CancellationToken,
) {
    let book = Arc::clone(&rules.borrow_and_update());
    let mut detector = Detector::new(Arc::clone(&book.kernel));
    let mut monitors = monitors_of(&book, Vec::new());
    let mut pending = Pending::default();
    while !cancel.is_cancelled() {
        let mut news = Vec::new();
        if rules.has_changed().unwrap_or(false) {
            let book = Arc::clone(&rules.borrow_and_update());
            // Told under the rules that they were found by; their numbers mean other rules from now on.
            pending.add(detector.close_all(), &detector);
            pending.tell(&detector, log, signals);
            pending.forget();
            detector.change_rules(Arc::clone(&book.kernel));
            monitors = monitors_of(&book, monitors);
        }
        let hits = &mut pending.hits;
        let outcome = log.read(|message| {
            news.extend(detector.push(message));
            if !monitors.is_empty() && message.from_kernel && !message.text.is_empty() {
                let at = String::from_utf8_lossy(message.at);
                monitors.iter_mut().for_each(|monitor| monitor.push(message.text, &at, |sighting| hits.add(sighting)));
            }
        });
        match outcome {
            Ok(count) => {
                note_origin(log, shared);
                monitors.iter().for_each(|m| shared.note_source(&source_name(&m.config().source), Ok(())));
                shared.kernel_log.note(Ok(()), &log.losses());
                shared.kernel_log.messages.fetch_add(count as u64, Ordering::Relaxed);
                pending.add(news, &detector);
                pending.lose(&log.losses());
                let quiet = count == 0;
                if quiet || pending.is_due() {
                    pending.tell(&detector, log, signals);
                }
            }
            Err(error) => {
                // What was read before the error is still told.
                pending.add(news, &detector);
                pending.tell(&detector, log, signals);
                for monitor in &monitors {
                    let reason = "the kernel log cannot be read".to_owned();
                    shared.note_source(&source_name(&monitor.config().source), Err(reason));
                }
                shared.kernel_log.note(Err(format!("{}: {error}", log.path().display())), &log.losses());
                let until = Instant::now() + REOPEN;
                while Instant::now() < until && !cancel.is_cancelled() {
                    shared.kernel_log.is_alive();
                    thread::sleep(TICK);
                }
            }
        }
    }
    pending.tell(&detector, log, signals);
}

/// Says of each place that the kernel log can be read from why it is not the one, where it is not.
fn note_origin(log: &KernelLog, shared: &Shared) {
    let Some(origin) = log.origin() else { return };
    let unneeded = |name: &str| Err(format!("not needed: the kernel log is read from {name}"));
    let (journal, syslog) = match origin {
        Origin::Kmsg | Origin::File => (unneeded("/dev/kmsg"), unneeded("/dev/kmsg")),
        Origin::Journal => (Ok(()), unneeded("the journal")),
        Origin::Syslog => (Err("there is no journal that can be read".to_owned()), Ok(())),
    };
    shared.note_source("kmsg-journal", journal);
    shared.note_source("kmsg-syslog", syslog);
}

/// Monitors of the kernel log; one that was there before remembers its lines.
fn monitors_of(book: &Rulebook, mut before: Vec<Monitor>) -> Vec<Monitor> {
    let logs = book.logs.iter().filter(|log| log.plugin == LogPlugin::Kmsg);
    logs.map(|log| {
        let known = before.iter().position(|known| known.config().source == log.source);
        match known {
            Some(index) => before.swap_remove(index).change(Arc::clone(log)),
            None => Monitor::new(Arc::clone(log)),
        }
    })
    .collect()
}

/// What is still to be told; one entry a report, whatever the number of its lines.
#[derive(Default)]
struct Pending {
    seen: BTreeMap<u64, Option<Sighting>>,
    cancelled: Vec<usize>,
    hits: Hits,
    since: Option<Instant>,
    told: Position,
    lost: Losses,
    /// Report of what was lost.
    losing: Option<u64>,
}

impl Pending {
    fn add(&mut self, news: Vec<News>, detector: &Detector) {
        for item in news {
            self.since.get_or_insert_with(Instant::now);
            match item {
                News::Grown(report) => {
                    if self.seen.insert(report, None).is_none() && !self.cancelled.is_empty() {
                        // Seen again behind its end, before the end was told: it goes on.
                        let rule = detector.current(report).map(|report| report.rule);
                        self.cancelled.retain(|cancelled| Some(*cancelled) != rule);
                    }
                }
                News::Closed(report) => {
                    self.seen.insert(report.id, Some(sighting(report, detector)));
                }
                News::Cancelled { rule } => {
                    if !self.cancelled.contains(&rule) {
                        self.cancelled.push(rule);
                    }
                }
            }
        }
    }

    /// Notes what was lost since the last time.
    fn lose(&mut self, losses: &Losses) {
        let lost = losses.lost_records.saturating_sub(self.lost.lost_records);
        if lost == 0 {
            return;
        }
        self.lost = *losses;
        self.since.get_or_insert_with(Instant::now);
        let id = *self.losing.get_or_insert_with(next_report);
        let about = ConditionType::named(LOSSES);
        let (total, overruns) = (losses.lost_records, losses.overruns);
        let evidence = format!("{total} messages were overwritten before they were read, in {overruns} overruns");
        let detection = Detection {
            kind: about.kind(),
            severity: Severity::Warning,
            crash_type: None,
            summary: "the kernel wrote faster than its log could be read, and messages were lost".into(),
            first_line: evidence.clone(),
            evidence: vec![evidence],
            count: total,
            at: String::new(),
        };
        let (rule, clear_after) = (LOSSES_RULE.to_owned(), Some(LOSSES_TOLD));
        let told = Sighting {
            report: id,
            detection,
            rule,
            clear_after,
            condition: false,
            about,
            reason: None,
            watched: false,
        };
        self.seen.insert(id, Some(told));
    }

    /// Drops what could not be told before the rules changed. Sightings say by name which rule they are of, and stay.
    fn forget(&mut self) {
        self.cancelled.clear();
        self.seen.retain(|_, sighting| sighting.is_some());
    }

    fn is_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= TELL_WITHIN)
    }

    fn tell(&mut self, detector: &Detector, log: &KernelLog, signals: &mpsc::Sender<Signal>) {
        while let Some((id, known)) = self.seen.pop_first() {
            let Some(told) = known.or_else(|| detector.current(id).map(|report| sighting(report, detector))) else {
                continue;
            };
            if let Err(mpsc::error::TrySendError::Full(Signal::Seen(back))) = signals.try_send(Signal::Seen(told)) {
                self.seen.insert(id, Some(back));
                return;
            }
        }
        while let Some(rule) = self.cancelled.pop() {
            let over = Signal::Over {
                rule: detector.rules().rule(rule).id.clone(),
                why: "the kernel says that it is over".into(),
            };
            if let Err(mpsc::error::TrySendError::Full(_)) = signals.try_send(over) {
                self.cancelled.push(rule);
                return;
            }
        }
        if !self.hits.tell(signals) {
            return;
        }
        self.since = None;
        if *log.position() != self.told && signals.try_send(Signal::Position(log.position().clone())).is_ok() {
            self.told = log.position().clone();
        }
    }
}

fn sighting(report: Report, detector: &Detector) -> Sighting {
    let rule = detector.rules().rule(report.rule);
    Sighting {
        report: report.id,
        detection: report.detection,
        rule: rule.id.clone(),
        clear_after: rule.clear_after,
        condition: rule.condition,
        about: rule.about,
        reason: None,
        watched: false,
    }
}
