//! Evictions through the eviction subresource, with bodies of our own: `policy/v1`, and `policy/v1beta1` where the API
//! server knows only that (before 1.22). Which one is asked once.

use std::time::Duration;

use evergreen_playbooks::view::PodView;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams, client::Body, core::Status};
use serde_json::json;
use tokio::sync::OnceCell;

use super::{
    calls::{CALL_TIMEOUT, CallError, call},
    trim,
};

/// Largest answer to an eviction that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Reason of the API server for refusing to create anything, evictions included, in a namespace that is going away.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// Which eviction API this API server has; found out on first use and kept.
#[derive(Debug, Default)]
pub(crate) struct EvictionApi {
    version: OnceCell<&'static str>,
}

/// What came of asking for one eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Taken: the pod ends by itself.
    Accepted,
    /// This pod is not there any more.
    Gone,
    /// Not now.
    Refused {
        /// Why.
        message: String,
        /// Delay that the server named.
        retry_after: Option<Duration>,
    },
    /// Trying again cannot help.
    Forbidden {
        /// Why.
        message: String,
    },
}

impl EvictionApi {
    async fn version(&self, client: &Client) -> Result<&'static str, CallError> {
        self.version.get_or_try_init(|| discover(client)).await.copied()
    }

    /// Asks for the eviction of one pod, by UID. Asking twice has the effect of asking once.
    pub(crate) async fn evict(&self, client: &Client, pod: &PodView) -> Answer {
        let version = match self.version(client).await {
            Ok(version) => version,
            Err(error) => return Answer::Refused { message: error.describe(), retry_after: None },
        };
        match tokio::time::timeout(CALL_TIMEOUT, ask(client, version, pod)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(message)) => Answer::Refused { message, retry_after: None },
            Err(_) => {
                Answer::Refused { message: format!("no answer within {}s", CALL_TIMEOUT.as_secs()), retry_after: None }
            }
        }
    }
}

async fn discover(client: &Client) -> Result<&'static str, CallError> {
    let resources = call("discover the eviction API", client.list_core_api_resources("v1")).await?;
    let eviction = resources.resources.iter().find(|resource| resource.name == "pods/eviction");
    let listed = eviction.filter(|resource| resource.group.as_deref() == Some("policy"));
    let version = match listed.and_then(|resource| resource.version.as_deref()) {
        Some("v1beta1") => "policy/v1beta1",
        _ => "policy/v1",
    };
    tracing::debug!(version, "eviction API");
    Ok(version)
}

async fn ask(client: &Client, version: &str, pod: &PodView) -> Result<Answer, String> {
    let body = json!({
        "apiVersion": version,
        "kind": "Eviction",
        "metadata": {"namespace": pod.namespace, "name": pod.name},
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    });
    let request = Request::post(format!("/api/v1/namespaces/{}/pods/{}/eviction", pod.namespace, pod.name))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string().into_bytes()))
        .map_err(|error| error.to_string())?;
    let response = client.send(request).await.map_err(|error| error.to_string())?;
    let code = response.status();
    let named = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
    let status: Status = serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default();
    Ok(read_answer(code, named, &status, pod))
}

fn read_answer(code: StatusCode, named: Option<u64>, status: &Status, pod: &PodView) -> Answer {
    let message = match status.message.as_str() {
        "" => format!("the API server answered {code}"),
        message => message.to_owned(),
    };
    let details = status.details.as_ref();
    let in_body = details.map(|details| u64::from(details.retry_after_seconds)).filter(|seconds| *seconds > 0);
    let retry_after = named.or(in_body).map(Duration::from_secs);
    let terminating = details.is_some_and(|details| details.causes.iter().any(|c| c.reason == NAMESPACE_TERMINATING));
    match code {
        code if code.is_success() => Answer::Accepted,
        StatusCode::NOT_FOUND => Answer::Gone,
        // The UID is a precondition: a conflict about it means that another pod has the name now.
        StatusCode::CONFLICT if message.contains(&pod.uid) || message.contains("UID") => Answer::Gone,
        // The pod is being deleted with its namespace: nothing is left to ask for.
        StatusCode::FORBIDDEN if terminating => Answer::Accepted,
        StatusCode::BAD_REQUEST
        | StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::UNPROCESSABLE_ENTITY => Answer::Forbidden { message },
        _ => Answer::Refused { message, retry_after },
    }
}

/// Lists the pods on a node at the API server itself.
pub(crate) async fn pods_on(client: &Client, node: &str) -> Result<Vec<PodView>, CallError> {
    let api = Api::<Pod>::all(client.clone());
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = call(format!("list pods on node {node}"), api.list(&on_node)).await?;
    Ok(pods.items.iter().filter_map(trim::pod).filter(|pod| pod.node == node).collect())
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn pod() -> PodView {
        PodView {
            namespace: "shop".into(),
            name: "a".into(),
            uid: "uid-a".into(),
            node: "n1".into(),
            daemon_set: false,
            mirror: false,
            finished: false,
            terminating: false,
        }
    }

    fn answer(code: u16, named: Option<u64>, status: Status) -> Answer {
        read_answer(StatusCode::from_u16(code).unwrap(), named, &status, &pod())
    }

    fn details(causes: Vec<StatusCause>, retry_after_seconds: u32) -> StatusDetails {
        let (name, group, kind, uid) = Default::default();
        StatusDetails { name, group, kind, uid, causes, retry_after_seconds }
    }

    #[test]
    fn every_answer_of_the_api_server_has_a_meaning() {
        let plain = Status::default;
        assert_eq!(answer(201, None, plain()), Answer::Accepted);
        assert_eq!(answer(404, None, plain()), Answer::Gone);
        let moved = Status { message: "Precondition failed: UID in precondition: uid-a, other: b".into(), ..plain() };
        assert_eq!(answer(409, None, moved), Answer::Gone);
        assert!(matches!(answer(409, None, plain()), Answer::Refused { .. }));
        assert!(matches!(answer(500, None, plain()), Answer::Refused { .. }));
        assert!(matches!(answer(403, None, plain()), Answer::Forbidden { .. }));
    }

    #[test]
    fn a_budget_says_itself_when_to_come_back() {
        let details = details(Vec::new(), 10);
        let budget = Status { message: "budget".into(), details: Some(details), ..Status::default() };
        let Answer::Refused { retry_after, message } = answer(429, None, budget.clone()) else { panic!() };
        assert_eq!((retry_after, message.as_str()), (Some(Duration::from_secs(10)), "budget"));
        let Answer::Refused { retry_after, .. } = answer(429, Some(3), budget) else { panic!() };
        assert_eq!(retry_after, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_pod_in_a_namespace_that_goes_away_needs_no_eviction() {
        let cause = StatusCause { reason: NAMESPACE_TERMINATING.into(), message: String::new(), field: String::new() };
        let details = details(vec![cause], 0);
        let status = Status { details: Some(details), ..Status::default() };
        assert_eq!(answer(403, None, status), Answer::Accepted);
    }
}
