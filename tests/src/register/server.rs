//! The register's server at one site: no grant from the node's agent, no service.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use evergreen_api::grants::Grant;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::store::{Store, StoreError};
use crate::http::Http;

/// Longest wait for the agent on the same node.
const AGENT: Duration = Duration::from_millis(300);
/// How long a write that announces itself waits between its check and the store, for a test to freeze it there.
const WINDOW: Duration = Duration::from_millis(400);

/// What a server needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its site.
    pub site: String,
    /// `http://...` of the node's agent.
    pub agent: String,
    /// Failover group of the register.
    pub group: String,
    /// The store.
    pub store: Store,
}

/// What a holder remembers while it holds.
#[derive(Default)]
struct Term {
    token: u64,
    value: String,
}

struct Server {
    config: Config,
    http: Http,
    term: Mutex<Option<Term>>,
}

/// A grant, and until when it may be relied on.
struct Permission {
    token: u64,
    until: Instant,
}

/// Routes: `POST /write?value=V`, `GET /read`, `GET /hello`. 200 means done, 503 surely not done, 504 unknown.
pub fn router(config: Config) -> Router {
    let server = Arc::new(Server { config, http: Http::new(AGENT), term: Mutex::new(None) });
    Router::new()
        .route("/write", post(write))
        .route("/read", get(read))
        .route("/hello", get(|State(server): State<Arc<Server>>| async move { server.config.site.clone() }))
        .with_state(server)
}

#[derive(Deserialize)]
struct Write {
    value: String,
    #[serde(default)]
    announce: bool,
}

async fn write(State(server): State<Arc<Server>>, Query(write): Query<Write>) -> Response {
    let mut term = server.term.lock().await;
    let token = match server.enter(&mut term).await {
        Ok(permission) if Instant::now() < permission.until => permission.token,
        Ok(_) => return refused("the grant has ended"),
        Err(answer) => return answer,
    };
    if write.announce {
        println!("checked {}", write.value);
        tokio::time::sleep(WINDOW).await;
    }
    match server.config.store.write(token, &server.config.site, &write.value).await {
        Ok(()) => {
            *term = Some(Term { token, value: write.value });
            done(&server.config.site, token, "")
        }
        Err(error) => {
            // What the store holds now is not known: it is read again before the next answer.
            *term = None;
            println!("{error}: {} under {token}", write.value);
            not_done(&error)
        }
    }
}

async fn read(State(server): State<Arc<Server>>) -> Response {
    let mut term = server.term.lock().await;
    let permission = match server.enter(&mut term).await {
        Ok(permission) => permission,
        Err(answer) => return answer,
    };
    let value = term.as_ref().map(|term| term.value.clone()).unwrap_or_default();
    if Instant::now() >= permission.until {
        return refused("the grant has ended");
    }
    done(&server.config.site, permission.token, &value)
}

impl Server {
    /// Checks the grant; under a new one raises the fence and reads the value before anything else.
    async fn enter(&self, term: &mut Option<Term>) -> Result<Permission, Response> {
        let sent = Instant::now();
        let answer = self.http.get(&format!("{}/grants/{}", self.config.agent, self.config.group)).await;
        let grant: Grant = match answer {
            Ok((200, body)) => serde_json::from_str(&body).map_err(|error| refused(&error.to_string()))?,
            Ok((status, _)) => return Err(refused(&format!("the agent answers {status}"))),
            Err(why) => return Err(refused(&format!("{why:?}"))),
        };
        // Epochs of two sites cannot be compared; versions of a group's entry can, and only grow.
        let token = grant.version;
        if term.as_ref().is_none_or(|term| term.token != token) {
            *term = None;
            let value = self.config.store.raise(token).await.map_err(|error| not_done(&error))?;
            *term = Some(Term { token, value });
        }
        Ok(Permission { token, until: sent + Duration::from_millis(grant.remaining_ms) })
    }
}

fn done(site: &str, token: u64, value: &str) -> Response {
    format!("{site} {token} {value}").into_response()
}

fn refused(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [("x-register", "refused")], why.to_owned()).into_response()
}

fn not_done(error: &StoreError) -> Response {
    match error {
        StoreError::Stale => refused("stale"),
        StoreError::Unknown(why) => (StatusCode::GATEWAY_TIMEOUT, why.clone()).into_response(),
    }
}
