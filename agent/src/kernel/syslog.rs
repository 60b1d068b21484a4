//! The kernel log of syslog(2), for nodes where /dev/kmsg may not be opened: /proc/kmsg, whose reads are that call.
//!
//! What is read there is gone for other readers of it, so it is the last resort; and it has no numbers, so a restart goes
//! on with what is still unread.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use super::{
    records::{open_without_waiting, wait_for},
    tail::Lines,
};

/// /proc/kmsg.
#[derive(Debug)]
pub(super) struct Syslog {
    file: File,
    lines: Lines,
}

impl Syslog {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be opened: that takes CAP_SYSLOG.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: open_without_waiting(path)?, lines: Lines::default() })
    }

    /// Waits at most so long for news and hands each line over; gives whether there were any.
    ///
    /// # Errors
    /// When it can be read no longer.
    pub(super) fn read(&mut self, at_most: Duration, buffer: &mut [u8], take: impl FnMut(&[u8])) -> io::Result<bool> {
        if !wait_for(&self.file, at_most)? {
            return Ok(false);
        }
        match self.file.read(buffer) {
            // A recorded tree has a file here, which ends; the kernel's does not.
            Ok(0) => {
                std::thread::sleep(at_most);
                Ok(false)
            }
            Ok(length) => {
                self.lines.push(&buffer[..length], take);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
