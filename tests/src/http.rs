//! Asking a program's own HTTP endpoint.

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

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
