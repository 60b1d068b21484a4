//! How far a log was read, and what of it was lost.

use serde::{Deserialize, Serialize};

/// How far the log was read, so that a restart neither loses nor repeats lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Boot that the sequence number belongs to.
    pub boot_id: String,
    /// Next sequence number of the device.
    pub next_sequence: Option<u64>,
    /// Inode and offset of a tailed file.
    pub file: Option<(u64, u64)>,
    /// Place in the journal.
    #[serde(default)]
    pub cursor: Option<String>,
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
    /// Entries of the journal that could not be read.
    pub unreadable: u64,
}
