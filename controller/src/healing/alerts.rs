//! Alerts that Alertmanager sends: `POST /alerts` with the site's token, into a bounded queue that the leading replica
//! empties.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use evergreen_playbooks::board::AlertView;
use parking_lot::Mutex;
use ring::digest;
use serde::Deserialize;
use tokio::sync::Notify;

/// Largest message: Alertmanager groups alerts, and a group of a thousand has about 700 KiB.
const MAX_BODY: usize = 1 << 20;
/// Alerts that wait to be looked at. More are refused, and Alertmanager sends them again.
const MAX_WAITING: usize = 2_048;
/// Labels and annotations of one alert.
const MAX_LABELS: usize = 64;
/// Longest value of one.
const MAX_VALUE: usize = 4_096;

/// The queue. Clones share it.
#[derive(Clone, Default)]
pub struct AlertInbox {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    refused: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    open: bool,
    alerts: VecDeque<AlertView>,
}

impl AlertInbox {
    /// Whether this replica looks at alerts: only who leads does.
    pub(crate) fn open(&self, open: bool) {
        let mut waiting = self.inner.waiting.lock();
        waiting.open = open;
        waiting.alerts.clear();
    }

    /// The next alerts, once there are any.
    pub(crate) async fn next(&self) -> Vec<AlertView> {
        loop {
            let arrived = self.inner.arrived.notified();
            let taken: Vec<AlertView> = self.inner.waiting.lock().alerts.drain(..).collect();
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    }

    /// Messages that were refused because too many were waiting.
    pub fn refused(&self) -> u64 {
        self.inner.refused.load(Ordering::Relaxed)
    }

    /// Puts alerts into the queue, whole or not at all: 200, 503 where another replica leads, 429 when it is full.
    pub fn put(&self, alerts: Vec<AlertView>) -> StatusCode {
        let mut waiting = self.inner.waiting.lock();
        if !waiting.open {
            // Another replica leads; Alertmanager tries again.
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        if waiting.alerts.len() + alerts.len() > MAX_WAITING {
            self.inner.refused.fetch_add(1, Ordering::Relaxed);
            return StatusCode::TOO_MANY_REQUESTS;
        }
        waiting.alerts.extend(alerts);
        drop(waiting);
        self.inner.arrived.notify_waiters();
        self.inner.arrived.notify_one();
        StatusCode::OK
    }

    /// The route, for whoever has the token.
    pub fn router(&self, token: &str) -> Router {
        let state = (self.clone(), digest::digest(&digest::SHA256, token.trim().as_bytes()));
        Router::new().route("/alerts", post(receive)).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(state)
    }
}

async fn receive(
    State((inbox, token)): State<(AlertInbox, digest::Digest)>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Digests are compared, so the time says nothing about the token.
    let right = given.is_some_and(|given| digest::digest(&digest::SHA256, given.as_bytes()).as_ref() == token.as_ref());
    if !right {
        return (StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong\n");
    }
    match read(&body) {
        Ok(alerts) => match inbox.put(alerts) {
            StatusCode::OK => (StatusCode::OK, "taken\n"),
            StatusCode::SERVICE_UNAVAILABLE => (StatusCode::SERVICE_UNAVAILABLE, "another replica leads\n"),
            code => (code, "too many alerts are waiting\n"),
        },
        Err(why) => (StatusCode::BAD_REQUEST, why),
    }
}

#[derive(Deserialize)]
struct Message {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    starts_at: String,
    #[serde(default)]
    fingerprint: String,
}

fn read(body: &[u8]) -> Result<Vec<AlertView>, &'static str> {
    let message: Message = serde_json::from_slice(body).map_err(|_| "not a webhook message of Alertmanager\n")?;
    if message.alerts.len() > MAX_WAITING {
        return Err("too many alerts in one message\n");
    }
    let small = |texts: &BTreeMap<String, String>| {
        texts.len() <= MAX_LABELS && texts.iter().all(|(key, value)| key.len() <= 256 && value.len() <= MAX_VALUE)
    };
    if !message.alerts.iter().all(|alert| small(&alert.labels) && small(&alert.annotations)) {
        return Err("an alert has too many or too long labels\n");
    }
    let views = message.alerts.into_iter().map(|alert| {
        // Alertmanager has sent a fingerprint since 0.19; without one the labels make the alert.
        let fingerprint = match alert.fingerprint.is_empty() || alert.fingerprint.len() > 256 {
            true => evergreen_api::resources::spec_hash(&alert.labels),
            false => alert.fingerprint,
        };
        AlertView {
            fingerprint,
            firing: alert.status == "firing",
            labels: alert.labels,
            annotations: alert.annotations,
            starts_at: alert.starts_at.chars().take(64).collect(),
        }
    });
    Ok(views.collect())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn post(inbox: &AlertInbox, token: &str, body: String) -> StatusCode {
        let request =
            Request::post("/alerts").header("authorization", format!("Bearer {token}")).body(Body::from(body));
        inbox.router("secret\n").oneshot(request.unwrap()).await.unwrap().status()
    }

    fn message(alerts: usize) -> String {
        let alert = serde_json::json!({"status": "firing", "labels": {"alertname": "A"}, "fingerprint": "f"});
        serde_json::json!({"version": "4", "alerts": vec![alert; alerts]}).to_string()
    }

    #[tokio::test]
    async fn alerts_are_taken_with_the_token_by_who_leads() {
        let inbox = AlertInbox::default();
        assert_eq!(post(&inbox, "wrong", message(1)).await, StatusCode::UNAUTHORIZED);
        assert_eq!(post(&inbox, "secret", message(1)).await, StatusCode::SERVICE_UNAVAILABLE);
        inbox.open(true);
        assert_eq!(post(&inbox, "secret", "{".into()).await, StatusCode::BAD_REQUEST);
        assert_eq!(post(&inbox, "secret", message(2)).await, StatusCode::OK);
        assert_eq!(inbox.next().await.len(), 2);
    }

    #[tokio::test]
    async fn a_flood_is_refused_and_counted() {
        let inbox = AlertInbox::default();
        inbox.open(true);
        for _ in 0..4 {
            assert_eq!(post(&inbox, "secret", message(512)).await, StatusCode::OK);
        }
        assert_eq!(post(&inbox, "secret", message(512)).await, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(post(&inbox, "secret", " ".repeat(MAX_BODY + 1)).await, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(inbox.refused(), 1);
    }
}
