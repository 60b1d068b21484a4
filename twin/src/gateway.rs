//! The entry of a site: HTTP in, by HTTPRoute and weight to a ready pod of this site or to another site's entry.
//!
//! Routes, Services and EndpointSlices are read from the site's own store at each request, so that a weight acts at
//! once and an entry needs no other site to do its work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::objects::meta::{self, list, text};
use crate::transport;
use crate::twin::Twin;

/// How many entries a request has come through; a route that leads in a circle ends here.
const HOPS: &str = "x-evergreen-hops";
const MAX_HOPS: u64 = 3;
/// How long another site's entry may take to answer.
const FORWARD_LIMIT: Duration = Duration::from_secs(2);
/// Largest body that is passed on, in bytes.
const MAX_BODY: usize = 1 << 20;
/// CPU work that one request costs the pod that answers it.
const COST: Duration = Duration::from_millis(2);

/// A running entry. Dropping it stops it.
#[derive(Debug)]
pub struct Gateway {
    /// The address it listens on.
    pub addr: SocketAddr,
    down: watch::Sender<bool>,
    cancel: CancellationToken,
    counts: Arc<Counts>,
}

/// What an entry has done.
#[derive(Debug, Default)]
struct Counts {
    served: AtomicU64,
    forwarded: AtomicU64,
    refused: AtomicU64,
    turn: AtomicU64,
}

impl Gateway {
    /// While down, connections are refused and open ones are closed. A lost site is down by itself.
    pub fn set_down(&self, down: bool) {
        self.down.send_replace(down);
    }

    /// Requests answered by pods of this site, passed on to others, and answered with an error.
    pub fn counts(&self) -> (u64, u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.counts.served), get(&self.counts.forwarded), get(&self.counts.refused))
    }

    /// Stops it for good.
    pub fn stop(&self) {
        self.cancel.cancel();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

struct Entry {
    twin: Twin,
    client: Client<HttpConnector, Body>,
    counts: Arc<Counts>,
    /// The unused part of each backend's weight, so that choices are even and repeatable. By route and rule.
    shares: Mutex<std::collections::HashMap<String, Vec<i64>>>,
}

/// Serves a site's entry; port 0 picks a free one.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(twin: &Twin, addr: SocketAddr) -> std::io::Result<Gateway> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(FORWARD_LIMIT));
    let counts = Arc::new(Counts::default());
    let entry = Entry {
        twin: twin.clone(),
        client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(16).build(connector),
        counts: counts.clone(),
        shares: Mutex::default(),
    };
    let router = Router::new().fallback(handle).with_state(Arc::new(entry));
    let cancel = CancellationToken::new();
    let served = transport::serve(router.clone(), None, None, addr, twin.site()).await?;
    let (down, own) = watch::channel(false);
    let gateway = Gateway { addr: served.addr, down, cancel: cancel.clone(), counts };
    tokio::spawn(keep(served, router, twin.site().to_owned(), own, twin.site_down(), cancel));
    Ok(gateway)
}

/// Listens while the entry is up, and does not while it is down.
async fn keep(
    served: transport::Served,
    router: Router,
    site: String,
    mut own: watch::Receiver<bool>,
    mut lost: watch::Receiver<bool>,
    cancel: CancellationToken,
) {
    let addr = served.addr;
    let mut listening = Some(served);
    loop {
        let down = *own.borrow_and_update() || *lost.borrow_and_update();
        let mut retry = Duration::from_secs(3600);
        if down {
            listening = None;
        } else if listening.is_none() {
            match transport::serve(router.clone(), None, None, addr, &site).await {
                Ok(served) => listening = Some(served),
                Err(error) => {
                    tracing::warn!(site, %addr, %error, "the entry cannot listen yet");
                    retry = Duration::from_millis(50);
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = own.changed() => if changed.is_err() { return },
            changed = lost.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(retry) => {}
        }
    }
}

async fn handle(State(entry): State<Arc<Entry>>, request: Request<Body>) -> Response {
    match entry.answer(request).await {
        Ok(response) => response,
        Err((status, message)) => {
            entry.counts.refused.fetch_add(1, Ordering::Relaxed);
            json_response(status, &json!({"error": message, "site": entry.twin.site()}))
        }
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

type Refusal = (StatusCode, String);

impl Entry {
    async fn answer(&self, request: Request<Body>) -> Result<Response, Refusal> {
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
        let (route, backend) = self.choose(&host, request.uri().path())?;
        let namespace = text(&backend, &["namespace"]).unwrap_or(meta::namespace(&route)).to_owned();
        let name = backend["name"].as_str().unwrap_or_default().to_owned();
        let api = self.twin.api();
        let service = api.read("", "services", &namespace, &name).ok_or_else(|| {
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("route {} names Service {namespace}/{name}, which is not there", meta::name(&route)),
            )
        })?;
        if service["spec"]["type"] == "ExternalName" {
            return self.forward(&service, request).await;
        }
        self.serve_here(&namespace, &name, meta::name(&route))
    }

    /// The route that fits best (longest path) and the backend whose turn it is.
    fn choose(&self, host: &str, path: &str) -> Result<(Value, Value), Refusal> {
        let mut best: Option<(usize, Value, Value)> = None;
        for route in self.twin.api().read_all("gateway.networking.k8s.io", "httproutes", None) {
            let hosts = list(&route, &["spec", "hostnames"]);
            if !(hosts.is_empty() || hosts.iter().filter_map(Value::as_str).any(|h| host_fits(h, host))) {
                continue;
            }
            for rule in list(&route, &["spec", "rules"]) {
                if let Some(length) = path_fit(rule, path).filter(|l| best.as_ref().is_none_or(|(b, ..)| l > b)) {
                    best = Some((length, route.clone(), rule.clone()));
                }
            }
        }
        let (_, route, rule) =
            best.ok_or_else(|| (StatusCode::NOT_FOUND, format!("no HTTPRoute for host {host:?}")))?;
        let backends = list(&rule, &["backendRefs"]);
        let weights: Vec<i64> = backends.iter().map(|b| b["weight"].as_i64().unwrap_or(1).max(0)).collect();
        let total: i64 = weights.iter().sum();
        if total == 0 {
            return Err((
                StatusCode::SERVICE_UNAVAILABLE,
                format!("route {} sends nothing anywhere: all weights are 0", meta::name(&route)),
            ));
        }
        let mut shares = self.shares.lock();
        if shares.len() > 1024 {
            shares.clear();
        }
        let share = shares.entry(format!("{}/{}", meta::uid(&route), rule["matches"])).or_default();
        share.resize(weights.len(), 0);
        let index = next_share(share, &weights, total);
        drop(shares);
        let backend = backends[index].clone();
        Ok((route, backend))
    }

    fn serve_here(&self, namespace: &str, service: &str, route: &str) -> Result<Response, Refusal> {
        let api = self.twin.api();
        let mut ready: Vec<(String, String, String)> = Vec::new();
        for slice in api.read_all("discovery.k8s.io", "endpointslices", Some(namespace)) {
            if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
                continue;
            }
            for endpoint in list(&slice, &["endpoints"]).iter().filter(|e| e["conditions"]["ready"] == true) {
                let get = |path: &[&str]| text(endpoint, path).unwrap_or_default().to_owned();
                ready.push((get(&["targetRef", "name"]), get(&["targetRef", "uid"]), get(&["nodeName"])));
            }
        }
        if ready.is_empty() {
            return Err((StatusCode::SERVICE_UNAVAILABLE, format!("Service {namespace}/{service} has no ready pod")));
        }
        let turn = self.counts.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let (pod, uid, node) = &ready[turn % ready.len()];
        if !self.twin.is_node_up(node) {
            return Err((StatusCode::BAD_GATEWAY, format!("pod {pod} does not answer: node {node} is down")));
        }
        self.twin.add_load(uid, COST);
        self.counts.served.fetch_add(1, Ordering::Relaxed);
        Ok(json_response(StatusCode::OK, &json!({"site": self.twin.site(), "pod": pod, "node": node, "route": route})))
    }

    async fn forward(&self, service: &Value, request: Request<Body>) -> Result<Response, Refusal> {
        let entry = entry_of(service);
        let hops =
            request.headers().get(HOPS).and_then(|h| h.to_str().ok()).and_then(|h| h.parse().ok()).unwrap_or(0u64) + 1;
        if hops > MAX_HOPS {
            return Err((StatusCode::LOOP_DETECTED, "the sites' routes lead in a circle".to_owned()));
        }
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        parts.uri = format!("{}{path}", entry.trim_end_matches('/'))
            .parse()
            .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, format!("{entry:?} is no address of an entry: {e}")))?;
        parts.headers.insert(HOPS, HeaderValue::from(hops));
        let bytes =
            axum::body::to_bytes(body, MAX_BODY).await.map_err(|e| (StatusCode::PAYLOAD_TOO_LARGE, e.to_string()))?;
        let sent = self.client.request(Request::from_parts(parts, Body::from(bytes)));
        match tokio::time::timeout(FORWARD_LIMIT, sent).await {
            Ok(Ok(response)) => {
                self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                Ok(response.map(Body::new))
            }
            Ok(Err(error)) => Err((StatusCode::BAD_GATEWAY, format!("{entry} cannot be reached: {error}"))),
            Err(_) => Err((StatusCode::GATEWAY_TIMEOUT, format!("{entry} did not answer within {FORWARD_LIMIT:?}"))),
        }
    }
}

/// The address of another site's entry: the annotation, else `externalName` with the Service's first port.
fn entry_of(service: &Value) -> String {
    if let Some(entry) = service["metadata"]["annotations"][evergreen_api::names::ANNOTATION_ENTRY].as_str() {
        return entry.to_owned();
    }
    let name = text(service, &["spec", "externalName"]).unwrap_or_default();
    match service["spec"]["ports"][0]["port"].as_u64() {
        Some(port) => format!("http://{name}:{port}"),
        None => format!("http://{name}"),
    }
}

fn host_fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// The length of the longest path of a rule that fits, or `None`.
fn path_fit(rule: &Value, path: &str) -> Option<usize> {
    let matches = list(rule, &["matches"]);
    if matches.is_empty() {
        return Some(1);
    }
    matches
        .iter()
        .filter_map(|m| {
            let value = text(m, &["path", "value"]).unwrap_or("/");
            let prefix = value.trim_end_matches('/');
            let fits = match text(m, &["path", "type"]).unwrap_or("PathPrefix") {
                "Exact" => path == value,
                "PathPrefix" => path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
                _ => false,
            };
            fits.then_some(value.len())
        })
        .max()
}

/// Smooth weighted round robin: everyone earns its weight, the richest is chosen and pays the total.
fn next_share(shares: &mut [i64], weights: &[i64], total: i64) -> usize {
    for (share, weight) in shares.iter_mut().zip(weights) {
        // A weight that has become 0 takes its debts and savings with it.
        *share = if *weight == 0 { 0 } else { *share + weight };
    }
    let chosen =
        (0..weights.len()).filter(|i| weights[*i] > 0).max_by_key(|i| (shares[*i], std::cmp::Reverse(*i))).unwrap_or(0);
    shares[chosen] -= total;
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_over_any_ten_requests_and_zero_gets_nothing() {
        let weights = [7, 3, 0];
        let mut shares = [0; 3];
        let mut counts = [0; 3];
        for _ in 0..100 {
            counts[next_share(&mut shares, &weights, 10)] += 1;
        }
        assert_eq!(counts, [70, 30, 0]);
        for _ in 0..10 {
            assert_eq!(next_share(&mut shares, &[0, 0, 5], 5), 2);
        }
    }

    #[test]
    fn hosts_and_paths_fit_as_the_gateway_api_says() {
        assert!(host_fits("*.example", "checkout.example") && !host_fits("*.example", "example"));
        let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/api"}}]});
        assert_eq!(path_fit(&rule, "/api/x"), Some(4));
        assert_eq!(path_fit(&rule, "/apix"), None);
        assert_eq!(path_fit(&json!({}), "/"), Some(1));
    }
}
