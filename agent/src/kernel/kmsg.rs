//! Reads the kernel log of a node as it grows: /dev/kmsg as records, a regular file as a tail, and where neither can be
//! opened the systemd journal or /proc/kmsg.
//!
//! One thread of its own, because none of them can be awaited portably. It never waits longer than [`TICK`], never ends by
//! itself, and tells its troubles: overruns are counted, a log that cannot be opened is tried again.

use std::{
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    journal::{self, Journal, Wanted},
    line::{Message, messages, unescape},
    position::{Losses, Position},
    records::{self, Device, Records},
    syslog::Syslog,
    tail::{Step, Tail},
};
use crate::kernel::Format;

/// Longest wait for news; also how fast a stop is noticed.
pub const TICK: Duration = Duration::from_millis(100);
/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// What of the journal is the kernel's.
const KERNEL_ENTRIES: &str = "_TRANSPORT=kernel";
/// The program that reads journals.
const JOURNALCTL: &str = "journalctl";

/// Which log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Records: /dev/kmsg.
    Kmsg,
    /// A regular file.
    File,
    /// The systemd journal.
    Journal,
    /// /proc/kmsg, which is syslog(2).
    Syslog,
}

enum Log {
    Records(Box<dyn Records>),
    Tail(Tail),
    Journal(Journal),
    Syslog(Syslog),
}

/// Opens a log of records anew.
type Opener = Box<dyn FnMut() -> io::Result<Box<dyn Records>> + Send>;

enum Place {
    /// A device or a file, whichever it is.
    Path,
    /// Records that somebody else opens.
    Records(Opener),
    /// Entries of a journal below a root.
    Journal { root: PathBuf, program: PathBuf, wanted: Wanted },
}

/// A reader of one log.
pub struct KernelLog {
    path: PathBuf,
    place: Place,
    /// Root below which other logs of the kernel are looked for when the first cannot be opened.
    others: Option<PathBuf>,
    log: Option<Log>,
    position: Position,
    losses: Losses,
    buffer: Vec<u8>,
    /// Whether lines are handed over as they are, in a file that is no kernel log.
    plain: bool,
    /// Bytes before the end at which a file without a kept position is begun.
    backlog: u64,
    opened: bool,
}

impl KernelLog {
    /// A reader that goes on at a position, or, without one, with what is written from now on.
    pub fn new(path: &Path, boot_id: &str, kept: Option<Position>) -> Self {
        let fresh = Position { boot_id: boot_id.to_owned(), ..Position::default() };
        let position = match kept {
            // Another boot: its records begin at zero, and all of them are news.
            Some(kept) if kept.boot_id != boot_id => {
                Position { next_sequence: Some(0), file: kept.file, cursor: kept.cursor, ..fresh }
            }
            Some(kept) => kept,
            None => fresh,
        };
        Self {
            path: path.to_owned(),
            place: Place::Path,
            others: None,
            log: None,
            position,
            losses: Losses::default(),
            buffer: vec![0; CHUNK],
            plain: false,
            backlog: 0,
            opened: false,
        }
    }

    /// The kernel log below a root: /dev/kmsg, else the journal, else /proc/kmsg.
    pub fn of_node(root: &Path, boot_id: &str, kept: Option<Position>) -> Self {
        Self { others: Some(root.to_owned()), ..Self::new(&root.join("dev/kmsg"), boot_id, kept) }
    }

    /// A reader of records that somebody else opens.
    pub fn of_records(
        boot_id: &str,
        kept: Option<Position>,
        open: impl FnMut() -> io::Result<Box<dyn Records>> + Send + 'static,
    ) -> Self {
        Self { place: Place::Records(Box::new(open)), ..Self::new(Path::new("records"), boot_id, kept) }
    }

    /// A reader of a file's lines as they are, from a kept place or at most `backlog` bytes before its end. It does not wait.
    pub fn lines(path: &Path, backlog: u64, kept: Option<Position>) -> Self {
        let position = kept.unwrap_or_default();
        Self { plain: true, backlog, position, ..Self::new(path, "", None) }
    }

    /// A reader of a journal below a root, from a kept place. It does not wait.
    pub fn journal(root: &Path, wanted: Wanted, kept: Option<Position>) -> Self {
        let place = Place::Journal { root: root.to_owned(), program: JOURNALCTL.into(), wanted };
        Self { place, plain: true, position: kept.unwrap_or_default(), ..Self::new(Path::new("journal"), "", None) }
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which log is read now.
    pub fn origin(&self) -> Option<Origin> {
        self.log.as_ref().map(|log| match log {
            Log::Records(_) => Origin::Kmsg,
            Log::Tail(_) => Origin::File,
            Log::Journal(_) => Origin::Journal,
            Log::Syslog(_) => Origin::Syslog,
        })
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
    pub fn read(&mut self, mut take: impl FnMut(&Message<'_>)) -> io::Result<usize> {
        if self.log.is_none() {
            self.log = Some(self.open()?);
            self.opened = true;
        }
        let Self { log, position, losses, buffer, plain, path, .. } = self;
        let wait = if *plain { Duration::ZERO } else { TICK };
        let mut count = 0;
        let outcome = match log {
            None => Ok(0),
            Some(Log::Records(log)) => {
                let each = |record: &[u8]| count += hand_over(record, &mut take);
                records::read_on(&mut **log, wait, buffer, position, losses, each).map(|_| count)
            }
            Some(Log::Tail(tail)) => {
                let hand_over = if *plain { hand_over_plain } else { hand_over };
                let step = tail.read(path, buffer, |line| count += hand_over(line, &mut take));
                position.file = Some(tail.place());
                match step {
                    Ok(Step::Read) => Ok(count),
                    Ok(Step::End) => {
                        std::thread::sleep(wait);
                        Ok(0)
                    }
                    Ok(Step::Replaced) => {
                        losses.rotations += 1;
                        position.file = Some((0, 0));
                        *log = None;
                        Ok(0)
                    }
                    Err(error) => Err(error),
                }
            }
            Some(Log::Journal(journal)) => {
                let read = journal.read(wait, buffer, |entry| match entry {
                    Some(entry) => {
                        let (text, clock, at) = (entry.text.trim_ascii(), entry.clock, entry.at.as_bytes());
                        take(&Message { text, clock, at, from_kernel: true, sequence: None });
                        position.cursor = entry.cursor.or(position.cursor.take());
                    }
                    None => losses.unreadable += 1,
                });
                if read.is_err() {
                    // It may be the place that the journal no longer knows.
                    position.cursor = None;
                }
                read
            }
            Some(Log::Syslog(syslog)) => syslog
                .read(wait, buffer, |line| count += hand_over(line, &mut take))
                .map(|some| if some { count.max(1) } else { 0 }),
        };
        if outcome.is_err() {
            self.log = None;
        }
        outcome
    }

    fn open(&mut self) -> io::Result<Log> {
        match &mut self.place {
            Place::Path => {}
            Place::Records(open) => {
                let records = open()?;
                return self.begin(records);
            }
            Place::Journal { root, program, wanted } => {
                let wanted = Wanted { cursor: self.position.cursor.clone(), ..wanted.clone() };
                return open_journal(root, program, &wanted);
            }
        }
        let first = self.open_path();
        let (Err(error), Some(root)) = (&first, &self.others) else { return first };
        let wanted =
            Wanted { field: KERNEL_ENTRIES.into(), cursor: self.position.cursor.clone(), lookback: Duration::ZERO };
        let journal = match open_journal(root, Path::new(JOURNALCTL), &wanted) {
            Ok(log) => return Ok(log),
            Err(error) => error,
        };
        let syslog = match Syslog::open(&root.join("proc/kmsg")) {
            Ok(syslog) => return Ok(Log::Syslog(syslog)),
            Err(error) => error,
        };
        Err(io::Error::new(error.kind(), format!("{error}; the journal: {journal}; /proc/kmsg: {syslog}")))
    }

    fn open_path(&mut self) -> io::Result<Log> {
        let kind = std::fs::metadata(&self.path)?.file_type();
        if kind.is_char_device() && !self.plain {
            let device = Device::open(&self.path)?;
            return self.begin(Box::new(device));
        }
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a character device nor a regular file"));
        }
        let tail = Tail::open(&self.path, self.position.file, self.backlog)?;
        self.position.file = Some(tail.place());
        Ok(Log::Tail(tail))
    }

    /// Begins with records: behind the last one when nobody knows a place and this is the first time.
    fn begin(&mut self, mut records: Box<dyn Records>) -> io::Result<Log> {
        if self.position.next_sequence.is_none() && !self.opened {
            records::pass_over(&mut *records, &mut self.buffer, &mut self.position, &mut self.losses)?;
        }
        Ok(Log::Records(records))
    }
}

fn open_journal(root: &Path, program: &Path, wanted: &Wanted) -> io::Result<Log> {
    let Some(directory) = journal::find(root) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no journal in /var/log or /run/log"));
    };
    match Journal::follow(program, &directory, wanted) {
        Ok(journal) => Ok(Log::Journal(journal)),
        Err(error) => Err(io::Error::new(error.kind(), format!("{} cannot be run: {error}", program.display()))),
    }
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
mod tests;
