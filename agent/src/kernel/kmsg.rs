//! Reads the kernel log of a node as it grows: /dev/kmsg as records, a regular file as a tail.
//!
//! One thread of its own, because neither can be awaited portably. It never waits longer than [`TICK`], never ends by
//! itself, and tells its troubles: overruns are counted, a device that cannot be opened is tried again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use super::line::{MAX_LINE, Message, messages, unescape};
use crate::kernel::Format;

/// Longest wait for news; also how fast a stop is noticed.
pub const TICK: Duration = Duration::from_millis(100);
/// Records or bytes taken before others get their turn.
const BATCH: usize = 512;
/// Bytes of a tailed file read at once.
const CHUNK: usize = 64 << 10;

/// How far the log was read, so that a restart neither loses nor repeats lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Boot that the sequence number belongs to.
    pub boot_id: String,
    /// Next sequence number of the device.
    pub next_sequence: Option<u64>,
    /// Inode and offset of a tailed file.
    pub file: Option<(u64, u64)>,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Times the kernel's ring ran over us.
    pub overruns: u64,
    /// Records that were lost, by their sequence numbers.
    pub lost_records: u64,
    /// Times the file was replaced or cut.
    pub rotations: u64,
}

enum Log {
    Device { file: File },
    Tail { file: File, inode: u64, offset: u64, line_start: u64, partial: Vec<u8> },
}

/// A reader of one log.
pub struct KernelLog {
    path: PathBuf,
    log: Option<Log>,
    position: Position,
    losses: Losses,
    buffer: Vec<u8>,
    /// Whether lines are handed over as they are, in a file that is no kernel log.
    plain: bool,
    /// Bytes before the end at which a file without a kept position is begun.
    backlog: u64,
}

impl KernelLog {
    /// A reader that goes on at a position, or, without one, with what is written from now on.
    pub fn new(path: &Path, boot_id: &str, kept: Option<Position>) -> Self {
        let fresh = Position { boot_id: boot_id.to_owned(), ..Position::default() };
        let position = match kept {
            // Another boot: its records begin at zero, and all of them are news.
            Some(kept) if kept.boot_id != boot_id => Position { next_sequence: Some(0), file: kept.file, ..fresh },
            Some(kept) => kept,
            None => fresh,
        };
        let (losses, buffer) = (Losses::default(), vec![0; CHUNK]);
        Self { path: path.to_owned(), log: None, position, losses, buffer, plain: false, backlog: 0 }
    }

    /// A reader of a file's lines as they are, beginning at most `backlog` bytes before its end. It does not wait.
    pub fn lines(path: &Path, backlog: u64) -> Self {
        Self { plain: true, backlog, ..Self::new(path, "", None) }
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far it has read.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// What went wrong so far.
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// Waits at most [`TICK`] for news and hands each message over. Gives the number of messages.
    ///
    /// # Errors
    /// When the log cannot be opened or read; the next call tries anew.
    pub fn read(&mut self, take: impl FnMut(&Message<'_>)) -> io::Result<usize> {
        if self.log.is_none() {
            self.log = Some(self.open()?);
        }
        let outcome = match &mut self.log {
            Some(Log::Device { file }) => {
                read_device(file, &mut self.buffer, &mut self.position, &mut self.losses, take)
            }
            Some(Log::Tail { .. }) => self.read_tail(take),
            None => Ok(0),
        };
        if outcome.is_err() {
            self.log = None;
        }
        outcome
    }

    fn open(&mut self) -> io::Result<Log> {
        let kind = std::fs::metadata(&self.path)?;
        if kind.file_type().is_char_device() && !self.plain {
            let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
            let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&self.path)?;
            if self.position.next_sequence.is_none() {
                // Behind the last record: only what comes from now on.
                file.seek(SeekFrom::End(0))?;
            }
            return Ok(Log::Device { file });
        }
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a character device nor a regular file"));
        }
        let mut file = File::open(&self.path)?;
        let inode = file.metadata()?.ino();
        let length = file.metadata()?.len();
        let offset = match self.position.file {
            Some((kept, offset)) if kept == inode && offset <= length => offset,
            // Another file than before: all of it is news.
            Some(_) => 0,
            None => length.saturating_sub(self.backlog),
        };
        file.seek(SeekFrom::Start(offset))?;
        self.position.file = Some((inode, offset));
        Ok(Log::Tail { file, inode, offset, line_start: offset, partial: Vec::new() })
    }

    fn read_tail(&mut self, mut take: impl FnMut(&Message<'_>)) -> io::Result<usize> {
        let Some(Log::Tail { file, inode, offset, line_start, partial }) = &mut self.log else { return Ok(0) };
        let hand_over = if self.plain { hand_over_plain } else { hand_over };
        let mut count = 0;
        let read = file.read(&mut self.buffer)?;
        if read == 0 {
            // The end: was the file cut, or is another one in its place?
            let replaced = match std::fs::metadata(&self.path) {
                Ok(now) => now.ino() != *inode || now.len() < *offset,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if replaced {
                self.losses.rotations += 1;
                self.position.file = Some((0, 0));
                self.log = None;
                return Ok(0);
            }
            if !self.plain {
                std::thread::sleep(TICK);
            }
            return Ok(0);
        }
        *offset += read as u64;
        let mut rest = &self.buffer[..read];
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if partial.is_empty() {
                count += hand_over(&rest[..end], &mut take);
            } else {
                append(partial, &rest[..end]);
                count += hand_over(partial, &mut take);
                partial.clear();
            }
            rest = &rest[end + 1..];
            *line_start = *offset - rest.len() as u64;
        }
        append(partial, rest);
        // A line that is not complete yet is read again after a restart.
        self.position.file = Some((*inode, *line_start));
        Ok(count)
    }
}

fn append(partial: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_LINE.saturating_sub(partial.len());
    partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn read_device(
    file: &mut File,
    buffer: &mut [u8],
    position: &mut Position,
    losses: &mut Losses,
    mut take: impl FnMut(&Message<'_>),
) -> io::Result<usize> {
    let wait = Timespec { tv_sec: 0, tv_nsec: i64::try_from(TICK.as_nanos()).unwrap_or(100_000_000) };
    let mut polled = [PollFd::new(&*file, PollFlags::IN)];
    if rustix::event::poll(&mut polled, Some(&wait))? == 0 {
        return Ok(0);
    }
    let mut count = 0;
    for _ in 0..BATCH {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(length) => {
                let record = &buffer[..length];
                let sequence = record_sequence(record);
                if let (Some(sequence), Some(expected)) = (sequence, position.next_sequence) {
                    if sequence < expected {
                        continue;
                    }
                    losses.lost_records += sequence - expected;
                }
                position.next_sequence = sequence.map(|sequence| sequence + 1).or(position.next_sequence);
                count += hand_over(record, &mut take);
            }
            // The ring ran over the place we were at; the next read gives the oldest record that is left.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => losses.overruns += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn record_sequence(record: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(record.get(..record.len().min(64))?).ok().or_else(|| {
        let valid = record.iter().take(64).take_while(|b| b.is_ascii()).count();
        std::str::from_utf8(&record[..valid]).ok()
    })?;
    text.split(',').nth(1)?.parse().ok()
}

fn hand_over_plain(line: &[u8], take: &mut dyn FnMut(&Message<'_>)) -> usize {
    take(&Message { text: line.trim_ascii_end(), clock: None, at: b"", from_kernel: true, sequence: None });
    1
}

/// Hands over what a record or line says: the first line of a device's record, which may hold several by escapes.
fn hand_over(record: &[u8], take: &mut dyn FnMut(&Message<'_>)) -> usize {
    // What follows the first line of a record are its fields: ` SUBSYSTEM=pci`.
    let first = record.split(|b| *b == b'\n').next().unwrap_or_default();
    let mut count = 0;
    for message in messages(first, Format::Auto) {
        if message.text.windows(2).any(|pair| pair == b"\\x") {
            let text = unescape(message.text);
            for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                take(&Message { text: line.trim_ascii(), ..message.clone() });
                count += 1;
            }
        } else {
            take(&message);
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read_all(log: &mut KernelLog) -> Vec<String> {
        let mut seen = Vec::new();
        // Opening, reading and noticing a rotation are steps of their own.
        for _ in 0..3 {
            log.read(|message| seen.push(String::from_utf8_lossy(message.text).into_owned())).unwrap();
        }
        seen
    }

    fn append_to(path: &Path, text: &str) {
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_file_is_followed_from_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmsg");
        append_to(&path, "6,1,1,-;old\n");
        let mut log = KernelLog::new(&path, "b", None);
        assert!(read_all(&mut log).is_empty());
        append_to(&path, "6,2,2,-;new\n SUBSYSTEM=pci\n6,3,3,-;two\\x0alines\n6,4,4,-;cut");
        assert_eq!(read_all(&mut log), ["new", "SUBSYSTEM=pci", "two", "lines"]);
        append_to(&path, " in two\n");
        assert_eq!(read_all(&mut log), ["cut in two"]);
    }

    #[test]
    fn a_restart_goes_on_where_the_last_agent_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmsg");
        append_to(&path, "6,1,1,-;old\n");
        let mut log = KernelLog::new(&path, "b", None);
        assert!(read_all(&mut log).is_empty());
        let kept = log.position().clone();
        append_to(&path, "6,2,2,-;while nobody read\n");
        assert_eq!(read_all(&mut KernelLog::new(&path, "b", Some(kept))), ["while nobody read"]);
    }

    #[test]
    fn a_file_that_is_cut_or_replaced_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmsg");
        append_to(&path, "6,1,1,-;a long enough first line\n");
        let mut log = KernelLog::new(&path, "b", None);
        read_all(&mut log);
        std::fs::write(&path, "6,2,2,-;cut\n").unwrap();
        assert_eq!(read_all(&mut log), ["cut"]);
        std::fs::rename(&path, directory.path().join("kmsg.1")).unwrap();
        append_to(&path, "6,3,3,-;replaced, and longer than before\n");
        assert_eq!(read_all(&mut log), ["replaced, and longer than before"]);
        assert_eq!(log.losses().rotations, 2);
    }

    #[test]
    fn a_log_that_is_not_there_is_an_error_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmsg");
        let mut log = KernelLog::new(
            &path,
            "b",
            Some(Position { boot_id: "b".into(), file: Some((0, 0)), ..Default::default() }),
        );
        assert!(log.read(|_| ()).is_err());
        append_to(&path, "6,1,1,-;there\n");
        assert_eq!(read_all(&mut log), ["there"]);
    }

    #[test]
    fn a_position_of_another_boot_starts_over() {
        let kept = Position { boot_id: "a".into(), next_sequence: Some(900), file: None };
        assert_eq!(KernelLog::new(Path::new("/x"), "b", Some(kept)).position().next_sequence, Some(0));
    }
}
