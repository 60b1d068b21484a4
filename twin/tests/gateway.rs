//! The entry of a site over real loopback connections.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use evergreen_twin::{Loss, NodeSpec, Timing, Twin, gateway};

fn instant() -> Timing {
    Timing { pod_start: Duration::ZERO, pod_ready: Duration::ZERO, pod_stop: Duration::ZERO, ..Timing::short() }
}

async fn get(addr: std::net::SocketAddr) -> Option<(StatusCode, Value)> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request =
        Request::get(format!("http://{addr}/")).header("host", "checkout.example").body(Body::empty()).unwrap();
    let response = client.request(request).await.ok()?;
    let status = response.status();
    let bytes = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&bytes).unwrap()))
}

/// Asks until an answer fits; the limit only bounds a broken test.
async fn get_until(
    addr: std::net::SocketAddr,
    fits: impl Fn(&Option<(StatusCode, Value)>) -> bool,
) -> Option<(StatusCode, Value)> {
    for _ in 0..500 {
        let answer = get(addr).await;
        if fits(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no such answer from {addr}");
}

fn site(name: &str) -> Twin {
    let twin = Twin::builder(name).timing(instant()).node(NodeSpec::new("n1")).build();
    twin.start(CancellationToken::new());
    twin.api().ensure_namespace("shop");
    for object in [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "checkout", "namespace": "shop"},
               "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 8080}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "checkout", "namespace": "shop"},
               "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "checkout"}},
                        "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}}}}),
    ] {
        twin.api().create_object(&object).unwrap();
    }
    twin
}

fn route(twin: &Twin, backends: &Value) {
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"hostnames": ["checkout.example"], "rules": [{"backendRefs": backends}]}});
    twin.api().create_object(&route).unwrap();
}

#[tokio::test]
async fn weights_move_requests_between_sites_and_a_lost_site_refuses() {
    let (a, b) = (site("dc-a"), site("dc-b"));
    let loopback = "127.0.0.1:0".parse().unwrap();
    let (entry_a, entry_b) = (gateway::serve(&a, loopback).await.unwrap(), gateway::serve(&b, loopback).await.unwrap());
    assert_eq!(get(entry_a.addr).await.unwrap().0, StatusCode::NOT_FOUND);
    a.api()
        .create_object(&json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "checkout-dc-b", "namespace": "shop", "annotations": {"evergreen.dev/entry": format!("http://{}", entry_b.addr)}},
            "spec": {"type": "ExternalName", "externalName": "entry.dc-b.example", "ports": [{"port": 8080}]}}))
        .unwrap();
    route(&b, &json!([{"name": "checkout", "port": 8080}]));
    route(
        &a,
        &json!([{"name": "checkout", "port": 8080, "weight": 3}, {"name": "checkout-dc-b", "port": 8080, "weight": 1}]),
    );
    let here = |site: &'static str| {
        move |a: &Option<(StatusCode, Value)>| a.as_ref().is_some_and(|(s, v)| *s == 200 && v["site"] == site)
    };
    get_until(entry_a.addr, here("dc-a")).await;
    get_until(entry_b.addr, here("dc-b")).await;
    let mut sites = Vec::new();
    for _ in 0..8 {
        sites.push(get(entry_a.addr).await.unwrap().1["site"].as_str().unwrap().to_owned());
    }
    assert_eq!(sites.iter().filter(|s| *s == "dc-b").count(), 2, "{sites:?}");

    b.lose_site(Loss::Reset);
    get_until(entry_b.addr, Option::is_none).await;
    let refused = get_until(entry_a.addr, |a| a.as_ref().is_some_and(|(s, _)| *s == 502)).await.unwrap();
    assert!(refused.1["error"].as_str().unwrap().contains("cannot be reached"));
    b.return_site();
    get_until(entry_b.addr, here("dc-b")).await;

    entry_a.set_down(true);
    get_until(entry_a.addr, Option::is_none).await;
    entry_a.set_down(false);
    get_until(entry_a.addr, here("dc-a")).await;
    assert!(entry_a.counts().0 > 0);
}

#[tokio::test]
async fn no_ready_pod_is_503_and_routes_in_a_circle_end() {
    let a = site("dc-a");
    let entry = gateway::serve(&a, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    a.api()
        .create_object(&json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "loop", "namespace": "shop", "annotations": {"evergreen.dev/entry": format!("http://{}", entry.addr)}},
            "spec": {"type": "ExternalName", "externalName": "x.example"}}))
        .unwrap();
    a.api()
        .create_object(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "empty", "namespace": "shop"},
            "spec": {"selector": {"app": "nobody"}, "ports": [{"port": 8080}]}}),
        )
        .unwrap();
    route(&a, &json!([{"name": "empty", "port": 8080}]));
    assert_eq!(get(entry.addr).await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
    let routes = a.client("test");
    let patch = |backends: Value| kube::api::Patch::Merge(json!({"spec": {"rules": [{"backendRefs": backends}]}}));
    let resource = kube::core::ApiResource::from_gvk_with_plural(
        &kube::core::GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"),
        "httproutes",
    );
    let api: kube::Api<kube::api::DynamicObject> = kube::Api::namespaced_with(routes, "shop", &resource);
    api.patch("checkout", &Default::default(), &patch(json!([{"name": "loop"}]))).await.unwrap();
    assert_eq!(get(entry.addr).await.unwrap().0, StatusCode::LOOP_DETECTED);
    api.patch("checkout", &Default::default(), &patch(json!([{"name": "loop", "weight": 0}]))).await.unwrap();
    assert_eq!(get(entry.addr).await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
}
