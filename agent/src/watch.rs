//! The thread that follows the kernel log: reads, detects, and tells. It never ends by itself and never waits for the
//! rest of the agent: what cannot be told yet is merged and told later.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    conditions::Sighting,
    health::Signal,
    host::Root,
    kernel::{
        Detector,
        detector::News,
        kmsg::{KernelLog, Position, TICK},
    },
    npd::{
        config::LogPlugin,
        files::{Hits, source_name},
        monitor::Monitor,
    },
    rules::Rulebook,
    shared::Shared,
};

/// A report is told when the log pauses, or after this long at the latest: its lines then are evidence.
const TELL_WITHIN: Duration = Duration::from_millis(300);
/// Pause before a log that cannot be opened is tried again.
const REOPEN: Duration = Duration::from_secs(5);

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
    let (path, boot_id) = (root.join("dev/kmsg"), root.boot_id());
    thread::Builder::new().name("kernel-log".into()).stack_size(512 << 10).spawn(move || {
        follow(path, &boot_id, rules, kept, &shared, &signals, &cancel);
    })
}

fn follow(
    path: PathBuf,
    boot_id: &str,
    mut rules: watch::Receiver<Arc<Rulebook>>,
    kept: Option<Position>,
    shared: &Shared,
    signals: &mpsc::Sender<Signal>,
    cancel: &CancellationToken,
) {
    let mut log = KernelLog::new(&path, boot_id, kept);
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
            pending.tell(&detector, &log, signals);
            pending.forget();
            detector.change_rules(Arc::clone(&book.kernel));
            monitors = monitors_of(&book, monitors);
        }
        let hits = &mut pending.hits;
        let outcome = log.read(|message| {
            news.extend(detector.push(message));
            if !monitors.is_empty() && !message.text.is_empty() {
                let at = String::from_utf8_lossy(message.at);
                monitors.iter_mut().for_each(|monitor| monitor.push(message.text, &at, |sighting| hits.add(sighting)));
            }
        });
        match outcome {
            Ok(count) => {
                monitors.iter().for_each(|m| shared.note_source(&source_name(&m.config().source), Ok(())));
                shared.kernel_log.note(Ok(()), &log.losses());
                shared.kernel_log.messages.fetch_add(count as u64, Ordering::Relaxed);
                pending.add(news, &detector);
                let quiet = count == 0;
                if quiet || pending.is_due() {
                    pending.tell(&detector, &log, signals);
                }
            }
            Err(error) => {
                for monitor in &monitors {
                    let reason = "the kernel log cannot be read".to_owned();
                    shared.note_source(&source_name(&monitor.config().source), Err(reason));
                }
                shared.kernel_log.note(Err(format!("{}: {error}", path.display())), &log.losses());
                let until = Instant::now() + REOPEN;
                while Instant::now() < until && !cancel.is_cancelled() {
                    thread::sleep(TICK);
                }
            }
        }
    }
    pending.tell(&detector, &log, signals);
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
    seen: BTreeMap<u64, Sighting>,
    cancelled: Vec<usize>,
    hits: Hits,
    since: Option<Instant>,
    told: Position,
}

impl Pending {
    fn add(&mut self, news: Vec<News>, detector: &Detector) {
        for item in news {
            self.since.get_or_insert_with(Instant::now);
            match item {
                News::Report(report) => {
                    let rule = detector.rules().rule(report.rule);
                    let sighting = Sighting {
                        report: report.id,
                        detection: report.detection,
                        rule: rule.id.clone(),
                        clear_after: rule.clear_after,
                        condition: rule.condition,
                        about: rule.about,
                        reason: None,
                        watched: false,
                    };
                    self.seen.insert(report.id, sighting);
                }
                News::Cancelled { rule } => {
                    if !self.cancelled.contains(&rule) {
                        self.cancelled.push(rule);
                    }
                }
            }
        }
    }

    /// Drops what could not be told before the rules changed. Sightings say by name which rule they are of, and stay.
    fn forget(&mut self) {
        self.cancelled.clear();
    }

    fn is_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= TELL_WITHIN)
    }

    fn tell(&mut self, detector: &Detector, log: &KernelLog, signals: &mpsc::Sender<Signal>) {
        while let Some((id, mut sighting)) = self.seen.pop_first() {
            if let Some(grown) = detector.current(id) {
                sighting.detection = grown.clone();
            }
            if let Err(mpsc::error::TrySendError::Full(Signal::Seen(back))) = signals.try_send(Signal::Seen(sighting)) {
                self.seen.insert(id, back);
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
