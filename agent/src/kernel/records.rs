//! Kernel logs that give one record a read, as /dev/kmsg does, and the loop that reads them without losing count.
//!
//! [`Records`] is what the loop needs of a log: a device has it, and so has a ring in memory that a test fills. The loop
//! survives everything such a log answers: nothing new, an interrupted call, a ring that ran over the reader.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::AsFd,
    io::Errno,
};

use super::position::{Losses, Position};

/// Records taken before others get their turn.
const BATCH: usize = 512;
/// Records that are passed over when a log is begun at its end; more than the largest ring holds.
const MAX_BACKLOG: usize = 1 << 20;

/// A log that gives one record a read.
pub trait Records: Send {
    /// Waits at most this long; whether there is something to take.
    ///
    /// # Errors
    /// When the log is of no more use.
    fn wait(&mut self, at_most: Duration) -> io::Result<bool>;

    /// Takes the next record into the buffer and gives its length; 0 at the end of a log that ends.
    ///
    /// # Errors
    /// `EAGAIN` when there is none now, `EINTR` when interrupted, `EPIPE` when records were overwritten before they were
    /// taken; `EINVAL` when the record is longer than the buffer. All other errors mean that the log is of no more use.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// Waits until a file has news, at most this long.
pub(super) fn wait_for(file: impl AsFd, at_most: Duration) -> io::Result<bool> {
    let nanos = i64::from(at_most.subsec_nanos());
    let wait = Timespec { tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX), tv_nsec: nanos };
    let mut polled = [PollFd::new(&file, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&wait)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a file whose reads never wait.
pub(super) fn open_without_waiting(path: &Path) -> io::Result<File> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(nonblocking).open(path)
}

/// /dev/kmsg.
#[derive(Debug)]
pub struct Device {
    file: File,
}

impl Device {
    /// Opens the device at its oldest record.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: open_without_waiting(path)? })
    }
}

impl Records for Device {
    fn wait(&mut self, at_most: Duration) -> io::Result<bool> {
        wait_for(&self.file, at_most)
    }

    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// What became of one attempt to take a record.
enum Taken {
    Record(usize),
    Nothing,
    Again,
}

fn take_one(records: &mut dyn Records, buffer: &mut [u8], losses: &mut Losses) -> io::Result<Taken> {
    match records.take(buffer) {
        Ok(0) => Ok(Taken::Nothing),
        Ok(length) => Ok(Taken::Record(length.min(buffer.len()))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Taken::Nothing),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Taken::Again),
        // The ring ran over the place we were at; the next read gives the oldest record that is left.
        Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {
            losses.overruns += 1;
            Ok(Taken::Again)
        }
        Err(error) => Err(error),
    }
}

/// Passes over what is in a log already, so that the position behind it is known even while nothing new comes.
pub(super) fn pass_over(
    records: &mut dyn Records,
    buffer: &mut [u8],
    position: &mut Position,
    losses: &mut Losses,
) -> io::Result<()> {
    for _ in 0..MAX_BACKLOG {
        match take_one(records, buffer, losses)? {
            Taken::Nothing => break,
            Taken::Again => {}
            Taken::Record(length) => {
                let sequence = record_sequence(&buffer[..length]).map(|sequence| sequence.saturating_add(1));
                position.next_sequence = sequence.or(position.next_sequence);
            }
        }
    }
    // What was overwritten before anybody wanted it is no loss.
    losses.overruns = 0;
    Ok(())
}

/// Waits at most so long for news and hands each record over that is not known yet. Gives how many records there were.
pub(super) fn read_on(
    records: &mut dyn Records,
    at_most: Duration,
    buffer: &mut [u8],
    position: &mut Position,
    losses: &mut Losses,
    mut take: impl FnMut(&[u8]),
) -> io::Result<usize> {
    if !records.wait(at_most)? {
        return Ok(0);
    }
    let (mut count, mut known) = (0, None);
    for _ in 0..BATCH {
        let length = match take_one(records, buffer, losses)? {
            Taken::Nothing => {
                // The log ends before the place that was kept: it is not the log that the place was kept of.
                if let (Some(last), Some(next)) = (known, position.next_sequence)
                    && last < next
                {
                    tracing::warn!(last, next, "the kernel log is behind the place that was kept; going on with it");
                    position.next_sequence = Some(last);
                }
                break;
            }
            Taken::Again => continue,
            Taken::Record(length) => length,
        };
        let record = &buffer[..length];
        let sequence = record_sequence(record);
        if let (Some(sequence), Some(expected)) = (sequence, position.next_sequence) {
            if sequence < expected {
                known = Some(sequence.saturating_add(1));
                count += 1;
                continue;
            }
            losses.lost_records = losses.lost_records.saturating_add(sequence - expected);
        }
        known = None;
        position.next_sequence = sequence.map(|sequence| sequence.saturating_add(1)).or(position.next_sequence);
        count += 1;
        take(record);
    }
    Ok(count)
}

fn record_sequence(record: &[u8]) -> Option<u64> {
    let ascii = record.iter().take(64).take_while(|b| b.is_ascii()).count();
    std::str::from_utf8(&record[..ascii]).ok()?.split(',').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Answers as it was told to.
    struct Script(VecDeque<io::Result<&'static str>>);

    impl Records for Script {
        fn wait(&mut self, _: Duration) -> io::Result<bool> {
            Ok(!self.0.is_empty())
        }

        fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let text = self.0.pop_front().unwrap_or_else(|| Err(Errno::AGAIN.into()))?;
            buffer[..text.len()].copy_from_slice(text.as_bytes());
            Ok(text.len())
        }
    }

    fn read(script: Vec<io::Result<&'static str>>, next: Option<u64>) -> (Vec<String>, Position, Losses, bool) {
        let mut records = Script(script.into());
        let mut position = Position { next_sequence: next, ..Position::default() };
        let (mut losses, mut seen) = (Losses::default(), Vec::new());
        let take = |record: &[u8]| seen.push(String::from_utf8_lossy(record).into_owned());
        let outcome = read_on(&mut records, Duration::ZERO, &mut [0; 64], &mut position, &mut losses, take);
        (seen, position, losses, outcome.is_ok())
    }

    #[test]
    fn an_interrupted_call_and_an_overrun_are_no_end_and_what_was_overwritten_is_counted() {
        let (seen, position, losses, well) = read(
            vec![
                Ok("6,7,1,-;a"),
                Err(Errno::INTR.into()),
                Err(Errno::PIPE.into()),
                Ok("6,12,1,-;b"),
                Err(Errno::AGAIN.into()),
                Ok("6,13,1,-;later"),
            ],
            Some(7),
        );
        assert_eq!(seen, ["6,7,1,-;a", "6,12,1,-;b"]);
        assert_eq!((position.next_sequence, losses.overruns, losses.lost_records, well), (Some(13), 1, 4, true));
    }

    #[test]
    fn records_that_are_known_are_passed_over_and_one_without_a_number_is_not() {
        let (seen, position, ..) = read(vec![Ok("6,1,1,-;old"), Ok("6,2,1,-;new"), Ok("nonsense")], Some(2));
        assert_eq!(seen, ["6,2,1,-;new", "nonsense"]);
        assert_eq!(position.next_sequence, Some(3));
    }

    #[test]
    fn a_place_that_the_log_never_reaches_does_not_silence_it() {
        let (seen, position, losses, _) = read(vec![Ok("6,4,1,-;a"), Ok("6,5,1,-;b")], Some(u64::MAX));
        assert!(seen.is_empty());
        assert_eq!((position.next_sequence, losses.lost_records), (Some(6), 0));
    }

    #[test]
    fn any_other_error_ends_the_read_and_keeps_the_place() {
        let (seen, position, _, well) = read(vec![Ok("6,4,1,-;a"), Err(Errno::IO.into())], Some(4));
        assert_eq!((seen.len(), position.next_sequence, well), (1, Some(5), false));
    }
}
