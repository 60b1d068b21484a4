//! A small API server in memory: objects, versions, watches, evictions, and faults on demand. It answers in the process,
//! so virtual time works.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures::stream;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a pod takes to end.
const POD_ENDS_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    grown: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<(String, u64, Value)>,
    requests: Vec<String>,
    effects: BTreeMap<String, u32>,
    faults: Vec<Fault>,
    eviction_version: Option<&'static str>,
    kill: Option<Kill>,
    writes: usize,
}

type Key = (String, Option<String>, String);

/// An answer instead of, or after, the real thing.
pub(super) struct Fault {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) times: u32,
    pub(super) code: u16,
    pub(super) retry_after: Option<u64>,
    /// Whether the request takes effect all the same.
    pub(super) lands: bool,
}

/// Kills the process under test at a write.
#[derive(Clone)]
struct Kill {
    at_write: usize,
    lands: bool,
    cancel: CancellationToken,
}

struct Path {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

impl Path {
    fn parse(path: &str) -> Self {
        let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        parts.drain(..if parts[0] == "api" { 2 } else { 3 }.min(parts.len()));
        let namespace = (parts.len() > 2 && parts[0] == "namespaces").then(|| parts[1].to_owned());
        if namespace.is_some() {
            parts.drain(..2);
        }
        let part = |index: usize| parts.get(index).map(|part| (*part).to_owned());
        Self { resource: part(0).unwrap_or_default(), namespace, name: part(1), sub: part(2) }
    }

    fn key(&self) -> Key {
        (self.resource.clone(), self.namespace.clone(), self.name.clone().unwrap_or_default())
    }
}

impl FakeApi {
    pub(super) fn new() -> Self {
        let inner = Inner { eviction_version: Some("v1"), ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), grown: watch::Sender::new(0) }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(Router::new().fallback(handle).with_state(self.clone()), "default")
    }

    /// Which eviction API it lists; `None` = its discovery says nothing about it.
    pub(super) fn evictions_are(&self, version: Option<&'static str>) {
        self.inner.lock().eviction_version = version;
    }

    pub(super) fn fault(&self, fault: Fault) {
        self.inner.lock().faults.push(fault);
    }

    /// Cancels and never answers the given write, counted from 1, after it took effect or before.
    pub(super) fn kill_at_write(&self, at_write: usize, lands: bool, cancel: CancellationToken) {
        let mut inner = self.inner.lock();
        inner.writes = 0;
        inner.kill = Some(Kill { at_write, lands, cancel });
    }

    pub(super) fn put(&self, resource: &str, namespace: Option<&str>, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{name}").into();
        }
        let kind = if self.get(resource, namespace, &name).is_some() { "MODIFIED" } else { "ADDED" };
        self.store((resource.to_owned(), namespace.map(ToOwned::to_owned), name), object, kind);
    }

    pub(super) fn get(&self, resource: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.map(ToOwned::to_owned), name.to_owned());
        self.inner.lock().objects.get(&key).cloned()
    }

    pub(super) fn list(&self, resource: &str) -> Vec<Value> {
        let inner = self.inner.lock();
        inner.objects.iter().filter(|((r, _, _), _)| r == resource).map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.inner.lock().requests.clone()
    }

    /// What really happened, by kind, and how often.
    pub(super) fn effects(&self) -> BTreeMap<String, u32> {
        self.inner.lock().effects.clone()
    }

    fn effect(&self, effect: String) {
        *self.inner.lock().effects.entry(effect).or_default() += 1;
    }

    fn store(&self, key: Key, mut object: Value, kind: &str) -> Value {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let event = json!({"type": kind, "object": object});
        inner.history.push((key.0.clone(), version, event));
        if kind == "DELETED" {
            inner.objects.remove(&key);
        } else {
            inner.objects.insert(key, object.clone());
        }
        self.grown.send_replace(inner.history.len());
        object
    }

    async fn answer(&self, method: &Method, path: &Path, query: &str, body: &Value) -> Response {
        match (method, path.name.is_some(), path.sub.as_deref()) {
            (&Method::GET, false, _) if query.contains("watch=true") => self.watch(path, query),
            (&Method::GET, false, _) if path.resource.is_empty() => self.discovery(),
            (&Method::GET, false, _) => self.list_answer(path, query),
            (&Method::GET, true, _) => match self.inner.lock().objects.get(&path.key()) {
                Some(object) => ok(object),
                None => status(404, "NotFound", "not found"),
            },
            (&Method::POST, true, Some("eviction")) => self.evict(path, body),
            (&Method::POST, false, _) => self.create(path, body),
            (&Method::PATCH, true, sub) => self.patch(path, sub, body),
            (&Method::PUT, true, Some("status")) => self.patch(path, Some("status"), body),
            _ => status(405, "MethodNotAllowed", "not here"),
        }
    }

    fn discovery(&self) -> Response {
        let mut resources =
            vec![json!({"name": "pods", "kind": "Pod", "namespaced": true, "singularName": "", "verbs": []})];
        if let Some(version) = self.inner.lock().eviction_version {
            resources.push(json!({
                "name": "pods/eviction", "kind": "Eviction", "namespaced": true, "singularName": "", "verbs": ["create"],
                "group": "policy", "version": version
            }));
        }
        ok(&json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": resources}))
    }

    fn list_answer(&self, path: &Path, query: &str) -> Response {
        let version = self.inner.lock().version;
        let node = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=spec.nodeName%3D"));
        let mut items = self.list(&path.resource);
        items.retain(|item| node.is_none_or(|node| item["spec"]["nodeName"] == node));
        ok(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": items}),
        )
    }

    fn watch(&self, path: &Path, query: &str) -> Response {
        let since = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or(0);
        let (resource, api, grown) = (path.resource.clone(), self.clone(), self.grown.subscribe());
        let lines = stream::unfold((0_usize, grown), move |(mut at, mut grown)| {
            let (resource, api) = (resource.clone(), api.clone());
            async move {
                loop {
                    grown.borrow_and_update();
                    let next = {
                        let inner = api.inner.lock();
                        let next = inner
                            .history
                            .iter()
                            .enumerate()
                            .skip(at)
                            .find(|(_, (r, v, _))| *r == resource && *v > since);
                        next.map(|(index, (_, _, event))| (index, format!("{event}\n")))
                    };
                    if let Some((index, line)) = next {
                        at = index + 1;
                        return Some((Ok::<_, Infallible>(Bytes::from(line)), (at, grown)));
                    }
                    if grown.changed().await.is_err() {
                        return None;
                    }
                }
            }
        });
        Response::new(Body::from_stream(lines))
    }

    fn create(&self, path: &Path, body: &Value) -> Response {
        let mut object = body.clone();
        let version = self.inner.lock().version;
        let named = object["metadata"]["name"].as_str().map(ToOwned::to_owned);
        let name = named.unwrap_or_else(|| format!("generated-{version}"));
        let key = (path.resource.clone(), path.namespace.clone(), name.clone());
        if self.inner.lock().objects.contains_key(&key) {
            return status(409, "AlreadyExists", "it exists");
        }
        object["metadata"]["name"] = name.into();
        object["metadata"]["uid"] = format!("uid-{version}").into();
        object["metadata"]["creationTimestamp"] = "2026-11-01T00:00:00Z".into();
        if path.resource == "playbookruns" {
            self.effect("create run".into());
        }
        ok(&self.store(key, object, "ADDED"))
    }

    fn patch(&self, path: &Path, sub: Option<&str>, body: &Value) -> Response {
        let Some(known) = self.inner.lock().objects.get(&path.key()).cloned() else {
            return status(404, "NotFound", "not found");
        };
        let wanted = &body["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != known["metadata"]["resourceVersion"] {
            return status(409, "Conflict", "the object has been modified");
        }
        let mut object = known.clone();
        match sub {
            Some("status") => object["status"] = merged(&known["status"], &body["status"]),
            _ => object = merged(&known, body),
        }
        if path.resource == "nodes" && object["spec"]["unschedulable"] != known["spec"]["unschedulable"] {
            self.effect(if object["spec"]["unschedulable"] == true { "cordon" } else { "uncordon" }.into());
        }
        ok(&self.store(path.key(), object, "MODIFIED"))
    }

    fn evict(&self, path: &Path, body: &Value) -> Response {
        let expected = self.inner.lock().eviction_version.unwrap_or("v1");
        if body["apiVersion"] != format!("policy/{expected}") {
            return status(400, "BadRequest", "no such eviction API here");
        }
        let key = path.key();
        let Some(mut pod) = self.inner.lock().objects.get(&key).cloned() else {
            return status(404, "NotFound", "not found");
        };
        let uid = &body["deleteOptions"]["preconditions"]["uid"];
        if *uid != pod["metadata"]["uid"] {
            return status(409, "Conflict", "Precondition failed: UID in precondition does not match");
        }
        if pod["metadata"]["deletionTimestamp"].is_null() {
            self.effect(format!("evict {}", key.2));
            pod["metadata"]["deletionTimestamp"] = "2026-11-01T00:00:00Z".into();
            let pod = self.store(key.clone(), pod, "MODIFIED");
            let api = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(POD_ENDS_AFTER).await;
                api.store(key, pod, "DELETED");
            });
        }
        let mut answer = status(201, "", "");
        *answer.status_mut() = StatusCode::CREATED;
        answer
    }
}

async fn handle(State(api): State<FakeApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let path = parts.uri.path().to_owned();
    let writes = parts.method != Method::GET;
    api.inner.lock().requests.push(format!("{} {path}", parts.method));
    let kill = {
        let mut inner = api.inner.lock();
        inner.writes += usize::from(writes);
        let at = inner.writes;
        inner.kill.clone().filter(|kill| writes && kill.at_write <= at)
    };
    let fault = api.take_fault(&parts.method, &path);
    let (query, path) = (parts.uri.query().unwrap_or(""), Path::parse(&path));
    let answer = || api.answer(&parts.method, &path, query, &body);
    if let Some(kill) = kill {
        if kill.lands {
            let _ = answer().await;
        }
        kill.cancel.cancel();
        return std::future::pending().await;
    }
    match fault {
        None => answer().await,
        Some((code, retry_after, lands)) => {
            if lands {
                let _ = answer().await;
            }
            let mut response = status(code, "Fault", "as the test asked");
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
    }
}

impl FakeApi {
    fn take_fault(&self, method: &Method, path: &str) -> Option<(u16, Option<u64>, bool)> {
        let mut inner = self.inner.lock();
        let fault = inner.faults.iter_mut().find(|f| f.times > 0 && f.method == *method && path.contains(f.path))?;
        fault.times -= 1;
        Some((fault.code, fault.retry_after, fault.lands))
    }
}

fn ok(object: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], object.to_string()).into_response()
}

fn status(code: u16, reason: &str, message: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message
    });
    let mut response = ok(&body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

/// RFC 7386.
fn merged(known: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut result = known.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            result.remove(key);
        } else {
            let merged = merged(result.get(key).unwrap_or(&Value::Null), value);
            result.insert(key.clone(), merged);
        }
    }
    Value::Object(result)
}
