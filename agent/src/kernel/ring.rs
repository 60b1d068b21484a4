//! A kernel log in memory with the manners of /dev/kmsg: numbered records, one a read, and `EPIPE` for a reader that was
//! overtaken. For tests and for measuring; the agent itself never makes one.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::records::Records;

#[derive(Debug, Default)]
struct State {
    records: VecDeque<String>,
    /// Number of the oldest record.
    first: u64,
}

/// The writing end; clones write into the same ring.
#[derive(Clone, Debug)]
pub struct Ring {
    shared: Arc<(Mutex<State>, Condvar)>,
    capacity: usize,
}

impl Ring {
    /// A ring that holds so many records.
    pub fn new(capacity: usize) -> Self {
        Self { shared: Arc::default(), capacity: capacity.max(1) }
    }

    /// Adds a record; the oldest goes when there is no room.
    pub fn write(&self, text: &str) {
        let (state, news) = &*self.shared;
        let mut state = state.lock();
        let sequence = state.first + state.records.len() as u64;
        state.records.push_back(format!("6,{sequence},{},-;{text}\n", sequence.saturating_mul(100)));
        if state.records.len() > self.capacity {
            state.records.pop_front();
            state.first += 1;
        }
        news.notify_all();
    }

    /// Records written so far.
    pub fn written(&self) -> u64 {
        let state = self.shared.0.lock();
        state.first + state.records.len() as u64
    }

    /// A reader at the oldest record.
    pub fn reader(&self) -> RingReader {
        RingReader { ring: self.clone(), next: self.shared.0.lock().first }
    }
}

/// The reading end.
#[derive(Clone, Debug)]
pub struct RingReader {
    ring: Ring,
    next: u64,
}

impl Records for RingReader {
    fn wait(&mut self, at_most: Duration) -> io::Result<bool> {
        let (state, news) = &*self.ring.shared;
        let mut state = state.lock();
        if state.first + state.records.len() as u64 <= self.next {
            news.wait_for(&mut state, at_most);
        }
        Ok(state.first + state.records.len() as u64 > self.next)
    }

    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.ring.shared.0.lock();
        if self.next < state.first {
            self.next = state.first;
            return Err(Errno::PIPE.into());
        }
        let index = usize::try_from(self.next - state.first).unwrap_or(usize::MAX);
        let record = state.records.get(index).ok_or(Errno::AGAIN)?.as_bytes();
        let room = buffer.get_mut(..record.len()).ok_or(Errno::INVAL)?;
        room.copy_from_slice(record);
        self.next += 1;
        Ok(record.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_was_overtaken_is_told_once_and_goes_on_with_the_oldest() {
        let ring = Ring::new(2);
        let mut reader = ring.reader();
        (0..5).for_each(|n| ring.write(&n.to_string()));
        let mut buffer = [0; 64];
        assert_eq!(reader.take(&mut buffer).unwrap_err().raw_os_error(), Some(Errno::PIPE.raw_os_error()));
        let length = reader.take(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"6,3,300,-;3\n");
        assert!(reader.take(&mut buffer).is_ok());
        assert_eq!(reader.take(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!reader.wait(Duration::ZERO).unwrap());
    }
}
