//! Waiting for a line that a program writes.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A place in a program's log.
#[derive(Clone, Debug)]
pub struct LogMark {
    path: PathBuf,
    offset: u64,
}

impl LogMark {
    /// The end of the log as it is now.
    pub fn end_of(path: &Path) -> Self {
        let offset = std::fs::metadata(path).map_or(0, |meta| meta.len());
        Self { path: path.to_owned(), offset }
    }

    /// What was written since.
    pub fn since(&self) -> String {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut bytes)
        });
        // A log that is not there yet holds nothing.
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The moment at which a line that holds all of `parts` was first seen in one of the logs, looking every 10 ms.
pub async fn seen(marks: &[LogMark], parts: &[&str], bound: Duration) -> Option<Instant> {
    let begin = Instant::now();
    while begin.elapsed() < bound {
        for mark in marks {
            if mark.since().lines().any(|line| parts.iter().all(|part| line.contains(part))) {
                return Some(Instant::now());
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}
