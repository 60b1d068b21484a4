//! Before and after every request: who asks, whether it is from our own page, how often; headers and ETags.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    body::{Body, to_bytes},
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{ApiError, Shared};
use crate::security::{
    gate::{Caller, Gate},
    role::{Identity, Permission},
};

/// Only our own files may run or be shown; nothing is sent to, framed by or sniffed for others.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What a changing request of a session must bring along.
pub(super) const CSRF: &str = "x-evergreen-csrf";
/// Answers of somebody who may not look: they say who one is, let one log in, and describe the API.
const OPEN: [&str; 4] =
    ["/api/v1/session", "/api/v1/login/oidc", "/api/v1/login/oidc/callback", "/api/v1/openapi.json"];

/// Who asks; in the extensions of each request of the API that got past [`guard`].
#[derive(Clone)]
pub(super) struct Who(pub(super) Option<Caller>);

/// The identity of somebody who may look.
pub(super) struct Reader(pub(super) Arc<Identity>);

impl Reader {
    /// # Errors
    /// 403 when the role does not allow it.
    pub(super) fn must(&self, permission: Permission) -> Result<(), ApiError> {
        if self.0.may(permission) { Ok(()) } else { Err(forbidden(&self.0, permission)) }
    }
}

/// 403 with what would be needed.
pub(super) fn forbidden(identity: &Identity, permission: Permission) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        format!("{} may not {} here", identity.name, permission.as_str()),
        "log in as somebody whose role allows it; the access file says who may do what",
    )
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or(Self(None)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Who(caller) = Who::from_request_parts(parts, state).await?;
        caller.map(|caller| Self(caller.identity)).ok_or_else(login_needed)
    }
}

fn login_needed() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "login_needed",
        "nobody is logged in",
        "log in on the page, or send Authorization: Bearer with a token of the access file",
    )
}

/// Name of the session's cookie: the prefix makes browsers insist on TLS and this host alone.
pub(super) fn cookie_name(gate: &Gate) -> &'static str {
    if gate.is_secure() { "__Host-evergreen" } else { "evergreen" }
}

/// Value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Whom a limit counts for when nobody is known.
pub(super) fn address(request: &Request) -> String {
    let known = request.extensions().get::<ConnectInfo<SocketAddr>>();
    known.map_or_else(|| "unknown".to_owned(), |ConnectInfo(address)| address.ip().to_string())
}

/// 429 with how long to wait.
pub(super) fn too_often(seconds: u64) -> Response {
    let error = ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_often",
        "too many requests",
        format!("ask again in {seconds} s"),
    );
    ([(header::RETRY_AFTER, seconds.to_string())], error).into_response()
}

/// Whether a browser sent this from our own page, as far as it says; programs say nothing.
fn is_own_page(headers: &HeaderMap, gate: &Gate) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
    {
        return false;
    }
    let Some(origin) = text("origin") else { return true };
    let host = origin.split_once("://").map(|(_, host)| host);
    gate.access.public_url.as_deref() == Some(origin) || (host.is_some() && host == text("host"))
}

/// Lets a request of the API through, or says why not. Other paths carry no data of the fleet.
pub(super) async fn guard(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/api/") {
        return next.run(request).await;
    }
    let (gate, now, from) = (&shared.gate, Instant::now(), address(&request));
    let is_open = OPEN.contains(&path);
    let headers = request.headers();
    let bearer = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or(""));
    let caller = match gate.caller(bearer, cookie(headers, cookie_name(gate)), now) {
        Ok(caller) => caller,
        Err(_) => {
            return match gate.attempts.take(&from, now) {
                Ok(()) => ApiError::new(
                    StatusCode::UNAUTHORIZED,
                    "wrong_token",
                    "nobody bears this token",
                    "give a token whose SHA-256 is in the access file; break-glass tokens log in on the page",
                )
                .into_response(),
                Err(seconds) => too_often(seconds),
            };
        }
    };
    let key = caller.as_ref().map_or_else(|| from.clone(), |caller| format!("{} {from}", caller.identity.name));
    if let Err(seconds) = gate.requests.take(&key, now) {
        return too_often(seconds);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let headers = request.headers();
        let given = headers.get(CSRF).map(HeaderValue::as_bytes);
        let session = caller.as_ref().and_then(|caller| caller.session.as_ref());
        let proven = session.is_none_or(|session| given == Some(session.csrf.as_bytes()));
        if !is_own_page(headers, gate) || !proven {
            return ApiError::new(
                StatusCode::FORBIDDEN,
                "not_our_page",
                "this request does not come from the plane's own page",
                format!("load the page again; programs send Authorization: Bearer, sessions send {CSRF}"),
            )
            .into_response();
        }
    }
    if caller.is_none() && !is_open {
        return ([(header::WWW_AUTHENTICATE, "Bearer")], login_needed()).into_response();
    }
    request.extensions_mut().insert(Who(caller));
    next.run(request).await
}

/// Headers of every answer, and an ETag for each JSON answer to a GET.
pub(super) async fn secure(request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let is_get = request.method() == Method::GET;
    let mut response = next.run(request).await;
    if is_api && is_get && response.status() == StatusCode::OK && is_json(&response) {
        response = tagged(response, known).await;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    if is_api && !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn is_json(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json")
}

async fn tagged(response: Response, known: Option<HeaderValue>) -> Response {
    let (mut parts, body) = response.into_parts();
    // Answers are made in memory already: this copies nothing that was not there.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&bytes)[..12]));
    let matches = known.as_ref().and_then(|value| value.to_str().ok()).is_some_and(|text| {
        text.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*")
    });
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, value);
    }
    if !parts.headers.contains_key(header::CACHE_CONTROL) {
        parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    if matches {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.remove(header::CONTENT_TYPE);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}
