//! A signed call to whatever else balances load (LTM, GSLB). docs/traffic.md is the contract.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::WebhookActuator;
use http::{Method, Request, StatusCode, Uri};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{Outcome, TrafficAllow, TrafficError, TrafficPlan, apply::lock_wait, calls, error::brief, secrets::Keys};

/// What is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    api_version: &'static str,
    service: &'a str,
    group: &'a str,
    /// Site whose entry it is for; absent where it is for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<&'a str>,
    epoch: u64,
    plan: String,
    shares: &'a BTreeMap<String, u32>,
    units: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    whitelist: Option<&'a evergreen_api::resources::TrafficWhitelist>,
}

/// What is answered.
#[derive(Deserialize)]
struct Reply {
    epoch: u64,
    #[serde(default)]
    changed: Option<bool>,
}

/// Tells the other end the plan.
pub(super) async fn apply(
    allow: &TrafficAllow,
    keys: &Keys,
    actuator: &WebhookActuator,
    plan: &TrafficPlan,
    epoch_for: Duration,
    remembered: u64,
) -> Result<Outcome, TrafficError> {
    let what = format!("webhook {}", actuator.url);
    if !actuator.fenced
        && remembered < plan.epoch
        && let Some(waiting) = lock_wait(actuator.lock_delay.get(), epoch_for)
    {
        return Ok(waiting);
    }
    let failed = |why: String| TrafficError::Unreachable { what: what.clone(), why };
    let url = actuator.url.parse::<Uri>().map_err(|error| failed(error.to_string()))?;
    let one = actuator.scope == evergreen_api::resources::TrafficScope::Site;
    let body = Body {
        api_version: "evergreen.dev/traffic.v1",
        service: &plan.service,
        group: &plan.group,
        site: one.then_some(plan.own.as_str()),
        epoch: plan.epoch,
        plan: plan.digest(),
        shares: &plan.shares,
        units: &plan.units,
        whitelist: plan.whitelist.as_ref(),
    };
    let idempotency = format!("{}:{}:{}", plan.group, plan.epoch, plan.digest());
    let body = serde_json::to_vec(&body).map_err(|error| failed(error.to_string()))?;
    let request = Request::builder()
        .method(Method::POST)
        .header("content-type", "application/json")
        .header("idempotency-key", idempotency)
        .header("evergreen-epoch", plan.epoch)
        .header("evergreen-signature", signature(keys.need("hmac-key")?, &body));
    let target = calls::Target { allow, what: &what, url: &url, authority: keys.get("ca.crt") };
    let answer = calls::http(&target, request, body).await?;
    let reply: Option<Reply> = serde_json::from_slice(&answer.body).ok();
    match (answer.status, reply) {
        (StatusCode::OK, Some(reply)) if reply.epoch == plan.epoch => {
            Ok(if reply.changed == Some(false) { Outcome::Unchanged } else { Outcome::Written })
        }
        (StatusCode::CONFLICT, Some(reply)) if reply.epoch > plan.epoch => {
            Err(TrafficError::Stale { what, found: reply.epoch, planned: plan.epoch })
        }
        (StatusCode::OK, _) => {
            let why = format!("it answered 200 without {{\"epoch\": {}}}: it may not have understood", plan.epoch);
            Err(TrafficError::Refused { what, why })
        }
        (status, _) => {
            let why = format!("{status} {}", brief(&String::from_utf8_lossy(&answer.body)));
            Err(TrafficError::Refused { what, why })
        }
    }
}

/// `sha256=` and the HMAC-SHA256 of the body, hexadecimal.
fn signature(key: &[u8], body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    format!("sha256={}", hex::encode(hmac::sign(&key, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        // RFC 4231, test case 2.
        let wanted = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", b"what do ya want for nothing?"), wanted);
    }
}
