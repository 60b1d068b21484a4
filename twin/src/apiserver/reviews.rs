//! Requests that are created and answered at once and never stored: who am I, may I, a token for a service account.

use serde_json::{Value, json};

use super::error::ApiError;
use super::server::ApiServer;
use super::users::{User, Wanted};
use crate::access::Access;
use crate::objects::meta::{self, text};

/// Seconds that a token is said to be good for when the request does not say.
const TOKEN_SECONDS: i64 = 3600;

/// The answer to a review, or `None` for other resources.
pub(super) fn review(
    server: &ApiServer,
    access: Option<&Access>,
    (group, plural): (&str, &str),
    body: &Value,
    user: &User,
) -> Option<Value> {
    let mut answer = body.clone();
    if !answer.is_object() {
        return None;
    }
    answer["status"] = match (group, plural) {
        // The twin has no authorizer: everything is allowed, and it says so.
        ("authorization.k8s.io", "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews") => {
            json!({"allowed": true, "reason": "the twin allows everything"})
        }
        ("authorization.k8s.io", "selfsubjectrulesreviews") => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        ("authentication.k8s.io", "tokenreviews") => {
            let token = text(body, &["spec", "token"]).unwrap_or_default();
            let audiences = body["spec"].get("audiences").cloned();
            match known(server, access, token) {
                Ok(user) => {
                    let mut status = json!({"authenticated": true, "user": user.to_value()});
                    if let Some(audiences) = audiences {
                        status["audiences"] = audiences;
                    }
                    status
                }
                Err(why) => json!({"user": {}, "error": why}),
            }
        }
        ("authentication.k8s.io", "selfsubjectreviews") => json!({"userInfo": user.to_value()}),
        _ => return None,
    };
    Some(answer)
}

/// The user of a reviewed token.
fn known(server: &ApiServer, access: Option<&Access>, token: &str) -> Result<User, &'static str> {
    if token.is_empty() {
        return Err("no token");
    }
    if let Some(user) = server.token_user(token).or_else(|| access?.user_of(token)) {
        return Ok(user);
    }
    if access.is_some() {
        return Err("[invalid bearer token, token lookup failed]");
    }
    // Where nobody checks, `NAME@NODE` stands for a token that is bound to a Pod on that node.
    let (name, node) = token.split_once('@').unwrap_or((token, ""));
    let mut user = User::named(name, &[]);
    if !node.is_empty() {
        user.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
    }
    Ok(user)
}

impl ApiServer {
    /// A token for a service account, bound to a Pod where the request says so.
    ///
    /// # Errors
    /// 404 when there is no such account or Pod, 409 for a Pod of another identity, 422 for a life that is too short
    /// or a bond to something that is no Pod.
    pub fn token_for(&self, namespace: &str, name: &str, body: &Value) -> Result<Value, ApiError> {
        let account = self.get(&self.builtin("", "serviceaccounts"), namespace, name)?.value();
        let seconds = meta::integer(body, &["spec", "expirationSeconds"]).unwrap_or(TOKEN_SECONDS);
        let invalid = |field: &str, why: &str| {
            let cause = super::write::cause(field, "FieldValueInvalid", &format!("Invalid value: {why}"));
            ApiError::invalid("authentication.k8s.io", "TokenRequest", name, vec![cause])
        };
        if seconds < 600 {
            let why = format!("{seconds}: may not specify a duration less than 10 minutes");
            return Err(invalid("spec.expirationSeconds", &why));
        }
        let bound = &body["spec"]["boundObjectRef"];
        let pod = match bound["kind"].as_str() {
            None | Some("") => None,
            Some("Pod") => {
                let wanted = bound["name"].as_str().unwrap_or_default();
                let pod = self.get(&self.builtin("", "pods"), namespace, wanted)?.value();
                if bound["uid"].as_str().is_some_and(|uid| !uid.is_empty() && uid != meta::uid(&pod)) {
                    let why = format!(
                        "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                        bound["uid"].as_str().unwrap_or_default()
                    );
                    return Err(ApiError::conflict("", "pods", wanted, &why));
                }
                Some(pod)
            }
            Some(_) => return Err(invalid("spec.boundObjectRef.kind", "a twin binds tokens to Pods only")),
        };
        let audiences = match body["spec"].get("audiences").filter(|a| a.as_array().is_some_and(|a| !a.is_empty())) {
            Some(given) => given.clone(),
            None => json!(["https://kubernetes.default.svc.cluster.local"]),
        };
        let until = self.clock().now().saturating_add(jiff::SignedDuration::from_secs(seconds));
        let token =
            self.sign_token(&Wanted { namespace, account: &account, audiences: audiences.clone(), seconds, pod });
        Ok(json!({
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": self.clock().seconds()},
            "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": body["spec"]["boundObjectRef"]},
            "status": {
                "token": token,
                "expirationTimestamp": meta::seconds(until.unwrap_or(jiff::Timestamp::MAX)),
            },
        }))
    }
}
