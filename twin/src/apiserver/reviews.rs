//! Requests that are created and answered at once and never stored: who am I, may I, a token for a service account.

use serde_json::{Value, json};

use super::error::ApiError;
use super::server::ApiServer;
use crate::objects::meta::{self, text};

/// Seconds that a token is said to be good for when the request does not say.
const TOKEN_SECONDS: i64 = 3600;

/// The answer to a review, or `None` for other resources.
pub fn review(group: &str, plural: &str, body: &Value, identity: &str) -> Option<Value> {
    let mut answer = body.clone();
    if !answer.is_object() {
        return None;
    }
    let user = json!({"username": identity, "groups": ["system:authenticated"]});
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
            match token.is_empty() {
                true => json!({"authenticated": false, "error": "no token"}),
                false => {
                    // `NAME@NODE` is a token bound to a pod on that node, as ServiceAccounts have them.
                    let (name, node) = token.split_once('@').unwrap_or((token, ""));
                    let mut user = json!({"username": name, "groups": ["system:authenticated"]});
                    if !node.is_empty() {
                        user["extra"] = json!({"authentication.kubernetes.io/node-name": [node]});
                    }
                    json!({"authenticated": true, "user": user, "audiences": body["spec"]["audiences"]})
                }
            }
        }
        ("authentication.k8s.io", "selfsubjectreviews") => json!({"userInfo": user}),
        _ => return None,
    };
    Some(answer)
}

impl ApiServer {
    /// A token for a service account: the bearer token that makes a client be known by the account's name.
    ///
    /// # Errors
    /// 404 when there is no such account, 422 for a life that is too short.
    pub fn token_for(&self, namespace: &str, name: &str, body: &Value) -> Result<Value, ApiError> {
        let accounts = self.builtin("", "serviceaccounts");
        self.get(&accounts, namespace, name)?;
        let seconds = meta::integer(body, &["spec", "expirationSeconds"]).unwrap_or(TOKEN_SECONDS);
        if seconds < 600 {
            let why = format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes");
            let cause = super::write::cause("spec.expirationSeconds", "FieldValueInvalid", &why);
            return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", name, vec![cause]));
        }
        let until = self.clock().now().saturating_add(jiff::SignedDuration::from_secs(seconds));
        Ok(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": self.clock().seconds()},
            "spec": {"audiences": body["spec"]["audiences"], "expirationSeconds": seconds, "boundObjectRef": null},
            "status": {
                "token": format!("system:serviceaccount:{namespace}:{name}"),
                "expirationTimestamp": meta::seconds(until.unwrap_or(jiff::Timestamp::MAX)),
            },
        }))
    }
}
