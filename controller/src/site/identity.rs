//! For which node an agent may speak: the one that its certificate names, or the one that its ServiceAccount token is
//! bound to. An agent that is taken over can then lie about its own node only.
//!
//! A certificate names a node with the common name, or a URI among its alternative names, `system:node:NAME` or
//! `evergreen-agent:NAME`. The chart gives all agents one certificate, which names none; there the token decides, which
//! the own API server reviews. Its answers are kept for some minutes, and longer while it does not answer: nodes do not
//! die because an API server does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use evergreen_api::names::SYSTEM_NAMESPACE;
use evergreen_telemetry::{KeyValue, Meter};
use http::{HeaderMap, StatusCode, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    core::v1::Pod,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use opentelemetry::metrics::Counter;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::BootClock;

/// What a name begins with that speaks for a node.
const PREFIXES: [&str; 2] = ["system:node:", "evergreen-agent:"];
/// Names of the certificate that are looked at.
const MAX_NAMES: usize = 16;
/// An answer is believed for so long without asking again. A pod that is deleted can speak so much longer.
const BELIEVED: Duration = Duration::from_secs(300);
/// The same while the API server does not answer.
const BELIEVED_WITHOUT: Duration = Duration::from_secs(3600);
/// A refusal is kept for so long: a wrong token is no way to flood the API server.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Longest wait for the API server, within the patience of an agent.
const PATIENCE: Duration = Duration::from_millis(700);
/// Reviews at a time.
const AT_A_TIME: usize = 8;
/// Tokens that are remembered at most.
const MAX_TOKENS: usize = 20_000;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 << 10;
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Node that the certificate of a connection names, if it names one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertifiedNode(pub Option<String>);

impl CertifiedNode {
    /// Reads a certificate; one that is not understood names nobody.
    pub fn of(certificate: &[u8]) -> Self {
        let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(certificate) else {
            return Self(None);
        };
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let alternative =
            alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        Self(common.chain(alternative).take(MAX_NAMES).find_map(node_in))
    }
}

fn node_in(name: &str) -> Option<String> {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).filter(|node| !node.is_empty()).map(str::to_owned)
}

/// Who may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// For this node only.
    Node(String),
    /// For any: nothing that names a node is demanded.
    Any,
    /// Nobody can tell, because the API server does not answer.
    Unknown,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no token.
    #[error("a ServiceAccount token bound to the agent's pod is demanded (--site-token-file)")]
    NoToken,
    /// The token is wrong.
    #[error("the token is refused: {0}")]
    Token(String),
    /// It speaks for another node.
    #[error("this agent speaks for node {0}, not for {1}")]
    Other(String, String),
    /// The API server does not answer.
    #[error("the API server does not answer, so nobody can tell which node this agent speaks for")]
    Unknown,
}

impl Refused {
    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::Token(_) | Self::Other(..) => StatusCode::FORBIDDEN,
            Self::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Token(_) => "token",
            Self::Other(..) => "other_node",
            Self::Unknown => "api_server_silent",
        }
    }
}

/// Asks and remembers.
#[derive(Clone)]
pub struct Identity {
    reviews: Option<Arc<Reviews>>,
    refused: Option<Counter<u64>>,
}

struct Reviews {
    client: Client,
    account: String,
    known: Mutex<HashMap<[u8; 32], Known>>,
    at_a_time: Semaphore,
}

#[derive(Clone, Debug)]
struct Known {
    outcome: Result<String, String>,
    at: Duration,
}

impl Identity {
    /// Demands a token of the ServiceAccount `account` where `account` is given and the certificate names no node.
    pub fn new(client: Client, account: Option<String>, meter: Option<&Meter>) -> Self {
        let reviews = account.map(|account| {
            Arc::new(Reviews { client, account, known: Mutex::default(), at_a_time: Semaphore::new(AT_A_TIME) })
        });
        let refused = meter.map(|meter| {
            meter
                .u64_counter("evergreen.site.refused")
                .with_description("Requests of agents that were refused, by why")
                .build()
        });
        Self { reviews, refused }
    }

    /// Who speaks.
    ///
    /// # Errors
    /// When a token is demanded and there is none that is good.
    async fn speaker(&self, certified: &CertifiedNode, headers: &HeaderMap) -> Result<Speaker, Refused> {
        if let Some(node) = &certified.0 {
            return Ok(Speaker::Node(node.clone()));
        }
        let Some(reviews) = &self.reviews else { return Ok(Speaker::Any) };
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(Refused::NoToken);
        }
        match reviews.node_of(token).await {
            Some(Ok(node)) => Ok(Speaker::Node(node)),
            Some(Err(why)) => Err(Refused::Token(why)),
            None => Ok(Speaker::Unknown),
        }
    }

    /// Whether a request may speak for `node`; `Ok(false)` when nobody can tell now.
    ///
    /// # Errors
    /// When it may not.
    pub async fn may_speak(&self, node: &str, certified: &CertifiedNode, headers: &HeaderMap) -> Result<bool, Refused> {
        let outcome = match self.speaker(certified, headers).await {
            Ok(Speaker::Any) => Ok(true),
            Ok(Speaker::Node(own)) if own == node => Ok(true),
            Ok(Speaker::Node(own)) => Err(Refused::Other(own, node.to_owned())),
            Ok(Speaker::Unknown) => Ok(false),
            Err(refused) => Err(refused),
        };
        match &outcome {
            Err(refused) => {
                tracing::warn!(node, "{refused}");
                self.count(refused);
            }
            Ok(false) => self.count(&Refused::Unknown),
            Ok(true) => {}
        }
        outcome
    }

    fn count(&self, refused: &Refused) {
        if let Some(counter) = &self.refused {
            counter.add(1, &[KeyValue::new("reason", refused.word())]);
        }
    }
}

impl Reviews {
    /// Node that a token is bound to, or why it is refused; `None` when nobody can tell.
    async fn node_of(&self, token: &str) -> Option<Result<String, String>> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.known.lock().get(&key).cloned();
        let age = known.as_ref().map(|known| BootClock.now().saturating_sub(known.at));
        if let (Some(known), Some(age)) = (&known, age) {
            let limit = if known.outcome.is_ok() { BELIEVED } else { REFUSED_FOR };
            if age < limit {
                return Some(known.outcome.clone());
            }
        }
        let asked = async {
            let _turn = self.at_a_time.acquire().await.ok()?;
            self.review(token).await
        };
        match tokio::time::timeout(PATIENCE, asked).await.ok().flatten() {
            Some(outcome) => {
                self.remember(key, outcome.clone());
                Some(outcome)
            }
            None => known.filter(|_| age.is_some_and(|age| age < BELIEVED_WITHOUT)).map(|known| known.outcome),
        }
    }

    fn remember(&self, key: [u8; 32], outcome: Result<String, String>) {
        let now = BootClock.now();
        let mut known = self.known.lock();
        if known.len() >= MAX_TOKENS {
            known.retain(|_, known| known.outcome.is_ok() && now.saturating_sub(known.at) < BELIEVED);
            if known.len() >= MAX_TOKENS {
                return;
            }
        }
        known.insert(key, Known { outcome, at: now });
    }

    /// `None` when the API server does not answer.
    async fn review(&self, token: &str) -> Option<Result<String, String>> {
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
            status: None,
        };
        let status = match api.create(&PostParams::default(), &review).await {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a token could not be reviewed");
                return None;
            }
        };
        if !status.authenticated.unwrap_or(false) {
            return Some(Err(status.error.unwrap_or_else(|| "the API server does not know it".into())));
        }
        let user = status.user.unwrap_or_default();
        let wanted = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{}", self.account);
        let username = user.username.clone().unwrap_or_default();
        if username != wanted {
            return Some(Err(format!("it is of {username}, not of {wanted}")));
        }
        match extra(&user, NODE_NAME) {
            Some(node) => Some(Ok(node)),
            None => self.node_of_pod(&user).await,
        }
    }

    /// API servers up to 1.29 name the pod only.
    async fn node_of_pod(&self, user: &UserInfo) -> Option<Result<String, String>> {
        let Some(pod) = extra(user, POD_NAME) else {
            return Some(Err("it is bound to no pod; use the token that is mounted into the agent's pod".into()));
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let found = match pods.get_opt(&pod).await {
            Ok(found) => found,
            Err(_) => return None,
        };
        // A pod of the same name that came later is another one.
        let uid = extra(user, POD_UID);
        let same = |found: &Pod| uid.is_none() || found.uid() == uid;
        let node = found.filter(same).and_then(|found| found.spec?.node_name).filter(|node| !node.is_empty());
        Some(node.ok_or_else(|| format!("its pod {pod} is on no node")))
    }
}

fn extra(user: &UserInfo, key: &str) -> Option<String> {
    user.extra.as_ref()?.get(key)?.first().filter(|value| !value.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common: Option<&str>, uri: Option<&str>) -> CertifiedNode {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        CertifiedNode::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn a_certificate_names_its_node_by_common_name_or_uri_and_an_ordinary_one_names_none() {
        let node = |name: &str| CertifiedNode(Some(name.to_owned()));
        assert_eq!(certificate(Some("system:node:n-1"), None), node("n-1"));
        assert_eq!(certificate(None, Some("evergreen-agent:n-2")), node("n-2"));
        assert_eq!(certificate(Some("evergreen-agent"), None), CertifiedNode(None));
        assert_eq!(certificate(Some("system:node:"), Some("https://n")), CertifiedNode(None));
        assert_eq!(CertifiedNode::of(b"garbage"), CertifiedNode(None));
    }

    fn api_server(answer: serde_json::Value) -> (Client, Arc<std::sync::atomic::AtomicUsize>) {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = asked.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let answer = match request.uri().path() {
                "/apis/authentication.k8s.io/v1/tokenreviews" => {
                    counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    serde_json::json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                        "spec": {}, "status": answer})
                }
                _ => serde_json::json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "uid": "u"},
                    "spec": {"nodeName": "n-1", "containers": []}}),
            };
            let body = kube::client::Body::from(serde_json::to_vec(&answer).unwrap());
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
        });
        (Client::new(service, "default"), asked)
    }

    fn bearer(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    fn user(name: &str, extra: serde_json::Value) -> serde_json::Value {
        let username = format!("system:serviceaccount:evergreen-system:{name}");
        serde_json::json!({"authenticated": true, "user": {"username": username, "extra": extra}})
    }

    async fn asks(answer: serde_json::Value, node: &str) -> Result<bool, Refused> {
        let (client, _) = api_server(answer);
        let identity = Identity::new(client, Some("evergreen-agent".into()), None);
        identity.may_speak(node, &CertifiedNode(None), &bearer("t")).await
    }

    #[tokio::test]
    async fn a_token_speaks_for_the_node_of_its_pod_and_for_no_other() {
        let of = |extra| user("evergreen-agent", extra);
        let node = serde_json::json!({NODE_NAME: ["n-1"]});
        assert_eq!(asks(of(node.clone()), "n-1").await, Ok(true));
        assert_eq!(asks(of(node.clone()), "n-2").await, Err(Refused::Other("n-1".into(), "n-2".into())));
        let pod = serde_json::json!({POD_NAME: ["p"], POD_UID: ["u"]});
        assert_eq!(asks(of(pod), "n-1").await, Ok(true));
        let replaced = serde_json::json!({POD_NAME: ["p"], POD_UID: ["former"]});
        for answer in [
            of(replaced),
            of(serde_json::json!({})),
            user("default", node),
            serde_json::json!({"authenticated": false}),
        ] {
            assert!(matches!(asks(answer.clone(), "n-1").await, Err(Refused::Token(_))), "{answer}");
        }
    }

    #[tokio::test]
    async fn answers_are_kept_a_certificate_needs_no_token_and_without_the_demand_anybody_may() {
        let (client, asked) = api_server(user("evergreen-agent", serde_json::json!({NODE_NAME: ["n-1"]})));
        let identity = Identity::new(client.clone(), Some("evergreen-agent".into()), None);
        let (none, none_at_all) = (CertifiedNode(None), HeaderMap::new());
        for _ in 0..5 {
            assert_eq!(identity.may_speak("n-1", &none, &bearer("t")).await, Ok(true));
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(identity.may_speak("n-1", &none, &none_at_all).await, Err(Refused::NoToken));
        let certified = CertifiedNode(Some("n-3".into()));
        assert_eq!(identity.may_speak("n-3", &certified, &none_at_all).await, Ok(true));
        assert!(identity.may_speak("n-1", &certified, &bearer("t")).await.is_err());
        assert_eq!(Identity::new(client, None, None).may_speak("n-9", &none, &none_at_all).await, Ok(true));
    }

    #[tokio::test]
    async fn while_the_api_server_is_silent_a_known_token_speaks_on_and_a_new_one_cannot_be_told() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("no route"))
        });
        let identity = Identity::new(Client::new(silent, "default"), Some("evergreen-agent".into()), None);
        let Some(reviews) = &identity.reviews else { panic!("a token is demanded") };
        let key: [u8; 32] = Sha256::digest(b"known").into();
        let at = BootClock.now().saturating_sub(BELIEVED);
        reviews.known.lock().insert(key, Known { outcome: Ok("n-1".into()), at });
        let none = CertifiedNode(None);
        assert_eq!(identity.may_speak("n-1", &none, &bearer("known")).await, Ok(true));
        assert_eq!(identity.may_speak("n-1", &none, &bearer("new")).await, Ok(false));
    }
}
