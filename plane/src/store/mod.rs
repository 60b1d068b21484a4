//! The database: one SQLite file in WAL mode, one thread that writes it, a few connections that read it.
//!
//! A batch is acknowledged only after its transaction is committed and synced. Many batches share one commit. Points go
//! into a journal first and stay in memory; every few minutes they are sealed into packed chunks of their series.
//! Nothing outside this module holds a SQL statement except the readers in `energy` and `api`, which only read.

pub mod chunk;
mod head;
pub mod inspect;
mod maintain;
pub mod points;
mod reader;
pub mod rollup;
mod schema;
mod seal;
mod spans;
mod writer;

use std::{path::PathBuf, sync::Arc};

use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

use self::head::Head;
pub use self::reader::{ReadError, Reader};
pub(crate) use self::spans::of_trace as spans_of_trace;
use crate::{args::Retention, live::Live, model::Batch, stats::Stats};

/// Batches that may wait for the writer. A group commit takes dozens at once, so this is seconds of work.
const QUEUE: usize = 512;
/// Bytes of requests that may wait for the writer; what a decoded request takes in memory is a small multiple.
const QUEUE_BYTES: usize = 64 << 20;
/// Changes a slow listener may fall behind before it is told to look at everything again.
const CHANGES: usize = 256;

/// Why something was not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Too much is waiting already.
    #[error("the plane's queue is full: send again in a second")]
    Full,
    /// The transaction failed; nothing of it was kept.
    #[error("the plane could not write its database: {0}")]
    Write(String),
    /// The plane is stopping.
    #[error("the plane is stopping: send again later")]
    Stopping,
}

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or used.
    #[error("data directory {path}: {source}; give a directory this user may write with --data-dir")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another plane uses it.
    #[error("data directory {0} is in use by another evergreen-plane; stop that one or give another --data-dir")]
    InUse(PathBuf),
    /// A newer version made it.
    #[error(
        "database {path} has schema {found}, this version knows up to {known}; run the version that made it or newer"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// SQLite refuses it.
    #[error("database {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// Something that listeners of the page may want to look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New points came.
    Fleet,
    /// An incident began, went on or ended.
    Incident {
        /// Its trace, hexadecimal.
        trace_id: String,
        /// Its state.
        state: String,
    },
}

pub(crate) enum Job {
    Write { batch: Batch, done: oneshot::Sender<Result<(), StoreError>>, _room: tokio::sync::OwnedSemaphorePermit },
    Maintain { now_ms: i64, done: oneshot::Sender<()> },
}

/// The way into the store; cheap to clone.
#[derive(Clone)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    changes: broadcast::Sender<Change>,
}

/// An open store.
pub struct Store {
    /// The way in.
    pub handle: StoreHandle,
    /// The way to read.
    pub reader: Reader,
    /// Newest point of every series.
    pub live: Arc<Live>,
    thread: std::thread::JoinHandle<()>,
}

impl Store {
    /// Opens the database of a directory, brings its schema up to date and starts its writer.
    ///
    /// # Errors
    /// [`OpenError`], each with its remedy.
    pub fn open(directory: &std::path::Path, retention: Retention, stats: Arc<Stats>) -> Result<Self, OpenError> {
        let (connection, lock) = schema::open(directory)?;
        let path = schema::database(directory);
        let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
        let head = Head::default();
        head.register(&connection).and_then(|()| head.load(&connection)).map_err(sqlite)?;
        let live = Arc::new(Live::load(&connection).map_err(sqlite)?);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (changes, _) = broadcast::channel(CHANGES);
        let writer =
            writer::Writer::new(connection, lock, retention, head.clone(), live.clone(), stats, changes.clone())
                .map_err(sqlite)?;
        let reader = Reader::open(&path, &head).map_err(sqlite)?;
        let thread = std::thread::Builder::new()
            .name("plane-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(|source| OpenError::Directory { path: directory.into(), source })?;
        let handle = StoreHandle { jobs, room: Arc::new(Semaphore::new(QUEUE_BYTES)), changes };
        Ok(Self { handle, reader, live, thread })
    }

    /// Writes what still waits and closes. Every [`StoreHandle`] must be gone by then, or it waits for them.
    pub fn close(self) {
        drop(self.handle);
        if self.thread.join().is_err() {
            tracing::error!("the writer thread panicked");
        }
    }
}

impl StoreHandle {
    /// Stores a batch; returns when it is on disk. `bytes` is the size it came in, which bounds what waits in memory.
    ///
    /// # Errors
    /// [`StoreError::Full`] at once when the queue is full; [`StoreError::Write`] when the transaction failed.
    pub async fn write(&self, batch: Batch, bytes: usize) -> Result<(), StoreError> {
        let bytes = u32::try_from(bytes.clamp(1, QUEUE_BYTES)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| StoreError::Full)?;
        let (done, result) = oneshot::channel();
        self.jobs.try_send(Job::Write { batch, done, _room: room }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => StoreError::Full,
            mpsc::error::TrySendError::Closed(_) => StoreError::Stopping,
        })?;
        result.await.unwrap_or(Err(StoreError::Stopping))
    }

    /// Rolls up, expires and evicts once, as of `now_ms`; returns when it is done.
    pub async fn maintain(&self, now_ms: i64) {
        let (done, finished) = oneshot::channel();
        if self.jobs.send(Job::Maintain { now_ms, done }).await.is_ok() {
            let _ = finished.await;
        }
    }

    /// Tells listeners of something that a person changed.
    pub fn tell(&self, change: Change) {
        // Nobody may be listening.
        let _ = self.changes.send(change);
    }

    /// Listens to what changes.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}
