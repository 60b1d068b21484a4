//! Logs in files, for monitors with the plugin `filelog`: one thread follows all of them. A file that is not there is
//! told as an absent source and looked for again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use regex::bytes::Regex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    config::{LogConfig, LogPlugin},
    layout::Layout,
    monitor::Monitor,
};
use crate::{
    conditions::Sighting,
    health::Signal,
    host::Root,
    kernel::kmsg::{KernelLog, TICK},
    rules::Rulebook,
    shared::Shared,
};

/// Bytes of a file that are looked at when the agent starts, for lines young enough to count.
const BACKLOG: u64 = 256 << 10;
/// Pause before a file that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Reads of one file before the others get their turn.
const TURN: usize = 16;

/// What monitors raised and the health actor has not heard yet; one entry a rule, whatever the number of lines.
#[derive(Debug, Default)]
pub struct Hits(BTreeMap<String, Sighting>);

impl Hits {
    /// Adds one.
    pub fn add(&mut self, sighting: Sighting) {
        match self.0.get_mut(&sighting.rule) {
            Some(known) => {
                known.detection.count = known.detection.count.saturating_add(sighting.detection.count);
                known.detection.evidence = sighting.detection.evidence;
            }
            None => {
                self.0.insert(sighting.rule.clone(), sighting);
            }
        }
    }

    /// Tells all; false when the actor's queue is full and some wait for the next call.
    pub fn tell(&mut self, signals: &mpsc::Sender<Signal>) -> bool {
        while let Some((rule, sighting)) = self.0.pop_first() {
            if let Err(mpsc::error::TrySendError::Full(Signal::Seen(back))) = signals.try_send(Signal::Seen(sighting)) {
                self.0.insert(rule, back);
                return false;
            }
        }
        true
    }

    /// Takes all.
    pub fn take(&mut self) -> Vec<Sighting> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}

/// One followed file.
struct Follower {
    monitor: Monitor,
    log: KernelLog,
    timestamp: Regex,
    message: Regex,
    layout: Layout,
    oldest: Timestamp,
    not_before: Option<Instant>,
}

impl Follower {
    fn new(config: Arc<LogConfig>, root: &Root, before: Option<Self>) -> Option<Self> {
        let LogPlugin::File { timestamp, message, layout } = &config.plugin else { return None };
        // Both were compiled when the file was checked.
        let (timestamp, message) = (Regex::new(timestamp).ok()?, Regex::new(message).ok()?);
        let layout = Layout::new(layout);
        let path = root.join(&config.path);
        let lookback = jiff::SignedDuration::try_from(config.lookback).unwrap_or_default();
        let (log, oldest, mut monitor) = match before {
            // Under changed rules the same file is read on where it was.
            Some(before) if before.log.path() == path => (before.log, before.oldest, before.monitor),
            _ => {
                let oldest = Timestamp::now().checked_sub(lookback).unwrap_or(Timestamp::UNIX_EPOCH);
                (KernelLog::lines(&path, BACKLOG), oldest, Monitor::new(Arc::clone(&config)))
            }
        };
        monitor = monitor.change(config);
        Some(Self { monitor, log, timestamp, message, layout, oldest, not_before: None })
    }

    /// Reads on; false when there was nothing.
    fn read(&mut self, hits: &mut Hits) -> Result<bool, String> {
        let Self { monitor, log, timestamp, message, layout, oldest, .. } = self;
        let count = log.read(|line| {
            let (Some(at), Some(said)) = (last_group(timestamp, line.text), last_group(message, line.text)) else {
                return;
            };
            let at = String::from_utf8_lossy(at);
            if layout.parse(&at, Timestamp::now()).is_some_and(|time| time >= *oldest) {
                monitor.push(said, &at, |sighting| hits.add(sighting));
            }
        });
        count.map(|count| count > 0).map_err(|error| error.to_string())
    }
}

fn last_group<'a>(pattern: &Regex, line: &'a [u8]) -> Option<&'a [u8]> {
    let captures = pattern.captures(line)?;
    captures.get(captures.len() - 1).map(|group| group.as_bytes())
}

/// Name of the source of a monitor.
pub fn source_name(source: &str) -> String {
    format!("monitor/{source}")
}

/// Starts the thread.
///
/// # Errors
/// When it cannot be started.
pub fn start(
    root: Root,
    mut rules: watch::Receiver<Arc<Rulebook>>,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("file-logs".into()).stack_size(256 << 10).spawn(move || {
        let mut followers = Vec::new();
        let mut hits = Hits::default();
        rules.mark_changed();
        while !cancel.is_cancelled() {
            if rules.has_changed().unwrap_or(false) {
                let book = Arc::clone(&rules.borrow_and_update());
                followers = take_up(&book, &root, followers, &shared);
            }
            let mut busy = false;
            for follower in &mut followers {
                busy |= turn(follower, &mut hits, &shared);
            }
            hits.tell(&signals);
            if !busy {
                thread::sleep(TICK);
            }
        }
    })
}

fn take_up(book: &Rulebook, root: &Root, mut before: Vec<Follower>, shared: &Shared) -> Vec<Follower> {
    shared.forget_sources("monitor/");
    let mut followers = Vec::new();
    for config in &book.logs {
        match &config.plugin {
            LogPlugin::Journald => {
                let reason = "journald is not read; the plugins kmsg and filelog are";
                shared.note_source(&source_name(&config.source), Err(reason.into()));
            }
            LogPlugin::Kmsg => {}
            LogPlugin::File { .. } => {
                let known = before.iter().position(|known| known.monitor.config().source == config.source);
                let known = known.map(|index| before.swap_remove(index));
                followers.extend(Follower::new(Arc::clone(config), root, known));
            }
        }
    }
    followers
}

fn turn(follower: &mut Follower, hits: &mut Hits, shared: &Shared) -> bool {
    if follower.not_before.is_some_and(|time| Instant::now() < time) {
        return false;
    }
    let name = source_name(&follower.monitor.config().source);
    for _ in 0..TURN {
        match follower.read(hits) {
            Ok(true) => {}
            Ok(false) => {
                shared.note_source(&name, Ok(()));
                follower.not_before = None;
                return false;
            }
            Err(reason) => {
                shared.note_source(&name, Err(format!("{}: {reason}", follower.log.path().display())));
                follower.not_before = Some(Instant::now() + RETRY);
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npd::config::{Config, parse};

    const DOCKER: &str = r#"{"plugin": "filelog",
        "pluginConfig": {"timestamp": "^time=\"(\\S*)\"", "message": "msg=\"([^\\n]*)\"", "timestampFormat": "2006-01-02T15:04:05.999999999-07:00"},
        "logPath": "/var/log/engine.log", "lookback": "5m", "bufferSize": 10, "source": "engine-monitor",
        "conditions": [], "rules": [{"type": "temporary", "reason": "LayerBroken", "pattern": "layer \\w+ is broken.*"}]}"#;

    #[test]
    fn a_recorded_log_file_raises_what_is_young_enough() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("var/log/engine.log");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        let young = Timestamp::now();
        let old = young.checked_sub(jiff::SignedDuration::from_hours(2)).unwrap();
        let line = |time: Timestamp, name: &str| {
            format!(
                "time=\"{}\" level=error msg=\"layer {name} is broken: x\"\n",
                time.to_string().replace('Z', "+00:00")
            )
        };
        std::fs::write(&log, format!("{}garbage\n{}", line(old, "a"), line(young, "b"))).unwrap();
        let Config::Log(config) = parse(DOCKER).unwrap() else { panic!("a log monitor") };
        let root = Root::new(directory.path());
        let mut follower = Follower::new(Arc::new(config), &root, None).unwrap();
        let mut hits = Hits::default();
        assert_eq!(follower.read(&mut hits), Ok(true));
        let found = hits.take();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].about.as_str(), "LayerBroken");
        assert!(found[0].detection.evidence[0].contains("layer b is broken"), "{found:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_reason_and_no_end() {
        let Config::Log(config) = parse(DOCKER).unwrap() else { panic!("a log monitor") };
        let directory = tempfile::tempdir().unwrap();
        let mut follower = Follower::new(Arc::new(config), &Root::new(directory.path()), None).unwrap();
        assert!(follower.read(&mut Hits::default()).is_err());
    }
}
