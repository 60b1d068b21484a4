//! GET /api/v1/stream: Server-Sent Events that say what changed, not how; the page asks again for what it shows.
//! `fleet` comes at most once a second; a listener that fell behind is told to look at everything (`reset`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde_json::json;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{ApiError, Shared, guard::Who};
use crate::{clock::now_ms, stats::Stats, store::Change};

/// Streams that may be open at once.
const MAX_STREAMS: u64 = 512;
/// Events that wait for a slow connection; one that takes none for longer is closed.
const QUEUE: usize = 64;

/// Counts an open stream while it lives.
struct Open(Arc<Stats>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

pub(super) async fn get(State(shared): State<Shared>, Who(caller): Who) -> Response {
    if shared.stats.streams.get() >= MAX_STREAMS {
        return ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_streams",
            format!("{MAX_STREAMS} event streams are open"),
            "close some pages, or ask the API from time to time",
        )
        .into_response();
    }
    shared.stats.streams.add(1);
    let open = Open(shared.stats.clone());
    let (sender, receiver) = mpsc::channel::<Result<Event, Infallible>>(QUEUE);
    tokio::spawn(async move {
        let _open = open;
        let mut changes = shared.store.changes();
        // The stream alone must not keep the store open.
        let (stop, gate) = (shared.stop.clone(), shared.gate.clone());
        drop(shared);
        let session = caller.as_ref().and_then(|caller| caller.session.as_ref()).map(|open| open.key);
        // Who sees only some data centers is told that something changed, not what.
        let sees_all = caller.as_ref().is_some_and(|caller| caller.identity.sites().is_none());
        let mut look = tokio::time::interval(Duration::from_secs(5));
        let mut tick = tokio::time::interval_at(Instant::now() + Duration::from_secs(1), Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fleet_changed = true;
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                () = sender.closed() => return,
                _ = look.tick() => match session {
                    Some(key) if !gate.sessions.is_open(&key, std::time::Instant::now()) => return,
                    _ => continue,
                },
                _ = tick.tick(), if fleet_changed => {
                    fleet_changed = false;
                    Event::default().event("fleet").data(json!({"at": now_ms()}).to_string())
                }
                change = changes.recv() => match change {
                    Ok(Change::Fleet) => {
                        fleet_changed = true;
                        continue;
                    }
                    Ok(Change::Incident { trace_id, state }) => {
                        let what = if sees_all { json!({"trace_id": trace_id, "state": state}) } else { json!({}) };
                        Event::default().event("incident").data(what.to_string())
                    }
                    Err(RecvError::Lagged(_)) => Event::default().event("reset").data("{}"),
                    Err(RecvError::Closed) => return,
                },
            };
            if sender.try_send(Ok(event)).is_err() {
                return;
            }
        }
    });
    Sse::new(ReceiverStream::new(receiver))
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}
