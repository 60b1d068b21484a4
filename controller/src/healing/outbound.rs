//! Messages to the endpoints of the site's list: the only places that playbooks can reach. The list is a file, so that
//! addresses and secrets never stand in a playbook, a status, a log or a trace.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use evergreen_api::resources::StepOutcome;
use evergreen_playbooks::runner::{Message, Outbound};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::{Client, Config, client::Body};
use serde::Deserialize;
use serde_json::{Value, json};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Largest file.
const MAX_FILE: u64 = 256 * 1024;

/// The list.
#[derive(Clone, Default)]
pub struct Endpoints {
    endpoints: Arc<BTreeMap<String, Endpoint>>,
    /// Images that Jobs may run: exactly, or everything below a prefix that ends with `/`.
    images: Arc<Vec<String>>,
}

struct Endpoint {
    client: Client,
    path: String,
    shape: Shape,
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    endpoints: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    url: String,
    #[serde(default)]
    shape: Shape,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// How an endpoint wants its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shape {
    /// `{"title", "text", "key"}`.
    #[default]
    Webhook,
    /// Alertmanager's API for alerts.
    Alertmanager,
    /// Slack, and what speaks like it.
    Slack,
    /// 钉钉 robots.
    Dingtalk,
    /// 企业微信 robots.
    Wecom,
}

/// What came of sending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is known what came of it.
    Known(StepOutcome, String),
    /// It was certainly not taken: it may be sent again.
    Unsent(String),
    /// It will never be possible.
    Impossible(String),
}

impl Endpoints {
    /// Reads the list.
    ///
    /// # Errors
    /// What is wrong with the file, without any of its values.
    pub fn load(file: Option<&Path>, images: Vec<String>) -> Result<Self, String> {
        let images = Arc::new(images);
        let Some(file) = file else { return Ok(Self { endpoints: Arc::default(), images }) };
        let place = file.display();
        let size = std::fs::metadata(file).map_err(|error| format!("{place}: {error}"))?.len();
        if size > MAX_FILE {
            return Err(format!("{place}: {size} bytes are too many: at most {MAX_FILE}"));
        }
        let text = std::fs::read_to_string(file).map_err(|error| format!("{place}: {error}"))?;
        // The reader's own words may quote the file, which holds secrets.
        let read: File = serde_yaml::from_str(&text).map_err(|error| {
            let at = error.location().map_or_else(String::new, |at| format!(":{}:{}", at.line(), at.column()));
            format!("{place}{at}: not a list of endpoints, each with name, url, shape and headers")
        })?;
        let mut endpoints = BTreeMap::new();
        for entry in read.endpoints {
            let name = entry.name.clone();
            let endpoint = Endpoint::new(entry).map_err(|why| format!("{place}: endpoint {name}: {why}"))?;
            if endpoints.insert(name.clone(), endpoint).is_some() {
                return Err(format!("{place}: endpoint {name} is there twice"));
            }
        }
        Ok(Self { endpoints: Arc::new(endpoints), images })
    }

    /// Endpoints that clients in this process answer, each a plain webhook: a rehearsal has no network.
    pub fn answered_by(clients: impl IntoIterator<Item = (String, Client)>, images: Vec<String>) -> Self {
        let endpoint =
            |client| Endpoint { client, path: String::new(), shape: Shape::default(), headers: BTreeMap::new() };
        let endpoints = clients.into_iter().map(|(name, client)| (name, endpoint(client))).collect();
        Self { endpoints: Arc::new(endpoints), images: Arc::new(images) }
    }

    /// Why an image may not be run; `None`: it may.
    pub(crate) fn refuses(&self, image: &str) -> Option<String> {
        let allowed =
            self.images.iter().any(|known| known == image || (known.ends_with('/') && image.starts_with(known)));
        (!allowed).then(|| format!("image {image} is not allowed at this site: list it with --playbook-image"))
    }

    /// Sends a message, once, and follows no redirect.
    pub(crate) async fn send(&self, message: &Outbound) -> Sent {
        let name = &message.endpoint;
        let Some(endpoint) = self.endpoints.get(name) else {
            return Sent::Impossible(format!("this site has no endpoint {name}: list it with --playbook-endpoints"));
        };
        let (request, expect, idempotent) = match endpoint.request(message) {
            Ok(request) => request,
            Err(why) => return Sent::Impossible(format!("endpoint {name}: {why}")),
        };
        let timeout = Duration::from_millis(message.timeout_ms);
        match tokio::time::timeout(timeout, answer(&endpoint.client, request)).await {
            Ok(Ok((code, body))) => judge(name, code, &body, &expect, endpoint.shape, &message.what),
            Ok(Err(error)) if idempotent || is_connect(&error) => {
                Sent::Unsent(format!("endpoint {name}: {}", brief(&error)))
            }
            Ok(Err(error)) => Sent::Known(
                StepOutcome::Ambiguous,
                format!("endpoint {name}: {}; whether it was taken cannot be told", brief(&error)),
            ),
            Err(_) if idempotent => {
                Sent::Unsent(format!("endpoint {name}: no answer within {}ms", timeout.as_millis()))
            }
            Err(_) => Sent::Known(
                StepOutcome::Ambiguous,
                format!(
                    "endpoint {name}: no answer within {}ms; whether it was taken cannot be told",
                    timeout.as_millis()
                ),
            ),
        }
    }
}

impl Endpoint {
    fn new(entry: Entry) -> Result<Self, String> {
        let uri: http::Uri = entry.url.parse().map_err(|_| "its url is none".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err("its url must begin with http:// or https:// and name a host".to_owned());
        }
        let path = uri.path_and_query().map_or_else(String::new, |path| path.as_str().trim_end_matches('/').to_owned());
        let base = format!("{}://{}", uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |a| a.as_str()));
        let mut config = Config::new(base.parse().map_err(|_| "its url is none".to_owned())?);
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(60));
        config.write_timeout = Some(Duration::from_secs(60));
        config.default_retry = false;
        config.proxy_url = None;
        let client = Client::try_from(config).map_err(|error| format!("no client for it: {error}"))?;
        Ok(Self { client, path, shape: entry.shape, headers: entry.headers })
    }

    fn request(&self, message: &Outbound) -> Result<(Request<Body>, Vec<u16>, bool), String> {
        let (method, path, body, expect, idempotent) = match &message.what {
            Message::Request { method, path, body, expect } => (
                method.as_str(),
                format!("{}{}", self.path, path.as_deref().unwrap_or_default()),
                body.clone().unwrap_or_default(),
                expect.clone(),
                method.is_idempotent(),
            ),
            Message::Text { title, text } => {
                ("POST", self.path.clone(), self.shape.body(title, text, &message.key).to_string(), Vec::new(), false)
            }
        };
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let mut request = Request::builder().method(method).uri(path).header("idempotency-key", &message.key);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request =
            request.body(Body::from(body.into_bytes())).map_err(|_| "its path or headers are not usable".to_owned())?;
        Ok((request, expect, idempotent))
    }
}

impl Shape {
    fn body(self, title: &str, text: &str, key: &str) -> Value {
        match self {
            Self::Webhook => json!({"title": title, "text": text, "key": key}),
            Self::Alertmanager => json!([{
                "labels": {"alertname": "EvergreenPlaybook", "run": key}, "annotations": {"summary": title, "description": text}
            }]),
            Self::Slack => json!({"text": format!("*{title}*\n{text}")}),
            Self::Dingtalk | Self::Wecom => json!({"msgtype": "text", "text": {"content": format!("{title}\n{text}")}}),
        }
    }
}

async fn answer(client: &Client, request: Request<Body>) -> Result<(StatusCode, Vec<u8>), kube::Error> {
    let response = client.send(request).await?;
    let code = response.status();
    // An answer that breaks off, or is too long, has its code all the same.
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map(|body| body.to_bytes().to_vec());
    Ok((code, body.unwrap_or_default()))
}

fn judge(name: &str, code: StatusCode, body: &[u8], expect: &[u16], shape: Shape, what: &Message) -> Sent {
    let good = if expect.is_empty() { code.is_success() } else { expect.contains(&code.as_u16()) };
    if !good {
        let why = if code.is_redirection() { " (it sends elsewhere, which is not followed)" } else { "" };
        return Sent::Known(StepOutcome::Failed, format!("endpoint {name} answered {}{why}", code.as_u16()));
    }
    // Both robots answer 200 to what they refuse, and say so inside.
    let robot = matches!(shape, Shape::Dingtalk | Shape::Wecom) && matches!(what, Message::Text { .. });
    let refused = robot
        .then(|| serde_json::from_slice::<Value>(body).ok()?.get("errcode")?.as_i64())
        .flatten()
        .filter(|refusal| *refusal != 0);
    match refused {
        Some(refusal) => Sent::Known(StepOutcome::Failed, format!("endpoint {name} refused it: errcode {refusal}")),
        None => Sent::Known(StepOutcome::Done, format!("endpoint {name} answered {}", code.as_u16())),
    }
}

/// Whether nothing can have been sent, because there was no connection.
fn is_connect(error: &kube::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(io) = current.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        if current
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
        {
            return true;
        }
        source = current.source();
    }
    false
}

/// In a few words and without the address, which may hold a secret.
fn brief(error: &kube::Error) -> &'static str {
    if is_connect(error) { "it cannot be reached" } else { "the connection broke" }
}
