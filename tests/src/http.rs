//! Asking a program's own HTTP endpoint.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// Status and body of `GET url`.
///
/// # Errors
/// When there is no answer.
pub async fn get(url: &str) -> Result<(u16, String), String> {
    let uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.get(uri).await.map_err(|error| format!("{url}: {error}"))?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| format!("{url}: {error}"))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// It was never sent.
    NotSent(String),
    /// It may have been carried out.
    Unknown(String),
}

/// A client that keeps its connections and waits for a bounded time.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    bound: Duration,
}

impl Http {
    /// A client that waits at most `bound` for each answer.
    pub fn new(bound: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(bound));
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), bound }
    }

    /// Status and body of `GET url`.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn get(&self, url: &str) -> Result<(u16, String), NoAnswer> {
        self.call(Method::GET, url, String::new()).await
    }

    /// Status and body of `POST url`.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn post(&self, url: &str, body: String) -> Result<(u16, String), NoAnswer> {
        self.call(Method::POST, url, body).await
    }

    async fn call(&self, method: Method, url: &str, body: String) -> Result<(u16, String), NoAnswer> {
        let request = Request::builder().method(method).uri(url).body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| NoAnswer::NotSent(format!("{url}: {error}")))?;
        let answer = async {
            let answer = self.client.request(request).await.map_err(|error| {
                let why = format!("{url}: {error}");
                if error.is_connect() { NoAnswer::NotSent(why) } else { NoAnswer::Unknown(why) }
            })?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await;
            let body = body.map_err(|error| NoAnswer::Unknown(format!("{url}: {error}")))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let late = |_| NoAnswer::Unknown(format!("{url}: no answer within {:?}", self.bound));
        tokio::time::timeout(self.bound, answer).await.map_err(late)?
    }
}
