//! The folder of records, in the order in which they came. A record appears by a rename after it is on disk, so that a
//! crash leaves it whole or not at all. Without a folder, or where it cannot be written, records wait in memory.

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Longest record after unpacking. The SDK exports 512 spans or records at once; metrics of a node with a thousand pods
/// are about 2 MiB.
const MAX_RECORD_BYTES: u64 = 16 << 20;
/// Records of one request.
const RUN: usize = 64;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// An `ExportTraceServiceRequest`.
    Traces,
    /// An `ExportMetricsServiceRequest`.
    Metrics,
    /// An `ExportLogsServiceRequest`.
    Logs,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It cannot be made, read or locked.
    #[error("telemetry cannot be kept in {path}; give a folder that this process may write")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("{0} is used by another process; give each sender a folder of its own")]
    InUse(PathBuf),
}

/// What was lost, by reason. Numbers of records: one export of one signal each.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// Removed because newer ones needed the room.
    pub(crate) evicted: AtomicU64,
    /// The receiver says that it will never take them.
    pub(crate) refused: AtomicU64,
    /// Files that could not be read back.
    pub(crate) unreadable: AtomicU64,
}

struct Record {
    number: u64,
    signal: Signal,
    /// Bytes that it takes, packed.
    bytes: u64,
    /// Its content, where it could not be written.
    held: Option<Vec<u8>>,
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<Record>,
    next: u64,
    bytes: u64,
    /// Whether the last write failed: told once, not for each record.
    failing: bool,
}

/// The queue. Shared by the exporters and the sender.
pub(crate) struct Queue {
    folder: Option<PathBuf>,
    /// Locked while the queue lives.
    _lock: Option<File>,
    most_bytes: u64,
    waiting: Mutex<Waiting>,
    /// Told of every new record.
    pub(crate) arrived: Notify,
    /// What was lost.
    pub(crate) lost: Lost,
}

/// Neighbouring records of one signal, joined: protobuf messages written one behind another are one message with the
/// lists of both.
#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) signal: Signal,
    pub(crate) numbers: Vec<u64>,
    pub(crate) body: Vec<u8>,
}

impl Queue {
    /// Opens the queue of a folder, with what an earlier process left there; without a folder it is in memory.
    ///
    /// # Errors
    /// [`SpoolError`] when the folder cannot be used.
    pub(crate) fn open(folder: Option<&Path>, most_bytes: u64) -> Result<Self, SpoolError> {
        let mut waiting = Waiting { next: 1, ..Waiting::default() };
        let mut held = None;
        if let Some(folder) = folder {
            let failed = |source| SpoolError::Folder { path: folder.into(), source };
            fs::create_dir_all(folder).map_err(failed)?;
            let lock =
                File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
            lock.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => SpoolError::InUse(folder.into()),
                TryLockError::Error(source) => failed(source),
            })?;
            held = Some(lock);
            waiting.find(folder).map_err(failed)?;
        }
        Ok(Self {
            folder: folder.map(Into::into),
            _lock: held,
            most_bytes,
            waiting: Mutex::new(waiting),
            arrived: Notify::new(),
            lost: Lost::default(),
        })
    }

    /// Puts a record behind the others; it is on disk when this returns, if there is a folder that can be written.
    pub(crate) fn append(&self, signal: Signal, message: &[u8]) {
        let packed = pack(message);
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        let mut record = Record { number, signal, bytes: packed.len() as u64, held: None };
        let written = self.folder.as_ref().map(|folder| write(folder, &record, &packed));
        match written {
            Some(Ok(())) => waiting.failing = false,
            Some(Err(error)) => {
                if !waiting.failing {
                    tracing::warn!(%error, "telemetry cannot be kept on disk; it waits in memory and would not outlive this process");
                }
                waiting.failing = true;
                record.held = Some(packed);
            }
            None => record.held = Some(packed),
        }
        waiting.bytes += record.bytes;
        waiting.records.push_back(record);
        let mut evicted = 0;
        // The newest always stays: it is what somebody looks for first.
        while waiting.bytes > self.most_bytes && waiting.records.len() > 1 {
            if let Some(oldest) = waiting.records.pop_front() {
                waiting.bytes -= oldest.bytes;
                self.delete(&oldest);
                evicted += 1;
            }
        }
        drop(waiting);
        if evicted > 0 && self.lost.evicted.fetch_add(evicted, Ordering::Relaxed) == 0 {
            tracing::warn!(
                most_bytes = self.most_bytes,
                "telemetry waits for too long; the oldest is let go and counted"
            );
        }
        self.arrived.notify_one();
    }

    /// What is to be sent next: records from the front, all of one signal, of about `most_bytes` together.
    pub(crate) fn front(&self, most_bytes: usize) -> Option<Run> {
        loop {
            let mut waiting = self.waiting.lock();
            let first = waiting.records.front()?;
            let mut run = Run { signal: first.signal, numbers: Vec::new(), body: Vec::new() };
            let mut broken = None;
            for record in waiting.records.iter().take(RUN) {
                if record.signal != run.signal || run.body.len() >= most_bytes {
                    break;
                }
                match self.read(record) {
                    Ok(body) if !run.numbers.is_empty() && run.body.len() + body.len() > most_bytes => break,
                    Ok(body) => {
                        run.body.extend_from_slice(&body);
                        run.numbers.push(record.number);
                    }
                    Err(_) if !run.numbers.is_empty() => break,
                    Err(error) => {
                        broken = Some((record.number, error));
                        break;
                    }
                }
            }
            let Some((number, error)) = broken else { return Some(run) };
            waiting.remove(number).iter().for_each(|record| self.delete(record));
            drop(waiting);
            self.lost.unreadable.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, number, "a record of telemetry could not be read back; it is left out");
        }
    }

    /// Takes records out; those that were let go meanwhile are no error.
    pub(crate) fn remove(&self, numbers: &[u64]) {
        let mut waiting = self.waiting.lock();
        for number in numbers {
            waiting.remove(*number).iter().for_each(|record| self.delete(record));
        }
    }

    /// Bytes that wait, packed.
    pub(crate) fn bytes(&self) -> u64 {
        self.waiting.lock().bytes
    }

    fn read(&self, record: &Record) -> std::io::Result<Vec<u8>> {
        let packed = match (&record.held, &self.folder) {
            (Some(held), _) => held.clone(),
            (None, Some(folder)) => fs::read(folder.join(name(record.number, record.signal)))?,
            (None, None) => return Err(std::io::ErrorKind::NotFound.into()),
        };
        let mut message = Vec::with_capacity(packed.len().saturating_mul(4));
        GzDecoder::new(&packed[..]).take(MAX_RECORD_BYTES).read_to_end(&mut message)?;
        Ok(message)
    }

    fn delete(&self, record: &Record) {
        if let (None, Some(folder)) = (&record.held, &self.folder) {
            // A file that stays is sent again after a restart, and known by the receiver.
            let _ = fs::remove_file(folder.join(name(record.number, record.signal)));
        }
    }
}

impl Waiting {
    /// Takes up the records that lie in a folder, and removes what an interrupted write left.
    fn find(&mut self, folder: &Path) -> std::io::Result<()> {
        let mut records = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.file_name();
            let Some(file) = file.to_str() else { continue };
            if file.starts_with("new-") {
                fs::remove_file(entry.path())?;
            } else if let Some((number, signal)) = parse(file) {
                records.push(Record { number, signal, bytes: entry.metadata()?.len(), held: None });
            }
        }
        records.sort_unstable_by_key(|record| record.number);
        self.next = records.last().map_or(1, |record| record.number + 1);
        self.bytes = records.iter().map(|record| record.bytes).sum();
        self.records = records.into();
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Option<Record> {
        let at = self.records.binary_search_by_key(&number, |record| record.number).ok()?;
        let record = self.records.remove(at)?;
        self.bytes -= record.bytes;
        Some(record)
    }
}

fn name(number: u64, signal: Signal) -> String {
    format!("{number:020}.{}", signal.name())
}

fn parse(file: &str) -> Option<(u64, Signal)> {
    let (number, signal) = file.split_once('.')?;
    let signal = Signal::ALL.into_iter().find(|known| known.name() == signal)?;
    Some((number.parse().ok()?, signal))
}

fn pack(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 4), Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(message);
    encoder.finish().unwrap_or_default()
}

fn write(folder: &Path, record: &Record, packed: &[u8]) -> std::io::Result<()> {
    let begun = folder.join(format!("new-{}", record.number));
    let result = (|| {
        let mut file = File::create(&begun)?;
        file.write_all(packed)?;
        file.sync_data()?;
        fs::rename(&begun, folder.join(name(record.number, record.signal)))?;
        File::open(folder)?.sync_data()
    })();
    if result.is_err() {
        let _ = fs::remove_file(&begun);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &Queue, signals: &[(Signal, &str)]) {
        signals.iter().for_each(|(signal, text)| queue.append(*signal, text.as_bytes()));
    }

    fn drain(queue: &Queue) -> Vec<(Signal, String)> {
        std::iter::from_fn(|| {
            let run = queue.front(1 << 20)?;
            queue.remove(&run.numbers);
            Some((run.signal, String::from_utf8(run.body).unwrap()))
        })
        .collect()
    }

    #[test]
    fn neighbours_of_one_signal_go_out_together_and_in_order() {
        let queue = Queue::open(None, 1 << 20).unwrap();
        fill(&queue, &[(Signal::Metrics, "a"), (Signal::Metrics, "b"), (Signal::Logs, "c"), (Signal::Metrics, "d")]);
        let expected = [(Signal::Metrics, "ab"), (Signal::Logs, "c"), (Signal::Metrics, "d")];
        assert_eq!(drain(&queue), expected.map(|(signal, text)| (signal, text.to_owned())));
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_lay_there_when_the_process_was_killed_is_sent_first_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let first = Queue::open(Some(folder.path()), 1 << 20).unwrap();
        fill(&first, &[(Signal::Traces, "one"), (Signal::Logs, "two")]);
        let run = first.front(1 << 20).unwrap();
        assert!(matches!(Queue::open(Some(folder.path()), 1), Err(SpoolError::InUse(_))), "one process a folder");
        // A kill runs no destructor; only the lock goes with the process.
        drop(first);
        std::fs::write(folder.path().join("new-3"), "half a record").unwrap();
        let second = Queue::open(Some(folder.path()), 1 << 20).unwrap();
        fill(&second, &[(Signal::Logs, "three")]);
        assert_eq!(second.front(1 << 20), Some(run), "the same again, for nobody said that it arrived");
        assert_eq!(drain(&second).last(), Some(&(Signal::Logs, "twothree".to_owned())));
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "only the lock is left");
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room_and_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(Some(folder.path()), 100).unwrap();
        for i in 0..10 {
            queue.append(Signal::Logs, format!("record {i}").as_bytes());
        }
        assert!(queue.bytes() <= 100, "{}", queue.bytes());
        let kept: String = drain(&queue).into_iter().map(|(_, text)| text).collect();
        assert!(kept.ends_with("record 9") && !kept.contains("record 0"), "{kept}");
        assert_eq!(queue.lost.evicted.load(Ordering::Relaxed), 10 - kept.matches("record").count() as u64);
    }

    #[test]
    fn a_record_that_a_power_cut_broke_is_left_out_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(Some(folder.path()), 1 << 20).unwrap();
        fill(&queue, &[(Signal::Logs, "broken"), (Signal::Logs, "whole")]);
        std::fs::write(folder.path().join(name(1, Signal::Logs)), [0; 7]).unwrap();
        assert_eq!(drain(&queue), [(Signal::Logs, "whole".to_owned())]);
        assert_eq!(queue.lost.unreadable.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_cannot_be_written_waits_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(Some(&folder.path().join("spool")), 1 << 20).unwrap();
        std::fs::remove_dir_all(folder.path().join("spool")).unwrap();
        fill(&queue, &[(Signal::Logs, "held")]);
        assert_eq!(drain(&queue), [(Signal::Logs, "held".to_owned())]);
    }
}
