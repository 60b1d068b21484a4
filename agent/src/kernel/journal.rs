//! Lines of the systemd journal, as `journalctl --follow` tells them: a child process whose output is read in bounded
//! pieces and which ends with its reader. The journal's files are never written, and never read by our own hand.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::fs::OFlags;
use serde_json::Value;

use super::{records::wait_for, tail::Lines};

/// Longest entry that is looked at; a longer one is counted as unreadable.
const MAX_ENTRY: usize = 64 << 10;
/// Bytes of what journalctl complains about that are told.
const MAX_COMPLAINT: usize = 300;
/// Where journals are kept: on disk, or in memory until the next boot.
const DIRECTORIES: [&str; 2] = ["var/log/journal", "run/log/journal"];

/// Which entries are wanted, and from where on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A field that must have a value, as in `_TRANSPORT=kernel`.
    pub field: String,
    /// Entry behind which to begin.
    pub cursor: Option<String>,
    /// Without a cursor: how old entries may be; nothing old when zero.
    pub lookback: Duration,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// What was said.
    pub(super) text: Vec<u8>,
    /// Seconds on the node's monotonic clock.
    pub(super) clock: Option<f64>,
    /// Microseconds since 1970.
    pub(super) at: String,
    /// Its place in the journal.
    pub(super) cursor: Option<String>,
}

/// The first folder below a root that holds journals.
pub(super) fn find(root: &Path) -> Option<PathBuf> {
    let mut folders = DIRECTORIES.iter().map(|name| root.join(name));
    folders.find(|folder| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()))
}

/// A followed journal.
#[derive(Debug)]
pub(super) struct Journal {
    child: Child,
    output: File,
    lines: Lines,
}

impl Journal {
    /// Starts to follow.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(super) fn follow(program: &Path, directory: &Path, wanted: &Wanted) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(["--follow", "--output=json", "--no-pager", "--quiet"]);
        command.arg(format!("--directory={}", directory.display()));
        match &wanted.cursor {
            Some(cursor) => command.args(["--no-tail".to_owned(), format!("--after-cursor={cursor}")]),
            None if wanted.lookback.is_zero() => command.arg("--lines=0"),
            None => command.args(["--no-tail".to_owned(), format!("--since=-{}s", wanted.lookback.as_secs())]),
        };
        command.arg(&wanted.field).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().map(OwnedFd::from).ok_or(io::ErrorKind::BrokenPipe)?;
        rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK)?;
        Ok(Self { child, output: File::from(output), lines: Lines::of_at_most(MAX_ENTRY) })
    }

    /// Waits at most so long for news and hands each entry over, `None` for one that cannot be read; gives how many.
    ///
    /// # Errors
    /// When journalctl ended; the error says what it complained about.
    pub(super) fn read(
        &mut self,
        at_most: Duration,
        buffer: &mut [u8],
        mut take: impl FnMut(Option<Entry>),
    ) -> io::Result<usize> {
        if !wait_for(&self.output, at_most)? {
            return Ok(0);
        }
        let length = match self.output.read(buffer) {
            Ok(0) => return Err(self.complaint()),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let mut count = 0;
        self.lines.push(&buffer[..length], |line| {
            count += 1;
            take(entry(line));
        });
        Ok(count)
    }

    fn complaint(&mut self) -> io::Error {
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // Its output is closed, so it is ending; what it said by now is enough.
            let nonblocking = rustix::fs::fcntl_setfl(&stderr, OFlags::NONBLOCK);
            if nonblocking.is_ok() {
                let _ = stderr.take(MAX_COMPLAINT as u64).read_to_end(&mut said);
            }
        }
        let said = crate::text::printable(said.trim_ascii(), MAX_COMPLAINT);
        io::Error::other(if said.is_empty() { "journalctl ended".to_owned() } else { format!("journalctl: {said}") })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads an entry: text is a string, or an array of bytes where it is not UTF-8.
fn entry(line: &[u8]) -> Option<Entry> {
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(line).ok()?;
    let text = match fields.get("MESSAGE")? {
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(bytes) => bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect::<Option<_>>()?,
        _ => return None,
    };
    let field = |name: &str| fields.get(name).and_then(Value::as_str);
    let micros = field("_SOURCE_MONOTONIC_TIMESTAMP").or_else(|| field("__MONOTONIC_TIMESTAMP"));
    Some(Entry {
        text,
        clock: micros.and_then(|micros| micros.parse::<u64>().ok()).map(|micros| micros as f64 / 1e6),
        at: field("__REALTIME_TIMESTAMP").unwrap_or_default().to_owned(),
        cursor: field("__CURSOR").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(directory: &Path, script: &str) -> PathBuf {
        let path = directory.join("journalctl");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn read_all(journal: &mut Journal) -> (Vec<Option<Entry>>, String) {
        let mut seen = Vec::new();
        for _ in 0..200 {
            if let Err(error) = journal.read(Duration::from_millis(100), &mut [0; 512], |entry| seen.push(entry)) {
                return (seen, error.to_string());
            }
        }
        panic!("the program did not end");
    }

    #[test]
    fn entries_are_read_with_their_places_and_the_end_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"echo "$*" > args
            echo '{"MESSAGE":"one","__CURSOR":"c1","_SOURCE_MONOTONIC_TIMESTAMP":"1500000","__REALTIME_TIMESTAMP":"7"}'
            echo 'garbage'
            echo '{"MESSAGE":[98,255],"__CURSOR":"c2"}'
            echo 'no journal here' >&2; exit 1"#;
        let script = script.replace("> args", &format!("> {}/args", directory.path().display()));
        let wanted = Wanted { field: "_TRANSPORT=kernel".into(), cursor: Some("c0".into()), lookback: Duration::ZERO };
        let program = program(directory.path(), &script);
        let mut journal = Journal::follow(&program, Path::new("/j"), &wanted).unwrap();
        let (seen, why) = read_all(&mut journal);
        assert_eq!(seen.len(), 3);
        let first = seen[0].as_ref().unwrap();
        assert_eq!((first.text.as_slice(), first.clock, first.at.as_str()), (b"one".as_slice(), Some(1.5), "7"));
        assert!(seen[1].is_none());
        assert_eq!(seen[2].as_ref().unwrap().text, [98, 255]);
        assert!(why.contains("journalctl"), "{why}");
        let args = std::fs::read_to_string(directory.path().join("args")).unwrap();
        assert!(args.contains("--directory=/j --no-tail --after-cursor=c0 _TRANSPORT=kernel"), "{args}");
    }

    #[test]
    fn the_child_ends_with_its_reader() {
        let directory = tempfile::tempdir().unwrap();
        let program = program(directory.path(), "exec sleep 600");
        let journal = Journal::follow(&program, Path::new("/j"), &Wanted::default()).unwrap();
        let stat = format!("/proc/{}/stat", journal.child.id());
        assert!(Path::new(&stat).exists());
        drop(journal);
        assert!(!Path::new(&stat).exists());
    }
}
