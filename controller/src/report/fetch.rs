//! Asks a plane for the energy of a period. Bounded in time and size.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::rows::EnergyRows;

/// A plane that does not answer in this time is taken for unreachable.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A row takes about 400 bytes; this holds ten thousand sites.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The plane did not give the rows.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is none.
    #[error("`{0}` is no URL of a plane; write it as http://HOST:8080")]
    Url(String),
    /// It does not answer.
    #[error("the plane at {url} does not answer")]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refuses or fails.
    #[error("the plane at {url} answered {status}: {body}")]
    Refused {
        /// Where it was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// Beginning of its answer.
        body: String,
    },
    /// It answers something else.
    #[error("the plane at {url} answered something that is no list of energy rows")]
    Answer {
        /// Where it was asked.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Energy by site from `from` to `to` (RFC 3339), from the plane at `plane_url` (plain HTTP).
///
/// # Errors
/// When the plane cannot be reached within ten seconds, refuses, or answers something else.
pub async fn energy_by_site(plane_url: &str, from: &str, to: &str) -> Result<EnergyRows, FetchError> {
    let url =
        format!("{}/api/v1/energy?by=site&from={}&to={}", plane_url.trim_end_matches('/'), encode(from), encode(to));
    let uri: hyper::Uri = url.parse().map_err(|_| FetchError::Url(plane_url.to_owned()))?;
    if uri.scheme_str() != Some("http") {
        return Err(FetchError::Url(plane_url.to_owned()));
    }
    let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| FetchError::Unreachable {
        url: plane_url.to_owned(),
        source,
    };
    let ask = async {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.get(uri).await.map_err(|error| unreachable(error.into()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(unreachable)?.to_bytes();
        Ok((status, body))
    };
    let (status, body) = tokio::time::timeout(TIMEOUT, ask).await.map_err(|late| unreachable(late.into()))??;
    if !status.is_success() {
        let body = String::from_utf8_lossy(&body).chars().take(300).collect();
        return Err(FetchError::Refused { url: plane_url.to_owned(), status: status.as_u16(), body });
    }
    serde_json::from_slice(&body).map_err(|source| FetchError::Answer { url: plane_url.to_owned(), source })
}

/// Percent-encodes what a time may contain beyond plain characters (`+` in an offset means a space otherwise).
fn encode(time: &str) -> String {
    time.bytes()
        .map(|b| match b {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn plane(answer: (u16, &'static str)) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            assert!(String::from_utf8_lossy(&request[..read]).contains("from=2026-01-01T08%3A00%3A00%2B08%3A00&"));
            let (status, body) = answer;
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
        });
        url
    }

    async fn ask(answer: (u16, &'static str)) -> Result<EnergyRows, FetchError> {
        energy_by_site(&plane(answer).await, "2026-01-01T08:00:00+08:00", "2026-01-02T00:00:00Z").await
    }

    #[tokio::test]
    async fn rows_are_read_whatever_else_the_plane_says() {
        let rows = ask((
            200,
            r#"{"from":"a","to":"b","by":"site","new":1,"rows":[{"key":"dc-a","microjoules":3,"measured_microjoules":1,
            "calibrated_microjoules":0,"estimated_microjoules":2,"idle_microjoules":1,"first_sample":null,"gap_ms":0}]}"#,
        ))
        .await
        .unwrap();
        assert_eq!(rows.rows[0].microjoules, 3);
    }

    #[tokio::test]
    async fn an_error_of_the_plane_is_passed_on_in_its_own_words() {
        let error = ask((400, r#"{"error":{"message":"from is later than to"}}"#)).await.unwrap_err().to_string();
        assert!(error.contains("400") && error.contains("from is later than to"), "{error}");
    }

    #[tokio::test]
    async fn a_plane_that_is_not_there_is_named() {
        let error = energy_by_site("http://127.0.0.1:1", "a", "b").await.unwrap_err();
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
        assert!(matches!(energy_by_site("plane:8080", "a", "b").await, Err(FetchError::Url(_))));
    }
}
