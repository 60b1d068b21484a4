//! Logging in at an OpenID Connect provider: authorization code with PKCE (RFC 7636), state bound to the browser, nonce.
//! The provider is asked only while somebody logs in; each answer is bounded in time and size.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    access::OidcFile,
    digest,
    jwt::{self, Expected, Jwk, JwtError},
    random,
};
use crate::clock::now_ms;

/// Longest wait for the provider.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer of it.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// A person has so long to log in there.
const PENDING: Duration = Duration::from_secs(600);
/// Logins that may be under way at once.
const MOST_PENDING: usize = 1_000;
/// What the provider says of itself is believed for so long.
const KEEP: Duration = Duration::from_secs(3_600);
/// Keys are not asked for anew more often.
const KEYS_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Answer {
    id_token: String,
}

struct Pending {
    browser: [u8; 32],
    nonce: String,
    verifier: String,
    since: Instant,
}

#[derive(Clone)]
struct Known {
    discovery: Discovery,
    keys: Arc<Vec<Jwk>>,
    since: Instant,
}

/// Where a person is sent, and what their browser keeps meanwhile.
#[derive(Debug, Clone)]
pub struct Start {
    /// Address at the provider.
    pub location: String,
    /// Value of the cookie that binds the login to this browser.
    pub browser: String,
}

/// Who the provider says somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// To be shown and recorded.
    pub name: String,
    /// `sub`, and the e-mail address if it is verified.
    pub users: Vec<String>,
    /// Their groups.
    pub groups: Vec<String>,
}

/// A provider.
pub struct Provider {
    file: OidcFile,
    secret: Option<String>,
    callback: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    pending: Mutex<HashMap<String, Pending>>,
    known: tokio::sync::Mutex<Option<Known>>,
}

impl Provider {
    /// Reads secret and authorities; asks nobody yet, so that a provider that is away does not stop the plane.
    ///
    /// # Errors
    /// File and remedy.
    pub fn new(file: OidcFile, public_url: &str) -> Result<Self, String> {
        let secret = match &file.client_secret_file {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| format!("oidc.clientSecretFile {}: {error}", path.display()))?
                    .trim()
                    .to_owned(),
            ),
        };
        let mut roots = RootCertStore::empty();
        match &file.ca_file {
            Some(path) => {
                let wrong = |error: &dyn std::fmt::Display| format!("oidc.caFile {}: {error}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
                    let certificate = certificate.map_err(|error| wrong(&error))?;
                    roots.add(certificate).map_err(|error| wrong(&error))?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(Duration::from_secs(3)));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        Ok(Self {
            callback: format!("{public_url}/api/v1/login/oidc/callback"),
            secret,
            file,
            client: Client::builder(TokioExecutor::new()).build(connector),
            pending: Mutex::new(HashMap::new()),
            known: tokio::sync::Mutex::new(None),
        })
    }

    /// Begins a login.
    ///
    /// # Errors
    /// When the provider does not answer as it should, or too many are logging in.
    pub async fn start(&self) -> Result<Start, String> {
        let discovery = self.known(false).await?.discovery;
        let (state, nonce, verifier, browser) = (random(24)?, random(24)?, random(32)?, random(24)?);
        let challenge = URL_SAFE_NO_PAD.encode(digest(&verifier));
        let mut query = form(&[
            ("response_type", "code"),
            ("client_id", &self.file.client_id),
            ("redirect_uri", &self.callback),
            ("scope", &self.file.scopes.join(" ")),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        query.insert(0, if discovery.authorization_endpoint.contains('?') { '&' } else { '?' });
        let now = Instant::now();
        let mut pending = self.pending.lock();
        pending.retain(|_, one| now.saturating_duration_since(one.since) < PENDING);
        if pending.len() >= MOST_PENDING {
            return Err("too many people are logging in: try again in some minutes".into());
        }
        pending.insert(state, Pending { browser: digest(&browser), nonce, verifier, since: now });
        Ok(Start { location: discovery.authorization_endpoint + &query, browser })
    }

    /// Ends a login with what the provider sent the browser back with.
    ///
    /// # Errors
    /// When it belongs to no login of this browser, or the provider's answer is not to be believed.
    pub async fn finish(&self, state: &str, code: &str, browser: Option<&str>) -> Result<Person, String> {
        let pending = self.pending.lock().remove(state).filter(|one| one.since.elapsed() < PENDING);
        let pending = pending
            .filter(|one| browser.is_some_and(|browser| digest(browser) == one.browser))
            .ok_or("this login was not begun in this browser, or too long ago: begin again")?;
        let known = self.known(false).await?;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.callback),
            ("code_verifier", &pending.verifier),
        ];
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&known.discovery.token_endpoint)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        match &self.secret {
            Some(secret) => {
                let pair = format!("{}:{}", escape(&self.file.client_id), escape(secret));
                request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
            }
            None => fields.push(("client_id", &self.file.client_id)),
        }
        let body = form(&fields);
        let answer: Answer = self.ask(request.body(Full::from(body)).map_err(|error| error.to_string())?).await?;
        let check = |keys: &[Jwk]| {
            let expected = Expected {
                issuer: &self.file.issuer,
                client_id: &self.file.client_id,
                nonce: &pending.nonce,
                now_s: now_ms() / 1_000,
            };
            jwt::verify(&answer.id_token, keys, &expected)
        };
        let claims = match check(&known.keys) {
            Err(JwtError::UnknownKey) => check(&self.known(true).await?.keys),
            other => other,
        };
        Ok(person(&claims.map_err(|error| error.to_string())?, &self.file.groups_claim))
    }

    /// What the provider says of itself.
    async fn known(&self, newer: bool) -> Result<Known, String> {
        let mut known = self.known.lock().await;
        let age = known.as_ref().map(|known| known.since.elapsed());
        if let Some(kept) = known.as_ref()
            && age.is_some_and(|age| age < if newer { KEYS_AGAIN } else { KEEP })
        {
            return Ok(kept.clone());
        }
        let discovery: Discovery =
            self.get(&format!("{}/.well-known/openid-configuration", self.file.issuer.trim_end_matches('/'))).await?;
        if discovery.issuer != self.file.issuer {
            return Err(format!("the provider calls itself {}: write that as oidc.issuer", discovery.issuer));
        }
        let set: KeySet = self.get(&discovery.jwks_uri).await?;
        // A key of a kind that is not known here is none of ours.
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        let fresh = Known { discovery, keys: Arc::new(keys), since: Instant::now() };
        *known = Some(fresh.clone());
        Ok(fresh)
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let request = Request::get(url).header(header::ACCEPT, "application/json").body(Full::default());
        self.ask(request.map_err(|error| format!("{url}: {error}"))?).await
    }

    async fn ask<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, String> {
        let uri = request.uri().clone();
        let loopback = matches!(uri.host(), Some("127.0.0.1" | "localhost"));
        if uri.scheme_str() != Some("https") && !loopback {
            return Err(format!("{uri} is not reached over TLS"));
        }
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| format!("{uri}: {error}"))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| format!("{uri}: {error}"))?.to_bytes();
            if !status.is_success() {
                let said: Value = serde_json::from_slice(&body).unwrap_or_default();
                let why = said["error_description"].as_str().or(said["error"].as_str()).unwrap_or("no reason given");
                return Err(format!("the provider answered {status} at {uri}: {why}"));
            }
            serde_json::from_slice(&body).map_err(|error| format!("{uri} gave an unexpected answer: {error}"))
        };
        tokio::time::timeout(LIMIT, answer)
            .await
            .unwrap_or_else(|_| Err(format!("the provider gave no answer within {} s", LIMIT.as_secs())))
    }
}

fn person(claims: &Map<String, Value>, groups_claim: &str) -> Person {
    let text = |key: &str| claims.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let verified = claims.get("email_verified").and_then(Value::as_bool).unwrap_or(false);
    let (subject, email) = (text("sub").unwrap_or_default(), text("email").filter(|_| verified));
    let groups = match claims.get(groups_claim) {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    };
    let name = email.clone().unwrap_or_else(|| subject.clone());
    Person { name, users: [Some(subject), email].into_iter().flatten().collect(), groups }
}

/// A form's fields as `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect::<Vec<_>>().join("&")
}

/// Percent-encoding of everything but RFC 3986's unreserved characters.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_that_is_not_verified_names_nobody() {
        let claims = |verified: bool| {
            json!({"sub": "17", "email": "li@bank", "email_verified": verified, "groups": ["sre"]}).as_object().cloned()
        };
        let known = person(&claims(true).unwrap(), "groups");
        assert_eq!((known.name.as_str(), known.users.len(), known.groups.len()), ("li@bank", 2, 1));
        let unknown = person(&claims(false).unwrap(), "roles");
        assert_eq!((unknown.name.as_str(), unknown.users, unknown.groups.len()), ("17", vec!["17".to_owned()], 0));
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(form(&[("a b", "c&d=é")]), "a%20b=c%26d%3D%C3%A9");
    }
}
