//! Read-only connections, a few, each query bounded in time.

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::head::Head;

/// Connections for readers. Two cores serve no more than this at once; the rest wait.
const CONNECTIONS: usize = 4;
/// Longest a query may run, and longest one may wait for its turn.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It took too long.
    #[error("the query took longer than {} s", LIMIT.as_secs())]
    TooLong,
    /// SQLite says no.
    #[error("the database could not be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// The way to read; cheap to clone.
#[derive(Clone)]
pub struct Reader {
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Reader {
    pub(super) fn open(path: &Path, head: &Head) -> Result<Self, rusqlite::Error> {
        let connection = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(LIMIT)?;
            connection.set_prepared_statement_cache_capacity(64);
            head.register(&connection)?;
            Ok(connection)
        };
        let idle = (0..CONNECTIONS).map(|_| connection()).collect::<Result<_, rusqlite::Error>>()?;
        Ok(Self { idle: Arc::new(Mutex::new(idle)), turns: Arc::new(Semaphore::new(CONNECTIONS)) })
    }

    /// Runs one question on a consistent view of the database.
    ///
    /// # Errors
    /// [`ReadError::TooLong`] beyond the limit, else what SQLite says.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let turn = tokio::time::timeout(LIMIT, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| ReadError::TooLong)?.map_err(|_| ReadError::TooLong)?;
        let connection = self.idle.lock().pop().ok_or(ReadError::TooLong)?;
        let interrupt = connection.get_interrupt_handle();
        let idle = self.idle.clone();
        let mut task = tokio::task::spawn_blocking(move || {
            let view = connection.unchecked_transaction();
            let answer = view.and_then(|view| {
                let answer = question(&view)?;
                view.finish()?;
                Ok(answer)
            });
            idle.lock().push(connection);
            drop(turn);
            answer
        });
        let answer = match tokio::time::timeout(LIMIT, &mut task).await {
            Ok(answer) => answer,
            Err(_) => {
                interrupt.interrupt();
                task.await
            }
        };
        match answer {
            Ok(Err(rusqlite::Error::SqliteFailure(e, _))) if e.code == rusqlite::ErrorCode::OperationInterrupted => {
                Err(ReadError::TooLong)
            }
            Ok(answer) => Ok(answer?),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}
