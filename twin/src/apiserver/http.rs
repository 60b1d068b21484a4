//! HTTP: paths, verbs, identities, faults. What a request does to its resource is in [`super::call`].

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};

use super::call::{Call, read_json};
use super::error::ApiError;
use super::reviews::review;
use super::server::{ApiServer, to_bytes};
use super::shape::Shape;
use super::users::{User, bearer};
use super::validation::{FieldValidation, Warnings};
use super::watch::error_line;
use crate::access::Access;
use crate::faults::{LinkReset, Lost};

/// Largest request body, as etcd's default limit makes it in practice.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// The form of aggregated discovery that is served.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Marks an answer that must not reach the client: the transport closes the connection instead.
#[derive(Debug, Clone, Copy)]
pub struct Hangup;

/// The whole API as an axum router.
pub fn router(server: ApiServer) -> Router {
    Router::new().fallback(handle).with_state(server)
}

/// Who asks. Where there is an [`Access`], a verified certificate or a known token tells; elsewhere the bearer token is
/// the name. 401 for a token that nobody has.
fn user(server: &ApiServer, request: &Request<Body>) -> Result<User, ApiError> {
    let unauthorized = || ApiError::new(401, "Unauthorized", "Unauthorized");
    let token = bearer(request.headers());
    let user = match (request.extensions().get::<Arc<Access>>(), token) {
        (None, None) => User::anonymous(),
        (None, Some(token)) => server.open_user(token),
        (Some(access), token) => match (request.extensions().get::<User>(), token) {
            (Some(certified), _) => certified.clone(),
            (None, Some(token)) => {
                access.user_of(token).or_else(|| server.token_user(token)).ok_or_else(unauthorized)?
            }
            (None, None) if request.headers().contains_key(header::AUTHORIZATION) => return Err(unauthorized()),
            (None, None) => User::anonymous(),
        },
    };
    user.or_impersonated(request.headers())
}

/// Where people have to be known, strangers see only whether the server is well and what it is.
fn admit(request: &Request<Body>, user: &User) -> Result<(), ApiError> {
    if !user.is_anonymous() || request.extensions().get::<Arc<Access>>().is_none() {
        return Ok(());
    }
    let path = request.uri().path();
    if matches!(path, "/healthz" | "/readyz" | "/livez" | "/version" | "/version/") {
        return Ok(());
    }
    let query = request.uri().query().unwrap_or_default();
    let watches = query.split('&').any(|p| matches!(p, "watch=1" | "watch=true"));
    let verb_of = |t: &Target| verb(request.method(), t, watches).unwrap_or("use");
    Err(match parse_path(path) {
        Some(target) if !target.plural.is_empty() => {
            let what = match target.subresource.as_str() {
                "" => target.plural.clone(),
                sub => format!("{}/{sub}", target.plural),
            };
            let place = match target.namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace \"{namespace}\""),
            };
            let why = format!(
                "User \"{}\" cannot {} resource \"{what}\" in API group \"{}\" {place}",
                user.name,
                verb_of(&target),
                target.group
            );
            ApiError::not_permitted(&target.group, &target.plural, &target.name, &why)
        }
        _ => {
            let why =
                format!("User \"{}\" cannot {} path \"{path}\"", user.name, request.method().as_str().to_lowercase());
            ApiError::new(403, "Forbidden", format!("forbidden: {why}")).with_details()
        }
    })
}

async fn handle(State(server): State<ApiServer>, request: Request<Body>) -> Response {
    let faults = server.faults().clone();
    let user = match user(&server, &request) {
        Ok(user) => user,
        Err(error) => return error_response(&error),
    };
    let identity = user.name.clone();
    if faults.pass(&identity).await.is_err() {
        return hangup();
    }
    let delay = faults.delay(&identity);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let lost = faults.take_loss(&identity);
    if lost == Some(Lost::Request) {
        return hangup();
    }
    let response = match dispatch(&server, &user, request).await {
        Ok(response) => response,
        Err(error) => error_response(&error),
    };
    // The answer may be lost where the request was not: then the write has happened and nobody knows.
    if lost == Some(Lost::Answer) || faults.pass(&identity).await.is_err() { hangup() } else { response }
}

fn hangup() -> Response {
    let body = Body::from_stream(futures::stream::once(async { Err::<Bytes, std::io::Error>(LinkReset.into()) }));
    let mut response = Response::new(body);
    response.extensions_mut().insert(Hangup);
    response
}

pub(super) fn json_response(status: u16, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn error_response(error: &ApiError) -> Response {
    let mut response = json_response(error.code, to_bytes(&error.status()));
    if let Some(after) = error.retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(after));
    }
    response
}

/// A path of the resource API, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) namespace: String,
    pub(super) plural: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

fn parse_path(path: &str) -> Option<Target> {
    let mut parts = path.trim_matches('/').split('/').map(|p| p.to_owned());
    let group = match parts.next()?.as_str() {
        "api" => String::new(),
        "apis" => parts.next()?,
        _ => return None,
    };
    let version = parts.next()?;
    let rest: Vec<String> = parts.collect();
    let mut target = Target { group, version, ..Target::default() };
    let text: Vec<&str> = rest.iter().map(String::as_str).collect();
    let (namespace, tail) = match text.as_slice() {
        // /namespaces/{name}, /namespaces/{name}/status and /finalize are about the namespace itself.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", text.as_slice()),
        ["namespaces", namespace, tail @ ..] => (*namespace, tail),
        tail => ("", tail),
    };
    target.namespace = namespace.to_owned();
    match tail {
        [plural] => target.plural = (*plural).to_owned(),
        [plural, name] => (target.plural, target.name) = ((*plural).to_owned(), (*name).to_owned()),
        [plural, name, sub] => {
            (target.plural, target.name, target.subresource) =
                ((*plural).to_owned(), (*name).to_owned(), (*sub).to_owned());
        }
        _ => return None,
    }
    Some(target)
}

async fn dispatch(server: &ApiServer, user: &User, request: Request<Body>) -> Result<Response, ApiError> {
    admit(&request, user)?;
    let identity = user.name.as_str();
    let access = request.extensions().get::<Arc<Access>>().cloned();
    let path = request.uri().path().to_owned();
    if matches!(path.as_str(), "/healthz" | "/readyz" | "/livez") {
        return Ok(Response::new(Body::from("ok")));
    }
    if request.method() == Method::GET {
        let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if accept.contains("as=APIGroupDiscoveryList")
            && let Some(answer) = server.aggregated(path.trim_end_matches('/'))
        {
            let mut response = json_response(200, to_bytes(&answer));
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(AGGREGATED));
            return Ok(response);
        }
        if let Some(answer) = server.discover(&path) {
            return Ok(json_response(200, to_bytes(&answer)));
        }
    }
    let target = parse_path(&path).ok_or_else(ApiError::no_such_path)?;
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
        .map_err(|e| ApiError::bad_request(e.to_string()))?;
    let query: HashMap<String, String> = pairs.into_iter().collect();
    let (parts, body) = request.into_parts();
    let header =
        |name: header::HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (accept, content_type, agent) =
        (header(header::ACCEPT), header(header::CONTENT_TYPE), header(header::USER_AGENT));
    let watches = matches!(query.get("watch").map(String::as_str), Some("true" | "1"));
    let verb = verb(&parts.method, &target, watches)?;
    let what = if target.subresource.is_empty() {
        target.plural.clone()
    } else {
        format!("{}/{}", target.plural, target.subresource)
    };
    if let Some(error) = server.faults().take_injected(verb, &what, identity) {
        if verb == "watch" && error.code == 410 {
            return Ok(json_response(200, error_line(&error)));
        }
        return Err(error);
    }
    if target.group == "metrics.k8s.io" && matches!(verb, "list" | "get") {
        let labels = query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let answer = server.metrics(&target.plural, &target.namespace, &target.name, labels)?;
        return Ok(json_response(200, to_bytes(&answer)));
    }
    if target.group.is_empty() && target.plural == "componentstatuses" && matches!(verb, "list" | "get") {
        let answer = server.component_statuses(&target.name);
        let answer = answer.ok_or_else(|| ApiError::not_found("", &target.plural, &target.name))?;
        return Ok(json_response(200, to_bytes(&answer)));
    }
    let resource = server.registry().get(&target.group, &target.version, &target.plural);
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|e| {
        ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large or cut off: {e}"))
    })?;
    let Some(resource) = resource else {
        if verb == "create"
            && let Some(answer) = review(
                server,
                access.as_deref(),
                (&target.group, &target.plural),
                &read_json(&body, &content_type)?,
                user,
            )
        {
            return Ok(json_response(201, to_bytes(&answer)));
        }
        if !target.group.is_empty() && !server.groups().contains_key(&target.group) {
            // Nobody answers for a group that does not exist, so nobody says it in the API's own words.
            let mut response = Response::new(Body::from("404 page not found\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
            return Ok(response);
        }
        return Err(ApiError::no_such_path());
    };
    // Reads over all namespaces are fine, everything else about a namespaced object needs its namespace.
    if resource.namespaced && target.namespace.is_empty() && !matches!(verb, "list" | "watch") {
        return Err(ApiError::method_not_allowed());
    }
    if !resource.namespaced && !target.namespace.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let manager = query
        .get("fieldManager")
        .cloned()
        .unwrap_or_else(|| agent.split(['/', ' ']).next().filter(|a| !a.is_empty()).unwrap_or("unknown").to_owned());
    let shape = Shape::from_accept(&accept, query.get("includeObject").map(String::as_str));
    let options = match verb {
        "create" => "CreateOptions",
        "patch" => "PatchOptions",
        _ => "UpdateOptions",
    };
    let validation = match verb {
        "create" | "patch" | "update" => {
            FieldValidation::from_parameter(query.get("fieldValidation").map(String::as_str), options)?
        }
        _ => FieldValidation::Ignore,
    };
    let warnings = Warnings::default();
    let call = Call { server, identity, target, resource, query, shape, manager, content_type, validation, warnings };
    call.run(verb, &body)
}

fn verb(method: &Method, target: &Target, watches: bool) -> Result<&'static str, ApiError> {
    Ok(match (method.as_str(), target.name.is_empty()) {
        ("GET", true) if watches => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", false) => "delete",
        ("DELETE", true) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_as_kubernetes_means_them() {
        let target = |p: &str| parse_path(p).unwrap();
        assert_eq!(target("/api/v1/namespaces/shop/pods/a/eviction").subresource, "eviction");
        assert_eq!(target("/api/v1/namespaces/shop/pods").namespace, "shop");
        assert_eq!(target("/api/v1/namespaces/shop").plural, "namespaces");
        assert_eq!(target("/api/v1/namespaces/shop/finalize").subresource, "finalize");
        assert_eq!(target("/apis/apps/v1/namespaces/shop/deployments/d").group, "apps");
        assert_eq!(target("/api/v1/nodes/n/status").name, "n");
        assert!(parse_path("/metrics").is_none());
    }
}
