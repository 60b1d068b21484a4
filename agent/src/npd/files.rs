//! Logs in files and in the journal, for monitors with the plugins `filelog` and `journald`: one thread follows all of
//! them. A log that is not there is told as an absent source and looked for again. Where each was read up to outlives the
//! agent, so that a restart neither loses lines nor tells them twice.

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
    host::Root,
    kernel::{
        journal::Wanted,
        kmsg::{KernelLog, TICK},
        position::Position,
    },
    rules::Rulebook,
    shared::Shared,
    signal::Signal,
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

/// How a line is read.
enum Reading {
    /// By the expressions of its configuration.
    Stamped { timestamp: Regex, message: Regex, layout: Layout },
    /// It is what was said.
    Bare,
}

/// One followed log.
struct Follower {
    monitor: Monitor,
    log: KernelLog,
    reading: Reading,
    oldest: Timestamp,
    not_before: Option<Instant>,
    told: Position,
}

impl Follower {
    fn new(config: Arc<LogConfig>, root: &Root, before: Option<Self>, kept: Option<Position>) -> Option<Self> {
        let reading = match &config.plugin {
            LogPlugin::Kmsg => return None,
            LogPlugin::Journald { .. } => Reading::Bare,
            LogPlugin::File { timestamp, message, layout } => Reading::Stamped {
                // Both were compiled when the file was checked.
                timestamp: Regex::new(timestamp).ok()?,
                message: Regex::new(message).ok()?,
                layout: Layout::new(layout),
            },
        };
        if let Some(before) = before
            && before.monitor.config().reads_the_same(&config)
        {
            // Under changed rules the same log is read on where it was.
            return Some(Self { monitor: before.monitor.change(config), reading, not_before: None, ..before });
        }
        let (log, oldest) = match &config.plugin {
            LogPlugin::Journald { identifier } => {
                let field = format!("SYSLOG_IDENTIFIER={identifier}");
                let wanted = Wanted { field, cursor: None, lookback: config.lookback };
                (KernelLog::journal(&root.join(""), wanted, kept), Timestamp::UNIX_EPOCH)
            }
            _ => {
                let lookback = jiff::SignedDuration::try_from(config.lookback).unwrap_or_default();
                let young = Timestamp::now().checked_sub(lookback).unwrap_or(Timestamp::UNIX_EPOCH);
                // Whatever was written since the last agent read is news, however long that is ago.
                let oldest = if kept.is_some() { Timestamp::UNIX_EPOCH } else { young };
                (KernelLog::lines(&root.join(&config.path), BACKLOG, kept), oldest)
            }
        };
        let told = log.position().clone();
        Some(Self { monitor: Monitor::new(config), log, reading, oldest, not_before: None, told })
    }

    /// Reads on; false when there was nothing.
    fn read(&mut self, hits: &mut Hits) -> Result<bool, String> {
        let Self { monitor, log, reading, oldest, .. } = self;
        let count = log.read(|line| {
            let at = String::from_utf8_lossy(line.at);
            match reading {
                Reading::Bare => monitor.push(line.text, &at, |sighting| hits.add(sighting)),
                Reading::Stamped { timestamp, message, layout } => {
                    let (Some(at), Some(said)) = (last_group(timestamp, line.text), last_group(message, line.text))
                    else {
                        return;
                    };
                    let at = String::from_utf8_lossy(at);
                    if layout.parse(&at, Timestamp::now()).is_some_and(|time| time >= *oldest) {
                        monitor.push(said, &at, |sighting| hits.add(sighting));
                    }
                }
            }
        });
        count.map(|count| count > 0).map_err(|error| error.to_string())
    }

    /// Says how far it has read, when that is news. What was found up to there must be told already.
    fn tell_place(&mut self, signals: &mpsc::Sender<Signal>) {
        if *self.log.position() == self.told {
            return;
        }
        let position = self.log.position().clone();
        let source = self.monitor.config().source.clone();
        if signals.try_send(Signal::LogPosition { source, position: position.clone() }).is_ok() {
            self.told = position;
        }
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
        let mut followers: Vec<Follower> = Vec::new();
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
            if hits.tell(&signals) {
                followers.iter_mut().for_each(|follower| follower.tell_place(&signals));
            }
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
        let known = before.iter().position(|known| known.monitor.config().source == config.source);
        let known = known.map(|index| before.swap_remove(index));
        let kept = shared.log_positions.lock().get(&config.source).cloned();
        followers.extend(Follower::new(Arc::clone(config), root, known, kept));
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
        let mut follower = Follower::new(Arc::new(config), &root, None, None).unwrap();
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
        let mut follower = Follower::new(Arc::new(config), &Root::new(directory.path()), None, None).unwrap();
        assert!(follower.read(&mut Hits::default()).is_err());
    }

    #[test]
    fn a_restart_reads_on_where_the_last_agent_stopped_and_a_changed_rule_does_not_read_twice() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("var/log/engine.log");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        let line = |hours: i64, name: &str| {
            let time = Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap();
            format!("time=\"{}\" msg=\"layer {name} is broken: x\"\n", time.to_string().replace('Z', "+00:00"))
        };
        let write = |text: String| {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        let config = |text: &str| match parse(text).unwrap() {
            Config::Log(config) => Arc::new(config),
            Config::Custom(_) => panic!("a log monitor"),
        };
        let said = |follower: &mut Follower| {
            let mut hits = Hits::default();
            follower.read(&mut hits).unwrap();
            hits.take().iter().map(|hit| hit.detection.evidence[0].clone()).collect::<Vec<_>>()
        };
        let root = Root::new(directory.path());
        write(line(0, "a"));
        let mut first = Follower::new(config(DOCKER), &root, None, None).unwrap();
        assert_eq!(said(&mut first), ["layer a is broken: x"]);
        let (signals, mut told) = mpsc::channel(4);
        first.tell_place(&signals);
        first.tell_place(&signals);
        let Ok(Signal::LogPosition { source, position }) = told.try_recv() else { panic!("a place") };
        assert!(source == "engine-monitor" && told.try_recv().is_err());
        // Written while no agent ran, and long before the next one began.
        write(line(3, "b"));
        let mut second = Follower::new(config(DOCKER), &root, None, Some(position)).unwrap();
        assert_eq!(said(&mut second), ["layer b is broken: x"]);
        write(line(0, "c"));
        let changed = config(&DOCKER.replace("LayerBroken", "LayerGone"));
        let mut third = Follower::new(changed, &root, Some(second), None).unwrap();
        assert_eq!(said(&mut third), ["layer c is broken: x"]);
    }
}
