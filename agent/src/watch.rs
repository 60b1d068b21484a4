//! The thread that follows the kernel log: reads, detects, and tells. It never ends by itself and never waits for the
//! rest of the agent: what cannot be told yet is merged and told later.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    conditions::Sighting,
    health::Signal,
    host::Root,
    kernel::{
        Detector, RuleSet,
        detector::News,
        kmsg::{KernelLog, Position, TICK},
    },
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
    rules: Arc<RuleSet>,
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
    rules: Arc<RuleSet>,
    kept: Option<Position>,
    shared: &Shared,
    signals: &mpsc::Sender<Signal>,
    cancel: &CancellationToken,
) {
    let mut log = KernelLog::new(&path, boot_id, kept);
    let mut detector = Detector::new(rules);
    let mut pending = Pending::default();
    while !cancel.is_cancelled() {
        let mut news = Vec::new();
        match log.read(|message| news.extend(detector.push(message))) {
            Ok(count) => {
                shared.kernel_log.note(Ok(()), &log.losses());
                shared.kernel_log.messages.fetch_add(count as u64, Ordering::Relaxed);
                pending.add(news, &detector);
                let quiet = count == 0;
                if quiet || pending.is_due() {
                    pending.tell(&detector, &log, signals);
                }
            }
            Err(error) => {
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

/// What is still to be told; one entry a report, whatever the number of its lines.
#[derive(Default)]
struct Pending {
    seen: BTreeMap<u64, Sighting>,
    cancelled: Vec<usize>,
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
                    let (rule, clear_after, condition) = (rule.id.clone(), rule.clear_after, rule.condition);
                    let sighting =
                        Sighting { report: report.id, detection: report.detection, rule, clear_after, condition };
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
            let id = detector.rules().rule(rule).id.clone();
            if let Err(mpsc::error::TrySendError::Full(_)) = signals.try_send(Signal::Cancelled(id)) {
                self.cancelled.push(rule);
                return;
            }
        }
        self.since = None;
        if *log.position() != self.told && signals.try_send(Signal::Position(log.position().clone())).is_ok() {
            self.told = log.position().clone();
        }
    }
}
