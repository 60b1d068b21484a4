//! Logging in and out, who is logged in, what people did, and acknowledging an incident.

use std::time::Instant;

use axum::{
    Json,
    extract::{FromRequest, Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    ApiError, Shared,
    error::Params,
    guard::{Reader, Who, address, cookie, cookie_name, forbidden, too_often},
};
use crate::{
    clock::{now_ms, rfc3339_ms},
    security::{
        role::{Identity, Permission, Via},
        session::{BREAK_GLASS, Begun},
    },
};

/// Cookie that binds a login at the provider to the browser that began it.
const LOGIN: &str = "evergreen-login";
/// Longest body of a request.
const MAX_BODY: usize = 16 << 10;
/// Longest note.
const MAX_NOTE: usize = 2_000;

/// A JSON body whose mistakes are answered as [`ApiError`].
async fn body<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let wrong = |why: String| ApiError::parameter(why, "send the JSON that /api/v1/openapi.json describes");
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| wrong("the body is too long".into()))?;
    let request = Request::from_parts(parts, axum::body::Body::from(bytes));
    Json::<T>::from_request(request, &()).await.map(|Json(value)| value).map_err(|error| wrong(error.body_text()))
}

fn failed(why: String) -> ApiError {
    tracing::error!(why, "what a person did could not be recorded; it was not done");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "audit", why, "check the disk of the plane's data directory")
}

fn roles(identity: &Identity) -> Value {
    let grant = |grant: &crate::security::role::Grant| json!({"role": grant.role, "sites": grant.scope.sites, "namespaces": grant.scope.namespaces});
    identity.grants.iter().map(grant).collect()
}

/// GET /api/v1/session: who asks, and how one may log in.
pub(super) async fn session(State(shared): State<Shared>, Who(caller): Who) -> Json<Value> {
    let now = Instant::now();
    let gate = &shared.gate;
    let emergency = gate.sessions.list(now).iter().any(|open| open.identity.via == Via::BreakGlass);
    let identity = caller.as_ref().map(|caller| &caller.identity);
    let session = caller.as_ref().and_then(|caller| caller.session.as_ref());
    Json(json!({
        "name": identity.map(|who| &who.name),
        "via": identity.map(|who| who.via),
        "grants": identity.map(|who| roles(who)),
        "permissions": identity.map(|who| {
            Permission::ALL.iter().filter(|p| who.may(**p)).map(|p| p.as_str()).collect::<Vec<_>>()
        }),
        "csrf": session.map(|open| &open.csrf),
        "expires_in_s": session.map(|open| open.left.as_secs()),
        "oidc": gate.provider.is_some(),
        "break_glass_in_use": emergency,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

fn set_cookie(shared: &Shared, value: &str, seconds: u64) -> String {
    let secure = if shared.gate.is_secure() { "; Secure" } else { "" };
    let name = cookie_name(&shared.gate);
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

async fn begin(shared: &Shared, identity: Identity, from: &str) -> Result<Begun, ApiError> {
    let kind = if identity.via == Via::BreakGlass { "break-glass.began" } else { "session.began" };
    if identity.via == Via::BreakGlass {
        tracing::warn!(name = identity.name, from, "the break-glass identity is in use");
    }
    let said = json!({"who": identity.name, "via": identity.via, "from": from, "grants": roles(&identity)});
    shared.gate.trail.record(kind, said).await.map_err(failed)?;
    let longest = (identity.via == Via::BreakGlass).then_some(BREAK_GLASS);
    let begun = shared.gate.sessions.begin(identity, longest, Instant::now(), rfc3339_ms(now_ms()));
    begun.map_err(|why| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "sessions", why, "try again later"))
}

/// POST /api/v1/session: logs in with a token.
pub(super) async fn login(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let from = address(&request);
    if let Err(seconds) = shared.gate.attempts.take(&from, Instant::now()) {
        return Ok(too_often(seconds));
    }
    let Login { token } = body(request).await?;
    let Some(identity) = shared.gate.access.bearer(&token).cloned() else {
        shared
            .gate
            .trail
            .record("session.refused", json!({"from": from, "why": "wrong token"}))
            .await
            .map_err(failed)?;
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "wrong_token",
            "nobody bears this token",
            "check it; the access file holds SHA-256 of tokens, a first start puts them into initial-tokens.json",
        ));
    };
    let begun = begin(&shared, identity, &from).await?;
    let cookie = set_cookie(&shared, &begun.cookie, begun.seconds);
    let answer = Json(json!({"csrf": begun.csrf, "expires_in_s": begun.seconds}));
    Ok(([(header::SET_COOKIE, cookie)], answer).into_response())
}

/// DELETE /api/v1/session: logs out.
pub(super) async fn logout(State(shared): State<Shared>, Who(caller): Who) -> Result<Response, ApiError> {
    if let Some(open) = caller.and_then(|caller| caller.session) {
        shared.gate.trail.record("session.ended", json!({"who": open.identity.name})).await.map_err(failed)?;
        shared.gate.sessions.end(&open.key);
    }
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set_cookie(&shared, "", 0))]).into_response())
}

fn see_other(location: String, cookies: Vec<String>) -> Response {
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response();
    for cookie in cookies {
        if let Ok(value) = cookie.parse() {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    response
}

/// Back to the page with the reason, which it shows as text.
fn refused(why: &str) -> Response {
    let escaped: String = why.bytes().map(|byte| format!("%{byte:02X}")).collect();
    see_other(format!("/#/login?error={escaped}"), Vec::new())
}

/// GET /api/v1/login/oidc: sends the browser to the provider.
pub(super) async fn oidc(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let Some(provider) = &shared.gate.provider else {
        return Err(ApiError::not_found("no provider is configured", "set oidc in the access file, or use a token"));
    };
    if let Err(seconds) = shared.gate.attempts.take(&address(&request), Instant::now()) {
        return Ok(too_often(seconds));
    }
    Ok(match provider.start().await {
        Ok(start) => {
            let secure = if shared.gate.is_secure() { "; Secure" } else { "" };
            // Lax: the provider's redirect comes from another site.
            let cookie =
                format!("{LOGIN}={}; Path=/api/v1/login; HttpOnly; SameSite=Lax; Max-Age=600{secure}", start.browser);
            see_other(start.location, vec![cookie])
        }
        Err(why) => {
            tracing::warn!(why, "nobody can log in at the provider");
            refused(&why)
        }
    })
}

/// What the provider sends people back with.
#[derive(Deserialize)]
pub(super) struct Callback {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// GET /api/v1/login/oidc/callback.
pub(super) async fn callback(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Params(asked): Params<Callback>,
    request: Request,
) -> Result<Response, ApiError> {
    let Some(provider) = &shared.gate.provider else {
        return Err(ApiError::not_found("no provider is configured", "set oidc in the access file, or use a token"));
    };
    let from = address(&request);
    let person = match (asked.state, asked.code, asked.error) {
        (_, _, Some(error)) => Err(asked.error_description.unwrap_or(error)),
        (Some(state), Some(code), None) => provider.finish(&state, &code, cookie(&headers, LOGIN)).await,
        _ => Err("the provider sent neither a code nor an error".to_owned()),
    };
    let identity = person.and_then(|person| shared.gate.access.person(&person.name, &person.users, &person.groups));
    match identity {
        Ok(identity) => {
            let begun = begin(&shared, identity, &from).await?;
            let gone = format!("{LOGIN}=; Path=/api/v1/login; HttpOnly; SameSite=Lax; Max-Age=0");
            Ok(see_other("/".into(), vec![set_cookie(&shared, &begun.cookie, begun.seconds), gone]))
        }
        Err(why) => {
            shared.gate.trail.record("session.refused", json!({"from": from, "why": why})).await.map_err(failed)?;
            Ok(refused(&why))
        }
    }
}

fn short(key: &[u8; 32]) -> String {
    hex::encode(&key[..8])
}

/// GET /api/v1/sessions: who is logged in.
pub(super) async fn sessions(State(shared): State<Shared>, reader: Reader) -> Result<Json<Value>, ApiError> {
    reader.must(Permission::Administer)?;
    let list = shared.gate.sessions.list(Instant::now());
    let view = |open: &crate::security::session::Open| {
        json!({
            "id": short(&open.key), "name": open.identity.name, "via": open.identity.via, "began_at": open.began_at,
            "expires_in_s": open.left.as_secs(), "grants": roles(&open.identity),
        })
    };
    Ok(Json(json!({"sessions": list.iter().map(view).collect::<Vec<_>>()})))
}

/// DELETE /api/v1/sessions/{id}: ends somebody's session.
pub(super) async fn end(
    State(shared): State<Shared>,
    reader: Reader,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    reader.must(Permission::Administer)?;
    let list = shared.gate.sessions.list(Instant::now());
    let open = list
        .iter()
        .find(|open| short(&open.key) == id)
        .ok_or_else(|| ApiError::not_found("no such session", "list them at /api/v1/sessions"))?;
    let said = json!({"who": reader.0.name, "whose": open.identity.name, "session": id});
    shared.gate.trail.record("session.revoked", said).await.map_err(failed)?;
    shared.gate.sessions.end(&open.key);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct AuditParams {
    before: Option<u64>,
    limit: Option<usize>,
}

/// GET /api/v1/audit: what people did, newest first. Reading it is an act too.
pub(super) async fn audit(
    State(shared): State<Shared>,
    reader: Reader,
    Params(asked): Params<AuditParams>,
) -> Result<Json<Value>, ApiError> {
    reader.must(Permission::Audit)?;
    let limit = asked.limit.unwrap_or(100);
    if !(1..=1_000).contains(&limit) {
        return Err(ApiError::parameter(format!("limit: {limit} is out of range"), "give 1 to 1000"));
    }
    if asked.before.is_none() {
        shared.gate.trail.record("audit.read", json!({"who": reader.0.name})).await.map_err(failed)?;
    }
    let (records, whole) = shared.gate.trail.read(asked.before, limit).await.map_err(failed)?;
    let next = (records.len() == limit).then(|| records.last().map(|record| record.seq)).flatten();
    Ok(Json(json!({"records": records, "next": next, "chain_holds": whole})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    #[serde(default)]
    note: String,
}

/// POST /api/v1/incidents/{trace_id}/acknowledge: somebody takes it on.
pub(super) async fn acknowledge(
    State(shared): State<Shared>,
    reader: Reader,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    reader.must(Permission::Operate)?;
    let Note { note } = body(request).await?;
    if note.len() > MAX_NOTE {
        return Err(ApiError::parameter("note is too long", format!("give at most {MAX_NOTE} bytes")));
    }
    let site = super::incidents::site_of(&shared, &id).await?;
    if !reader.0.may_at(Permission::Operate, site.as_deref()) {
        return Err(forbidden(&reader.0, Permission::Operate));
    }
    let id = id.to_lowercase();
    shared.gate.trail.acknowledge(&reader.0.name, &id, &note).await.map_err(failed)?;
    shared.store.tell(crate::store::Change::Incident { trace_id: id.clone(), state: "acknowledged".into() });
    Ok(Json(json!({"acknowledged": shared.gate.trail.acknowledged(&id)})))
}
