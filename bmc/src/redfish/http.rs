//! One BMC's HTTPS: bounded in time and size, no redirect, a session where the BMC has sessions and basic
//! authentication where it has none.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::tls::{self, Refusal, Trust};
use crate::{BmcError, Credentials, address::is_resource};

/// Longest wait for one answer: BMCs gather their sensors when they are asked.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read; power documents of large machines have some 100 KiB.
const MAX_ANSWER: usize = 1 << 20;
/// Where sessions are made when the service root does not say.
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";
const TOKEN: &str = "x-auth-token";

/// How requests prove who asks.
enum Login {
    /// Not known yet.
    None,
    /// A session's token, and where it is ended.
    Session { token: HeaderValue, place: Option<String> },
    /// The BMC makes no sessions.
    Basic,
}

/// An answer.
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

/// Connection to one BMC.
pub(super) struct Connection {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    credentials: Credentials,
    login: Login,
    refusal: Refusal,
}

impl Connection {
    pub(super) fn new(to: SocketAddr, trust: &Trust, credentials: &Credentials) -> Result<Self, BmcError> {
        let (config, refusal) = tls::config(trust)?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
        let builder = match trust {
            Trust::Authority { name: Some(name), .. } => {
                let name = name.clone().try_into().map_err(|_| {
                    BmcError::Configuration(format!("`{name}` is no name that a certificate could have"))
                })?;
                builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
            }
            _ => builder,
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        connector.set_nodelay(true);
        let connector = builder.enable_http1().wrap_connector(connector);
        // One connection, and not for long: BMCs have few, and some forget to close theirs.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(25))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        let credentials = credentials.clone();
        Ok(Self { client, base: format!("https://{to}"), credentials, login: Login::None, refusal })
    }

    /// How requests prove who asks, for people.
    pub(super) fn security(&self) -> &'static str {
        match self.login {
            Login::Session { .. } => "TLS, session",
            Login::Basic => "TLS, basic authentication",
            Login::None => "TLS",
        }
    }

    /// Reads a document.
    pub(super) async fn get(&mut self, path: &str) -> Result<Value, BmcError> {
        let answer = self.call(Method::GET, path, None).await?;
        serde_json::from_slice(&answer.body).map_err(|_| BmcError::Malformed(format!("{path} is no JSON document")))
    }

    /// Orders something.
    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Result<(), BmcError> {
        self.call(Method::POST, path, Some(body)).await.map(drop)
    }

    /// Ends the session.
    pub(super) async fn close(&mut self) {
        if let Login::Session { place: Some(place), .. } = &self.login {
            let place = place.clone();
            let _ = self.send(Method::DELETE, &place, None).await;
        }
        self.login = Login::None;
    }

    async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, BmcError> {
        if !is_resource(path) {
            return Err(BmcError::Malformed("it points outside of itself; such links are not followed".into()));
        }
        let known = !matches!(self.login, Login::None);
        if !known {
            self.log_in().await?;
        }
        let mut answer = self.send(method.clone(), path, body).await?;
        if answer.status == StatusCode::UNAUTHORIZED && known && matches!(self.login, Login::Session { .. }) {
            // The session has ended. Only once: wrong passwords lock the account.
            self.log_in().await?;
            answer = self.send(method, path, body).await?;
        }
        check(answer, path)
    }

    /// Makes a session, or settles for basic authentication.
    async fn log_in(&mut self) -> Result<(), BmcError> {
        self.login = Login::None;
        let root = self.send(Method::GET, "/redfish/v1/", None).await?;
        if root.status == StatusCode::NOT_FOUND {
            return Err(BmcError::Unsupported("Redfish (there is no /redfish/v1)".into()));
        }
        let root: Value = serde_json::from_slice(&root.body).unwrap_or_default();
        let named = root.pointer("/Links/Sessions/@odata.id").and_then(Value::as_str);
        let place = named.filter(|place| is_resource(place)).unwrap_or(SESSIONS);
        let password = Zeroizing::new(String::from_utf8_lossy(self.credentials.password.bytes()).into_owned());
        let body = json!({"UserName": self.credentials.username, "Password": &*password});
        let answer = self.send(Method::POST, place, Some(&body)).await?;
        let token = answer.headers.get(TOKEN).cloned();
        self.login = match (answer.status, token) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => return Err(BmcError::Credentials),
            // Several BMCs answer a wrong password with 400.
            (StatusCode::BAD_REQUEST, _) if named.is_some() => return Err(BmcError::Credentials),
            (status, _) if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS => {
                let why = "it has no free session, or is starting".into();
                return Err(BmcError::Refused { what: "a session".into(), why });
            }
            (status, Some(mut token)) if status.is_success() => {
                token.set_sensitive(true);
                let place = answer.headers.get(header::LOCATION).and_then(|place| place.to_str().ok());
                Login::Session { token, place: place.and_then(path_of) }
            }
            _ => Login::Basic,
        };
        Ok(())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, BmcError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::ACCEPT, "application/json")
            .header("OData-Version", "4.0");
        match &self.login {
            Login::Session { token, .. } => request = request.header(TOKEN, token),
            Login::Basic => request = request.header(header::AUTHORIZATION, self.basic()?),
            Login::None => {}
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|error| BmcError::Malformed(error.to_string()))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| self.unreachable(&error))?;
            let (parts, body) = response.into_parts();
            let body = whole(body).await.map_err(|why| BmcError::Malformed(format!("{path}: {why}")))?;
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        let late = |_| Err(BmcError::Unreachable(format!("nothing within {} s", TIMEOUT.as_secs())));
        tokio::time::timeout(TIMEOUT, answer).await.unwrap_or_else(late)
    }

    fn basic(&self) -> Result<HeaderValue, BmcError> {
        let mut plain = Zeroizing::new(format!("{}:", self.credentials.username).into_bytes());
        plain.extend_from_slice(self.credentials.password.bytes());
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*plain)));
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| BmcError::Configuration("the user name cannot be sent over HTTP".into()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn unreachable(&self, error: &hyper_util::client::legacy::Error) -> BmcError {
        if let Some((why, fingerprint)) = self.refusal.lock().take() {
            return BmcError::Certificate { why, fingerprint };
        }
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            text = inner.to_string();
            source = inner.source();
        }
        BmcError::Unreachable(text)
    }
}

/// Reads a body. Old BMCs end it by closing the connection without saying so over TLS; what came is taken then if it is a
/// whole JSON document, which nothing that was cut off can be.
async fn whole(body: hyper::body::Incoming) -> Result<Bytes, String> {
    let mut body = Limited::new(body, MAX_ANSWER);
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => read.extend(frame.into_data().unwrap_or_default()),
            Err(_) if serde_json::from_slice::<serde::de::IgnoredAny>(&read).is_ok() => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(read.into())
}

/// Path of a Location, which may be absolute.
fn path_of(location: &str) -> Option<String> {
    let path = match location.find("://") {
        Some(at) => location[at + 3..].find('/').map(|slash| &location[at + 3 + slash..])?,
        None => location,
    };
    is_resource(path).then(|| path.to_owned())
}

fn check(answer: Answer, path: &str) -> Result<Answer, BmcError> {
    let refused = |why: String| BmcError::Refused { what: path.to_owned(), why };
    match answer.status {
        status if status.is_success() => Ok(answer),
        StatusCode::UNAUTHORIZED => Err(BmcError::Credentials),
        StatusCode::FORBIDDEN => Err(BmcError::Privilege(path.to_owned())),
        StatusCode::NOT_FOUND => Err(BmcError::Unsupported(path.to_owned())),
        status if status.is_redirection() => Err(refused("it wants to redirect, which is not followed".into())),
        status => Err(refused(match explained(&answer.body) {
            Some(why) => format!("{status}: {why}"),
            None => status.to_string(),
        })),
    }
}

/// The first message of a Redfish error, one line, cut.
fn explained(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let message = body
        .pointer("/error/@Message.ExtendedInfo/0/Message")
        .or_else(|| body.pointer("/error/message"))
        .and_then(Value::as_str)?;
    Some(message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_reduced_to_its_path_and_only_taken_from_the_service() {
        let session = "/redfish/v1/SessionService/Sessions/7";
        assert_eq!(path_of(session).as_deref(), Some(session));
        assert_eq!(path_of(&format!("https://elsewhere.example{session}")).as_deref(), Some(session));
        assert_eq!(path_of("https://elsewhere.example/admin"), None);
        assert_eq!(path_of("https://elsewhere.example"), None);
    }

    #[test]
    fn an_error_of_the_bmc_is_one_bounded_line() {
        let body = json!({"error": {"@Message.ExtendedInfo": [{"Message": format!("a\nb{}", "x".repeat(500))}]}});
        let why = explained(body.to_string().as_bytes()).unwrap();
        assert!(why.starts_with("a bx") && why.len() == 200, "{why}");
        assert_eq!(explained(b"<html>"), None);
    }
}
