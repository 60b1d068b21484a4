//! Watches: a bounded cursor over a resource's ring of changes, as a stream of JSON lines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::ApiError;
use super::registry::Resource;
use super::server::{ApiServer, to_bytes};
use super::shape::Shape;
use super::store::{Change, Entry, Filter};
use crate::faults::Loss;

/// Events that are taken from the ring at once.
const BATCH: usize = 256;
/// Time between bookmarks of a quiet watch.
const BOOKMARK: Duration = Duration::from_secs(10);

/// What a watch asks for.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Which objects.
    pub filter: Filter,
    /// Start strictly after this; `None` starts with the present state as ADDED events.
    pub since: Option<u64>,
    /// The stream ends after this.
    pub timeout: Duration,
    /// Bookmarks are wanted.
    pub bookmarks: bool,
    /// The end of the present state is marked (`sendInitialEvents`).
    pub mark_initial_end: bool,
    /// Shape of the objects.
    pub shape: Shape,
    /// Identity of the client, for faults.
    pub identity: String,
}

struct Watch {
    server: ApiServer,
    resource: Arc<Resource>,
    options: WatchOptions,
    cursor: u64,
    changed: watch::Receiver<u64>,
    faults: watch::Receiver<u64>,
    queue: VecDeque<Bytes>,
    deadline: Instant,
    bookmark: Instant,
    ended: bool,
}

impl ApiServer {
    /// Opens a watch. Each item of the stream is one or more JSON lines; an I/O error is a lost connection.
    pub fn watch(
        &self,
        resource: Arc<Resource>,
        options: WatchOptions,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
        let changed = self.store().changes_of(&resource.storage);
        self.show_leases(&resource.storage);
        let mut watch = Watch {
            server: self.clone(),
            changed,
            faults: self.faults().changes(),
            cursor: options.since.unwrap_or(0),
            queue: VecDeque::new(),
            deadline: Instant::now() + options.timeout,
            bookmark: Instant::now() + BOOKMARK,
            ended: false,
            resource,
            options,
        };
        if watch.options.since.is_none() {
            watch.begin_with_present_state();
        }
        futures::stream::unfold(watch, |mut watch| async move { watch.next().await.map(|item| (item, watch)) })
    }
}

impl Watch {
    fn begin_with_present_state(&mut self) {
        let (entries, version) = self.server.store().list(&self.resource.storage, &self.options.filter);
        self.cursor = version;
        for entry in entries {
            let line = self.line("ADDED", &entry);
            self.queue.push_back(line);
        }
        if self.options.mark_initial_end {
            let line = self.bookmark_line(true);
            self.queue.push_back(line);
        }
    }

    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        loop {
            if self.ended {
                return None;
            }
            match self.server.faults().link(&self.options.identity) {
                Some(Loss::Reset) => {
                    self.ended = true;
                    return Some(Err(crate::faults::LinkReset.into()));
                }
                Some(Loss::Silent) => {
                    tokio::select! {
                        _ = self.faults.changed() => continue,
                        () = tokio::time::sleep_until(self.deadline) => return None,
                    }
                }
                None => {}
            }
            if self.queue.is_empty() {
                self.read_ring();
            }
            if !self.queue.is_empty() {
                let delay = self.server.faults().delay(&self.options.identity);
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let lines: Vec<Bytes> = self.queue.drain(..).collect();
                return Some(Ok(if lines.len() == 1 { lines[0].clone() } else { lines.concat().into() }));
            }
            if self.ended {
                return None;
            }
            let next_bookmark = if self.options.bookmarks { self.bookmark.min(self.deadline) } else { self.deadline };
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() { return None },
                _ = self.faults.changed() => {}
                () = tokio::time::sleep_until(next_bookmark) => {
                    if Instant::now() >= self.deadline {
                        return None;
                    }
                    self.bookmark = Instant::now() + BOOKMARK;
                    return Some(Ok(self.bookmark_line(false)));
                }
            }
        }
    }

    fn read_ring(&mut self) {
        self.changed.borrow_and_update();
        match self.server.store().changes_since(&self.resource.storage, self.cursor, BATCH) {
            Ok(changes) => {
                for change in changes {
                    self.cursor = change.after.version;
                    if let Some(line) = self.change_line(&change) {
                        self.queue.push_back(line);
                    }
                }
            }
            Err(overrun) => {
                let error =
                    ApiError::expired(format!("too old resource version: {} ({})", self.cursor, overrun.oldest));
                self.queue.push_back(error_line(&error));
                self.end_after_queue();
            }
        }
    }

    fn end_after_queue(&mut self) {
        // The queue is handed out as one item, so the next call finds nothing and the stream ends.
        self.deadline = Instant::now();
        self.cursor = u64::MAX;
    }

    fn change_line(&self, change: &Change) -> Option<Bytes> {
        let filter = &self.options.filter;
        let was = change.before.as_ref().is_some_and(|b| filter.fits(b));
        let is = !change.deleted && filter.fits(&change.after);
        match (was, is) {
            (false, false) => None,
            (false, true) => Some(self.line("ADDED", &change.after)),
            (true, true) => Some(self.line("MODIFIED", &change.after)),
            (true, false) if change.deleted => Some(self.line("DELETED", &change.after)),
            // An object that leaves the selection is told as it last was in it, with the version at which it left.
            (true, false) => change.before.as_ref().map(|before| {
                let mut last = before.value();
                let version = Value::from(change.after.version.to_string());
                crate::objects::meta::metadata_mut(&mut last).insert("resourceVersion".to_owned(), version);
                self.line("DELETED", &Entry::unstored(&last))
            }),
        }
    }

    fn line(&self, kind: &str, entry: &Entry) -> Bytes {
        let object = self.options.shape.one(&self.resource, entry, self.server.clock().now());
        let mut line = Vec::with_capacity(object.len() + 32);
        line.extend_from_slice(b"{\"type\":\"");
        line.extend_from_slice(kind.as_bytes());
        line.extend_from_slice(b"\",\"object\":");
        line.extend_from_slice(&object);
        line.extend_from_slice(b"}\n");
        line.into()
    }

    fn bookmark_line(&mut self, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.options.shape {
            Shape::Full => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Table(_) => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": []})
            }
        };
        event("BOOKMARK", &object)
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    let mut line = to_bytes(&json!({"type": kind, "object": object})).to_vec();
    line.push(b'\n');
    line.into()
}

/// The ERROR event of a watch.
pub fn error_line(error: &ApiError) -> Bytes {
    event("ERROR", &error.status())
}
