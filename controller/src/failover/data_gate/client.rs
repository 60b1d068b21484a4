//! Asks over HTTP: only hosts that the controller was allowed, each answer bounded in time and size.

use std::{path::Path, time::Duration};

use evergreen_api::resources::DataGate;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, Uri, body::Bytes};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Value, json};

use super::answer;
use crate::failover::facts::DataPosition;

/// Longest answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Where one site's data are asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    pub group: String,
    pub site: String,
    pub epoch: u64,
    pub gate: DataGate,
}

/// The client.
#[derive(Clone)]
pub struct GateClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    allowed: Vec<String>,
}

impl GateClient {
    /// A client that asks the allowed hosts (`host` or `host:port`), and trusts the authorities in `ca` (PEM).
    ///
    /// # Errors
    /// When the file with authorities cannot be read.
    pub fn new(allowed: &[String], ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = ca {
            let wrong = |why: String| format!("{}: {why}", path.display());
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(Duration::from_secs(3)));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), allowed: allowed.to_vec() })
    }

    /// Where a site's data stand.
    ///
    /// # Errors
    /// Why it is not known.
    pub(crate) async fn ask(&self, question: &Question) -> Result<DataPosition, String> {
        let limit = question.gate.timeout.get();
        tokio::time::timeout(limit, self.answer(question))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {}", question.gate.timeout)))
    }

    async fn answer(&self, question: &Question) -> Result<DataPosition, String> {
        let Question { group, site, epoch, gate } = question;
        let fill =
            |text: &str| text.replace("{site}", site).replace("{group}", group).replace("{epoch}", &epoch.to_string());
        if let Some(metric) = &gate.metric {
            let url = format!(
                "{}/api/v1/query?query={}",
                fill(&metric.url).trim_end_matches('/'),
                encoded(&fill(&metric.query))
            );
            return answer::metric(&self.call("GET", &url, None).await?);
        }
        if let Some(sql) = &gate.sql_over_http {
            return answer::sql(&self.call("POST", &fill(&sql.url), Some(json!({"sql": fill(&sql.sql)}))).await?);
        }
        let Some(hook) = &gate.hook else { return Err("the data gate names no source".into()) };
        let body = json!({"group": group, "site": site, "epoch": epoch});
        let url = format!("{}/position", fill(&hook.url).trim_end_matches('/'));
        answer::hook(&self.call("POST", &url, Some(body)).await?)
    }

    async fn call(&self, method: &str, url: &str, body: Option<Value>) -> Result<Value, String> {
        match self.exchange(method, url, body).await? {
            (status, _) if !status.is_success() => Err(format!("{url} answers {status}")),
            (_, Value::Null) => Err(format!("{url} answers no JSON")),
            (_, answer) => Ok(answer),
        }
    }

    /// Status and JSON of an answer; `null` where it is no JSON.
    ///
    /// # Errors
    /// When the host is not allowed or does not answer.
    pub(crate) async fn exchange(
        &self,
        method: &str,
        url: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), String> {
        let uri: Uri = url.parse().map_err(|_| format!("`{url}` is no address"))?;
        let host = uri.host().unwrap_or_default();
        let full = uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        if !self.allowed.iter().any(|allowed| allowed == host || *allowed == full) {
            return Err(format!("{full} is not among the hosts given with --hook-allow"));
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/json")
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let answer = self.client.request(request).await.map_err(|error| format!("{full} does not answer: {error}"))?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| format!("the answer of {full} cannot be read: {error}"))?
            .to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

/// A query in a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, routing::post};

    use super::*;

    async fn server() -> String {
        let router = Router::new()
            .route(
                "/ok/position",
                post(|Json(body): Json<Value>| async move {
                    Json(json!({"lagSeconds": 1, "position": body["epoch"], "complete": body["site"] == "b"}))
                }),
            )
            .route("/hang/position", post(|| async { std::future::pending::<()>().await }))
            .route("/garbage/position", post(|| async { "no" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn question(url: String) -> Question {
        let gate = serde_json::from_value(json!({"hook": {"url": url}, "timeout": "300ms"})).unwrap();
        Question { group: "g".into(), site: "b".into(), epoch: 7, gate }
    }

    #[tokio::test]
    async fn a_hook_answers_hangs_or_talks_nonsense_and_only_allowed_hosts_are_asked() {
        let address = server().await;
        let client = GateClient::new(std::slice::from_ref(&address), None).unwrap();
        let ask = async |path: &str| client.ask(&question(format!("http://{address}/{path}"))).await;
        let at = ask("ok").await.unwrap();
        assert_eq!((at.position, at.complete), (Some(7), true));
        assert_eq!(ask("hang").await.unwrap_err(), "no answer within 300ms");
        assert!(ask("garbage").await.unwrap_err().contains("no JSON"));
        assert!(ask("missing").await.unwrap_err().contains("404"));
        let strict = GateClient::new(&["db.example".to_owned()], None).unwrap();
        assert!(strict.ask(&question(format!("http://{address}/ok"))).await.unwrap_err().contains("--hook-allow"));
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encoded("lag{site=\"a\"}"), "lag%7Bsite%3D%22a%22%7D");
    }
}
