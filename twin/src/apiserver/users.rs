//! Who asks: users, the tokens of service accounts, and impersonation.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, header};
use ring::hmac;
use serde_json::{Value, json};

use super::error::ApiError;
use super::server::ApiServer;
use crate::objects::meta::{self, text};

/// Who signs the tokens of service accounts.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const AUTHENTICATED: &str = "system:authenticated";

/// A client, as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name; also what faults tell clients apart by.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Unique for an account; empty for people.
    pub uid: String,
    /// Further facts, such as the node that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody of that name and those groups, besides the group of all who are known.
    pub fn named(name: &str, groups: &[&str]) -> User {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        User { name: name.to_owned(), groups, uid: String::new(), extra: BTreeMap::new() }
    }

    /// A service account, by its full name.
    fn account(namespace: &str, full_name: &str) -> User {
        User::named(full_name, &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")])
    }

    /// Nobody in particular.
    pub fn anonymous() -> User {
        User {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            uid: String::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Whether nothing is known of the client.
    pub fn is_anonymous(&self) -> bool {
        self.groups.iter().any(|g| g == "system:unauthenticated")
    }

    /// As reviews write it.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"username": self.name});
        if !self.uid.is_empty() {
            value["uid"] = json!(self.uid);
        }
        value["groups"] = json!(self.groups);
        if !self.extra.is_empty() {
            value["extra"] = json!(self.extra);
        }
        value
    }

    /// The user that the client wants to be taken for: `Impersonate-*` headers.
    ///
    /// # Errors
    /// 500 for groups or more without a name, as the real server answers.
    pub(super) fn or_impersonated(self, headers: &HeaderMap) -> Result<User, ApiError> {
        let get = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let groups: Vec<String> =
            headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
        let name = get("impersonate-user");
        if name.is_empty() {
            if groups.is_empty() {
                return Ok(self);
            }
            let why = format!("requested {groups:?} without impersonating a user");
            return Err(ApiError::new(500, "InternalError", why));
        }
        if name == "system:anonymous" {
            return Ok(User::anonymous());
        }
        let mut user = match account_of(&name) {
            Some((namespace, _)) if groups.is_empty() => User::account(namespace, &name),
            _ => User::named(&name, &groups.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        user.uid = get("impersonate-uid");
        for (header, value) in headers {
            if let Some(key) = header.as_str().strip_prefix("impersonate-extra-") {
                user.extra.entry(key.to_owned()).or_default().extend(value.to_str().ok().map(str::to_owned));
            }
        }
        Ok(user)
    }
}

/// Namespace and name out of `system:serviceaccount:NAMESPACE:NAME`.
fn account_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// The bearer token of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|t| !t.is_empty())
}

/// Signs the tokens of service accounts; each server has a key of its own.
#[derive(Debug, Clone)]
pub(crate) struct TokenKey(hmac::Key);

impl Default for TokenKey {
    fn default() -> Self {
        let random = ring::rand::SystemRandom::new();
        TokenKey(hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("the system has random numbers"))
    }
}

impl TokenKey {
    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
        let signature = BASE64.encode(hmac::sign(&self.0, text.as_bytes()));
        format!("{text}.{signature}")
    }

    fn claims(&self, token: &str) -> Option<Value> {
        let (text, signature) = token.rsplit_once('.')?;
        hmac::verify(&self.0, text.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        serde_json::from_slice(&BASE64.decode(text.split_once('.')?.1).ok()?).ok()
    }
}

/// What a token is asked for.
pub(super) struct Wanted<'a> {
    pub(super) namespace: &'a str,
    pub(super) account: &'a Value,
    pub(super) audiences: Value,
    pub(super) seconds: i64,
    /// The Pod that it ends with.
    pub(super) pod: Option<Value>,
}

impl ApiServer {
    /// A signed token of a service account.
    pub(super) fn sign_token(&self, wanted: &Wanted<'_>) -> String {
        let now = self.clock().now().as_second();
        let (namespace, name) = (wanted.namespace, meta::name(wanted.account));
        let mut own =
            json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": meta::uid(wanted.account)}});
        if let Some(pod) = &wanted.pod {
            own["pod"] = json!({"name": meta::name(pod), "uid": meta::uid(pod)});
            if let Some(node) = text(pod, &["spec", "nodeName"]) {
                own["node"] = json!({"name": node});
            }
        }
        self.shared.token_key.sign(&json!({
            "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{name}"), "aud": wanted.audiences,
            "iat": now, "nbf": now, "exp": now + wanted.seconds, "jti": self.new_uid(), "kubernetes.io": own,
        }))
    }

    /// The user of a token that this server has signed: not expired, the account and the Pod still the same.
    pub(crate) fn token_user(&self, token: &str) -> Option<User> {
        let claims = self.shared.token_key.claims(token)?;
        if claims["exp"].as_i64()? <= self.clock().now().as_second() {
            return None;
        }
        let own = &claims["kubernetes.io"];
        let namespace = own["namespace"].as_str()?;
        let same = |plural: &str, part: &Value| {
            let found = self.read("", plural, namespace, part["name"].as_str()?)?;
            (found["metadata"]["uid"] == part["uid"]).then_some(())
        };
        same("serviceaccounts", &own["serviceaccount"])?;
        let mut user = User::account(namespace, claims["sub"].as_str()?);
        user.uid = own["serviceaccount"]["uid"].as_str()?.to_owned();
        if let Some(pod) = own.get("pod") {
            same("pods", pod)?;
            for (key, value) in
                [("pod-name", &pod["name"]), ("pod-uid", &pod["uid"]), ("node-name", &own["node"]["name"])]
            {
                if let Some(value) = value.as_str() {
                    user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
                }
            }
        }
        Some(user)
    }

    /// The user of a token where nobody checks who is who: one that was signed here is read, any other is the name
    /// itself.
    pub(super) fn open_user(&self, token: &str) -> User {
        self.token_user(token).unwrap_or_else(|| User::named(token, &[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_client_is_taken_for_whom_it_says() {
        let me = User::named("me", &["system:masters"]);
        assert_eq!(me.groups, ["system:masters", AUTHENTICATED]);
        let seen = |pairs: &[(&'static str, &'static str)]| me.clone().or_impersonated(&headers(pairs));
        assert_eq!(seen(&[]).unwrap(), me);
        let robot = seen(&[("impersonate-user", "system:serviceaccount:shop:robot")]).unwrap();
        assert_eq!(robot.groups, ["system:serviceaccounts", "system:serviceaccounts:shop", AUTHENTICATED]);
        let jane =
            seen(&[("impersonate-user", "jane"), ("impersonate-group", "devs"), ("impersonate-extra-team", "a")]);
        let jane = jane.unwrap();
        assert_eq!((jane.groups[0].as_str(), jane.extra["team"][0].as_str()), ("devs", "a"));
        assert_eq!(seen(&[("impersonate-group", "devs")]).unwrap_err().code, 500);
        assert!(seen(&[("impersonate-user", "system:anonymous")]).unwrap().is_anonymous());
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&headers(&[("authorization", "bearer abc ")])), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
        assert_eq!(bearer(&headers(&[("authorization", "Bearer ")])), None);
    }

    #[test]
    fn only_untouched_tokens_of_this_key_are_read() {
        let (own, other) = (TokenKey::default(), TokenKey::default());
        let token = own.sign(&json!({"sub": "a"}));
        assert_eq!(own.claims(&token).unwrap()["sub"], "a");
        assert!(other.claims(&token).is_none());
        let forged = format!("{}.{}", BASE64.encode("{\"alg\":\"none\"}"), token.split_once('.').unwrap().1);
        assert!(own.claims(&forged).is_none() && own.claims("a.b.c").is_none() && own.claims("").is_none());
    }
}
