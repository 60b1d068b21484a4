//! A bounded HTTP client: plain HTTP, a time-out for each call, a size for each answer.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::SourceError;

/// A source that does not answer in this time is taken for unreachable. The plane gives up on a query after ten seconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer: it is in memory for a moment, and its parsed form too.
const MAX_ANSWER_BYTES: usize = 48 << 20;

/// Client of one source.
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    token: Option<String>,
}

/// An answer, or that it is too long.
pub(super) enum Answer {
    Body(Bytes),
    TooLong,
}

impl Http {
    pub(super) fn new(base: &str) -> Result<Self, SourceError> {
        let base = base.trim_end_matches('/').to_owned();
        let uri: Result<hyper::Uri, _> = base.parse();
        if !uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some()) {
            return Err(SourceError::Url(base));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), base, token: None })
    }

    /// Sends a bearer token along.
    pub(super) fn with_token(self, token: Option<String>) -> Self {
        Self { token: token.filter(|token| !token.is_empty()), ..self }
    }

    pub(super) fn url(&self) -> String {
        self.base.clone()
    }

    /// GET `path` (with its query), or POST when there is a form.
    pub(super) async fn ask(&self, path: &str, form: Option<String>) -> Result<Answer, SourceError> {
        let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| SourceError::Unreachable {
            url: self.base.clone(),
            source,
        };
        let mut builder = Request::builder().uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let request = match form {
            None => builder.method("GET").body(Full::default()),
            Some(form) => builder
                .method("POST")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Full::from(form)),
        };
        let request = request.map_err(|_| SourceError::Url(format!("{}{path}", self.base)))?;
        let ask = async {
            let answer = self.client.request(request).await.map_err(|error| unreachable(error.into()))?;
            let status = answer.status();
            let body = match Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => return Ok((status, None)),
                Err(error) => return Err(unreachable(error)),
            };
            Ok((status, Some(body)))
        };
        let (status, body) = tokio::time::timeout(TIMEOUT, ask).await.map_err(|late| unreachable(late.into()))??;
        let Some(body) = body else { return Ok(Answer::TooLong) };
        if !status.is_success() {
            let body = String::from_utf8_lossy(&body).chars().take(400).collect();
            return Err(SourceError::Refused { url: self.base.clone(), status: status.as_u16(), body });
        }
        Ok(Answer::Body(body))
    }
}

/// Percent-encodes a query parameter.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        match b {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
        out
    })
}
