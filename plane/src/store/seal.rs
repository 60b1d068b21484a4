//! Sealing: points of the head go into chunks of their series, some series at a time, so that ingest goes on in between.
//! When the last of them are sealed the journal is cut. A crash in between seals them again: what a chunk has already it
//! keeps.

use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::{head::Head, points};

/// Points in memory, of 24 bytes and some, at which they are sealed before their time.
const MOST_POINTS: usize = 4_000_000;
/// Otherwise they are sealed after this time: 30 points of a series that comes every ten seconds.
const EVERY_MS: i64 = 300_000;
/// Series sealed in one transaction: a quarter of a second.
const SLICE: usize = 2_000;
/// No reader's view of the database is older than this.
const OLDEST_VIEW: Duration = Duration::from_secs(12);

/// What is being sealed.
pub(super) struct Sealing {
    head: Head,
    ids: Vec<i64>,
    next: usize,
    /// Lines of the journal up to here hold nothing else.
    upto: i64,
    under_way: bool,
    ended: Option<Instant>,
    began_ms: i64,
}

impl Sealing {
    pub(super) fn new(head: Head) -> Self {
        Self { head, ids: Vec::new(), next: 0, upto: 0, under_way: false, ended: None, began_ms: i64::MIN }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Begins when it is time, and does a part.
    pub(super) fn upkeep(&mut self, connection: &mut Connection, now_ms: i64) -> rusqlite::Result<()> {
        let settled = self.ended.is_none_or(|ended| ended.elapsed() > OLDEST_VIEW);
        if settled && !self.under_way {
            self.head.settle();
        }
        if !self.under_way && now_ms.saturating_sub(self.began_ms) >= EVERY_MS {
            self.begin(connection)?;
            self.began_ms = now_ms;
        }
        self.some(connection)
    }

    /// Does a part of what is under way; begins before the time when memory asks for it.
    pub(super) fn go_on(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        let settled = self.ended.is_none_or(|ended| ended.elapsed() > OLDEST_VIEW);
        let count = self.head.count();
        if !self.under_way && (count >= MOST_POINTS && settled || count >= 2 * MOST_POINTS) {
            self.begin(connection)?;
        }
        self.some(connection)?;
        // Ingest is faster than sealing: it waits.
        while self.under_way && self.head.count() >= 2 * MOST_POINTS {
            self.some(connection)?;
        }
        Ok(())
    }

    fn begin(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.upto = connection.query_row("SELECT coalesce(max(id), 0) FROM journal", [], |row| row.get(0))?;
        (self.ids, self.next, self.under_way) = (self.head.begin_seal(), 0, true);
        Ok(())
    }

    fn some(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        if !self.under_way {
            return Ok(());
        }
        let end = (self.next + SLICE).min(self.ids.len());
        let slice = &self.ids[self.next..end];
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for id in slice {
            points::seal(&transaction, *id, self.head.waiting(*id))?;
        }
        let last = end == self.ids.len();
        if last {
            transaction.execute("DELETE FROM journal WHERE id <= ?1", [self.upto])?;
        }
        transaction.commit()?;
        self.head.sealed(slice);
        self.next = end;
        if last {
            (self.under_way, self.ids, self.ended) = (false, Vec::new(), Some(Instant::now()));
        }
        Ok(())
    }
}
