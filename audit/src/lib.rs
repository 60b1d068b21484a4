//! An append-only log in files, each record chained to the one before by a hash, written before what it speaks of is done.
//!
//! A record is one line of JSON: `{"seq","at","kind","alg","prev","body","hash"}`. The hash covers the bytes of the line
//! before `,"hash":`, and so the hash of the record before. Files are named `audit-<first seq>.jsonl`. No clock is read
//! here and nothing but the folder is known: who writes says when and what.

mod log;
mod record;
mod verify;

pub use self::{
    log::{AuditError, AuditLog},
    record::{ALGORITHM, Draft, GENESIS, Record},
    verify::{Broken, Report, read, verify},
};
