//! A small HTTP client for loopback and the plane: every call has a time-out, every answer a size.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;

/// Largest answer that is read: a fleet of thousands of nodes is a few MiB of JSON.
const MAX_BODY: usize = 32 << 20;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL or a header is malformed.
    #[error("`{url}` cannot be asked")]
    Request {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// No connection, or it broke.
    #[error("{url} does not answer")]
    Connect {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    /// The answer broke off or was too long.
    #[error("the answer of {url} could not be read")]
    Body {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{url} gave no answer within {} ms", limit.as_millis())]
    TimedOut {
        /// What was asked.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Another status than 200.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// What was asked.
        url: String,
        /// Status.
        status: StatusCode,
        /// Start of the answer.
        body: String,
    },
    /// The answer is no JSON of the expected shape.
    #[error("the answer of {url} has an unexpected shape")]
    Shape {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Environment variable with the token for a plane that is not open to everybody.
const PLANE_TOKEN: &str = "EVERGREEN_PLANE_TOKEN";

/// The client; clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Http {
    /// A client whose connections are given up after a second without an answer to the handshake.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Status and body of a GET, within `limit`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, url: &str, host: Option<&str>, limit: Duration) -> Result<(StatusCode, Bytes), HttpError> {
        self.ask(url, host, None, limit).await
    }

    async fn ask(
        &self,
        url: &str,
        host: Option<&str>,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let mut request = Request::builder().method(Method::GET).uri(url);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        let request =
            request.body(Empty::new()).map_err(|source| HttpError::Request { url: url.to_owned(), source })?;
        let answer = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|source| HttpError::Connect { url: url.to_owned(), source })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(|source| HttpError::Body { url: url.to_owned(), source })?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or_else(|_| Err(HttpError::TimedOut { url: url.to_owned(), limit }))
    }

    /// JSON of a GET that must answer 200: what a plane says, asked with the token of `EVERGREEN_PLANE_TOKEN` if there
    /// is one.
    ///
    /// # Errors
    /// When there is no answer, another status, or another shape.
    pub async fn get_json<T: DeserializeOwned>(&self, url: &str, limit: Duration) -> Result<T, HttpError> {
        let token = std::env::var(PLANE_TOKEN).ok().filter(|token| !token.is_empty());
        let (status, body) = self.ask(url, None, token.as_deref(), limit).await?;
        if status != StatusCode::OK {
            let body = String::from_utf8_lossy(&body).chars().take(300).collect();
            return Err(HttpError::Status { url: url.to_owned(), status, body });
        }
        serde_json::from_slice(&body).map_err(|source| HttpError::Shape { url: url.to_owned(), source })
    }
}
